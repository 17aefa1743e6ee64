//! Who yields to whom, what is not used as long as somebody else has it, and what is said about it: on a clock of the test's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant, SystemTime},
};

use lb_common::{
    hash::HashKey,
    layout::{Addr, MAX_SEGMENTS, Mac, Neighbour, Vip},
};
use lb_core::{
    armed::{Armed, ArmedLink, ArmedNeighbour, ArmedSegment, ArmedVip},
    claims::{Claim, Claims, Say, Withheld},
    few::Few,
    liveness::{Condition, Leg, Liveness, Message, Profile, Standing, Verdict},
    model::NodeName,
    probing::Spot,
    spread::Shares,
};

const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
const STRANGER: [u8; 6] = [2, 0, 0, 0, 1, 1];

fn leg(node: u8) -> Leg {
    IpAddr::from([192, 0, 2, node])
}

fn mac(node: u8) -> Mac {
    [2, 0, 0, 0, 0, node].into()
}

fn spot(number: u8) -> Spot {
    (Addr::from(Ipv4Addr::from_bits(VIP.to_bits() + u32::from(number))), 0)
}

/// Node 2 of three in one segment, which rank as they are numbered.
fn armed(vips: u8) -> Armed {
    let mut armed = Armed::default();
    for node in 1..=3 {
        let entry = Neighbour { mac: mac(node), ..Neighbour::default() };
        let leg = (node != 2).then(|| leg(node));
        armed.neighbours.insert(u32::from(node) * MAX_SEGMENTS, ArmedNeighbour { entry, leg });
    }
    for number in 0..vips {
        let entry = Vip { announced: 1, ..Vip::default() };
        let ranked = [(0, [leg(1), leg(2), leg(3)].into())].into();
        armed.vips.insert(spot(number).0, ArmedVip { entry, ranked, tables: Few::new() });
    }
    let link = |number| ArmedLink { mac: mac(number), asks_from: None, arrivals: BTreeSet::new() };
    let segment = ArmedSegment {
        name: "lan".to_owned(),
        own: Some(leg(2)),
        claims_as: Some(leg(2)),
        stand_ins: BTreeMap::new(),
        legs: BTreeMap::new(),
        links: [(7, link(2)), (8, link(9))].into(),
    };
    armed.segments.insert(0, segment);
    armed
}

/// The node, with a clock of its own.
struct Node {
    claims: Claims,
    armed: Armed,
    liveness: Liveness,
    verdicts: u32,
    begin: Instant,
    now: Instant,
}

impl Node {
    /// One whose maps hold nothing of an earlier agent.
    fn new(vips: u8) -> Self {
        Self::with(Claims::default(), armed(vips))
    }

    fn with(claims: Claims, armed: Armed) -> Self {
        let begin = Instant::now();
        let mut liveness = Liveness::new(Profile::FAST, [7; 32], 1, begin);
        liveness.set_segments(&[(leg(2), [1, 2, 3].map(leg).into())], begin);
        let mut node = Self { claims, armed, liveness, verdicts: 0, begin, now: begin };
        node.act();
        node
    }

    fn standing(&self) -> Standing {
        self.liveness.standing(self.now)
    }

    fn act(&mut self) {
        self.claims.set(&self.armed, &self.standing(), self.now);
    }

    /// The others have found something of node 1.
    fn verdict(&mut self, condition: Condition) {
        self.hear_verdict(condition);
        self.act();
    }

    fn hear_verdict(&mut self, condition: Condition) {
        self.verdicts += 1;
        let verdict = Verdict { leg: leg(1), counter: self.verdicts, condition, falls: 0 };
        self.liveness.handle_message(leg(3), &Message::Verdicts(vec![verdict]), self.now);
    }

    fn owns(&self, spot: Spot) -> bool {
        let (address, segment) = spot;
        let vip = self.armed.vips(&self.standing()).find(|(known, _)| *known == address);
        let owned = vip.map_or(0, |(_, vip)| vip.owned);
        let withheld = self.claims.withheld_segments().get(&address).copied().unwrap_or(0);
        (owned & !withheld) >> segment & 1 == 1
    }

    fn withheld(&self) -> Option<Withheld> {
        self.claims.report().withheld.get(&spot(0)).copied()
    }

    fn hear_at(&mut self, mac: Mac, at: Instant) {
        self.hear_of(spot(0), mac, false, at);
    }

    fn hear_of(&mut self, spot: Spot, mac: Mac, is_answer: bool, at: Instant) {
        let time = SystemTime::UNIX_EPOCH + (at - self.begin);
        let claim = Claim { spot, mac, is_node: false, is_answer, at, time };
        let standing = self.standing();
        self.claims.handle(&claim, &self.armed, &standing, self.now);
        if self.claims.poll_change() {
            self.act();
        }
    }

    fn hear(&mut self, mac: impl Into<Mac>) {
        self.hear_at(mac.into(), self.now);
    }

    /// A node answers what this one has asked.
    fn answered(&mut self, mac: Mac) {
        self.hear_of(spot(0), mac, true, self.now);
    }

    /// What is said until then, and when.
    fn run(&mut self, length: Duration) -> Vec<(Duration, Say)> {
        let end = self.now + length;
        let mut said = Vec::new();
        loop {
            self.claims.handle_timeout(self.now);
            while let Some(say) = self.claims.poll_transmit(self.now) {
                said.push((self.now - self.begin, say));
            }
            if self.claims.poll_change() {
                self.act();
            }
            self.claims.poll_news(self.now);
            match self.claims.poll_timeout() {
                Some(next) if next <= end => self.now = next.max(self.now),
                _ => break,
            }
        }
        self.now = end;
        said
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn probes(said: &[(Duration, Say)]) -> Vec<u128> {
    said.iter().filter(|(_, say)| matches!(say, Say::Probe(_))).map(|(at, _)| at.as_millis()).collect()
}

fn questions(said: &[(Duration, Say)]) -> Vec<u128> {
    said.iter().filter(|(_, say)| matches!(say, Say::Question(_))).map(|(at, _)| at.as_millis()).collect()
}

fn announcements(said: &[(Duration, Say)]) -> usize {
    said.iter().filter(|(_, say)| matches!(say, Say::Announcement(_))).count()
}

/// Node 2 ranks best.
fn armed_first(vips: u8) -> Armed {
    let mut armed = armed(vips);
    armed.vips.values_mut().for_each(|vip| vip.ranked = [(0, [leg(2), leg(1), leg(3)].into())].into());
    armed
}

/// Node 2 is to own, and no verdict is needed.
fn first(vips: u8) -> Node {
    Node::with(Claims::default(), armed_first(vips))
}

#[test]
fn a_new_address_is_used_when_three_probes_were_not_answered_and_asked_for_every_minute_then() {
    let mut node = first(1);
    assert_eq!(node.withheld(), Some(Withheld::Probing));
    let said = node.run(Duration::from_millis(299));
    assert_eq!(probes(&said), [0, 100, 200]);
    assert!(!node.owns(spot(0)));
    node.run(Duration::from_millis(1));
    assert!(node.owns(spot(0)));
    assert_eq!(probes(&node.run(130 * SECOND)), [60_300, 120_300]);
    assert_eq!(announcements(&node.run(130 * SECOND)), 0);
}

#[test]
fn an_address_that_somebody_has_is_not_used_until_it_is_free_and_others_are() {
    let mut node = first(2);
    node.run(Duration::from_millis(150));
    node.hear(STRANGER);
    assert_eq!(node.withheld(), Some(Withheld::Taken));
    let said = node.run(Duration::from_millis(9_999));
    assert!(node.owns(spot(1)) && !node.owns(spot(0)));
    let asked = said.iter().filter(|(_, say)| *say == Say::Probe(spot(0))).count();
    assert_eq!(asked, 0, "asked again too soon");
    // It is still there.
    node.run(Duration::from_millis(10));
    node.hear(STRANGER);
    node.run(9 * SECOND);
    assert_eq!(node.withheld(), Some(Withheld::Taken));
    let report = node.claims.report();
    let stranger = report.strangers[&spot(0)][&Mac::from(STRANGER)];
    let since =
        |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    assert_eq!((stranger.claims, since(stranger.first), since(stranger.last)), (2, 150, 10_159));
    assert_eq!((report.counts.conflicts, report.counts.foreign), (1, 2));
    // It has gone.
    let said = node.run(2 * SECOND);
    assert_eq!(probes(&said), [20_159, 20_259, 20_359]);
    assert!(node.owns(spot(0)));
    assert!(node.claims.report().strangers.is_empty());
}

#[test]
fn what_a_node_uses_is_used_at_once() {
    let mut node = first(1);
    node.run(Duration::from_millis(1));
    // It answers the probe.
    node.hear(mac(3));
    assert!(node.owns(spot(0)) && node.withheld().is_none());

    // Heard before it was this node's to own.
    let mut node = Node::new(1);
    node.hear(mac(1));
    node.armed.vips.values_mut().for_each(|vip| vip.ranked = [(0, [leg(2)].into())].into());
    node.act();
    assert!(node.owns(spot(0)));
}

#[test]
fn a_takeover_waits_for_nothing_and_is_given_up_again_if_somebody_is_there() {
    let mut node = Node::new(1);
    node.verdict(Condition::Silent);
    assert!(node.owns(spot(0)));
    assert_eq!(probes(&node.run(Duration::from_millis(250))), [0, 100, 200]);
    node.hear(STRANGER);
    assert_eq!(node.withheld(), Some(Withheld::Taken));

    // As long as it is not known whether node 1 lives, its address waits; a verdict ends that.
    let mut node = first(1);
    assert!(!node.owns(spot(0)));
    node.armed.vips.values_mut().for_each(|vip| vip.ranked = [(0, [leg(1), leg(2)].into())].into());
    node.verdict(Condition::Silent);
    assert!(node.owns(spot(0)));
}

#[test]
fn an_agent_that_comes_back_goes_on_with_what_is_in_the_maps() {
    let spots = [spot(0)].into();
    let mut node = Node::with(Claims::new([spot(0), spot(1)].into(), spots), armed_first(3));
    assert_eq!([0, 1, 2].map(|number| node.owns(spot(number))), [true, true, false]);
    // One was owned, one was there; only of that it is not known that it was free.
    assert_eq!(probes(&node.run(SECOND)).len(), 6);
    assert!(node.owns(spot(2)));
}

#[test]
fn an_address_in_use_is_reported_and_defended_and_stays_in_use() {
    let mut node = first(1);
    node.run(SECOND);
    for _ in 0..200 {
        node.hear(STRANGER);
    }
    let said = node.run(9 * SECOND);
    assert_eq!(announcements(&said), 1);
    node.hear(STRANGER);
    assert_eq!(announcements(&node.run(999 * SECOND / 1_000)), 0, "not more often than every ten seconds");
    // But the last word is this node's.
    assert_eq!(announcements(&node.run(SECOND / 1_000)), 1);
    assert_eq!(announcements(&node.run(30 * SECOND)), 0);
    node.hear(STRANGER);
    assert_eq!(announcements(&node.run(30 * SECOND)), 1);
    assert!(node.owns(spot(0)));
    assert_eq!(node.claims.report().strangers[&spot(0)][&Mac::from(STRANGER)].claims, 202);
    node.hear(STRANGER);
    node.run(198 * SECOND);
    assert!(!node.claims.report().strangers.is_empty());
    node.run(3 * SECOND);
    assert!(node.claims.report().strangers.is_empty(), "it is forgotten when it has been silent for long");
    assert_eq!(node.claims.report().counts.two_owners, 0);
}

#[test]
fn of_many_strangers_the_last_few_are_remembered() {
    let mut node = first(1);
    for number in 0..50 {
        node.run(Duration::from_millis(10));
        node.hear([2, 0, 0, 0, 2, number]);
    }
    let known: Vec<u8> = node.claims.report().strangers[&spot(0)].keys().map(|mac| mac.octets()[5]).collect();
    assert_eq!(known, [46, 47, 48, 49]);
    // Claims of what is no VIP, or is one no more, leave nothing.
    node.armed = armed(0);
    node.act();
    node.hear(STRANGER);
    assert!(node.claims.report().strangers.is_empty());
}

#[test]
fn whoever_turns_out_to_be_a_node_is_no_stranger() {
    let mut node = first(1);
    node.armed.neighbours.remove(&(3 * MAX_SEGMENTS));
    node.hear(mac(3));
    assert_eq!(node.withheld(), Some(Withheld::Taken));
    node.armed.neighbours = armed(0).neighbours;
    node.act();
    assert!(node.owns(spot(0)) && node.claims.report().strangers.is_empty());
}

#[test]
fn whoever_is_said_to_be_a_node_is_no_stranger_before_it_is_proven() {
    let name = |node: u8| NodeName(format!("n{node}").into());
    let unproven = || {
        let mut armed = armed_first(1);
        armed.neighbours.clear();
        let legs = (1..=3).map(|node| (leg(node), name(node)));
        armed.segments.values_mut().for_each(|segment| segment.legs = legs.clone().collect());
        armed
    };
    let mut node = Node::with(Claims::default(), unproven());
    node.claims.describe([(mac(3), name(3))]);
    node.hear(mac(3));
    assert!(node.owns(spot(0)) && node.claims.report().strangers.is_empty());
    assert_eq!(node.claims.report().counts.foreign, 0);
    node.hear(STRANGER);
    assert_eq!(node.claims.report().strangers.len(), 1, "what nobody says is theirs");

    // What is said comes after the claim.
    let mut node = Node::with(Claims::default(), unproven());
    node.hear(mac(3));
    assert_eq!(node.withheld(), Some(Withheld::Taken));
    node.claims.describe([(mac(3), name(3))]);
    node.act();
    assert!(node.owns(spot(0)) && node.claims.report().strangers.is_empty());

    // It ranks as its node does, and a group is nobody's.
    let mut node = mistaken();
    node.armed.neighbours.clear();
    node.armed.segments = unproven().segments;
    node.claims.describe([(mac(1), name(1)), ([3, 0, 0, 0, 1, 1].into(), name(3))]);
    node.answered(mac(1));
    assert_eq!(node.withheld(), Some(Withheld::Yielded { to: leg(1) }));
    node.hear([3, 0, 0, 0, 1, 1]);
    assert_eq!(node.claims.report().strangers.len(), 1);
}

#[test]
fn what_this_node_says_itself_on_another_link_is_nobodys_claim() {
    let mut node = first(1);
    node.hear(mac(2));
    node.hear(mac(9));
    assert_eq!(node.withheld(), Some(Withheld::Probing));
    assert_eq!(node.claims.report().counts, Default::default());
}

/// Node 2 owns after node 1 was found to be silent, which was a mistake.
fn mistaken() -> Node {
    let mut node = Node::new(1);
    node.hear(mac(1));
    node.run(SECOND);
    node.verdict(Condition::Silent);
    node.run(SECOND);
    assert!(node.owns(spot(0)));
    node
}

#[test]
fn a_better_ranked_nodes_claim_stops_ones_own_as_long_as_it_is_there() {
    let mut node = mistaken();
    node.answered(mac(1));
    assert_eq!(node.withheld(), Some(Withheld::Yielded { to: leg(1) }));
    assert!(!node.owns(spot(0)));
    let counts = node.claims.report().counts;
    assert_eq!((counts.two_owners, counts.yields, counts.announced_again), (1, 1, 0));
    assert_eq!(node.claims.report().two_owners[&spot(0)], 1);
    for _ in 0..20 {
        // It is asked, and says so again.
        let said = node.run(5 * SECOND);
        assert!(!questions(&said).is_empty() && announcements(&said) == 0, "{said:?}");
        node.answered(mac(1));
        assert!(!node.owns(spot(0)));
    }
    // It dies, and nobody can say so: it was held to be silent before.
    node.run(Duration::from_millis(5_299));
    assert!(!node.owns(spot(0)));
    node.run(Duration::from_millis(1));
    assert!(node.owns(spot(0)));
}

#[test]
fn a_silent_nodes_claim_is_doubted_until_it_answers() {
    let mut node = mistaken();
    node.hear(mac(1));
    assert!(node.owns(spot(0)));
    let said = node.run(Duration::from_millis(49));
    assert_eq!((questions(&said).len(), announcements(&said)), (1, 0), "{said:?}");
    node.answered(mac(1));
    assert_eq!(node.withheld(), Some(Withheld::Yielded { to: leg(1) }));
    assert_eq!(announcements(&node.run(SECOND)), 0, "clients are drawn away from the better-ranked node");
    // It becomes deaf: what it says by itself does not prolong it.
    for _ in 0..3 {
        node.run(SECOND);
        node.hear(mac(1));
    }
    assert_eq!(questions(&node.run(SECOND + Duration::from_millis(299))).len(), 1);
    assert!(!node.owns(spot(0)));
    node.run(Duration::from_millis(1));
    assert!(node.owns(spot(0)));
}

#[test]
fn a_deaf_node_is_not_yielded_to_and_its_clients_are_told_again() {
    let mut node = mistaken();
    let mut said = Vec::new();
    for _ in 0..100 {
        node.hear(mac(1));
        assert!(node.owns(spot(0)));
        said.extend(node.run(SECOND / 10));
    }
    let (asked, told) = (questions(&said), announcements(&said));
    assert!((7..=10).contains(&asked.len()), "asked {} times within ten seconds", asked.len());
    assert!((7..=11).contains(&told), "told {told} times within ten seconds");
    said.clear();
    said.extend(node.run(10 * SECOND));
    assert!(questions(&said).is_empty() && announcements(&said) <= 1, "{said:?}");
    let counts = node.claims.report().counts;
    assert_eq!((counts.two_owners, counts.yields), (100, 0));
}

#[test]
fn a_silent_node_that_claims_much_is_not_asked_for_all_at_once() {
    let mut node = Node::new(250);
    node.verdict(Condition::Silent);
    node.run(SECOND);
    for number in 0..250 {
        node.hear_of(spot(number), mac(1), false, node.now);
    }
    let said = node.run(Duration::from_millis(49));
    assert_eq!((questions(&said).len(), announcements(&said)), (100, 150));
    assert_eq!(announcements(&node.run(2 * SECOND)), 100, "those that have not answered");
    node.hear_of(spot(249), mac(1), false, node.now);
    assert_eq!(questions(&node.run(SECOND)).len(), 1, "there is room again");
}

#[test]
fn a_node_that_is_well_is_yielded_to_at_once() {
    let mut node = mistaken();
    node.hear_verdict(Condition::Answering);
    node.hear(mac(1));
    assert!(!node.owns(spot(0)));
    assert!(questions(&node.run(SECOND)).is_empty());
    assert_eq!(node.claims.report().counts.yields, 1);
}

#[test]
fn a_verdict_ends_it() {
    for condition in [Condition::Answering, Condition::Yielding] {
        let mut node = mistaken();
        node.answered(mac(1));
        node.verdict(condition);
        assert_eq!(node.withheld(), None);
        assert_eq!(node.owns(spot(0)), condition == Condition::Yielding);
        node.verdict(Condition::Silent);
        assert!(node.owns(spot(0)), "the VIP has no owner");
    }
}

#[test]
fn a_worse_ranked_or_absent_owner_is_told_again_but_not_without_end() {
    let mut node = mistaken();
    for other in [mac(3), mac(3), mac(3)] {
        node.hear(other);
    }
    assert_eq!(announcements(&node.run(SECOND / 2)), 1);
    assert_eq!(announcements(&node.run(10 * SECOND)), 1, "what was said meanwhile is answered too");
    assert!(node.owns(spot(0)));
    assert_eq!(node.claims.report().counts.two_owners, 3);
    // Node 1 answers probes of strangers, but its agent is not there: its data path yields to who says that it owns.
    node.verdict(Condition::Yielding);
    node.hear(mac(1));
    assert_eq!(announcements(&node.run(SECOND)), 1);
    assert!(node.owns(spot(0)));
}

/// Node 2 shares the VIP with two others, of which one ranks before it, or none.
fn sharing(ranked: [u8; 3]) -> Armed {
    let ranked = ranked.map(leg).to_vec();
    let mut armed = armed(1);
    armed.tables = vec![(0, Shares::new(&HashKey::expand([1; 4]), std::slice::from_ref(&ranked)))];
    for vip in armed.vips.values_mut() {
        vip.ranked = [(0, ranked.clone().into())].into();
        vip.tables = [(0, 0)].into();
    }
    armed
}

#[test]
fn nodes_that_share_an_address_ask_for_it_first_and_one_of_them_again_and_none_yields() {
    for (ranked, again) in [([2, 1, 3], 2), ([1, 2, 3], 0)] {
        let mut node = Node::with(Claims::default(), sharing(ranked));
        assert_eq!(node.withheld(), Some(Withheld::Probing));
        assert_eq!(probes(&node.run(SECOND)).len(), 3);
        assert!(node.owns(spot(0)));
        assert_eq!(probes(&node.run(130 * SECOND)).len(), again);
        for other in [1, 3] {
            node.hear(mac(other));
        }
        assert!(node.owns(spot(0)) && node.claims.report().counts.two_owners == 0);
        assert_eq!(announcements(&node.run(SECOND)), 0);
        node.hear(STRANGER);
        assert_eq!(node.claims.report().strangers.len(), 1);
        assert_eq!(announcements(&node.run(SECOND)), 1, "each defends it to its clients");
    }
    // A node that shared it has died: its clients wait for nobody.
    let mut node = Node::with(Claims::default(), sharing([2, 1, 3]));
    node.verdict(Condition::Silent);
    assert!(node.owns(spot(0)));
    // One that was not to have any share has left none behind.
    let mut armed = sharing([2, 3, 1]);
    let classes = [vec![leg(2), leg(3)], vec![leg(1)]];
    armed.tables = vec![(0, Shares::new(&HashKey::expand([1; 4]), &classes))];
    let mut node = Node::with(Claims::default(), armed);
    node.verdict(Condition::Silent);
    assert_eq!(node.withheld(), Some(Withheld::Probing));
}

#[test]
fn an_address_that_nodes_are_to_share_is_no_longer_yielded() {
    let mut node = mistaken();
    node.answered(mac(1));
    assert!(!node.owns(spot(0)));
    node.armed = sharing([1, 2, 3]);
    node.act();
    assert!(node.owns(spot(0)));
}

#[test]
fn what_was_said_before_the_takeover_or_long_ago_changes_nothing() {
    let mut node = Node::new(1);
    node.run(SECOND);
    let before = node.now;
    node.run(SECOND);
    node.verdict(Condition::Silent);
    node.hear_at(mac(1), before);
    assert!(node.owns(spot(0)));
    node.run(10 * SECOND);
    let counts = node.claims.report().counts;
    node.hear_at(mac(1), node.now - 3 * SECOND);
    assert_eq!(node.claims.report().counts, counts);
}

#[test]
fn a_thousand_new_addresses_are_asked_for_within_the_budget() {
    let mut claims = Claims::default();
    let mut armed = armed(0);
    for number in 0..1_000 {
        let entry = Vip { announced: 1, ..Vip::default() };
        let vip = ArmedVip { entry, ranked: [(0, [leg(2)].into())].into(), tables: Few::new() };
        armed.vips.insert(Addr::from(Ipv4Addr::from_bits(0x0a00_0000 + number)), vip);
    }
    let begin = Instant::now();
    let (mut now, mut seconds) = (begin, BTreeMap::<u64, usize>::new());
    claims.set(&armed, &Standing::default(), now);
    while now < begin + 200 * SECOND {
        while claims.poll_transmit(now).is_some() {
            *seconds.entry((now - begin).as_secs()).or_default() += 1;
        }
        now = claims.poll_timeout().map_or(begin + 200 * SECOND, |next| next.max(now));
    }
    assert!(claims.withheld_segments().is_empty());
    assert!(seconds.values().all(|count| *count <= 1_001), "{seconds:?}");
    assert!(seconds.iter().filter(|(second, _)| **second > 5).all(|(_, count)| *count <= 201), "{seconds:?}");
}

#[test]
fn addresses_that_are_taken_over_together_are_asked_for_within_the_budget() {
    let mut node = Node::new(250);
    node.verdict(Condition::Silent);
    assert!((0..250).all(|number| node.owns(spot(number))));
    let asked = probes(&node.run(SECOND)).len();
    assert!(asked <= 201, "{asked} in a second");
    node.run(4 * SECOND);
    let all = (0..250).all(|number| node.owns(spot(number)));
    assert!(
        all && node.claims.poll_timeout().is_some_and(|next| next > node.now + SECOND),
        "three of each have gone"
    );
}
