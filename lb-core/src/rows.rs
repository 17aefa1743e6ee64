//! Table rows: which backends a slot's flows may go to, the same on every node.
//!
//! Capacity-bounded rendezvous hashing: as if all scores of a slot with a backend were taken in descending order, and each slot
//! got its best backend that still has room. A backend's identity is its address and port; the order in which backends are given
//! does not show in the result, nor does history.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use lb_common::{
    hash::{HashKey, mix},
    layout::{Addr, CANDIDATES, NO_CANDIDATE, Port, Row, SHARES},
    spread::BLOCK,
};
use sha2::{Digest, Sha256};

use crate::model::TableSize;

/// Fewest slots of a table.
pub const MIN_SLOTS: u32 = 1024;
/// Most slots of a table.
pub const MAX_SLOTS: u32 = 65_536;
/// Slots for each backend, at least.
pub const SLOTS_PER_BACKEND: u32 = 64;
/// Most backends of a service: rows have 16 bits for them, and [`NO_CANDIDATE`] is none.
pub const MAX_BACKENDS: usize = NO_CANDIDATE as usize;

/// A backend as rows see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowBackend {
    /// The pod's address.
    pub address: Addr,
    /// The pod's port.
    pub port: Port,
}

/// The key of the row hash: SHA-256 of the UID of Namespace kube-system; all zero bits if the source has none.
pub fn row_key(cluster_uid: Option<&str>) -> HashKey {
    let mut seed = [0; 4];
    if let Some(uid) = cluster_uid {
        let digest = Sha256::digest(uid.as_bytes());
        for (word, octets) in seed.iter_mut().zip(digest.chunks_exact(8)) {
            *word = octets.iter().rev().fold(0, |word, octet| word << 8 | u64::from(*octet));
        }
    }
    HashKey::expand(seed)
}

/// The size of a table that nobody has sized: [`SLOTS_PER_BACKEND`], a power of two, within the bounds.
pub fn ladder(backends: usize) -> TableSize {
    let wanted = u32::try_from(backends).unwrap_or(MAX_SLOTS).saturating_mul(SLOTS_PER_BACKEND);
    let length = wanted.clamp(MIN_SLOTS, MAX_SLOTS).next_power_of_two();
    TableSize { length, previous: None }
}

/// The rows of a table; candidates are places in `ready` and, behind them, in `draining`, of which those beyond [`MAX_BACKENDS`]
/// are left out. The first candidate of a row is a ready one, so that whatever begins finds somebody who takes it; the others are
/// the best of all, so that what goes on with a draining one is found.
///
/// While a previous length is named, candidates 2 and 3 are those that the shorter table has first: a flow that began there is
/// still found.
pub fn build(key: &HashKey, ready: &[RowBackend], draining: &[RowBackend], size: TableSize) -> Vec<Row> {
    let scorer = Scorer::new(key, ready, draining);
    let rows = scorer.rows(size.length);
    match size.previous {
        None => rows,
        Some(previous) => grown(rows, &scorer.rows(previous)),
    }
}

/// The rows of the shares of a VIP's clients: who has each, and who has it next. The same hashing, but in each block of shares the
/// nodes come level: none has two more than another, in that block and in all before it together.
pub(crate) fn shares(key: &HashKey, nodes: &[RowBackend]) -> Vec<Row> {
    let scorer = Scorer::new(key, nodes, &[]);
    let best: Vec<Best> = (0..SHARES).map(|share| scorer.best(share, 0..scorer.hashes.len())).collect();
    let mut owners: Vec<Option<Rank>> = vec![None; best.len()];
    let mut held = vec![0; scorer.hashes.len()];
    for start in (0..best.len()).step_by(BLOCK as usize) {
        let end = start + BLOCK as usize;
        // Nobody has one more before everybody has as many.
        let nodes = held.len().max(1);
        for quota in [end / nodes, end.div_ceil(nodes)] {
            let rooms: Vec<usize> = held.iter().map(|held| quota.saturating_sub(*held)).collect();
            let free: Vec<usize> = (start..end).filter(|share| owners[*share].is_none()).collect();
            let slots: Vec<(u32, &Best)> = free.iter().map(|share| (*share as u32, &best[*share])).collect();
            for (share, owner) in free.into_iter().zip(scorer.assign(&slots, &rooms)) {
                owners[share] = owner;
                owner.into_iter().for_each(|rank| held[rank] += 1);
            }
        }
    }
    best.iter().zip(&owners).map(|(best, owner)| scorer.row(best, *owner)).collect()
}

/// Slots whose first candidate lives on but is no candidate of the slot any more: connections of these slots that no `FLOWS` or
/// `CONNS` entry knows are lost by the change. Both tables have the same length.
pub fn stranded(before: (&[Row], &[RowBackend]), after: (&[Row], &[RowBackend])) -> Vec<u32> {
    let places: BTreeMap<_, _> =
        after.1.iter().enumerate().map(|(place, backend)| (backend, place as u16)).collect();
    let lost = |(slot, (old, new)): (usize, (&Row, &Row))| {
        let backend = before.1.get(usize::from(old.candidates[0]))?;
        let place = places.get(backend)?;
        (!new.candidates.contains(place)).then_some(slot as u32)
    };
    before.0.iter().zip(after.0).enumerate().filter_map(lost).collect()
}

/// Scores of slots with backends. A backend is meant by its rank in the order of addresses and ports, which breaks ties.
struct Scorer<'a> {
    key: &'a HashKey,
    /// By rank.
    hashes: Vec<u64>,
    /// Place in the caller's order, by rank.
    places: Vec<u16>,
    /// Ranks of those that take new flows, in order.
    ready: Vec<Rank>,
}

type Rank = usize;

impl<'a> Scorer<'a> {
    fn new(key: &'a HashKey, ready: &[RowBackend], draining: &[RowBackend]) -> Self {
        let mut order: Vec<(RowBackend, u16)> = ready
            .iter()
            .chain(draining)
            .take(MAX_BACKENDS)
            .enumerate()
            .map(|(place, backend)| (*backend, place as u16))
            .collect();
        order.sort_unstable_by_key(|(backend, _)| (backend.address.to_ip(), backend.port.number()));
        let hash = |backend: &RowBackend| {
            let [a, b, c, d] = backend.address.words;
            key.hash([a, b, c, d, u32::from(backend.port.wire)])
        };
        Self {
            key,
            hashes: order.iter().map(|(backend, _)| hash(backend)).collect(),
            places: order.iter().map(|(_, place)| *place).collect(),
            ready: (0..order.len()).filter(|rank| usize::from(order[*rank].1) < ready.len()).collect(),
        }
    }

    fn slot_hash(&self, slot: u32) -> u64 {
        self.key.hash([slot])
    }

    fn score(&self, slot_hash: u64, rank: Rank) -> u64 {
        mix(slot_hash.wrapping_add(self.hashes[rank]))
    }

    fn rows(&self, length: u32) -> Vec<Row> {
        let of_all = |slot| self.best(slot, 0..self.hashes.len());
        let best: Vec<Best> = (0..length).map(of_all).collect();
        let owners = if self.ready.len() == self.hashes.len() {
            self.assign_all(&best)
        } else {
            let of_ready = |slot| self.best(slot, self.ready.iter().copied());
            self.assign_all(&(0..length).map(of_ready).collect::<Vec<_>>())
        };
        best.iter().zip(&owners).map(|(best, owner)| self.row(best, *owner)).collect()
    }

    fn row(&self, best: &Best, owner: Option<Rank>) -> Row {
        let others = best.ranks().filter(|rank| Some(*rank) != owner);
        let ranks = owner.into_iter().chain(others);
        let mut row = Row::default();
        row.candidates.iter_mut().zip(ranks).for_each(|(candidate, rank)| *candidate = self.places[rank]);
        row
    }

    /// Every slot to one of those that are ready, whose best are given; each has room for a little more than its part.
    fn assign_all(&self, best: &[Best]) -> Vec<Option<Rank>> {
        let quota = (best.len() * 105).div_ceil(100 * self.ready.len().max(1));
        let slots: Vec<(u32, &Best)> = (0..).zip(best).collect();
        self.assign(&slots, &vec![quota; self.hashes.len()])
    }

    /// Deferred acceptance among those that are ready, whose best are given: a slot goes down its scores, a backend keeps its best,
    /// as many as it has room for.
    fn assign(&self, slots: &[(u32, &Best)], rooms: &[usize]) -> Vec<Option<Rank>> {
        let mut owners = vec![None; slots.len()];
        let mut held: Vec<BinaryHeap<Reverse<Claim>>> = vec![BinaryHeap::new(); self.hashes.len()];
        for first in 0..slots.len() {
            let mut place = first;
            let mut refused = None;
            while let Some((score, rank)) = self.next(slots[place], refused, rooms) {
                let claims = &mut held[rank];
                claims.push(Reverse(Claim { score, place: Reverse(place) }));
                owners[place] = Some(rank);
                if claims.len() <= rooms[rank] {
                    break;
                }
                let Some(Reverse(worst)) = claims.pop() else { break };
                place = worst.place.0;
                owners[place] = None;
                refused = Some((worst.score, rank));
            }
        }
        owners
    }

    /// The slot's best ready backend after the one that has refused it; beyond the first few, of those that have any room.
    fn next(
        &self,
        (slot, best): (u32, &Best),
        refused: Option<(u64, Rank)>,
        rooms: &[usize],
    ) -> Option<(u64, Rank)> {
        let Some(refused) = refused else { return best.first() };
        if let Some(next) = best.after(refused) {
            return Some(next);
        }
        let slot_hash = self.slot_hash(slot);
        let with_room = self.ready.iter().filter(|rank| rooms[**rank] > 0);
        let scored = with_room.map(|rank| (self.score(slot_hash, *rank), *rank));
        scored.filter(|other| is_better(refused, *other)).reduce(|a, b| if is_better(b, a) { b } else { a })
    }

    /// The slot's best backends of these ranks.
    fn best(&self, slot: u32, ranks: impl Iterator<Item = Rank>) -> Best {
        let slot_hash = self.slot_hash(slot);
        let mut best = Best { entries: [(0, Rank::MAX); CANDIDATES], length: 0 };
        for rank in ranks {
            best.offer((self.score(slot_hash, rank), rank));
        }
        best
    }
}

/// A slot that asks a backend for room.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    score: u64,
    /// The lower slot is the better.
    place: Reverse<usize>,
}

/// The higher score, and of equal ones the lower address.
fn is_better(a: (u64, Rank), b: (u64, Rank)) -> bool {
    (a.0, Reverse(a.1)) > (b.0, Reverse(b.1))
}

/// The first few of a slot's scores, in descending order.
struct Best {
    entries: [(u64, Rank); CANDIDATES],
    length: usize,
}

impl Best {
    fn offer(&mut self, entry: (u64, Rank)) {
        if self.length == CANDIDATES && !is_better(entry, self.entries[CANDIDATES - 1]) {
            return;
        }
        let mut at = self.length.min(CANDIDATES - 1);
        while at > 0 && is_better(entry, self.entries[at - 1]) {
            self.entries[at] = self.entries[at - 1];
            at -= 1;
        }
        self.entries[at] = entry;
        self.length = (self.length + 1).min(CANDIDATES);
    }

    fn known(&self) -> &[(u64, Rank)] {
        &self.entries[..self.length]
    }

    fn first(&self) -> Option<(u64, Rank)> {
        self.known().first().copied()
    }

    /// `None` if it is not among the first few.
    fn after(&self, refused: (u64, Rank)) -> Option<(u64, Rank)> {
        let at = self.known().iter().position(|entry| *entry == refused)?;
        self.known().get(at + 1).copied()
    }

    fn ranks(&self) -> impl Iterator<Item = Rank> {
        self.known().iter().map(|(_, rank)| *rank)
    }
}

/// A longer table in which the shorter one's first two candidates still stand.
fn grown(mut rows: Vec<Row>, previous: &[Row]) -> Vec<Row> {
    if previous.is_empty() {
        return rows;
    }
    for (slot, row) in rows.iter_mut().enumerate() {
        let [first, own @ ..] = row.candidates;
        let [old_first, old_second, ..] = previous[slot % previous.len()].candidates;
        let mut candidates = [NO_CANDIDATE; CANDIDATES];
        let mut length = 0;
        for candidate in [first, old_first, old_second].into_iter().chain(own) {
            if length < CANDIDATES && candidate != NO_CANDIDATE && !candidates.contains(&candidate) {
                candidates[length] = candidate;
                length += 1;
            }
        }
        row.candidates = candidates;
    }
    rows
}

#[cfg(test)]
mod tests;
