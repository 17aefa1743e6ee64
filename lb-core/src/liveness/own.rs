//! What a node says of its own legs: that they go on purpose, and that they are fit to own again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::verdict::{Condition, Leg};

/// Own legs that wait, and whether this node leaves.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnLegs {
    is_leaving: bool,
    /// When the quiet time after a trouble is over.
    waiting: BTreeMap<Leg, Instant>,
    /// When others last said of a leg that it is well after all.
    acquitted: BTreeMap<Leg, Instant>,
    /// Legs that wait because of that, whatever others say.
    disputed: BTreeSet<Leg>,
}

impl OwnLegs {
    /// Whether that is new.
    pub(super) fn set_leaving(&mut self, is_leaving: bool) -> bool {
        std::mem::replace(&mut self.is_leaving, is_leaving) != is_leaving
    }

    /// What follows from what is held of a leg; whether everybody must be told that it leaves.
    pub(super) fn mind(&mut self, leg: Leg, held: Condition, quiet_until: Instant) -> bool {
        match held {
            Condition::Answering | Condition::Returning if self.is_leaving => {
                self.stop_waiting(leg);
                true
            }
            Condition::Leaving if self.is_leaving => false,
            Condition::Returning | Condition::Leaving => {
                self.waiting.entry(leg).or_insert(quiet_until);
                false
            }
            // In trouble it has no say: its observers find that it is back.
            Condition::Answering | Condition::Yielding | Condition::Absent | Condition::Silent => {
                self.stop_waiting(leg);
                false
            }
        }
    }

    /// Others say that a leg is well that was told to be silent. If they have done so within `memory` already, but not within `same`,
    /// they differ for longer, and the leg asks whether it may own: then the answer is `true`.
    pub(super) fn acquit(&mut self, leg: Leg, (same, memory): (Duration, Duration), now: Instant) -> bool {
        let before = self.acquitted.get(&leg).copied();
        if before.is_some_and(|before| now < before + same) {
            return false;
        }
        self.acquitted.insert(leg, now);
        let asks = before.is_some_and(|before| now < before + memory);
        if asks {
            self.waiting.insert(leg, now);
            self.disputed.insert(leg);
        }
        asks
    }

    /// Whether the leg is to wait for some time more, though others say that it is well.
    pub(super) fn insists(&self, leg: Leg, now: Instant) -> bool {
        self.disputed.contains(&leg) && self.waiting.get(&leg).is_some_and(|until| *until > now)
    }

    /// Waits until then, if it waits at all.
    pub(super) fn wait(&mut self, leg: Leg, until: Instant) {
        if let Some(waiting) = self.waiting.get_mut(&leg) {
            *waiting = until;
        }
    }

    /// A leg that has waited for long enough.
    pub(super) fn poll_return(&mut self, now: Instant) -> Option<Leg> {
        self.waiting.iter().find(|(_, until)| **until <= now).map(|(leg, _)| *leg)
    }

    /// When there will be one.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.values().copied().min()
    }

    /// Forgets legs that are not this node's any more.
    pub(super) fn retain(&mut self, own: &BTreeSet<Leg>) {
        self.waiting.retain(|leg, _| own.contains(leg));
        self.acquitted.retain(|leg, _| own.contains(leg));
        self.disputed.retain(|leg| own.contains(leg));
    }

    fn stop_waiting(&mut self, leg: Leg) {
        self.waiting.remove(&leg);
        self.disputed.remove(&leg);
    }
}
