//! What the thread has found and done, for status and metrics: copied now and then, and read without keeping it waiting.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, TryLockError},
    time::{Duration, Instant},
};

use lb_common::layout::Addr;
use lb_core::{
    claims,
    liveness::{Counts, Leg, Report},
};

use super::{OpenError, TakenOver};

/// What the thread has found and done, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The moment.
    pub at: Instant,
    /// How each leg stands.
    pub legs: Report,
    /// Who owns what, by VIP and the segment's place in [`lb_core::armed::Armed::segments`].
    pub owners: BTreeMap<(Addr, u16), Ownership>,
    /// Since the beginning.
    pub counts: Counts,
    /// Changes of owners since the beginning, by VIP and segment.
    pub moves: u64,
    /// Envelopes that were not opened since the beginning, by reason.
    pub refused: BTreeMap<OpenError, u64>,
    /// Others' claims of VIPs.
    pub claims: claims::Report,
    /// Frames that announced a VIP, since this thread began to announce it.
    pub announced: BTreeMap<Addr, u64>,
    /// What was taken over last.
    pub taken_over: Option<TakenOver>,
}

/// Who owns a VIP in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// The owner's leg.
    pub leg: Leg,
    /// How long ago this node saw it become the owner.
    pub since: Duration,
}

/// The newest snapshot, shared with whoever reads it.
#[derive(Clone, Debug)]
pub struct Snapshots(Arc<Mutex<Arc<Snapshot>>>);

/// Without a reason to say something earlier, a snapshot is as old as this, and a little more.
pub(super) const PERIOD: Duration = Duration::from_secs(2);

impl Snapshots {
    /// Of a thread that has done nothing yet.
    pub(super) fn new(now: Instant) -> Self {
        let empty = Snapshot {
            at: now,
            legs: Report::new(),
            owners: BTreeMap::new(),
            counts: Counts::default(),
            moves: 0,
            refused: BTreeMap::new(),
            claims: claims::Report::default(),
            announced: BTreeMap::new(),
            taken_over: None,
        };
        Self(Arc::new(Mutex::new(Arc::new(empty))))
    }

    /// The newest.
    pub fn newest(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a newer one; whether it could be put without waiting.
    pub(super) fn put(&self, snapshot: Snapshot) -> bool {
        match self.0.try_lock() {
            Ok(mut place) => *place = Arc::new(snapshot),
            Err(TryLockError::Poisoned(poisoned)) => *poisoned.into_inner() = Arc::new(snapshot),
            Err(TryLockError::WouldBlock) => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_keeps_what_it_has_and_the_thread_never_waits() {
        let begin = Instant::now();
        let snapshots = Snapshots::new(begin);
        let old = snapshots.newest();
        let newer = |moves| Snapshot { moves, ..(*old).clone() };
        assert!(snapshots.put(newer(1)));
        assert_eq!((old.moves, snapshots.newest().moves), (0, 1));
        let held = snapshots.0.lock();
        assert!(!snapshots.put(newer(2)));
        drop(held);
        assert!(snapshots.put(newer(3)));
        assert_eq!(snapshots.newest().moves, 3);
    }
}
