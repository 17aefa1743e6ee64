//! How often VIPs have moved lately, and when a node that is back may move them again.
//!
//! Who owns is a function without history. That VIPs do not follow every turn of a node that comes and goes is up to that node: it
//! does not say that it is fit to own before [`Moves::earliest_return`]. Switches with EVPN freeze an address that moves five times
//! within three minutes (RFC 7432 15.1).

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use lb_common::layout::Addr;

use crate::{
    armed::Armed,
    liveness::{Leg, Standing},
};

/// Moves are counted over so long.
pub const WINDOW: Duration = Duration::from_secs(180);
/// So often a VIP may move within [`WINDOW`], unless its owner is dead.
pub const MOST: usize = 3;

/// Who has owned what, as this node has seen it.
#[derive(Clone, Debug)]
pub struct Moves {
    begun: Instant,
    owners: BTreeMap<(Addr, u16), Owner>,
    total: u64,
}

/// Who owns a VIP in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The owner's leg.
    pub leg: Leg,
    /// When this node saw it become the owner.
    pub since: Instant,
    /// When it changed, the last [`MOST`] times.
    moves: VecDeque<Instant>,
}

impl Moves {
    /// Nothing has been seen yet.
    pub fn new(now: Instant) -> Self {
        Self { begun: now, owners: BTreeMap::new(), total: 0 }
    }

    /// Looks who owns what.
    pub fn observe(&mut self, armed: &Armed, standing: &Standing, now: Instant) {
        let mut before = std::mem::take(&mut self.owners);
        for (address, segment, ranked) in ranked(armed) {
            let Some(leg) = standing.owner(&ranked) else { continue };
            let mut owner = before.remove(&(address, segment)).unwrap_or_else(|| Owner {
                leg,
                since: now,
                moves: VecDeque::new(),
            });
            if owner.leg != leg {
                self.total += 1;
                (owner.leg, owner.since) = (leg, now);
                owner.moves.push_back(now);
                if owner.moves.len() > MOST {
                    owner.moves.pop_front();
                }
            }
            self.owners.insert((address, segment), owner);
        }
    }

    /// When a leg of this node may say that it is fit to own again: now if that is `None`. `falls` says how often a leg has fallen
    /// within [`WINDOW`], as everybody together remembers: this node itself may have been away.
    pub fn earliest_return(
        &self,
        armed: &Armed,
        standing: &Standing,
        leg: Leg,
        falls: impl Fn(Leg) -> u8,
        now: Instant,
    ) -> Option<Instant> {
        let wait = |(address, segment, ranked): (Addr, u16, Cow<'_, [Leg]>)| {
            let rank = ranked.iter().position(|ranked| *ranked == leg)?;
            let owner = standing.owner(&ranked).filter(|owner| *owner != leg)?;
            let owner_rank = ranked.iter().position(|ranked| *ranked == owner)?;
            let takes_over = rank < owner_rank || standing.condition(owner) > standing.condition(leg);
            if !takes_over {
                return None;
            }
            let moves = self.owners.get(&(address, segment)).map(|owner| &owner.moves);
            let recent: Vec<Instant> =
                moves.into_iter().flatten().copied().filter(|at| now < *at + WINDOW).collect();
            let forgets_at = self.begun + WINDOW;
            if now < forgets_at {
                // Of what was before its start it knows what others tell: its own fall has moved the VIP, and each turn of a node
                // that ranks before the owner may have moved it twice.
                let turns: usize = ranked[..=owner_rank]
                    .iter()
                    .map(|ranked| usize::from(falls(*ranked)) * if *ranked == leg { 1 } else { 2 })
                    .sum();
                if recent.len().max(turns) >= MOST {
                    return Some(forgets_at);
                }
            }
            let earliest = recent.len().checked_sub(MOST).map(|first| recent[first] + WINDOW)?;
            (earliest > now).then_some(earliest)
        };
        ranked(armed).filter_map(wait).max()
    }

    /// Who owns what, by VIP and segment.
    pub fn owners(&self) -> &BTreeMap<(Addr, u16), Owner> {
        &self.owners
    }

    /// Moves since the beginning.
    pub fn total(&self) -> u64 {
        self.total
    }
}

/// By VIP and segment those that may own, best first. Of a VIP that is spread over nodes, this node is the first of its class for its own
/// shares, and it is these that its falls and returns move.
fn ranked(armed: &Armed) -> impl Iterator<Item = (Addr, u16, Cow<'_, [Leg]>)> {
    armed.vips.iter().flat_map(move |(address, vip)| {
        vip.ranked.iter().map(move |(segment, ranked)| {
            let own = armed.segments.get(segment).and_then(|segment| segment.claims_as);
            let first = armed.shares(vip, *segment).and_then(|shares| {
                let class = shares.class_of(own?)?;
                ranked.iter().position(|leg| shares.class_of(*leg) == Some(class)).zip(own)
            });
            let ranked = match first {
                Some((place, own)) => {
                    let mut ranked: Vec<Leg> = ranked.iter().copied().filter(|leg| *leg != own).collect();
                    ranked.insert(place, own);
                    Cow::Owned(ranked)
                }
                None => Cow::Borrowed(&ranked[..]),
            };
            (*address, *segment, ranked)
        })
    })
}
