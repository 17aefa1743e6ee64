//! Who answers ARP and NDP for a VIP.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use sha2::{Digest, Sha256};

use crate::{
    few::Few,
    legs::{Interfaces, Legs},
    model::{EndpointCondition, L2Advertisement, Node, NodeName, Service, Snapshot, TrafficPolicy},
    plan::NodePlan,
};

/// Why a node does not own a VIP, or not in some segment. Shown in MetalLB's words where it has them (`speaker/layer2_controller.go`,
/// `speaker/bgp_controller.go`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum LeftOut {
    /// No endpoint of the Service serves, on whichever node.
    #[error("noEndpoints")]
    NoEndpoints,
    /// No advertisement of the Service selects the node.
    #[error("noMatchingAdvertisement")]
    NoMatchingAdvertisement,
    /// The node has the condition NetworkUnavailable.
    #[error("nodeNetworkUnavailable")]
    NetworkUnavailable,
    /// The node has the label `node.kubernetes.io/exclude-from-external-load-balancers`.
    #[error("nodeLabeledExcludeBalancers")]
    Excluded,
    /// The node leaves on purpose.
    #[error("nodeLeaving")]
    Leaving,
    /// `externalTrafficPolicy: Local`, and no endpoint on the node serves.
    #[error("noLocalEndpoints")]
    NoLocalEndpoints,
    /// The node has none of the interfaces that its advertisements name. With MetalLB it could still win, and nobody would answer (event
    /// `announceFailed`).
    #[error("noAdvertisedInterface")]
    NoInterface,
    /// Its link in this segment is none of those that its advertisements name.
    #[error("notAdvertisedInSegment")]
    NotAdvertised {
        /// The segment.
        segment: String,
    },
    /// It has no link in this segment.
    #[error("noLinkInSegment")]
    NoLeg {
        /// The segment.
        segment: String,
    },
}

impl LeftOut {
    /// The segment in which alone it is left out; `None` if it is everywhere.
    pub fn segment(&self) -> Option<&str> {
        match self {
            Self::NotAdvertised { segment } | Self::NoLeg { segment } => Some(segment),
            Self::NoEndpoints
            | Self::NoMatchingAdvertisement
            | Self::NetworkUnavailable
            | Self::Excluded
            | Self::Leaving
            | Self::NoLocalEndpoints
            | Self::NoInterface => None,
        }
    }
}

/// What a Service's advertisements make of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contender<'a> {
    /// The higher, the rather it owns.
    pub score: u32,
    /// Where it may announce.
    pub interfaces: Interfaces<'a>,
}

/// Nodes in the order in which they own an address: those with a higher score first, then MetalLB's order, by SHA-256 of `node#address`
/// (`speaker/layer2_controller.go`), where the address is the first of the Service. A pure function: whoever knows the same nodes
/// comes to the same order.
pub fn ranked<'a>(
    first_address: IpAddr,
    nodes: impl IntoIterator<Item = (&'a NodeName, u32)>,
) -> Vec<&'a NodeName> {
    let mut ranked: Vec<(&NodeName, u32)> = nodes.into_iter().collect();
    ranked.sort_by_cached_key(|(node, score)| {
        (Reverse(*score), Sha256::digest(format!("{node}#{first_address}").as_bytes()))
    });
    ranked.into_iter().map(|(node, _)| node).collect()
}

/// Of each node, whether it may own a Service's addresses, or the first rule that leaves it out, in MetalLB's order. A node that is
/// not ready or cordoned may own, as with MetalLB.
pub fn eligible<'a>(
    snapshot: &'a Snapshot,
    service: &Service,
    advertisements: &[&'a L2Advertisement],
) -> BTreeMap<&'a NodeName, Result<Contender<'a>, LeftOut>> {
    let serving = service.endpoints.iter().flatten().filter(|e| e.condition != EndpointCondition::NotReady);
    let serving: Vec<Option<&NodeName>> = serving.map(|endpoint| endpoint.node.as_ref()).collect();
    let on_nodes: BTreeSet<&NodeName> = serving.iter().copied().flatten().collect();
    let judge = |name: &NodeName, node: &Node| {
        if serving.is_empty() {
            return Err(LeftOut::NoEndpoints);
        }
        let contender = contender(advertisements, node).ok_or(LeftOut::NoMatchingAdvertisement)?;
        if node.network_unavailable {
            return Err(LeftOut::NetworkUnavailable);
        }
        if node.excluded {
            return Err(LeftOut::Excluded);
        }
        if !node.leaving.is_empty() {
            return Err(LeftOut::Leaving);
        }
        match service.policy {
            TrafficPolicy::Local if !on_nodes.contains(name) => Err(LeftOut::NoLocalEndpoints),
            TrafficPolicy::Local | TrafficPolicy::Cluster => Ok(contender),
        }
    };
    snapshot.nodes.iter().map(|(name, node)| (name, judge(name, node))).collect()
}

/// What of a Service's endpoints counts for who may own its addresses, and how they are answered for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim<'a> {
    serves: bool,
    is_ready: bool,
    /// For policy Local: nodes with an endpoint that serves.
    on_nodes: Option<BTreeSet<&'a NodeName>>,
}

/// See [`eligible`], and [`crate::model::Echo`].
pub(crate) fn claim(service: &Service) -> Claim<'_> {
    let endpoints = || service.endpoints.iter().flatten();
    let serving = || endpoints().filter(|endpoint| endpoint.condition != EndpointCondition::NotReady);
    Claim {
        serves: serving().next().is_some(),
        is_ready: endpoints().any(|endpoint| endpoint.condition == EndpointCondition::Ready),
        on_nodes: (service.policy == TrafficPolicy::Local)
            .then(|| serving().filter_map(|endpoint| endpoint.node.as_ref()).collect()),
    }
}

/// `None` for a node that none of the advertisements selects. An advertisement's interfaces and preferences hold for the nodes that it
/// selects; of several, interfaces are united and scores added.
pub fn contender<'a>(advertisements: &[&'a L2Advertisement], node: &Node) -> Option<Contender<'a>> {
    let selecting: Vec<&L2Advertisement> =
        advertisements.iter().copied().filter(|advertisement| advertisement.selects(&node.labels)).collect();
    if selecting.is_empty() {
        return None;
    }
    let interfaces = if selecting.iter().any(|advertisement| advertisement.interfaces.is_empty()) {
        Interfaces::All
    } else {
        let names = selecting.iter().flat_map(|advertisement| &advertisement.interfaces);
        Interfaces::Named(names.map(String::as_str).collect())
    };
    let score = selecting.iter().map(|advertisement| advertisement.score(&node.labels)).sum();
    Some(Contender { score, interfaces })
}

/// Who may own an address in a segment, best first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranking {
    /// The nodes.
    pub nodes: Vec<NodeName>,
    /// So many of the first differ by nothing but their names, then so many of the next, and so on: they share an address that is
    /// spread over nodes, and those after them only if none of them lives.
    pub classes: Vec<usize>,
}

impl Ranking {
    /// The nodes of each class, best first.
    pub fn classes(&self) -> impl Iterator<Item = &[NodeName]> {
        let mut left = &self.nodes[..];
        self.classes.iter().map(move |count| {
            let (class, others) = left.split_at(left.len().min(*count));
            left = others;
            class
        })
    }
}

/// Who may own a Service's addresses where, and who may not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contenders<'a> {
    /// Preference of those that may own.
    scores: BTreeMap<&'a NodeName, u32>,
    /// By segment of this node's in which the addresses are announced: who may own there, best first.
    pub segments: BTreeMap<&'a str, Vec<&'a NodeName>>,
    /// All others of the source, by the first rule that leaves them out.
    pub left_out: BTreeMap<LeftOut, BTreeSet<&'a NodeName>>,
}

impl<'a> Contenders<'a> {
    /// Of a Service whose first address is `first_address`.
    pub fn new(
        snapshot: &'a Snapshot,
        service: &Service,
        first_address: IpAddr,
        advertisements: &[&'a L2Advertisement],
        legs: &Legs<'a>,
        nodes: &BTreeMap<NodeName, NodePlan>,
    ) -> Self {
        let mut found = Self::default();
        let has_leg = |name: &NodeName, segment: &str| {
            nodes.get(name).is_some_and(|planned| legs.has_leg(name, planned, segment))
        };
        // Where somebody could answer, the others keep silent, whether anybody may at present or not.
        for (name, node) in &snapshot.nodes {
            let Some(contender) = contender(advertisements, node) else { continue };
            for segment in legs.segments().filter(|segment| has_leg(name, segment)) {
                if legs.is_advertised(name, segment, &contender.interfaces) {
                    found.segments.entry(segment).or_default();
                }
            }
        }
        let mut contenders = BTreeMap::new();
        for (name, judged) in eligible(snapshot, service, advertisements) {
            match judged {
                Ok(contender) if legs.has_interface(name, &contender.interfaces) => {
                    contenders.insert(name, contender);
                }
                Ok(_) => found.leave_out(LeftOut::NoInterface, name),
                Err(reason) => found.leave_out(reason, name),
            }
        }
        found.scores = contenders.iter().map(|(name, contender)| (*name, contender.score)).collect();
        let mut left_out = Vec::new();
        for name in ranked(first_address, found.scores.iter().map(|(name, score)| (*name, *score))) {
            for (segment, owners) in &mut found.segments {
                if !has_leg(name, segment) {
                    left_out.push((LeftOut::NoLeg { segment: (*segment).to_owned() }, name));
                } else if !legs.is_advertised(name, segment, &contenders[name].interfaces) {
                    left_out.push((LeftOut::NotAdvertised { segment: (*segment).to_owned() }, name));
                } else {
                    owners.push(name);
                }
            }
        }
        left_out.into_iter().for_each(|(reason, name)| found.leave_out(reason, name));
        found
    }

    fn leave_out(&mut self, reason: LeftOut, node: &'a NodeName) {
        self.left_out.entry(reason).or_default().insert(node);
    }

    /// Who may own one of the addresses, by segment, best first: those whose leg there is known before those who have said nothing, and
    /// among them those with a link in the address's subnet before the others. If none has one, all come alike, as with MetalLB.
    pub fn of(
        &self,
        address: &IpAddr,
        legs: &Legs<'_>,
        nodes: &BTreeMap<NodeName, NodePlan>,
    ) -> Few<String, Ranking> {
        let near = legs.near_to(address);
        let ordered = self.segments.iter().map(|(segment, owners)| {
            let is_known = |owner: &NodeName| {
                nodes.get(owner).is_some_and(|planned| planned.addresses.contains_key(*segment))
            };
            let mut owners = owners.clone();
            let place = |owner: &NodeName| (is_known(owner), near.contains(owner));
            owners.sort_by_key(|owner| Reverse(place(owner)));
            let is_alike = |a: &&NodeName, b: &&NodeName| {
                place(a) == place(b) && self.scores.get(a) == self.scores.get(b)
            };
            let ranking = Ranking {
                classes: owners.chunk_by(is_alike).map(<[_]>::len).collect(),
                nodes: owners.into_iter().cloned().collect(),
            };
            ((*segment).to_owned(), ranking)
        });
        ordered.collect()
    }
}

/// The advertisements that select a pool and a Service; one without names and selectors selects all. A pool that is gone is still
/// selected by its name.
pub fn advertisements<'a>(
    snapshot: &'a Snapshot,
    pool_name: &str,
    service: &Service,
) -> Vec<&'a L2Advertisement> {
    let pool = snapshot.pools.get(pool_name);
    let selects_pool = |advertisement: &L2Advertisement| {
        advertisement.pools.is_empty() && advertisement.pool_selectors.is_empty()
            || advertisement.pools.contains(pool_name)
            || pool.is_some_and(|pool| advertisement.pool_selectors.iter().any(|of| of.matches(&pool.labels)))
    };
    let selects_service = |advertisement: &L2Advertisement| {
        advertisement.service_selectors.is_empty()
            || advertisement.service_selectors.iter().any(|selector| selector.matches(&service.labels))
    };
    let selects =
        |advertisement: &&L2Advertisement| selects_pool(advertisement) && selects_service(advertisement);
    snapshot.l2_advertisements.values().filter(selects).collect()
}

#[cfg(test)]
mod tests;
