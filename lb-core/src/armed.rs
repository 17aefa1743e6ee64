//! What changes with the liveness of nodes alone, computed ahead: a verdict then costs a look at it and a few writes.

use std::collections::BTreeMap;

use lb_common::layout::{Addr, Mac, Neighbour, Vip, node_state};

use crate::liveness::{Leg, Standing};

/// Entries of `NEIGHBOURS` and `VIPS`, as far as a plan makes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Armed {
    /// By place in `NEIGHBOURS`. Their state is that of nodes that are well.
    pub neighbours: BTreeMap<u32, ArmedNeighbour>,
    /// By address.
    pub vips: BTreeMap<Addr, ArmedVip>,
    /// By segment.
    pub segments: BTreeMap<u16, ArmedSegment>,
}

/// A node in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArmedNeighbour {
    /// The entry while the node is well.
    pub entry: Neighbour,
    /// What stands for it; none for this node itself, and for one whose liveness nobody can tell.
    pub leg: Option<Leg>,
}

/// A VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArmedVip {
    /// The entry; nothing is owned in it.
    pub entry: Vip,
    /// By segment in which it is announced: the legs of those that may own it, best first.
    pub ranked: BTreeMap<u16, Vec<Leg>>,
}

/// A segment of this node's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArmedSegment {
    /// Its name in the plan.
    pub name: String,
    /// This node's leg; none if this node is not in the source.
    pub own: Option<Leg>,
    /// All legs with their nodes' names.
    pub legs: BTreeMap<Leg, crate::model::NodeName>,
    /// Links on which VIPs are announced, by interface index.
    pub links: BTreeMap<u32, Mac>,
}

impl Armed {
    /// What `NEIGHBOURS` holds, as nodes stand.
    pub fn neighbours(&self, standing: &Standing) -> impl Iterator<Item = (u32, Neighbour)> {
        self.neighbours.iter().map(|(place, armed)| {
            let state = match armed.leg {
                Some(leg) if standing.is_gone(leg) => node_state::GONE,
                Some(leg) if standing.is_avoided(leg) => node_state::SUSPECT,
                Some(_) | None => armed.entry.state,
            };
            (*place, Neighbour { state, ..armed.entry })
        })
    }

    /// What `VIPS` holds, as nodes stand.
    pub fn vips(&self, standing: &Standing) -> impl Iterator<Item = (Addr, Vip)> {
        self.vips.iter().map(|(address, armed)| {
            let is_owned = |(segment, ranked): &(&u16, &Vec<Leg>)| {
                let own = self.segments.get(segment).and_then(|segment| segment.own);
                own.is_some() && standing.owner(ranked) == own
            };
            let owned =
                armed.ranked.iter().filter(is_owned).fold(0, |bits, (segment, _)| bits | 1 << segment);
            (*address, Vip { owned, ..armed.entry })
        })
    }

    /// Who owns a VIP, by segment.
    pub fn owners(&self, address: Addr, standing: &Standing) -> BTreeMap<u16, Leg> {
        let ranked = self.vips.get(&address).into_iter().flat_map(|armed| &armed.ranked);
        ranked.filter_map(|(segment, ranked)| Some((*segment, standing.owner(ranked)?))).collect()
    }
}
