//! Links and their segments.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use lb_common::layout::{Link, LinkKey, MAX_SEGMENTS, link_mode};

use super::{Placer, SEGMENTS};
use crate::{
    armed::{ArmedLink, ArmedSegment},
    liveness::Leg,
    model::NodeName,
    plan::{LARGEST_MTU_OF_ONE_BUFFER, LinkPlan, NodePlan},
};

impl Placer<'_> {
    /// A link keeps the number of its segment.
    pub(super) fn place_links(&mut self) {
        let mut used: BTreeSet<u16> = BTreeSet::new();
        let key = |ifindex: u32, link: &LinkPlan| LinkKey { ifindex, vlan: u32::from(link.vlan) };
        for link in self.plan.links.values() {
            if let Some(known) = self.current.links.get(&key(link.ifindex, link))
                && !self.segments.contains_key(&link.segment)
                && used.insert(known.segment)
            {
                self.segments.insert(link.segment.clone(), known.segment);
            }
        }
        for link in self.plan.links.values() {
            // With a part of its ports a bond would be served by chance.
            let entries = link.arrivals().count();
            if self.maps.links.len() + entries > self.local.sizes.links as usize {
                *self.left_out.entry("LINKS").or_default() += entries;
                continue;
            }
            if !self.segments.contains_key(&link.segment) {
                let Some(free) = (0..MAX_SEGMENTS as u16).find(|segment| !used.contains(segment)) else {
                    *self.left_out.entry(SEGMENTS).or_default() += 1;
                    continue;
                };
                used.insert(free);
                self.segments.insert(link.segment.clone(), free);
            }
            let segment = self.segments[&link.segment];
            let mode = if link.mtu > LARGEST_MTU_OF_ONE_BUFFER {
                link_mode::NATIVE_FRAGS
            } else {
                link_mode::NATIVE
            };
            let value = Link { segment, mac: link.mac.into(), mode, flags: 0 };
            self.maps.links.extend(link.arrivals().map(|ifindex| (key(ifindex, link), value)));
            let armed = Arc::make_mut(&mut self.armed).segments.entry(segment).or_insert_with(|| {
                let has_leg = |(name, node): (&NodeName, &NodePlan)| {
                    Some((*node.addresses.get(&link.segment)?, name.clone()))
                };
                let legs: BTreeMap<Leg, NodeName> = self.plan.nodes.iter().filter_map(has_leg).collect();
                let own = legs.iter().find(|(_, node)| **node == self.plan.node).map(|(leg, _)| *leg);
                let stands_in = |(name, node): (&NodeName, &NodePlan)| {
                    let has_leg = node.addresses.contains_key(&link.segment);
                    node.stand_in.filter(|_| !has_leg).map(|stand_in| (stand_in, name.clone()))
                };
                ArmedSegment {
                    name: link.segment.clone(),
                    own,
                    claims_as: self
                        .plan
                        .nodes
                        .get(&self.plan.node)
                        .and_then(|own| own.claims_as(&link.segment)),
                    legs,
                    stand_ins: self.plan.nodes.iter().filter_map(stands_in).collect(),
                    links: BTreeMap::new(),
                }
            });
            let arrivals = link.arrivals().collect();
            // A VIP that a proxy has put on the link is no address of this node's.
            let asks_from =
                link.asks_from.filter(|address| !self.plan.vips.contains_key(&IpAddr::from(*address)));
            armed.links.insert(link.device, ArmedLink { mac: link.mac.into(), asks_from, arrivals });
        }
    }
}
