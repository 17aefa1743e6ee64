//! One leg that this node probes, steadily.

use std::time::Instant;

use super::profile::Profile;

/// Steady probes of a leg, and what came of the last ones.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    next: Instant,
    outstanding: Option<Outstanding>,
    missed: u32,
    answered: u32,
    /// When the last probe was sent that was answered: an answer says that the leg was there after that, and not when it was looked at.
    last_answered: Option<Instant>,
    /// No suspicion before.
    held_until: Option<Instant>,
    /// When the first probe was due.
    begin: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Outstanding {
    nonce: u64,
    sent: Instant,
    until: Instant,
}

/// An answer to a steady probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answered {
    /// So many in a row.
    pub in_a_row: u32,
    /// When the probe was sent.
    pub sent: Instant,
}

/// What a watch wants when its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing yet.
    Nothing,
    /// The leg has missed too many probes.
    Suspicion,
    /// Its next probe.
    Probe,
}

impl Watch {
    /// Begins at a moment, which should differ among observers.
    pub(super) fn new(first: Instant) -> Self {
        Self {
            next: first,
            outstanding: None,
            missed: 0,
            answered: 0,
            last_answered: None,
            held_until: None,
            begin: first,
        }
    }

    /// When there will be something to do. Of a leg that has answered its last probe the answer to the next is looked for only when
    /// another is due: a single one that is missed leads to nothing.
    pub(super) fn due(&self) -> Instant {
        let awaited = self.outstanding.filter(|_| self.answered == 0);
        awaited.map_or(self.next, |outstanding| outstanding.until.min(self.next))
    }

    /// What is to be done at this moment; to be asked until it is nothing.
    pub(super) fn handle_timeout(&mut self, profile: &Profile, now: Instant) -> Due {
        if self.outstanding.is_some_and(|outstanding| outstanding.until <= now) {
            self.outstanding = None;
            self.answered = 0;
            self.missed = self.missed.saturating_add(1);
            let may_be_starting = self.last_answered.is_none() && now < self.begin + profile.grace;
            let is_held = self.held_until.is_some_and(|until| until > now);
            if self.missed >= profile.misses && !is_held && !may_be_starting {
                self.missed = 0;
                return Due::Suspicion;
            }
        }
        if self.next > now {
            return Due::Nothing;
        }
        Due::Probe
    }

    /// The next probe is to go no later than this.
    pub(super) fn hasten(&mut self, next: Instant) {
        self.next = self.next.min(next);
    }

    /// A probe has gone; the next is to.
    pub(super) fn sent(&mut self, nonce: u64, profile: &Profile, now: Instant, next: Instant) {
        let until = now + profile.patience.min(profile.interval);
        self.outstanding = Some(Outstanding { nonce, sent: now, until });
        self.next = next;
    }

    /// Whether the answer is to the probe that is under way.
    pub(super) fn handle_answer(&mut self, nonce: u64) -> Option<Answered> {
        let Outstanding { sent, .. } = self.outstanding.take_if(|outstanding| outstanding.nonce == nonce)?;
        self.missed = 0;
        self.answered = self.answered.saturating_add(1);
        self.last_answered = Some(sent);
        Some(Answered { in_a_row: self.answered, sent })
    }

    /// When the last probe was sent that the leg has answered.
    pub(super) fn last_answered(&self) -> Option<Instant> {
        self.last_answered
    }

    /// Whether the leg has answered lately: the last probe or the one before.
    pub(super) fn has_heard(&self, profile: &Profile, now: Instant) -> bool {
        self.last_answered.is_some_and(|at| now < at + 2 * profile.interval) && self.missed == 0
    }

    /// Nothing that was missed counts: this node has been asleep.
    pub(super) fn forgive(&mut self, now: Instant) {
        self.outstanding = None;
        self.missed = 0;
        self.next = now;
    }

    /// A suspicion came to nothing.
    pub(super) fn hold(&mut self, until: Instant) {
        self.missed = 0;
        self.held_until = Some(until);
    }
}
