//! What a node says of its own legs: that they go on purpose, and that they are fit to own again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::verdict::{Condition, Leg};

/// Own legs that wait, and whether this node leaves.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnLegs {
    is_leaving: bool,
    /// When the quiet time after a trouble is over.
    waiting: BTreeMap<Leg, Instant>,
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
                self.waiting.remove(&leg);
                true
            }
            Condition::Leaving if self.is_leaving => false,
            Condition::Returning | Condition::Leaving => {
                self.waiting.entry(leg).or_insert(quiet_until);
                false
            }
            // In trouble it has no say: its observers find that it is back.
            Condition::Answering | Condition::Yielding | Condition::Absent | Condition::Silent => {
                self.waiting.remove(&leg);
                false
            }
        }
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
    }
}
