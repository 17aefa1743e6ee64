//! What is held of legs, and how two nodes come to hold the same.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

/// A node's address in a segment: what is probed there, and stands for the node in that segment.
pub type Leg = IpAddr;

/// What is found of a leg, by observers or by its own node. The later the less it may own, and of two findings with the same counter
/// the later holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// It answers, and its agent is there.
    #[default]
    Answering,
    /// It answers again after a trouble, and its own node has not said yet that it is fit to own: switches and clients must not
    /// follow every turn of a node that comes and goes.
    Returning,
    /// Its own node says that it goes, on purpose: it carries what it has, and owns nothing.
    Leaving,
    /// It answers, but its agent is not there: it forwards, and owns nothing.
    Yielding,
    /// It does not answer, and never did, nor has its agent ever said anything: none was installed there. What is sent to its pods is
    /// the kernel's affair.
    Absent,
    /// It does not answer any more.
    Silent,
}

impl Condition {
    /// Whether its agent is there: it can observe others, and be told.
    pub fn is_present(self) -> bool {
        match self {
            Self::Answering | Self::Returning | Self::Leaving => true,
            Self::Yielding | Self::Absent | Self::Silent => false,
        }
    }

    /// Whether its data plane is there.
    pub fn answers(self) -> bool {
        match self {
            Self::Answering | Self::Returning | Self::Leaving | Self::Yielding => true,
            Self::Absent | Self::Silent => false,
        }
    }
}

/// A finding that is told to others. The higher counter holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Verdict {
    /// Of which leg.
    pub leg: Leg,
    /// Counts the findings of a leg.
    pub counter: u32,
    /// What was found.
    pub condition: Condition,
    /// How often the leg has fallen lately, from present to yielding or silent, as the teller knows: a node that has been away
    /// does not remember its own. Not more than [`MOST_FALLS`].
    pub falls: u8,
}

/// Falls of a leg that are remembered; how many more there were makes no difference.
pub const MOST_FALLS: u8 = 3;

/// Acquittals of a leg that are remembered: more do not prolong what follows from them ([`super::Profile::hold_after`]).
const MOST_ACQUITTALS: usize = 9;

/// What is held of all legs; of one that is not in it: that it is well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    held: BTreeMap<Leg, Held>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    counter: u32,
    condition: Condition,
    since: Instant,
    /// The last moments at which it fell, or was told to have fallen, oldest first.
    falls: VecDeque<Instant>,
    /// The last moments at which it was held to be silent and others knew better, oldest first.
    acquittals: VecDeque<Instant>,
}

impl View {
    /// What is held of a leg.
    pub fn condition(&self, leg: Leg) -> Condition {
        self.held.get(&leg).map_or(Condition::Answering, |held| held.condition)
    }

    /// Since when a leg has been in its condition; `None` if nobody has ever found anything of it.
    pub fn since(&self, leg: Leg) -> Option<Instant> {
        self.held.get(&leg).map(|held| held.since)
    }

    /// Legs that are not well, how they are, and since when.
    pub(super) fn troubled(&self) -> impl Iterator<Item = (Leg, Condition, Instant)> + '_ {
        let troubled = self.held.iter().filter(|(_, held)| held.condition != Condition::Answering);
        troubled.map(|(leg, held)| (*leg, held.condition, held.since))
    }

    /// Legs that do not answer, and since when.
    pub(super) fn silent(&self) -> impl Iterator<Item = (Leg, Instant)> + '_ {
        let silent = self.held.iter().filter(|(_, held)| held.condition == Condition::Silent);
        silent.map(|(leg, held)| (*leg, held.since))
    }

    /// How often a leg has fallen within the last `memory`.
    pub fn falls(&self, leg: Leg, memory: Duration, now: Instant) -> u8 {
        let falls = self.held.get(&leg).map(|held| &held.falls).into_iter().flatten();
        falls.filter(|fall| now < **fall + memory).count() as u8
    }

    /// How often within the last `memory` a leg was held to be silent and others knew better, and when they last did; `None` if never.
    pub(super) fn acquitted(&self, leg: Leg, memory: Duration, now: Instant) -> Option<(u32, Instant)> {
        let acquittals = self.held.get(&leg).map(|held| &held.acquittals).into_iter().flatten();
        let lately: Vec<Instant> = acquittals.copied().filter(|at| now < *at + memory).collect();
        Some((lately.len() as u32, *lately.last()?))
    }

    /// All that was ever found.
    pub fn verdicts(&self, memory: Duration, now: Instant) -> impl Iterator<Item = Verdict> + '_ {
        self.held.keys().filter_map(move |leg| self.verdict(*leg, memory, now))
    }

    /// A finding of this node's own, which replaces what is held. Falls are remembered.
    pub(super) fn find(&mut self, leg: Leg, condition: Condition, now: Instant) {
        let falls = self.held.get(&leg).map_or(0, |held| held.falls.len()) as u8;
        self.replace(leg, condition, falls, now);
    }

    /// A leg that is told to be in trouble has been well all the time: the verdict is overruled, and no fall is remembered.
    pub(super) fn acquit(&mut self, verdict: Verdict, now: Instant) {
        let Verdict { leg, counter, .. } = verdict;
        let counter = self.held.get(&leg).map_or(0, |held| held.counter).max(counter).saturating_add(1);
        self.merge(Verdict { leg, counter, condition: Condition::Answering, falls: 0 }, now);
    }

    /// Whether a finding would replace what is held.
    pub(super) fn is_news(&self, verdict: &Verdict) -> bool {
        let held = self.held.get(&verdict.leg);
        let held = held.map_or((0, Condition::Answering), |held| (held.counter, held.condition));
        (verdict.counter, verdict.condition) > held
    }

    /// What is held of a leg, as it is told to others.
    pub(super) fn verdict(&self, leg: Leg, memory: Duration, now: Instant) -> Option<Verdict> {
        let Held { counter, condition, .. } = *self.held.get(&leg)?;
        Some(Verdict { leg, counter, condition, falls: self.falls(leg, memory, now) })
    }

    /// Another node's finding; whether it changes what is held of the leg's condition.
    pub(super) fn merge(&mut self, verdict: Verdict, now: Instant) -> bool {
        let Verdict { leg, counter, condition, falls } = verdict;
        let before = self.condition(leg);
        let held = self.held.entry(leg).or_insert(Held {
            counter: 0,
            condition: Condition::Answering,
            since: now,
            falls: VecDeque::new(),
            acquittals: VecDeque::new(),
        });
        if (counter, condition) <= (held.counter, held.condition) {
            return false;
        }
        (held.counter, held.condition) = (counter, condition);
        let changes = condition != before;
        if changes {
            held.since = now;
        }
        if before.is_present() && matches!(condition, Condition::Yielding | Condition::Silent) {
            held.falls.push_back(now);
        }
        if before == Condition::Silent && condition == Condition::Answering {
            // Only who was never away is well without having returned; if its last fall counts all the same, the teller says so.
            held.falls.pop_back();
            held.acquittals.push_back(now);
            if held.acquittals.len() > MOST_ACQUITTALS {
                held.acquittals.pop_front();
            }
        }
        // What the teller remembers and this node does not: when exactly it was makes no difference.
        while held.falls.len() < usize::from(falls.min(MOST_FALLS)) {
            held.falls.push_back(now);
        }
        while held.falls.len() > usize::from(MOST_FALLS) {
            held.falls.pop_front();
        }
        changes
    }

    fn replace(&mut self, leg: Leg, condition: Condition, falls: u8, now: Instant) {
        let counter = self.held.get(&leg).map_or(0, |held| held.counter).saturating_add(1);
        self.merge(Verdict { leg, counter, condition, falls }, now);
    }

    /// Forgets legs that are none any more.
    pub(super) fn retain(&mut self, is_leg: impl Fn(Leg) -> bool) {
        self.held.retain(|leg, _| is_leg(*leg));
    }
}
