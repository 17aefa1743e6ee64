//! One real node among others that are but answers, in two segments.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use lb_common::layout::Mac;
use lb_core::liveness::{
    Condition, Description, Leg, LinkDescription, Liveness, Message, Profile, Transmit, Verdict,
};

use super::SECOND;

/// Node `node` in segment `segment`; the real one is the first.
fn leg(segment: u8, node: u8) -> Leg {
    IpAddr::from([10, segment, 0, 1 + node])
}

struct Alone {
    liveness: Liveness,
    now: Instant,
    /// Whose data paths answer.
    answering: BTreeSet<Leg>,
    /// Whose agents do.
    speaking: BTreeSet<Leg>,
    /// What has come since the node was last awake.
    answers: Vec<(Leg, u64)>,
    wakes: u32,
}

impl Alone {
    fn new(segments: u8, nodes: u8) -> Self {
        let now = Instant::now();
        let legs = |segment| (0..nodes).map(move |node| leg(segment, node)).collect::<BTreeSet<Leg>>();
        let all: Vec<(Leg, BTreeSet<Leg>)> =
            (0..segments).map(|segment| (leg(segment, 0), legs(segment))).collect();
        let mut liveness = Liveness::new(Profile::FAST, [7; 32], 1, now);
        liveness.set_segments(&all, now);
        let others: BTreeSet<Leg> =
            all.iter().flat_map(|(own, legs)| legs.iter().filter(move |leg| *leg != own)).copied().collect();
        let mut alone = Self {
            liveness,
            now,
            answering: others.clone(),
            speaking: others,
            answers: Vec::new(),
            wakes: 0,
        };
        alone.run_for(SECOND);
        alone
    }

    fn set_silent(&mut self, legs: impl IntoIterator<Item = Leg>) {
        for leg in legs {
            self.answering.remove(&leg);
            self.speaking.remove(&leg);
        }
    }

    fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.wakes += 1;
            for (from, nonce) in self.answers.drain(..) {
                self.liveness.handle_answer(from, nonce, true, self.now);
            }
            self.liveness.handle_timeout(self.now);
            while let Some(transmit) = self.liveness.poll_transmit() {
                self.receive(transmit);
            }
            let due = self.liveness.poll_timeout().unwrap_or(end);
            self.now = due.max(self.now + Duration::from_micros(100)).min(end);
        }
    }

    fn receive(&mut self, transmit: Transmit) {
        match transmit {
            Transmit::Probe { to, nonce } if self.answering.contains(&to) => {
                self.answers.push((to, nonce));
            }
            Transmit::Message { to, message: Message::Confirm { leg } } if self.speaking.contains(&to) => {
                let has_answered = self.answering.contains(&leg);
                self.liveness.handle_message(to, &Message::Found { leg, has_answered }, self.now);
            }
            Transmit::Probe { .. } | Transmit::Proof { .. } | Transmit::Message { .. } => {}
        }
    }
}

#[test]
fn whoever_is_dead_in_two_segments_is_gone_in_both() {
    for nodes in [2, 3] {
        let mut alone = Alone::new(2, nodes);
        let dead = [0, 1].map(|segment| leg(segment, 1));
        alone.set_silent(dead);
        alone.run_for(6 * SECOND);
        for leg in dead {
            assert!(alone.liveness.is_gone(leg, alone.now), "{nodes} nodes: {leg}");
        }
    }
}

#[test]
fn in_a_segment_in_which_nothing_is_heard_nobody_is_gone_and_in_the_other_all_is_well() {
    let mut alone = Alone::new(2, 3);
    let lost = [1, 2].map(|node| leg(0, node));
    alone.set_silent(lost);
    alone.run_for(20 * SECOND);
    for leg in lost {
        assert_eq!(alone.liveness.view().condition(leg), Condition::Silent);
        assert!(!alone.liveness.is_gone(leg, alone.now), "{leg}: this node is cut off there itself");
    }
    let others = [1, 2].map(|node| alone.liveness.view().condition(leg(1, node)));
    assert_eq!(others, [Condition::Answering; 2]);
}

#[test]
fn who_probes_legs_that_answer_wakes_once_for_all_and_never_for_an_answer() {
    let mut alone = Alone::new(1, 3);
    alone.wakes = 0;
    let seconds = 10;
    alone.run_for(seconds * SECOND);
    let beats = (seconds * SECOND).div_duration_f64(Profile::FAST.interval);
    // What goes to one node at random each second has times of its own.
    let limit = 1.2 * beats;
    assert!(f64::from(alone.wakes) < limit, "{} wakes in {beats} beats", alone.wakes);
}

/// Of two segments one may be looked at first: a verdict that was heard there is newer than an answer that has waited in the other.
#[test]
fn an_answer_to_a_probe_from_before_a_verdict_does_not_overrule_it() {
    let mut alone = Alone::new(1, 3);
    let [of, from] = [1, 2].map(|node| leg(0, node));
    alone.answering.remove(&of);
    alone.answers.clear();
    let mut asked = None;
    while asked.is_none() {
        alone.now = alone.liveness.poll_timeout().unwrap_or(alone.now);
        alone.liveness.handle_timeout(alone.now);
        while let Some(transmit) = alone.liveness.poll_transmit() {
            match transmit {
                Transmit::Probe { to, nonce } if to == of => asked = Some(nonce),
                other => alone.receive(other),
            }
        }
    }
    alone.now += Duration::from_millis(1);
    let verdict = Verdict { leg: of, counter: 7, condition: Condition::Yielding, falls: 1 };
    alone.liveness.handle_message(from, &Message::Verdicts(vec![verdict]), alone.now);
    alone.liveness.handle_answer(of, asked.unwrap_or_default(), true, alone.now);
    assert_eq!(alone.liveness.view().condition(of), Condition::Yielding);
    alone.answering.insert(of);
    alone.run_for(SECOND / 10);
    assert_eq!(
        alone.liveness.view().condition(of),
        Condition::Returning,
        "what it answers since then counts"
    );
}

/// With what the far preset allows for an answer, a proof is not replaced by the next before it comes.
#[test]
fn far_nodes_have_the_time_to_prove_where_they_are() {
    let (mut now, [own, far]) = (Instant::now(), [0, 1].map(|node| leg(0, node)));
    let mut liveness = Liveness::new(Profile::WAN, [7; 32], 1, now);
    liveness.set_segments(&[(own, [own, far].into())], now);
    let mac = Mac::from([2, 0, 0, 0, 0, 1]);
    let link = LinkDescription::new("eth0".to_owned(), mac, [IpNet::from(far)]);
    let description = Description { version: (1, 1), ..Description::of(vec![link]) };
    liveness.handle_message(far, &Message::Hello(description), now);
    let answer_at = now + Profile::WAN.patience;
    let mut asked = None;
    while now < answer_at {
        liveness.handle_timeout(now);
        while let Some(transmit) = liveness.poll_transmit() {
            if let Transmit::Proof { nonce, .. } = transmit {
                asked = asked.or(Some(nonce));
            }
        }
        now = liveness.poll_timeout().map_or(answer_at, |due| due.max(now).min(answer_at));
    }
    liveness.handle_answer(far, asked.unwrap_or_default(), true, now);
    assert_eq!(liveness.proven().get(&far), Some(&mac));
}
