//! What others say of legs, and what of that this node knows better.
//!
//! Whoever was cut off holds all others to be silent, and says so as soon as it is heard. Those that have heard a leg all the time
//! overrule that, and it is forgotten; all others wait for their word.

use std::time::Instant;

use super::{
    Liveness,
    verdict::{Condition, Leg, Verdict},
};

impl Liveness {
    /// What another node says of a leg.
    pub(super) fn hear(&mut self, from: Leg, verdict: Verdict, now: Instant) {
        let Verdict { leg, condition, .. } = verdict;
        if !self.orders.contains_key(&leg) || !self.view.is_news(&verdict) {
            return;
        }
        if condition != Condition::Absent {
            self.note_heard(leg, now);
        }
        let before = self.view.condition(leg);
        let is_trouble = matches!(condition, Condition::Absent | Condition::Silent | Condition::Returning);
        // What a leg says of itself is so.
        let is_doubtful = before == Condition::Answering && is_trouble && from != leg;
        let is_heard = self.watches.get(&leg).is_some_and(|watch| watch.has_heard(&self.profile, now))
            || condition == Condition::Returning && self.has_just_heard(leg, now);
        if is_doubtful && self.has_been_whole(leg, now) {
            // Others were cut off from it, or are not any more. It was well all the time.
            if is_heard {
                self.view.acquit(verdict, now);
                return self.found(leg, now);
            }
            // Whoever was cut off itself has heard nobody: those that observe the leg know better.
            if self.was_just_cut_off(from, now) {
                return;
            }
        }
        if !self.view.merge(verdict, now) {
            return;
        }
        if is_doubtful && is_heard {
            // This node was on the smaller side. Unless that happens again and again, nobody needs to wait for the leg.
            let falls = self.view.falls(leg, self.profile.memory, now);
            let found = if falls > 1 { Condition::Returning } else { Condition::Answering };
            if found != condition {
                return self.find(leg, found, now);
            }
        }
        self.condition_changed(leg, now);
    }

    /// Whether a node has just come back from a silence, as far as this one knows.
    fn was_just_cut_off(&self, leg: Leg, now: Instant) -> bool {
        let is_new = |since: Instant| now < since + 3 * self.profile.exchange;
        match self.view.condition(leg) {
            Condition::Absent | Condition::Silent => true,
            Condition::Returning => self.view.since(leg).is_some_and(is_new),
            Condition::Answering | Condition::Leaving | Condition::Yielding => false,
        }
    }

    /// Whether this node observed a leg until a moment ago and heard it: when a partition heals, others begin to observe again before
    /// they have been told that it was never away.
    fn has_just_heard(&self, leg: Leg, now: Instant) -> bool {
        self.released.get(&leg).is_some_and(|released| now < *released + self.profile.exchange)
    }

    /// Whether this node has heard most of a leg's segment for so long that whoever did not was cut off itself.
    fn has_been_whole(&self, leg: Leg, now: Instant) -> bool {
        let since = self.segment_of(leg).and_then(|own| self.whole_since.get(&own));
        since.is_some_and(|since| now >= *since + self.profile.gone)
    }
}
