//! Where nodes have legs, and what their links there are called, as far as this node knows.
//!
//! Of other nodes it knows the addresses that the source names, and what they say of their links ([`Network::peers`]). Nodes that know
//! the same come to the same: this node's own links count where others can know of them too.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use lb_common::layout::ALGORITHM_VERSION;

use crate::{
    model::{Network, NodeName, Snapshot},
    plan::{LinkPlan, NodePlan},
};

/// Where nodes have legs.
pub struct Legs<'a> {
    snapshot: &'a Snapshot,
    this: &'a NodeName,
    network: &'a Network,
    links: &'a BTreeMap<String, LinkPlan>,
    /// Whether this node tells others of all of them.
    tells_all: bool,
    /// Networks of this node's segments.
    networks: BTreeMap<&'a str, BTreeSet<IpNet>>,
    /// Segments that hold an address of any node, by the source.
    named: BTreeSet<&'a str>,
    /// Who has a link in a network: those of all links that are known.
    near: BTreeMap<IpNet, BTreeSet<&'a NodeName>>,
}

/// On which interfaces a node may announce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interfaces<'a> {
    /// On all.
    All,
    /// On those with these names.
    Named(BTreeSet<&'a str>),
}

impl Interfaces<'_> {
    /// Whether it may announce on an interface with this name.
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(name),
        }
    }
}

impl<'a> Legs<'a> {
    /// From what the source says, this node's network, those of its links that are served, and whether it tells others of all of them.
    pub fn new(
        snapshot: &'a Snapshot,
        this: &'a NodeName,
        network: &'a Network,
        links: &'a BTreeMap<String, LinkPlan>,
        tells_all: bool,
    ) -> Self {
        let mut networks: BTreeMap<&str, BTreeSet<IpNet>> = BTreeMap::new();
        for (name, link) in links {
            let of_link = network.links[name].prefixes.iter().filter(|prefix| !is_link_local(prefix));
            networks.entry(&link.segment).or_default().extend(of_link.map(IpNet::trunc));
        }
        let is_named = |networks: &BTreeSet<IpNet>| {
            let mut addresses = snapshot.nodes.values().flat_map(|node| &node.addresses);
            addresses.any(|address| networks.iter().any(|network| network.contains(address)))
        };
        let named = networks.iter().filter(|(_, networks)| is_named(networks)).map(|(name, _)| *name);
        let named = named.collect();
        let mut legs =
            Self { snapshot, this, network, links, tells_all, networks, named, near: BTreeMap::new() };
        legs.near = legs.near();
        legs
    }

    fn near(&self) -> BTreeMap<IpNet, BTreeSet<&'a NodeName>> {
        let mut near: BTreeMap<IpNet, BTreeSet<&NodeName>> = BTreeMap::new();
        for node in self.snapshot.nodes.keys() {
            let prefixes = self.links_of(node).into_iter().flatten().map(|(_, prefix)| prefix);
            for prefix in prefixes.filter(|prefix| prefix.prefix_len() < prefix.max_prefix_len()) {
                let there = near.entry(prefix.trunc()).or_default();
                if self.is_known(node) {
                    there.insert(node);
                }
            }
        }
        for (name, node) in &self.snapshot.nodes {
            let inside = |network: &IpNet| node.addresses.iter().any(|address| network.contains(address));
            near.iter_mut().filter(|(network, _)| inside(network)).for_each(|(_, nodes)| {
                nodes.insert(name);
            });
        }
        near
    }

    /// Names of a node's links with their addresses; `None` of one that has not said anything.
    fn links_of(&self, node: &NodeName) -> Option<Vec<(&'a str, IpNet)>> {
        let links: Vec<(&str, &BTreeSet<IpNet>)> = if node == self.this {
            self.links.keys().map(|name| (name.as_str(), &self.network.links[name].prefixes)).collect()
        } else {
            let said = self.network.peers.get(node).filter(|links| !links.is_empty())?;
            said.iter().map(|(name, prefixes)| (name.as_str(), prefixes)).collect()
        };
        let prefixes =
            links.into_iter().flat_map(|(name, all)| all.iter().map(move |prefix| (name, *prefix)));
        Some(prefixes.filter(|(_, prefix)| !is_link_local(prefix)).collect())
    }

    /// Whether all can know of a node's links: of this node's own they do if they hear of them, as it does of theirs.
    fn is_known(&self, node: &NodeName) -> bool {
        let peers = &self.network.peers;
        if node == self.this {
            !peers.is_empty() && self.tells_all
        } else {
            peers.get(node).is_some_and(|links| !links.is_empty())
        }
    }

    /// This node's segments.
    pub fn segments(&self) -> impl Iterator<Item = &'a str> {
        self.networks.keys().copied()
    }

    fn is_in(&self, segment: &str, address: &IpAddr) -> bool {
        self.networks.get(segment).is_some_and(|all| all.iter().any(|network| network.contains(address)))
    }

    /// All nodes of the source, and this one.
    pub fn nodes(&self) -> BTreeMap<NodeName, NodePlan> {
        let mut nodes: BTreeMap<NodeName, NodePlan> =
            self.snapshot.nodes.keys().map(|node| (node.clone(), self.node(node))).collect();
        let own = nodes.entry(self.this.clone()).or_default();
        own.legs = self.links.values().rev().map(|link| (link.segment.clone(), link.mac)).collect();
        nodes
    }

    fn node(&self, name: &NodeName) -> NodePlan {
        let said = self.network.algorithms.get(name).copied();
        let other_algorithm = said.filter(|version| name != self.this && *version != ALGORITHM_VERSION);
        let mut plan = NodePlan {
            in_source: true,
            other_algorithm,
            is_absent: name != self.this && self.network.absent.contains(name),
            ..NodePlan::default()
        };
        let mut known: Vec<IpAddr> = self.snapshot.nodes[name].addresses.clone();
        known.sort_unstable();
        let is_ours = |address: &&IpAddr| self.segments().any(|segment| self.is_in(segment, address));
        plan.stand_in = known.iter().find(is_ours).or(known.first()).copied();
        if self.is_known(name) {
            let mut said: Vec<IpAddr> =
                self.links_of(name).into_iter().flatten().map(|(_, prefix)| prefix.addr()).collect();
            said.sort_unstable();
            known.extend(said);
        }
        for (link_name, link) in self.links {
            for address in known.iter().filter(|address| self.is_in(&link.segment, address)) {
                plan.addresses.entry(link.segment.clone()).or_insert(*address);
                if let Some(mac) = self.network.neighbours.get(&(link_name.clone(), *address)) {
                    plan.legs.entry(link.segment.clone()).or_insert(*mac);
                }
            }
        }
        plan
    }

    /// Whether a node has a leg in a segment of this node's, by its plan. Where the source names nobody, nodes that say nothing of
    /// their links are taken to have one, as with MetalLB.
    pub fn has_leg(&self, node: &NodeName, plan: &NodePlan, segment: &str) -> bool {
        plan.addresses.contains_key(segment)
            || !self.is_known(node) && plan.stand_in.is_some() && !self.named.contains(segment)
    }

    /// Whether a node may announce on its link in a segment of this node's. Of a node that says nothing of its links it is assumed
    /// that a name means the same link as here.
    pub fn is_advertised(&self, node: &NodeName, segment: &str, interfaces: &Interfaces<'_>) -> bool {
        let Interfaces::Named(names) = interfaces else { return true };
        if let Some(links) = self.links_of(node) {
            let is_it =
                |(name, prefix): &(&str, IpNet)| names.contains(name) && self.is_in(segment, &prefix.addr());
            return links.iter().any(is_it);
        }
        let here = self.links.iter().filter(|(name, _)| names.contains(name.as_str()));
        let segments: BTreeSet<&str> = here.map(|(_, link)| link.segment.as_str()).collect();
        segments.is_empty() || segments.contains(segment)
    }

    /// Whether a node has an interface on which it may announce, as far as that is known.
    pub fn has_interface(&self, node: &NodeName, interfaces: &Interfaces<'_>) -> bool {
        let Interfaces::Named(names) = interfaces else { return true };
        self.links_of(node).is_none_or(|links| links.iter().any(|(name, _)| names.contains(name)))
    }

    /// Nodes with a link in the address's subnet.
    pub fn near_to(&self, address: &IpAddr) -> BTreeSet<&'a NodeName> {
        let networks = self.near.iter().filter(|(network, _)| network.contains(address));
        networks.flat_map(|(_, nodes)| nodes.iter().copied()).collect()
    }
}

/// Whether it is an address that says nothing of the network.
pub fn is_link_local(prefix: &IpNet) -> bool {
    matches!(prefix, IpNet::V6(v6) if v6.addr().is_unicast_link_local())
}
