//! Others who say that they have a VIP: a node that owns it too, or a stranger.
//!
//! Two owners are harmless, and end by this: whoever hears a better-ranked node's claim owns no more for a while, whoever hears a
//! worse-ranked one's says again that it owns. A better-ranked node that is held to be silent has to answer a question first: one
//! that hears nothing still says what it has. Of a VIP that is spread over nodes all of them are owners. A stranger's claim keeps an
//! address from being used for the first time; one that is in use is defended (RFC 5227 2.4 (b)), for an outage of our own making
//! would be worse. Both are counted and reported.
//!
//! [`Claims`] does no IO. Its owner calls [`Claims::set`] whenever nodes or plans change, [`Claims::handle`] for each claim and
//! [`Claims::handle_timeout`] when [`Claims::poll_timeout`] is due; then it does what [`Claims::poll_transmit`] gives until it gives
//! nothing, and writes anew what it owns if [`Claims::poll_change`] is true.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant, SystemTime},
};

use lb_common::layout::{Addr, MAX_SEGMENTS, Mac, Vip};

use crate::{
    armed::Armed,
    liveness::{Condition, Leg, Standing},
    model::NodeName,
    probing::{Found, Output, Probing, Spot, Wanted},
};

/// For so long a better-ranked node's claim holds; then it is asked whether it still has the VIP.
const HOLD: Duration = Duration::from_secs(5);
/// So long a node has to answer.
const PATIENCE: Duration = Duration::from_millis(300);
/// So long has one that is held to be silent: clients that it has misled wait as well.
const PATIENCE_IF_SILENT: Duration = Duration::from_millis(50);
/// At most so often a VIP is announced because a node has claimed it, and because a stranger has (RFC 5227: `DEFEND_INTERVAL`). Who
/// claims it meanwhile is answered then: the owner has the last word.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];
/// VIPs at a time of which a silent node is asked whether it has them. One that it has not answered for counts until it may be asked
/// for it again, after [`AGAIN`].
const MOST_ASKED: usize = 100;
/// After so long without a claim a stranger is forgotten: three probes have not been answered.
const FORGET: Duration = Duration::from_secs(200);
/// What was heard so long ago says nothing of now: the agent was away.
const STALE: Duration = Duration::from_secs(2);
/// Strangers that are remembered of a VIP in a segment.
const MOST_STRANGERS: usize = 4;
/// Between two reports of what changes nothing but counters.
const REPORTS: Duration = Duration::from_secs(1);

/// Somebody says that it has a VIP.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// Of what.
    pub spot: Spot,
    /// Who, on the wire.
    pub mac: Mac,
    /// Whether that is a node's, as the data path knows: it has proven to be there.
    pub is_node: bool,
    /// Whether it answers a question of this node's: whoever says it hears this node.
    pub is_answer: bool,
    /// When it was heard.
    pub at: Instant,
    /// The same by the clock on the wall, for whoever reads the report.
    pub time: SystemTime,
}

/// What is to be said, on all links of the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say {
    /// That this node has it.
    Announcement(Spot),
    /// Whether anybody has it, in the way of who has no address yet: all hear the answer.
    Probe(Spot),
    /// Whether a node that claims it hears this one: the answer is for this node alone.
    Question(Spot),
}

/// Why this node does not own what it would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// It is new, and nobody has had the time to say that it is taken.
    Probing,
    /// A stranger has it.
    Taken,
    /// A better-ranked node says that it has it.
    Yielded {
        /// The node, by its leg.
        to: Leg,
    },
}

/// A stranger's claims of a VIP in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// How many were told of.
    pub claims: u64,
    /// When the first was.
    pub first: SystemTime,
    /// When the last was.
    pub last: SystemTime,
    forgotten: Instant,
}

/// What was heard and done since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Claims by nodes of what this node owned.
    pub two_owners: u64,
    /// Times that this node owned no more because of one.
    pub yields: u64,
    /// Claims by strangers.
    pub foreign: u64,
    /// Times that a stranger was found to have what this node was about to use.
    pub conflicts: u64,
    /// Announcements because of others' claims.
    pub announced_again: u64,
    /// Times that was asked whether somebody else has a VIP.
    pub probes: u64,
}

/// What there is to say of others' claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What this node does not own, though it would.
    pub withheld: BTreeMap<Spot, Withheld>,
    /// Strangers, by MAC.
    pub strangers: BTreeMap<Spot, BTreeMap<Mac, Stranger>>,
    /// How often another node has claimed what this node owned.
    pub two_owners: BTreeMap<Spot, u64>,
    /// Since the beginning.
    pub counts: Counts,
}

/// Others' claims, as this node has heard them.
#[derive(Debug, Default)]
pub struct Claims {
    probing: Probing,
    /// MACs that nodes say are theirs.
    described: BTreeMap<Mac, NodeName>,
    /// In the maps since before this agent: they may be in use.
    adopted: BTreeSet<Spot>,
    /// What this node owns, and since when.
    owned: BTreeMap<Spot, Instant>,
    yields: BTreeMap<Spot, Yield>,
    /// VIPs that a better-ranked node claims which is held to be silent.
    doubts: BTreeMap<Spot, Doubt>,
    /// VIPs that were announced because of a claim.
    quiet: BTreeMap<Spot, Quiet>,
    strangers: BTreeMap<Spot, BTreeMap<Mac, Stranger>>,
    two_owners: BTreeMap<Spot, u64>,
    counts: Counts,
    outbox: VecDeque<Say>,
    has_changed: bool,
    has_news: bool,
    next_report: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Yield {
    to: Leg,
    /// How that node stood: another verdict ends it.
    condition: Condition,
    until: Instant,
    is_asked: bool,
}

/// A node that is held to be silent was asked whether it has the VIP that it claims.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    until: Instant,
    /// It has not answered, and is not asked again until then.
    is_over: bool,
}

/// Until then a VIP is not announced because of a claim.
#[derive(Clone, Copy, Debug)]
struct Quiet {
    until: Instant,
    /// It was claimed again, and will be announced after so long.
    owed: Option<Duration>,
}

impl Claims {
    /// Nothing was heard yet. An earlier agent has left these in the maps, and has owned some of them.
    pub fn new(adopted: BTreeSet<Spot>, owned: BTreeSet<Spot>) -> Self {
        Self { probing: Probing::new(owned), adopted, ..Self::default() }
    }

    /// Sets which MACs nodes of the cluster say are theirs, proven or not: who has one of them is no stranger.
    pub fn describe(&mut self, macs: impl IntoIterator<Item = (Mac, NodeName)>) {
        self.described = macs.into_iter().filter(|(mac, _)| !mac.is_group()).collect();
    }

    /// Sets what is planned and how nodes stand.
    pub fn set(&mut self, armed: &Armed, standing: &Standing, now: Instant) {
        let mut wanted = BTreeMap::new();
        let mut known = BTreeSet::new();
        for ((address, vip), (_, Vip { owned, .. })) in armed.vips.iter().zip(armed.vips(standing)) {
            for (segment, ranked) in &vip.ranked {
                let spot = (*address, *segment);
                known.insert(spot);
                if owned >> segment & 1 == 0 {
                    continue;
                }
                let own = armed.segments.get(segment).and_then(|segment| segment.claims_as);
                let shares = armed.shares(vip, *segment);
                let is_spread = shares.is_some();
                // Somebody else has used it until a moment ago.
                let class = |leg| shares.and_then(|shares| shares.class_of(leg));
                let own_class = own.and_then(class);
                let is_before = |leg: &Leg| class(*leg) <= own_class;
                let mut others = ranked
                    .iter()
                    .take_while(|leg| if is_spread { is_before(leg) } else { Some(**leg) != own });
                let has_fallen =
                    |leg| !matches!(standing.condition(leg), Condition::Answering | Condition::Absent);
                let is_taken_over = others.any(|leg| Some(*leg) != own && has_fallen(*leg));
                let is_urgent = is_taken_over || self.adopted.contains(&spot);
                // Of the nodes that share a VIP one is enough.
                let asks_again = !is_spread || standing.owner(ranked) == own;
                wanted.insert(spot, Wanted { is_urgent, asks_again });
            }
        }
        self.adopted.retain(|spot| known.contains(spot));
        self.strangers.retain(|spot, _| known.contains(spot));
        self.two_owners.retain(|spot, _| known.contains(spot));
        self.quiet.retain(|spot, _| known.contains(spot));
        self.doubts.retain(|spot, _| wanted.contains_key(spot));
        let is_alone = |(address, segment): &Spot| {
            armed.vips.get(address).is_some_and(|vip| !vip.tables.contains_key(segment))
        };
        self.yields.retain(|spot, given| {
            wanted.contains_key(spot) && is_alone(spot) && standing.condition(given.to) == given.condition
        });
        self.probing.set(&wanted, |spot| known.contains(spot), now);
        self.acquit(armed, now);
        let withheld = self.withheld();
        self.owned.retain(|spot, _| wanted.contains_key(spot) && !withheld.contains_key(spot));
        for spot in wanted.keys().filter(|spot| !withheld.contains_key(*spot)) {
            self.owned.entry(*spot).or_insert(now);
        }
    }

    /// Somebody says that it has a VIP.
    pub fn handle(&mut self, claim: &Claim, armed: &Armed, standing: &Standing, now: Instant) {
        let (address, segment) = claim.spot;
        let Some(vip) = armed.vips.get(&address) else { return };
        let Some(ranked) = vip.ranked.get(&segment) else { return };
        let is_own =
            armed.segments.values().any(|segment| segment.links.values().any(|link| link.mac == claim.mac));
        if is_own || now.saturating_duration_since(claim.at) > STALE {
            return;
        }
        self.has_news = true;
        let node = node_of(armed, &self.described, segment, claim.mac);
        if node.is_none() && !claim.is_node {
            return self.handle_stranger(claim, now);
        }
        self.has_changed |= self.probing.handle_peer(claim.spot, now);
        if vip.tables.contains_key(&segment) {
            // Each node has a share of it.
            return;
        }
        let leg = node.flatten();
        let own = armed.segments.get(&segment).and_then(|segment| segment.claims_as);
        let mut better = ranked.iter().take_while(|leg| Some(**leg) != own);
        let is_better = better.any(|better| Some(*better) == leg);
        self.handle_node(claim, leg, is_better, standing, now);
    }

    fn handle_node(
        &mut self,
        claim: &Claim,
        leg: Option<Leg>,
        is_better: bool,
        standing: &Standing,
        now: Instant,
    ) {
        let spot = claim.spot;
        if let Some(given) = self.yields.get_mut(&spot).filter(|given| Some(given.to) == leg) {
            if claim.is_answer || given.condition.answers() {
                (given.until, given.is_asked) = (now + HOLD, false);
            }
            return;
        }
        let Some(since) = self.owned.get(&spot).copied() else { return };
        self.counts.two_owners += 1;
        *self.two_owners.entry(spot).or_default() += 1;
        // One that has claimed it before this node took over may have died since.
        let Some(to) = leg.filter(|_| is_better && claim.at > since) else {
            return self.announce(spot, AGAIN[0], now);
        };
        let condition = standing.condition(to);
        match condition {
            Condition::Absent | Condition::Silent if !claim.is_answer => self.doubt(spot, now),
            Condition::Answering | Condition::Absent | Condition::Silent => {
                self.yields.insert(spot, Yield { to, condition, until: now + HOLD, is_asked: false });
                self.doubts.remove(&spot);
                self.owned.remove(&spot);
                self.counts.yields += 1;
                self.has_changed = true;
            }
            // A node whose agent is not there, or that is not to own, is rather told that it has lost the VIP.
            Condition::Returning | Condition::Leaving | Condition::Yielding => {
                self.announce(spot, AGAIN[0], now);
            }
        }
    }

    /// A silent node claims what this node owns. If it is deaf, clients that have heard it are told again.
    fn doubt(&mut self, spot: Spot, now: Instant) {
        match self.doubts.get(&spot) {
            Some(doubt) if !doubt.is_over => {}
            None if self.doubts.len() < MOST_ASKED => {
                self.doubts.insert(spot, Doubt { until: now + PATIENCE_IF_SILENT, is_over: false });
                self.outbox.push_back(Say::Question(spot));
            }
            Some(_) | None => self.announce(spot, AGAIN[0], now),
        }
    }

    fn handle_stranger(&mut self, claim: &Claim, now: Instant) {
        let spot = claim.spot;
        self.counts.foreign += 1;
        let known = self.strangers.entry(spot).or_default();
        let new = Stranger { claims: 0, first: claim.time, last: claim.time, forgotten: now };
        let stranger = known.entry(claim.mac).or_insert(new);
        stranger.claims += 1;
        (stranger.last, stranger.forgotten) = (claim.time, now + FORGET);
        if known.len() > MOST_STRANGERS {
            let oldest = known.iter().min_by_key(|(_, stranger)| stranger.forgotten).map(|(mac, _)| *mac);
            oldest.and_then(|mac| known.remove(&mac));
        }
        let was_taken = self.probing.is_taken(spot);
        match self.probing.handle_stranger(spot, now) {
            Found::Taken if !was_taken => {
                self.counts.conflicts += 1;
                self.owned.remove(&spot);
                self.has_changed = true;
            }
            Found::InUse if self.owned.contains_key(&spot) => self.announce(spot, AGAIN[1], now),
            Found::Taken | Found::InUse | Found::NotOurs => {}
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut ended = Vec::new();
        for (spot, given) in self.yields.iter_mut().filter(|(_, given)| given.until <= now) {
            if given.is_asked {
                ended.push(*spot);
            } else {
                (given.until, given.is_asked) = (now + PATIENCE, true);
                self.outbox.push_back(Say::Question(*spot));
            }
        }
        for spot in ended {
            self.yields.remove(&spot);
            self.has_changed = true;
        }
        let unanswered: Vec<(Spot, Doubt)> =
            self.doubts.iter().filter(|(_, doubt)| doubt.until <= now).map(|(spot, d)| (*spot, *d)).collect();
        for (spot, Doubt { is_over, .. }) in unanswered {
            self.doubts.remove(&spot);
            if !is_over && self.owned.contains_key(&spot) {
                self.doubts.insert(spot, Doubt { until: now + AGAIN[0], is_over: true });
                self.announce(spot, AGAIN[0], now);
            }
        }
        let over: Vec<(Spot, Quiet)> =
            self.quiet.iter().filter(|(_, quiet)| quiet.until <= now).map(|(spot, q)| (*spot, *q)).collect();
        for (spot, Quiet { owed, .. }) in over {
            self.quiet.remove(&spot);
            if let Some(quiet) = owed.filter(|_| self.owned.contains_key(&spot)) {
                self.announce(spot, quiet, now);
            }
        }
        self.strangers.retain(|_, known| {
            let before = known.len();
            known.retain(|_, stranger| stranger.forgotten > now);
            self.has_news |= known.len() < before;
            !known.is_empty()
        });
    }

    /// When [`Self::handle_timeout`] and [`Self::poll_transmit`] are to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let yields = self.yields.values().map(|given| given.until).min();
        let strangers = self.strangers.values().flat_map(BTreeMap::values).map(|s| s.forgotten).min();
        let quiet = self.quiet.values().map(|quiet| quiet.until).min();
        let doubts = self.doubts.values().map(|doubt| doubt.until).min();
        let report = self.next_report.filter(|_| self.has_news);
        [yields, doubts, quiet, strangers, report, self.probing.poll_timeout()].into_iter().flatten().min()
    }

    /// The next thing to say now.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Say> {
        if let Some(say) = self.outbox.pop_front() {
            self.counts.probes += u64::from(matches!(say, Say::Probe(_) | Say::Question(_)));
            return Some(say);
        }
        loop {
            match self.probing.poll(now)? {
                Output::Probe(spot) => {
                    self.counts.probes += 1;
                    return Some(Say::Probe(spot));
                }
                Output::Free(spot) => {
                    self.strangers.remove(&spot);
                    self.has_changed = true;
                }
            }
        }
    }

    /// Whether what this node owns has changed since the last call.
    pub fn poll_change(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    /// Whether there is something new in the report; not more often than somebody can read.
    pub fn poll_news(&mut self, now: Instant) -> bool {
        let is_due = self.has_news && self.next_report.is_none_or(|at| at <= now);
        if is_due {
            self.has_news = false;
            self.next_report = Some(now + REPORTS);
        }
        is_due
    }

    /// Segments in which this node does not own a VIP, whatever else speaks for it: a bit for each.
    pub fn withheld_segments(&self) -> BTreeMap<Addr, u32> {
        let mut segments: BTreeMap<Addr, u32> = BTreeMap::new();
        for (address, segment) in self.withheld().into_keys() {
            *segments.entry(address).or_default() |= 1_u32.wrapping_shl(u32::from(segment));
        }
        segments
    }

    /// What was heard and done since the beginning.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What there is to say.
    pub fn report(&self) -> Report {
        Report {
            withheld: self.withheld(),
            strangers: self.strangers.clone(),
            two_owners: self.two_owners.clone(),
            counts: self.counts,
        }
    }

    fn withheld(&self) -> BTreeMap<Spot, Withheld> {
        let probing = self.probing.withheld().map(|spot| {
            (spot, if self.probing.is_taken(spot) { Withheld::Taken } else { Withheld::Probing })
        });
        let yields = self.yields.iter().map(|(spot, given)| (*spot, Withheld::Yielded { to: given.to }));
        yields.chain(probing).collect()
    }

    fn announce(&mut self, spot: Spot, quiet: Duration, now: Instant) {
        match self.quiet.get_mut(&spot).filter(|quiet| quiet.until > now) {
            Some(known) => known.owed = Some(quiet),
            None => {
                self.quiet.insert(spot, Quiet { until: now + quiet, owed: None });
                self.counts.announced_again += 1;
                self.outbox.push_back(Say::Announcement(spot));
            }
        }
    }

    /// Strangers whose MAC turns out to be a node's.
    fn acquit(&mut self, armed: &Armed, now: Instant) {
        let (probing, described) = (&mut self.probing, &self.described);
        self.strangers.retain(|spot, known| {
            let before = known.len();
            known.retain(|mac, _| node_of(armed, described, spot.1, *mac).is_none());
            if known.is_empty() && before > 0 {
                probing.clear(*spot, now);
            }
            !known.is_empty()
        });
    }
}

/// Whether a MAC is a node's, by the data path or by what nodes say, and what stands for that node.
fn node_of(
    armed: &Armed,
    described: &BTreeMap<Mac, NodeName>,
    segment: u16,
    mac: Mac,
) -> Option<Option<Leg>> {
    let in_segment = armed.neighbours.iter().filter(|(place, _)| *place % MAX_SEGMENTS == u32::from(segment));
    let known = in_segment.map(|(_, neighbour)| neighbour).find(|n| n.entry.mac == mac).map(|n| n.leg);
    known.or_else(|| {
        let node = described.get(&mac)?;
        Some(armed.segments.get(&segment).and_then(|segment| segment.leg_of(node)))
    })
}
