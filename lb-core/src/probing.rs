//! Whether an address is free before it is used, and whether somebody else has it meanwhile.
//!
//! A VIP that is new in a segment is asked for before this node answers for it (RFC 5227 2.1.1, RFC 4862 5.4), at intervals far
//! shorter than the RFCs', which think of hosts that may be asleep. What the cluster uses already is not asked for first: that
//! would delay failover. While this node uses an address it goes on asking at a low rate, for Linux does not answer announcements,
//! but does answer probes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use lb_common::layout::Addr;

use crate::pace::Pace;

/// A VIP in a segment (by index).
pub type Spot = (Addr, u16);

/// Before the first use: so many probes, each so long after the one before, and as long again after the last.
const PROBES: u8 = 3;
const INTERVAL: Duration = Duration::from_millis(100);
/// Between two rounds while somebody else has the address.
const RETRY: Duration = Duration::from_secs(10);
/// Between two probes while this node uses it.
const PERIOD: Duration = Duration::from_secs(60);
/// Between two probes of any address for which somebody waits, that is before its first use. All others, also those that were taken
/// over, a thousand at once, are asked for at a [`Pace`].
const SPACING: Duration = Duration::from_millis(1);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask for it.
    Probe(Spot),
    /// Nobody else has it: it may be used.
    Free(Spot),
}

/// What a stranger's claim means for this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is not this node's to use.
    NotOurs,
    /// It is not used as long as the stranger has it.
    Taken,
    /// It is in use, and stays so.
    InUse,
}

/// What this node asks for, and when.
#[derive(Debug, Default)]
pub struct Probing {
    /// What this node is to own.
    asked: BTreeMap<Spot, Asked>,
    due: BTreeSet<(Instant, Spot)>,
    not_before: Option<Instant>,
    pace: Pace,
    /// What a node of the cluster is known to use, or to have used.
    used: BTreeSet<Spot>,
}

/// What this node is to own, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// It is used at once, and given up again if the first round finds somebody else.
    pub is_urgent: bool,
    /// This node is the one that goes on asking while it is used.
    pub asks_again: bool,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    stage: Stage,
    due: Instant,
    asks_again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The first round: so many probes are sent.
    First {
        sent: u8,
        /// The address is not used before the round is over.
        waits: bool,
    },
    /// Somebody else has it; in a round, so many probes are sent.
    Taken { sent: u8 },
    /// Nobody else was heard in the first round, or the cluster uses it.
    Ours,
}

impl Stage {
    /// Somebody waits for the address.
    fn is_awaited(self) -> bool {
        matches!(self, Self::First { waits: true, .. })
    }
}

impl Probing {
    /// Nothing is asked for yet. These are in use by this node.
    pub fn new(used: BTreeSet<Spot>) -> Self {
        Self { used, ..Self::default() }
    }

    /// Sets what this node is to own. What is not `known` is forgotten.
    pub fn set(&mut self, wanted: &BTreeMap<Spot, Wanted>, known: impl Fn(&Spot) -> bool, now: Instant) {
        self.used.retain(known);
        let gone: Vec<Spot> = self.asked.keys().filter(|spot| !wanted.contains_key(*spot)).copied().collect();
        for spot in gone {
            if let Some(asked) = self.asked.remove(&spot) {
                self.due.remove(&(asked.due, spot));
            }
        }
        for (spot, Wanted { is_urgent, asks_again }) in wanted {
            let first = Stage::First { sent: 0, waits: !is_urgent };
            let (stage, due) =
                if self.used.contains(spot) { (Stage::Ours, now + PERIOD) } else { (first, now) };
            let asked = self.asked.entry(*spot).or_insert_with(|| {
                self.due.insert((due, *spot));
                Asked { stage, due, asks_again: *asks_again }
            });
            asked.asks_again = *asks_again;
            if let Stage::First { waits, .. } = &mut asked.stage {
                *waits &= !is_urgent;
            }
        }
    }

    /// A node of the cluster uses it; whether this node may therefore use it now, and did not before. What a stranger was found to
    /// have stays the stranger's.
    pub fn handle_peer(&mut self, spot: Spot, now: Instant) -> bool {
        self.used.insert(spot);
        match self.asked.get(&spot).map(|asked| asked.stage) {
            Some(Stage::First { waits, .. }) => {
                self.put(spot, Stage::Ours, now + PERIOD);
                waits
            }
            Some(Stage::Taken { .. } | Stage::Ours) | None => false,
        }
    }

    /// Somebody who is no node has it.
    pub fn handle_stranger(&mut self, spot: Spot, now: Instant) -> Found {
        match self.asked.get(&spot).map(|asked| asked.stage) {
            None => Found::NotOurs,
            Some(Stage::Ours) => Found::InUse,
            Some(Stage::First { .. } | Stage::Taken { .. }) => {
                self.put(spot, Stage::Taken { sent: 0 }, now + RETRY);
                Found::Taken
            }
        }
    }

    /// Who was taken for a stranger is a node.
    pub fn clear(&mut self, spot: Spot, now: Instant) {
        if self.is_taken(spot) {
            self.used.insert(spot);
            self.put(spot, Stage::Ours, now + PERIOD);
        }
    }

    /// Whether somebody else was found to have it.
    pub fn is_taken(&self, spot: Spot) -> bool {
        matches!(self.asked.get(&spot), Some(Asked { stage: Stage::Taken { .. }, .. }))
    }

    /// What this node is to own, but does not use now.
    pub fn withheld(&self) -> impl Iterator<Item = Spot> + '_ {
        let is_withheld = |asked: &Asked| match asked.stage {
            Stage::First { waits, .. } => waits,
            Stage::Taken { .. } => true,
            Stage::Ours => false,
        };
        self.asked.iter().filter(move |(_, asked)| is_withheld(asked)).map(|(spot, _)| *spot)
    }

    /// The next to do now.
    pub fn poll(&mut self, now: Instant) -> Option<Output> {
        loop {
            let (_, spot) = self.due.first().copied().filter(|(due, _)| *due <= now)?;
            let Asked { stage, asks_again, .. } = *self.asked.get(&spot)?;
            let (next, wait) = match stage {
                Stage::First { sent: PROBES, .. } | Stage::Taken { sent: PROBES } => {
                    self.used.insert(spot);
                    self.put(spot, Stage::Ours, now + PERIOD);
                    return Some(Output::Free(spot));
                }
                Stage::Ours if !asks_again => {
                    self.put(spot, stage, now + PERIOD);
                    continue;
                }
                Stage::Ours => (stage, PERIOD),
                Stage::First { sent, waits } => (Stage::First { sent: sent + 1, waits }, INTERVAL),
                Stage::Taken { sent } => (Stage::Taken { sent: sent + 1 }, INTERVAL),
            };
            if self.not_before(stage).is_some_and(|at| at > now) {
                return None;
            }
            match stage.is_awaited() {
                true => self.not_before = Some(now + SPACING),
                false => self.pace.count(now),
            }
            self.put(spot, next, now + wait);
            return Some(Output::Probe(spot));
        }
    }

    /// When there will be something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (due, spot) = self.due.first()?;
        let stage = self.asked.get(spot)?.stage;
        Some(self.not_before(stage).map_or(*due, |at| at.max(*due)))
    }

    /// Before when there is no probe of an address in this stage.
    fn not_before(&self, stage: Stage) -> Option<Instant> {
        if stage.is_awaited() { self.not_before } else { self.pace.not_before() }
    }

    fn put(&mut self, spot: Spot, stage: Stage, due: Instant) {
        let Some(asked) = self.asked.get_mut(&spot) else { return };
        self.due.remove(&(asked.due, spot));
        (asked.stage, asked.due) = (stage, due);
        self.due.insert((due, spot));
    }
}
