//! Many probes of a leg in short order: is it really silent?

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::{profile::Profile, verdict::Leg};

/// A burst of probes, this node's own or asked for by others.
#[derive(Clone, Debug)]
pub(super) struct Burst {
    /// Probes that are under way, and when each was sent.
    probes: BTreeMap<u64, Instant>,
    left: u32,
    next: Instant,
    /// When the last probe will not be answered any more; known once it has gone.
    ends: Option<Instant>,
    /// Who wants to know.
    pub(super) askers: BTreeSet<Leg>,
    /// This node itself suspects the leg.
    pub(super) accusation: Option<Accusation>,
}

/// What a second node says of a leg that this one suspects.
#[derive(Clone, Debug)]
pub(super) struct Accusation {
    /// Those that were asked.
    pub(super) asked: BTreeSet<Leg>,
    /// Those of them that hear nothing either.
    pub(super) agree: BTreeSet<Leg>,
    /// Others knew better before: the word of one is not enough.
    pub(super) is_doubtful: bool,
    pub(super) second: Second,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Second {
    /// It has not said anything yet.
    Asked { until: Instant },
    /// It hears nothing either; of a doubtful accusation, none that was asked and said anything does.
    Silent,
    /// There is nobody to ask: the burst was made twice as long.
    Nobody,
}

/// What a burst wants when its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Probe,
    /// All probes have gone, and none was answered.
    Unanswered,
    /// The second node was waited for in vain.
    SecondMissing,
}

impl Burst {
    pub(super) fn new(profile: &Profile, now: Instant) -> Self {
        Self {
            probes: BTreeMap::new(),
            left: profile.burst,
            next: now,
            ends: None,
            askers: BTreeSet::new(),
            accusation: None,
        }
    }

    /// When there will be something to do; `None` while all that is missing is an answer that needs no time.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.left > 0 {
            return Some(self.next);
        }
        let second = self.accusation.as_ref().and_then(|accusation| match accusation.second {
            Second::Asked { until } => Some(until),
            Second::Silent | Second::Nobody => None,
        });
        [self.ends, second].into_iter().flatten().min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Due {
        if self.left > 0 {
            return if self.next <= now { Due::Probe } else { Due::Nothing };
        }
        if self.ends.is_some_and(|ends| ends <= now) {
            self.ends = None;
            return Due::Unanswered;
        }
        match &self.accusation {
            Some(Accusation { second: Second::Asked { until }, .. }) if *until <= now => Due::SecondMissing,
            _ => Due::Nothing,
        }
    }

    /// A probe has gone.
    pub(super) fn sent(&mut self, nonce: u64, profile: &Profile, now: Instant) {
        self.probes.insert(nonce, now);
        self.left = self.left.saturating_sub(1);
        self.next = now + profile.burst_interval;
        if self.left == 0 {
            self.ends = Some(now + profile.patience);
        }
    }

    /// As many probes more: nobody else can say anything.
    pub(super) fn lengthen(&mut self, profile: &Profile, now: Instant) {
        self.left += profile.burst;
        self.next = self.next.max(now);
        self.ends = None;
    }

    /// Whether all probes have gone unanswered.
    pub(super) fn is_unanswered(&self) -> bool {
        self.left == 0 && self.ends.is_none()
    }

    /// Whether the answer is to one of its probes: when that was sent.
    pub(super) fn answered_by(&self, nonce: u64) -> Option<Instant> {
        self.probes.get(&nonce).copied()
    }
}
