//! What is held of legs, and how two nodes come to hold the same.

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

/// A node's address in a segment: what is probed there, and stands for the node in that segment.
pub type Leg = IpAddr;

/// What observers have found of a leg. The later the worse: of two findings with the same counter the worse holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// It answers, and its agent is there.
    #[default]
    Answering,
    /// It answers, but its agent is not there: it forwards, and owns nothing.
    Yielding,
    /// It does not answer.
    Silent,
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
}

/// What is held of all legs; of one that is not in it: that it is well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    held: BTreeMap<Leg, Held>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    counter: u32,
    condition: Condition,
    since: Instant,
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

    /// Legs that do not answer, and since when.
    pub(super) fn silent(&self) -> impl Iterator<Item = (Leg, Instant)> + '_ {
        let silent = self.held.iter().filter(|(_, held)| held.condition == Condition::Silent);
        silent.map(|(leg, held)| (*leg, held.since))
    }

    /// All that was ever found.
    pub fn verdicts(&self) -> impl Iterator<Item = Verdict> + '_ {
        self.held.iter().map(|(leg, held)| Verdict {
            leg: *leg,
            counter: held.counter,
            condition: held.condition,
        })
    }

    /// A finding of this node's own, which replaces what is held.
    pub(super) fn find(&mut self, leg: Leg, condition: Condition, now: Instant) -> Verdict {
        let counter = self.held.get(&leg).map_or(0, |held| held.counter).saturating_add(1);
        let verdict = Verdict { leg, counter, condition };
        self.merge(verdict, now);
        verdict
    }

    /// Another node's finding; whether it changes what is held of the leg's condition.
    pub(super) fn merge(&mut self, verdict: Verdict, now: Instant) -> bool {
        let Verdict { leg, counter, condition } = verdict;
        let before = self.condition(leg);
        let is_newer =
            self.held.get(&leg).is_none_or(|held| (counter, condition) > (held.counter, held.condition));
        if !is_newer {
            return false;
        }
        let changes = condition != before;
        let since = match self.held.get(&leg) {
            Some(held) if !changes => held.since,
            _ => now,
        };
        self.held.insert(leg, Held { counter, condition, since });
        changes
    }

    /// Forgets legs that are none any more.
    pub(super) fn retain(&mut self, is_leg: impl Fn(Leg) -> bool) {
        self.held.retain(|leg, _| is_leg(*leg));
    }
}
