//! What changes with the liveness of nodes alone, computed ahead: a verdict then costs a look at it and a few writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

use lb_common::layout::{Addr, Mac, Neighbour, Spread, SpreadKey, Vip, node_state};

use crate::{
    few::Few,
    liveness::{Condition, Leg, Standing},
    model::NodeName,
    spread::Shares,
};

/// Entries of `NEIGHBOURS`, `VIPS` and `SPREAD`, as far as a plan makes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Armed {
    /// By place in `NEIGHBOURS`. Their state is that of nodes that are well.
    pub neighbours: BTreeMap<u32, ArmedNeighbour>,
    /// By address.
    pub vips: BTreeMap<Addr, ArmedVip>,
    /// By segment.
    pub segments: BTreeMap<u16, ArmedSegment>,
    /// The tables of VIPs that are spread over nodes, each once, and in which segment it is used.
    pub tables: Vec<(u16, Shares)>,
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
    /// By segment in which it is announced: the legs of those that may own it, or what stands for them, best first.
    pub ranked: Few<u16, Box<[Leg]>>,
    /// Of one that is spread over nodes, by the same segments: the place in [`Armed::tables`].
    pub tables: Few<u16, usize>,
}

/// A segment of this node's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArmedSegment {
    /// Its name in the plan.
    pub name: String,
    /// This node's leg; none if this node is not in the source, or nobody else can know of it.
    pub own: Option<Leg>,
    /// What this node claims VIPs as: its leg, or what stands for it.
    pub claims_as: Option<Leg>,
    /// All legs with their nodes' names.
    pub legs: BTreeMap<Leg, NodeName>,
    /// What stands for nodes whose legs here are not known, with their names: legs that they have elsewhere.
    pub stand_ins: BTreeMap<Leg, NodeName>,
    /// Links on which VIPs are announced, by their own interface index.
    pub links: BTreeMap<u32, ArmedLink>,
}

/// A link of this node's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArmedLink {
    /// Its MAC.
    pub mac: Mac,
    /// IPv6 address of this node's on it, from which it may ask.
    pub asks_from: Option<Ipv6Addr>,
    /// Interface indexes by which the data path sees frames of it arrive: of a VLAN device that of the NIC below.
    pub arrivals: BTreeSet<u32>,
}

impl ArmedSegment {
    /// The link, by its own interface index, whose frames the data path sees arrive by an interface.
    pub fn link_of(&self, arrival: u32) -> Option<u32> {
        self.links.iter().find(|(_, link)| link.arrivals.contains(&arrival)).map(|(device, _)| *device)
    }

    /// Whose leg it is, or for whom it stands here.
    pub fn node_of(&self, leg: Leg) -> Option<&NodeName> {
        self.legs.get(&leg).or_else(|| self.stand_ins.get(&leg))
    }

    /// A node's leg, or what stands for it here.
    pub fn leg_of(&self, node: &NodeName) -> Option<Leg> {
        let of = |legs: &BTreeMap<Leg, NodeName>| {
            legs.iter().find(|(_, known)| *known == node).map(|(leg, _)| *leg)
        };
        of(&self.legs).or_else(|| of(&self.stand_ins))
    }
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
        let own = self.own_shares(standing);
        self.vips.iter().map(move |(address, armed)| {
            let is_owned = |segment: &u16, ranked: &[Leg]| match armed.tables.get(segment) {
                Some(table) => own.get(*table).is_some_and(|own| *own != Spread::default()),
                None => {
                    let own = self.segments.get(segment).and_then(|segment| segment.claims_as);
                    own.is_some() && standing.owner(ranked) == own
                }
            };
            let owned = armed.ranked.iter().filter(|(segment, ranked)| is_owned(segment, ranked));
            let owned = owned.fold(0, |bits, (segment, _)| bits | 1 << segment);
            (*address, Vip { owned, ..armed.entry })
        })
    }

    /// Whose leg it is in a segment, or for whom it stands there.
    pub fn node_of(&self, segment: u16, leg: Leg) -> Option<&NodeName> {
        self.segments.get(&segment)?.node_of(leg)
    }

    /// Nodes on which no agent has ever been heard, by any of their legs.
    pub fn absent(&self, standing: &Standing) -> BTreeSet<NodeName> {
        let mut all: BTreeMap<&NodeName, bool> = BTreeMap::new();
        for (leg, node) in self.segments.values().flat_map(|segment| &segment.legs) {
            *all.entry(node).or_insert(true) &= standing.condition(*leg) == Condition::Absent;
        }
        all.into_iter().filter(|(_, is_absent)| *is_absent).map(|(node, _)| node.clone()).collect()
    }

    /// What `SPREAD` holds, as nodes stand.
    pub fn spread(&self, standing: &Standing) -> impl Iterator<Item = (SpreadKey, Spread)> {
        let own = self.own_shares(standing);
        self.vips.iter().flat_map(move |(address, armed)| {
            let of_segment = |(segment, table): (&u16, &usize)| {
                let key = SpreadKey { vip: *address, segment: u32::from(*segment) };
                (key, own.get(*table).copied().unwrap_or_default())
            };
            armed.tables.iter().map(of_segment).collect::<Vec<_>>()
        })
    }

    /// This node's shares, by table.
    fn own_shares(&self, standing: &Standing) -> Vec<Spread> {
        let own = |(segment, shares): &(u16, Shares)| {
            let own = self.segments.get(segment).and_then(|segment| segment.claims_as);
            own.map(|own| shares.of(own, standing)).unwrap_or_default()
        };
        self.tables.iter().map(own).collect()
    }

    /// How many shares of a VIP's clients each has that may own it, by segment; none of one that is not spread over nodes.
    pub fn share_counts(&self, address: Addr, standing: &Standing) -> BTreeMap<u16, BTreeMap<Leg, u32>> {
        let Some(armed) = self.vips.get(&address) else { return BTreeMap::new() };
        let counted = |(segment, table): (&u16, &usize)| {
            let mut counts: BTreeMap<Leg, u32> =
                armed.ranked.get(segment).into_iter().flatten().map(|leg| (*leg, 0)).collect();
            let (_, shares) = self.tables.get(*table)?;
            for owner in shares.owners(standing).into_iter().flatten() {
                *counts.entry(owner).or_default() += 1;
            }
            Some((*segment, counts))
        };
        armed.tables.iter().filter_map(counted).collect()
    }

    /// How nodes share a VIP in a segment, if it is spread over them.
    pub fn shares(&self, vip: &ArmedVip, segment: u16) -> Option<&Shares> {
        vip.tables.get(&segment).and_then(|table| self.tables.get(*table)).map(|(_, shares)| shares)
    }

    /// Who owns a VIP, by segment; nobody alone one that is spread over nodes.
    pub fn owners(&self, address: Addr, standing: &Standing) -> BTreeMap<u16, Leg> {
        let alone = self.vips.get(&address).filter(|armed| armed.tables.is_empty());
        let ranked = alone.into_iter().flat_map(|armed| &armed.ranked);
        ranked.filter_map(|(segment, ranked)| Some((*segment, standing.owner(ranked)?))).collect()
    }
}
