//! Programs on the links that are served, and the groups that are joined there.

use std::{collections::BTreeMap, net::IpAddr};

use lb_core::plan::Plan;

use super::{Driver, RESYNC};
use crate::chain::chain;

impl Driver {
    /// NICs that did not carry programs may do so now.
    pub(super) fn retry_attaching(&mut self) {
        for (ifindex, known) in std::mem::take(&mut self.unattached) {
            let Some((name, link)) = self.network.links.iter().find(|(_, link)| link.ifindex == ifindex)
            else {
                continue;
            };
            match self.dataplane.attach(ifindex, link.mtu) {
                Ok(_) => tracing::info!(link = name, "programs are attached now: the link is served"),
                Err(_) => {
                    self.unattached.insert(ifindex, known);
                }
            }
        }
    }

    /// Programs on the NICs of the plan's links, and on no others. Whether all of them carry programs, be it those of an earlier agent.
    pub(super) fn attach(&mut self, plan: &Plan) -> bool {
        // A NIC may have several links: VLANs.
        let wanted: BTreeMap<u32, (&String, u32)> =
            plan.links.iter().map(|(name, link)| (link.ifindex, (name, link.mtu))).collect();
        let mut failed = BTreeMap::new();
        for (ifindex, (name, mtu)) in &wanted {
            if self.dataplane.attached().contains_key(ifindex) {
                continue;
            }
            if let Err(error) = self.dataplane.attach(*ifindex, *mtu) {
                failed.insert(*ifindex, (*name, chain(&error)));
            }
        }
        let left = self.dataplane.left_attached().unwrap_or_else(|error| {
            tracing::error!(error = %chain(&error), "cannot list what is attached");
            Vec::new()
        });
        for ifindex in left.iter().filter(|ifindex| !wanted.contains_key(ifindex)) {
            tracing::info!(ifindex, "detached: the link is not served any more");
            let done = self.dataplane.detach(*ifindex);
            self.log_failure("detaching", done);
        }
        let before = self.unattached.len();
        for (ifindex, (name, error)) in failed {
            if left.contains(&ifindex) {
                tracing::error!(link = name, error, "cannot attach: the programs of an earlier agent go on");
                continue;
            }
            let every = RESYNC.as_secs();
            let why = format!(
                "link {name} is not served: {error}. Its NIC must have native XDP, and no program of somebody else's; it is tried again \
                 every {every} s"
            );
            tracing::error!(link = name, "{why}");
            self.unattached.insert(ifindex, why);
        }
        self.unattached.len() == before
    }

    pub(super) fn join(&mut self, plan: &Plan) {
        let memberships = plan.vips.iter().flat_map(|(address, vip)| {
            let links = plan.links.values().filter(|link| vip.segments.contains_key(&link.segment));
            links.filter_map(|link| match address {
                IpAddr::V6(v6) => Some((*v6, link.device)),
                IpAddr::V4(_) => None,
            })
        });
        self.groups.set(memberships);
    }
}
