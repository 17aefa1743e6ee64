//! Who is alive, as the nodes find out among themselves: no API server, no lease, no majority.
//!
//! A node stands in a segment with an address of its own, its *leg* there. Each leg is probed by a few *observers*, which all
//! nodes compute alike; data planes answer probes, so an answer says that the node forwards, and whether its agent looks after
//! it. An observer that hears nothing asks a second one, and if neither does, both tell everybody: a [`Verdict`]. Of what is
//! held of a leg the higher counter holds, whoever found it and in whatever order it is heard.
//!
//! [`Liveness`] does no IO. Its owner calls [`Liveness::handle_answer`], [`Liveness::handle_message`] and, when
//! [`Liveness::poll_timeout`] is due, [`Liveness::handle_timeout`]; after each it sends what [`Liveness::poll_transmit`] gives
//! until it gives nothing, and looks whether [`Liveness::poll_change`] is true. Answers that have arrived must be handed in before
//! a timeout is, and need not be sooner: nobody has to wake for them.

mod accuse;
mod acquaintances;
mod burst;
mod description;
mod hear;
mod introduce;
mod membership;
mod message;
mod observers;
mod own;
mod profile;
mod report;
mod standing;
mod verdict;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use lb_common::layout::Mac;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::IteratorRandom};

use acquaintances::Acquaintances;
use burst::Burst;
use membership::Membership;
use observers::Order;
use own::OwnLegs;
use watch::{Answered, Watch};

pub use description::{Description, LinkDescription, MAX_ADDRESSES, MAX_LINKS, MAX_NAME, capability};
pub use membership::MAX_SWIM;
pub use message::{MAX_MESSAGE, MAX_VERDICTS, MOST_FINDINGS, Message, MessageError};
pub use profile::Profile;
pub use report::{LegReport, Report, Source};
pub use standing::Standing;
pub use verdict::{Condition, Leg, Verdict, View};

/// UDP port at which data planes answer probes.
pub const PROBE_PORT: u16 = 17_946;
/// UDP port at which agents hear each other's messages.
pub const GOSSIP_PORT: u16 = 17_947;

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// A probe.
    Probe {
        /// To whom.
        to: Leg,
        /// Its number, which comes back with the answer.
        nonce: u64,
    },
    /// A probe to a MAC, whatever ARP or NDP says: an answer proves that the leg is there.
    Proof {
        /// To whom.
        to: Leg,
        /// Where it should be.
        mac: Mac,
        /// As in [`Self::Probe`].
        nonce: u64,
    },
    /// A message, in an envelope.
    Message {
        /// To whom.
        to: Leg,
        /// What it says.
        message: Message,
    },
}

/// What was done since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Probes.
    pub probes: u64,
    /// Messages.
    pub messages: u64,
    /// Suspicions of this node.
    pub suspicions: u64,
    /// Verdicts of this node that a leg is silent.
    pub accusations: u64,
    /// Times that this node has been asleep.
    pub slips: u64,
}

/// One node's part in it.
pub struct Liveness {
    profile: Profile,
    random: StdRng,
    /// This node's own, one in each segment.
    own: BTreeSet<Leg>,
    own_legs: OwnLegs,
    /// By own leg.
    memberships: BTreeMap<Leg, Membership>,
    generation: u64,
    /// What this node says of itself.
    description: Description,
    /// How often everybody is still told, and when next.
    describing: Option<(u32, Instant)>,
    acquaintances: Acquaintances,
    /// Own leg and all legs of each segment.
    segments: Vec<(Leg, BTreeSet<Leg>)>,
    /// All others, with their observers.
    orders: BTreeMap<Leg, Order>,
    view: View,
    watches: BTreeMap<Leg, Watch>,
    /// When legs were left to other observers that had answered until then.
    released: BTreeMap<Leg, Instant>,
    /// Legs of which anything was ever heard: their data planes or agents are, or were, there.
    heard: BTreeSet<Leg>,
    /// Until then, while agents get to know each other, those that were not heard are taken to be there.
    grace: Option<Instant>,
    /// A moment at which probes are sent: from there on every interval.
    beat: Instant,
    bursts: BTreeMap<Leg, Burst>,
    /// Verdicts of this node's own that are still being told.
    tellings: Vec<Telling>,
    next_exchange: Instant,
    /// By own leg, since when this node hears enough others there to say of one that it is gone; none where it is rather cut off itself.
    whole_since: BTreeMap<Leg, Instant>,
    /// When the next leg that is silent will be gone.
    next_gone: Option<Instant>,
    /// Since when what follows from what is held of legs has not been looked at: whom this node observes, whether it is cut off.
    unsettled: Option<Instant>,
    outbox: VecDeque<Transmit>,
    has_changed: bool,
    counts: Counts,
}

/// A verdict that everybody is told again.
#[derive(Clone, Copy, Debug)]
struct Telling {
    leg: Leg,
    left: u32,
    next: Instant,
}

impl Liveness {
    /// A node that knows nobody yet. Its `generation` is higher each time that its agent starts.
    pub fn new(profile: Profile, seed: [u8; 32], generation: u64, now: Instant) -> Self {
        let mut random = StdRng::from_seed(seed);
        let beat = now + profile.interval.mul_f64(random.random_range(0.0..1.0));
        Self {
            profile,
            beat,
            random,
            own: BTreeSet::new(),
            own_legs: OwnLegs::default(),
            memberships: BTreeMap::new(),
            generation,
            description: Description { version: (generation, 0), ..Description::default() },
            describing: None,
            acquaintances: Acquaintances::default(),
            segments: Vec::new(),
            orders: BTreeMap::new(),
            view: View::default(),
            watches: BTreeMap::new(),
            released: BTreeMap::new(),
            heard: BTreeSet::new(),
            grace: Some(now + profile.grace),
            bursts: BTreeMap::new(),
            tellings: Vec::new(),
            next_exchange: now + profile.exchange,
            whole_since: BTreeMap::new(),
            next_gone: None,
            unsettled: None,
            outbox: VecDeque::new(),
            has_changed: false,
            counts: Counts::default(),
        }
    }

    /// What is held of all legs.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// What was done since the beginning.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Sets who is in the cluster: of each segment of this node its own leg there, and all legs with it.
    pub fn set_segments(&mut self, segments: &[(Leg, BTreeSet<Leg>)], now: Instant) {
        let own: BTreeSet<Leg> = segments.iter().map(|(own, _)| *own).collect();
        let mut orders = BTreeMap::new();
        for (own, legs) in segments {
            let mut legs = legs.clone();
            legs.insert(*own);
            orders.extend(observers::orders(&legs));
        }
        if own == self.own && orders == self.orders {
            return;
        }
        let known: BTreeSet<Leg> = self.orders.keys().copied().collect();
        self.segments = segments.to_vec();
        (self.own, self.orders) = (own.clone(), orders);
        let orders = &self.orders;
        self.view.retain(|leg| orders.contains_key(&leg));
        self.bursts.retain(|leg, _| orders.contains_key(leg));
        self.tellings.retain(|telling| orders.contains_key(&telling.leg));
        self.heard.retain(|leg| orders.contains_key(leg));
        self.settle_view(now);
        self.own_legs.retain(&self.own);
        let orders = &self.orders;
        self.acquaintances.retain(|leg| orders.contains_key(&leg));
        self.mind_own(now);
        self.has_changed = true;
        self.memberships.retain(|leg, _| own.contains(leg));
        for leg in own {
            self.memberships.entry(leg).or_insert_with(|| {
                let random = StdRng::from_rng(&mut self.random);
                Membership::new(leg, self.generation, self.profile.swim, random)
            });
        }
        let new: Vec<Leg> = self.others().filter(|leg| !known.contains(leg)).collect();
        for to in new {
            self.tell(to, Message::Hello(self.description.clone()));
        }
        self.join_missing(now);
    }

    /// An answer to a probe.
    pub fn handle_answer(&mut self, from: Leg, nonce: u64, lease_holds: bool, now: Instant) {
        self.has_changed |= self.acquaintances.handle_answer(from, nonce);
        let mut answered = self.watches.get_mut(&from).and_then(|watch| watch.handle_answer(nonce));
        if let Some(sent) = self.bursts.get(&from).and_then(|burst| burst.answered_by(nonce)) {
            self.end_burst(from, now);
            // Of a burst one answer is as good as another: it says that the leg is there, not that it stays.
            answered = answered.or(Some(Answered { in_a_row: 1, sent }));
        }
        let Some(Answered { in_a_row, sent }) = answered else { return };
        self.note_heard(from, now);
        if self.view.since(from).is_some_and(|since| sent < since) {
            // It may have answered before it came to what it is held to be.
            return;
        }
        let found = match (self.view.condition(from), lease_holds) {
            (Condition::Silent | Condition::Absent, _) if in_a_row < self.profile.recoveries => return,
            (Condition::Yielding, false) => return,
            (Condition::Yielding | Condition::Absent | Condition::Silent, true) => Condition::Returning,
            (Condition::Answering | Condition::Returning | Condition::Leaving, true) => return,
            (_, false) => Condition::Yielding,
        };
        self.find(from, found, now);
    }

    /// A message from another node, by one of its legs.
    pub fn handle_message(&mut self, from: Leg, message: &Message, now: Instant) {
        if !self.orders.contains_key(&from) || self.own.contains(&from) {
            return;
        }
        self.note_heard(from, now);
        match message {
            Message::Hello(description) => {
                self.has_changed |= self.acquaintances.hear(from, description, now);
                self.tell_all_of(from, now);
                self.tell_description(from);
            }
            Message::Describe => self.tell_description(from),
            Message::Description(description) => {
                self.has_changed |= self.acquaintances.hear(from, description, now);
            }
            Message::Confirm { leg } => self.confirm(from, *leg, now),
            Message::Found { leg, has_answered } => self.second_says(from, *leg, *has_answered, now),
            Message::Swim(bytes) => {
                if let Some(membership) = self.segment_of(from).and_then(|own| self.memberships.get_mut(&own))
                {
                    membership.handle(bytes, now);
                }
                self.run_memberships(now);
            }
            Message::Verdicts(verdicts) => {
                for verdict in verdicts {
                    self.hear(from, *verdict, now);
                }
            }
        }
    }

    /// Something was heard of a leg: it can observe others from now on.
    fn note_heard(&mut self, leg: Leg, now: Instant) {
        if self.own.contains(&leg) || !self.orders.contains_key(&leg) || !self.heard.insert(leg) {
            return;
        }
        if self.grace.is_none() {
            self.unsettled.get_or_insert(now);
        }
        let next = self.next_beat(now);
        if let Some(watch) = self.watches.get_mut(&leg) {
            watch.hasten(next);
        }
    }

    /// Says of all own legs that they go on purpose, or that they stay after all.
    pub fn leave(&mut self, is_leaving: bool, now: Instant) {
        if self.own_legs.set_leaving(is_leaving) {
            self.mind_own(now);
        }
    }

    /// An own leg that has been well for long enough after a trouble: to be answered with [`Self::settle`], or with
    /// [`Self::postpone`] if that would move VIPs too often.
    pub fn poll_return(&mut self, now: Instant) -> Option<Leg> {
        self.own_legs.poll_return(now)
    }

    /// An own leg is fit to own again: everybody is told.
    pub fn settle(&mut self, leg: Leg, now: Instant) {
        let is_waiting = matches!(self.view.condition(leg), Condition::Returning | Condition::Leaving);
        if self.own.contains(&leg) && is_waiting {
            self.find(leg, Condition::Answering, now);
        }
    }

    /// An own leg waits for some time more.
    pub fn postpone(&mut self, leg: Leg, until: Instant) {
        self.own_legs.wait(leg, until);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_late = self.poll_timeout().is_some_and(|due| now > due + self.profile.slip);
        if is_late {
            self.forgive(now);
        }
        if self.grace.is_some_and(|end| end <= now) {
            self.grace = None;
            self.unsettled.get_or_insert(now);
        }
        self.run_watches(now);
        self.run_bursts(now);
        self.run_tellings(now);
        self.run_descriptions(now);
        self.memberships.values_mut().for_each(|membership| membership.handle_timeout(now));
        self.run_memberships(now);
        if self.next_exchange <= now {
            self.next_exchange = now + self.profile.exchange;
            self.exchange(now);
            self.join_missing(now);
        }
        if self.unsettled.is_some() {
            self.settle_view(now);
        }
        if self.next_gone.is_some_and(|at| at <= now) {
            self.has_changed = true;
            self.find_next_gone(now);
        }
    }

    /// When [`Self::handle_timeout`] and [`Self::poll_return`] are to be called; `None` while there is nobody to probe.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let watches = self.watches.values().map(Watch::due);
        let bursts = self.bursts.values().filter_map(Burst::due);
        let tellings = self.tellings.iter().map(|telling| telling.next);
        let exchange = (!self.watches.is_empty()).then_some(self.next_exchange);
        let others = watches.chain(bursts).chain(tellings).chain(self.next_gone).chain(exchange);
        let memberships = self.memberships.values().filter_map(Membership::due);
        let describing = self.describing.map(|(_, next)| next).into_iter().chain(self.acquaintances.due());
        let grace = self.grace.filter(|_| !self.orders.is_empty());
        let others = others.chain(self.unsettled);
        others.chain(grace).chain(self.own_legs.due()).chain(memberships).chain(describing).min()
    }

    /// The next thing to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outbox.pop_front()
    }

    /// Whether what is held of any leg has changed since the last call.
    pub fn poll_change(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    /// How all legs stand now.
    pub fn standing(&self, now: Instant) -> Standing {
        let mut troubled: Vec<_> = self.view.troubled().collect();
        troubled.sort_by_key(|(leg, _, since)| (*since, *leg));
        let troubled: Vec<(Leg, Condition)> =
            troubled.into_iter().map(|(leg, condition, _)| (leg, condition)).collect();
        let gone = self.gone_at().filter(|(_, at)| *at <= now).map(|(leg, _)| leg).collect();
        Standing::new(&troubled, gone, self.orders.len())
    }

    /// Whether a leg has been silent for so long that what is established with it is given up.
    pub fn is_gone(&self, leg: Leg, now: Instant) -> bool {
        self.gone_at().any(|(gone, at)| gone == leg && at <= now)
    }

    /// Silent legs, and when each is gone: never while this node is cut off there, and what it held then does not count.
    fn gone_at(&self) -> impl Iterator<Item = (Leg, Instant)> + '_ {
        self.view.silent().filter_map(|(leg, since)| {
            let whole = self.whole_since.get(&self.segment_of(leg)?)?;
            Some((leg, since.max(*whole) + self.profile.gone))
        })
    }

    /// What follows from how legs are, after that has changed: once for all that is heard at once, for each looks at all legs.
    fn settle_view(&mut self, now: Instant) {
        self.unsettled = None;
        self.look_around(now);
        self.assign(now);
    }

    /// Whether this node is cut off, and what follows for the silent.
    fn look_around(&mut self, now: Instant) {
        let whole: BTreeSet<Leg> =
            self.segments.iter().filter(|segment| !self.is_cut_off(segment)).map(|(own, _)| *own).collect();
        self.whole_since.retain(|own, _| whole.contains(own));
        for own in whole {
            self.whole_since.entry(own).or_insert(now);
        }
        self.find_next_gone(now);
    }

    fn find_next_gone(&mut self, now: Instant) {
        self.next_gone = self.gone_at().map(|(_, at)| at).filter(|at| *at > now).min();
    }

    /// A node that hears less than half of the others in a segment is rather cut off there itself; of two nodes none can tell.
    fn is_cut_off(&self, (own, legs): &(Leg, BTreeSet<Leg>)) -> bool {
        let is_other = |leg: &Leg| leg != own && legs.contains(leg);
        let troubled = self.view.troubled().filter(|(leg, ..)| is_other(leg));
        let (mut silent, mut absent) = (0, 0);
        for (_, condition, _) in troubled {
            silent += usize::from(condition == Condition::Silent);
            absent += usize::from(condition == Condition::Absent);
        }
        let others = legs.len() - usize::from(legs.contains(own)) - absent;
        others > 1 && 2 * silent > others
    }

    pub(super) fn others(&self) -> impl Iterator<Item = Leg> + '_ {
        self.orders.keys().copied().filter(|leg| !self.own.contains(leg))
    }

    /// Whose observer this node is now: of those that can observe, the first few. A leg that is silent or yields observes nobody.
    fn assign(&mut self, now: Instant) {
        let own = self.own.iter().filter_map(|own| self.orders.get(own));
        let observed =
            |order: &Order| order.observed(self.profile.observers, |leg| self.can_observe(leg, now));
        let observed: Vec<Leg> = own.flat_map(observed).collect();
        let mut watches = BTreeMap::new();
        for leg in observed {
            let watch = self.watches.remove(&leg).unwrap_or_else(|| Watch::new(self.next_beat(now)));
            watches.insert(leg, watch);
        }
        let is_new = |released: &Instant| now < *released + self.profile.exchange;
        self.released.retain(|leg, released| self.orders.contains_key(leg) && is_new(released));
        let left = std::mem::replace(&mut self.watches, watches).into_iter();
        let answered = left.filter(|(_, watch)| watch.has_heard(&self.profile, now));
        self.released.extend(answered.map(|(leg, _)| (leg, now)));
    }

    /// Whether a leg can observe others: its agent is there, as far as is known.
    fn can_observe(&self, leg: Leg, now: Instant) -> bool {
        let is_known = || self.heard.contains(&leg) || self.grace.is_some_and(|end| now < end);
        self.own.contains(&leg) || self.view.condition(leg).is_present() && is_known()
    }

    /// When this node sends its next probes, after now: all at once, for each time that it wakes costs it more than what it sends then. When
    /// that is differs among nodes, so that the observers of a leg do not probe it in the same moment.
    fn next_beat(&self, now: Instant) -> Instant {
        if now < self.beat {
            return self.beat;
        }
        let interval = self.profile.interval;
        let passed = now.duration_since(self.beat).as_nanos() % interval.as_nanos().max(1);
        now + interval - Duration::from_nanos(u64::try_from(passed).unwrap_or(0))
    }

    fn run_watches(&mut self, now: Instant) {
        let legs: Vec<Leg> = self.watches.keys().copied().collect();
        let patience = self.profile.patience.min(self.profile.interval);
        let mut beat = self.next_beat(now);
        if beat < now + patience {
            // A probe that went late is waited for as well.
            beat += self.profile.interval;
        }
        for leg in legs {
            let is_absent = self.view.condition(leg) == Condition::Absent && !self.heard.contains(&leg);
            let next = if is_absent { now + self.profile.exchange } else { beat };
            while let Some(watch) = self.watches.get_mut(&leg) {
                match watch.handle_timeout(&self.profile, now) {
                    watch::Due::Nothing => break,
                    watch::Due::Suspicion => self.suspect(leg, now),
                    watch::Due::Probe => {
                        let nonce = self.random.next_u64();
                        watch.sent(nonce, &self.profile, now, next);
                        self.probe(leg, nonce);
                        break;
                    }
                }
            }
        }
    }

    fn run_tellings(&mut self, now: Instant) {
        let mut due = Vec::new();
        for telling in self.tellings.iter_mut().filter(|telling| telling.next <= now) {
            due.extend(self.view.verdict(telling.leg, self.profile.memory, now));
            telling.left = telling.left.saturating_sub(1);
            telling.next = now + self.profile.repeat_interval;
        }
        self.tellings.retain(|telling| telling.left > 0);
        for part in due.chunks(MAX_VERDICTS) {
            let to: Vec<Leg> = self.others().collect();
            to.into_iter().for_each(|to| self.tell(to, Message::Verdicts(part.to_vec())));
        }
    }

    /// A finding of this node's own: everybody is told.
    fn find(&mut self, leg: Leg, condition: Condition, now: Instant) {
        self.view.find(leg, condition, now);
        self.found(leg, now);
    }

    fn found(&mut self, leg: Leg, now: Instant) {
        self.tellings.retain(|telling| telling.leg != leg);
        self.tellings.push(Telling { leg, left: self.profile.repeats, next: now });
        self.condition_changed(leg, now);
        self.run_tellings(now);
    }

    fn condition_changed(&mut self, leg: Leg, now: Instant) {
        self.has_changed = true;
        self.unsettled.get_or_insert(now);
        if !self.view.condition(leg).answers() {
            // Whoever asked is told by the verdict.
            self.bursts.remove(&leg);
        }
        if self.own.contains(&leg) {
            self.mind_own(now);
        }
    }

    /// What this node has to say of its own legs, by what is held of them.
    fn mind_own(&mut self, now: Instant) {
        for leg in self.own.clone() {
            let falls = self.view.falls(leg, self.profile.memory, now);
            let condition = self.view.condition(leg);
            if self.own_legs.mind(leg, condition, now + self.profile.quiet_after(falls)) {
                self.find(leg, Condition::Leaving, now);
            }
        }
    }

    /// Asleep, this node has heard nothing of anybody: that accuses nobody.
    fn forgive(&mut self, now: Instant) {
        self.counts.slips += 1;
        self.watches.values_mut().for_each(|watch| watch.forgive(now));
        self.bursts.clear();
    }

    /// Tells one other node all verdicts and what this one says of itself, and asks some that are not known to describe themselves.
    fn exchange(&mut self, now: Instant) {
        let others: Vec<Leg> = self.others().filter(|leg| self.view.condition(*leg).is_present()).collect();
        if !others.is_empty() {
            let to = others[self.random.random_range(0..others.len())];
            self.tell_all_of(to, now);
            self.tell_description(to);
        }
        // Not always the same: some may never answer.
        let unknown = others.into_iter().filter(|leg| self.acquaintances.description(*leg).is_none());
        let unknown = unknown.sample(&mut self.random, MOST_ASKED);
        unknown.into_iter().for_each(|leg| self.tell(leg, Message::Describe));
    }

    fn tell_all_of(&mut self, to: Leg, now: Instant) {
        let verdicts: Vec<Verdict> = self.view.verdicts(self.profile.memory, now).collect();
        for part in verdicts.chunks(MAX_VERDICTS) {
            self.tell(to, Message::Verdicts(part.to_vec()));
        }
    }

    fn tell(&mut self, to: Leg, message: Message) {
        self.counts.messages += 1;
        self.outbox.push_back(Transmit::Message { to, message });
    }

    fn probe(&mut self, to: Leg, nonce: u64) {
        self.counts.probes += 1;
        self.outbox.push_back(Transmit::Probe { to, nonce });
    }
}

/// Legs that are asked at once to describe themselves.
const MOST_ASKED: usize = 16;
