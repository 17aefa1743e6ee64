//! From a suspicion to a verdict: a burst of probes here, another on a second node, and silence of both.

use std::{collections::BTreeSet, time::Instant};

use rand::Rng;

use super::{
    Liveness,
    burst::{self, Accusation, Burst, Second},
    message::Message,
    observers::Order,
    verdict::{Condition, Leg},
};

/// Second nodes that are asked one after the other; then others that could say something are asked at once.
const ASKED_ALONE: usize = 2;
/// So many in all: a node that hears none of them is rather deaf itself.
const MOST_ASKED: usize = 8;

impl Liveness {
    /// Too many probes were missed: a burst, here and on a second node.
    pub(super) fn suspect(&mut self, leg: Leg, now: Instant) {
        if !self.view.condition(leg).answers() {
            return;
        }
        let acquitted = self.view.acquitted(leg, self.profile.memory, now);
        if let Some((times, last)) = acquitted {
            let until = last + self.profile.hold_after(times);
            if now < until {
                return self.watches.get_mut(&leg).into_iter().for_each(|watch| watch.hold(until));
            }
        }
        let burst = self.bursts.entry(leg).or_insert_with(|| Burst::new(&self.profile, now));
        if burst.accusation.is_some() {
            return;
        }
        self.counts.suspicions += 1;
        burst.accusation = Some(Accusation {
            asked: BTreeSet::new(),
            agree: BTreeSet::new(),
            is_doubtful: acquitted.is_some(),
            second: Second::Nobody,
        });
        self.ask_second(leg, now);
    }

    /// Asks the next that could say something of a leg, and several at once when some have not answered, or when others knew better
    /// before. If there is nobody left, makes the burst longer instead.
    pub(super) fn ask_second(&mut self, leg: Leg, now: Instant) {
        let Some(burst) = self.bursts.get_mut(&leg) else { return };
        let Some(accusation) = &mut burst.accusation else { return };
        let could_say = |observer: &Leg| {
            !self.own.contains(observer)
                && self.view.condition(*observer).is_present()
                && !accusation.asked.contains(observer)
        };
        let left = MOST_ASKED.saturating_sub(accusation.asked.len());
        let is_one_enough = accusation.asked.len() < ASKED_ALONE && !accusation.is_doubtful;
        let count = if is_one_enough { 1 } else { left };
        let order = self.orders.get(&leg).into_iter().flat_map(Order::iter);
        let next: Vec<Leg> = order.filter(could_say).take(count).collect();
        if next.is_empty() && !accusation.agree.is_empty() {
            accusation.second = Second::Silent;
            return;
        }
        if next.is_empty() {
            accusation.second = Second::Nobody;
            burst.lengthen(&self.profile, now);
            return;
        }
        accusation.asked.extend(&next);
        accusation.second = Second::Asked { until: now + self.profile.second_patience };
        next.into_iter().for_each(|observer| self.tell(observer, Message::Confirm { leg }));
    }

    /// Another node asks for a burst.
    pub(super) fn confirm(&mut self, asker: Leg, leg: Leg, now: Instant) {
        if self.own.contains(&leg) {
            return self.tell(asker, Message::Found { leg, has_answered: true });
        }
        if !self.orders.contains_key(&leg) {
            return;
        }
        let is_over = self.bursts.get(&leg).is_some_and(Burst::is_unanswered);
        if is_over {
            return self.tell(asker, Message::Found { leg, has_answered: false });
        }
        let burst = self.bursts.entry(leg).or_insert_with(|| Burst::new(&self.profile, now));
        burst.askers.insert(asker);
    }

    /// What a second node has found.
    pub(super) fn second_says(&mut self, from: Leg, leg: Leg, has_answered: bool, now: Instant) {
        let Some(accusation) = self.bursts.get_mut(&leg).and_then(|burst| burst.accusation.as_mut()) else {
            return;
        };
        if !accusation.asked.contains(&from) {
            return;
        }
        if has_answered {
            self.end_burst(leg, now);
        } else {
            accusation.agree.insert(from);
            if !accusation.is_doubtful || accusation.agree == accusation.asked {
                accusation.second = Second::Silent;
            }
            self.judge(leg, now);
        }
    }

    /// Silent if neither this node nor the second has heard anything; nothing as long as one may still hear something.
    pub(super) fn judge(&mut self, leg: Leg, now: Instant) {
        let Some(burst) = self.bursts.get(&leg) else { return };
        if !burst.is_unanswered() {
            return;
        }
        match burst.accusation.as_ref().map(|accusation| accusation.second) {
            Some(Second::Asked { .. }) => {}
            Some(Second::Silent | Second::Nobody) => {
                self.bursts.remove(&leg);
                if !self.view.condition(leg).answers() {
                    return;
                }
                let found = if self.was_ever_there(leg) { Condition::Silent } else { Condition::Absent };
                self.counts.accusations += u64::from(found == Condition::Silent);
                self.find(leg, found, now);
            }
            None => {
                self.bursts.remove(&leg);
            }
        }
    }

    /// Whether this node has ever heard anything of a leg. Of two that differ in that, the one that has is believed.
    fn was_ever_there(&self, leg: Leg) -> bool {
        self.heard.contains(&leg)
    }

    /// The leg has answered after all.
    pub(super) fn end_burst(&mut self, leg: Leg, now: Instant) {
        let Some(burst) = self.bursts.remove(&leg) else { return };
        if let Some(watch) = self.watches.get_mut(&leg).filter(|_| burst.accusation.is_some()) {
            watch.hold(now + self.profile.hold);
        }
        for asker in burst.askers {
            self.tell(asker, Message::Found { leg, has_answered: true });
        }
    }

    /// Does what is due of all bursts.
    pub(super) fn run_bursts(&mut self, now: Instant) {
        let legs: Vec<Leg> = self.bursts.keys().copied().collect();
        for leg in legs {
            let Some(burst) = self.bursts.get_mut(&leg) else { continue };
            match burst.handle_timeout(now) {
                burst::Due::Nothing => {}
                burst::Due::Probe => {
                    let nonce = self.random.next_u64();
                    burst.sent(nonce, &self.profile, now);
                    self.probe(leg, nonce);
                }
                burst::Due::Unanswered => {
                    for asker in std::mem::take(&mut burst.askers) {
                        self.tell(asker, Message::Found { leg, has_answered: false });
                    }
                    self.judge(leg, now);
                }
                burst::Due::SecondMissing => {
                    self.ask_second(leg, now);
                    self.judge(leg, now);
                }
            }
        }
    }
}
