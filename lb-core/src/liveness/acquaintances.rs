//! What others say of themselves, and the proof that they are where they say.
//!
//! Traffic goes to the MAC that a node names only after a probe to it, past any ARP cache, has been answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use lb_common::layout::Mac;

use super::{description::Description, profile::Profile, verdict::Leg};

/// Tries that follow each other soon.
const SOON_TRIES: u32 = 3;

/// What is known of others, by leg.
#[derive(Debug, Default)]
pub(super) struct Acquaintances {
    known: BTreeMap<Leg, Acquaintance>,
    /// Of MACs that are not proven yet.
    proofs: BTreeMap<Leg, Proof>,
    /// When each of them is tried next.
    tries: BTreeSet<(Instant, Leg)>,
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct Acquaintance {
    description: Description,
    proven: Option<Mac>,
}

#[derive(Debug)]
struct Proof {
    mac: Mac,
    nonce: Option<u64>,
    tries: u32,
    next: Instant,
}

impl Acquaintances {
    /// What a node says of itself, heard from one of its legs; whether that is news.
    pub(super) fn hear(&mut self, leg: Leg, description: &Description, now: Instant) -> bool {
        let known = self.known.get(&leg);
        if known.is_some_and(|known| known.description.version >= description.version) {
            return false;
        }
        let proven = known.and_then(|known| known.proven);
        let mac = description.mac_of(leg).filter(|mac| !mac.is_group() && Some(*mac) != proven);
        self.end_proof(leg);
        if let Some(mac) = mac {
            self.proofs.insert(leg, Proof { mac, nonce: None, tries: 0, next: now });
            self.tries.insert((now, leg));
        }
        self.known.insert(leg, Acquaintance { description: description.clone(), proven });
        true
    }

    /// The next leg whose MAC is to be proven, and that MAC.
    pub(super) fn poll_proof(&mut self, nonce: u64, profile: &Profile, now: Instant) -> Option<(Leg, Mac)> {
        if self.not_before.is_some_and(|at| at > now) {
            return None;
        }
        let (_, leg) = self.tries.first().copied().filter(|(next, _)| *next <= now)?;
        self.tries.pop_first();
        let proof = self.proofs.get_mut(&leg)?;
        self.not_before = Some(now + profile.proof_spacing);
        proof.tries = proof.tries.saturating_add(1);
        proof.next = now + if proof.tries < SOON_TRIES { profile.proof_soon } else { profile.proof_later };
        proof.nonce = Some(nonce);
        self.tries.insert((proof.next, leg));
        Some((leg, proof.mac))
    }

    /// Whether an answer proves something new.
    pub(super) fn handle_answer(&mut self, leg: Leg, nonce: u64) -> bool {
        let is_answer = self.proofs.get(&leg).is_some_and(|proof| proof.nonce == Some(nonce));
        let proof = if is_answer { self.end_proof(leg) } else { None };
        match (proof, self.known.get_mut(&leg)) {
            (Some(proof), Some(known)) => {
                known.proven = Some(proof.mac);
                true
            }
            _ => false,
        }
    }

    /// When there will be something to prove.
    pub(super) fn due(&self) -> Option<Instant> {
        let (next, _) = self.tries.first()?;
        Some(self.not_before.map_or(*next, |at| at.max(*next)))
    }

    /// Forgets legs that are none any more.
    pub(super) fn retain(&mut self, is_leg: impl Fn(Leg) -> bool) {
        self.known.retain(|leg, _| is_leg(*leg));
        self.proofs.retain(|leg, _| is_leg(*leg));
        self.tries.retain(|(_, leg)| is_leg(*leg));
    }

    pub(super) fn description(&self, leg: Leg) -> Option<&Description> {
        self.known.get(&leg).map(|known| &known.description)
    }

    /// MACs that are proven.
    pub(super) fn proven(&self) -> BTreeMap<Leg, Mac> {
        self.known.iter().filter_map(|(leg, known)| Some((*leg, known.proven?))).collect()
    }

    fn end_proof(&mut self, leg: Leg) -> Option<Proof> {
        let proof = self.proofs.remove(&leg)?;
        self.tries.remove(&(proof.next, leg));
        Some(proof)
    }
}
