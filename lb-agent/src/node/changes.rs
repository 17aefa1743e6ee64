//! The log: one line for each thing that changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_core::plan::{Frontend, KernelReason, ServicePlan};

use crate::output::{DrainStatus, ForwardingStatus, NodeStatus, ServiceStatus, VipStatus};

/// A port of a Service as it is said, with why the data path has no room for it.
pub type Port = (Arc<ServicePlan>, Option<KernelReason>);

/// Says what is different in a port of a Service.
pub fn log_port(frontend: &Frontend, before: Option<&Port>, now: Option<&Port>) {
    let status = |(service, no_room): &Port| ServiceStatus::of(service, no_room.as_ref());
    match (before.map(status), now.map(status)) {
        (None, None) => {}
        (Some(_), None) => tracing::info!(%frontend, "service removed"),
        // What is planned differs in what is not said.
        (Some(before), Some(now)) if before == now => {}
        (before, Some(now)) => log_service(frontend, &now, before.as_ref()),
    }
}

/// Says what else is different.
pub fn log(before: &NodeStatus<()>, now: &NodeStatus<()>) {
    log_drain(before.drain.as_ref(), now.drain.as_ref());
    for (name, link, known) in changed(&before.links, &now.links) {
        match link {
            Some(link) => tracing::info!(link = name, mode = link.mode, segment = link.segment, "link"),
            None => tracing::info!(link = name, mode = known.map(|known| known.mode.as_str()), "link left"),
        }
    }
    for (name, node, _) in changed(&before.nodes, &now.nodes) {
        match node {
            Some(node) if !node.in_source => {
                tracing::warn!(
                    node = name,
                    "node is not in the source: it owns nothing, and goes on forwarding"
                );
            }
            Some(node) if !node.is_present() => {
                tracing::warn!(node = name, conditions = ?node.conditions, "node is in trouble: new flows avoid it, and it owns nothing");
            }
            Some(node) if !node.conditions.is_empty() => {
                tracing::info!(node = name, conditions = ?node.conditions, "node owns nothing that another can own");
            }
            Some(node) if node.macs.is_empty() => {
                tracing::warn!(node = name, "node is on no segment of ours");
            }
            Some(node) => tracing::info!(node = name, macs = ?node.macs, "node"),
            None => tracing::info!(node = name, "node left: its backends take no new flow"),
        }
    }
    for (address, vip, known) in changed(&before.vips, &now.vips) {
        match vip {
            Some(vip) => {
                let was = known.map(VipStatus::answers);
                let withheld = (!vip.withheld.is_empty()).then(|| tracing::field::debug(&vip.withheld));
                tracing::info!(
                    vip = address,
                    services = vip.services.join(", "),
                    owner = vip.answers(),
                    was,
                    withheld,
                    "VIP"
                );
            }
            None => tracing::info!(vip = address, "VIP withdrawn"),
        }
    }
    log_strangers(before, now);
    for problem in now.problems.iter().filter(|problem| !before.problems.contains(problem)) {
        tracing::warn!("{problem}");
    }
    for problem in before.problems.iter().filter(|problem| !now.problems.contains(problem)) {
        tracing::info!("mended: {problem}");
    }
}

/// Not each count: `status` has that.
fn log_drain(before: Option<&DrainStatus>, now: Option<&DrainStatus>) {
    let Some(now) = now else {
        if before.is_some() {
            tracing::info!("this node stays: it owns again when it has been quiet for a while");
        }
        return;
    };
    if before.is_none_or(|before| before.reasons != now.reasons || before.deadline != now.deadline) {
        let deadline = now.deadline.map(tracing::field::display);
        tracing::info!(reasons = ?now.reasons, deadline, "this node leaves: other nodes own its VIPs, and it carries what it has");
    }
    if now.drained && before.is_none_or(|before| !before.drained) {
        tracing::info!("{}", now.line());
    }
    if now.overdue && before.is_none_or(|before| !before.overdue) {
        tracing::warn!("{}", now.line());
    }
}

/// Machines that are no nodes, and have VIPs as their addresses.
fn log_strangers(before: &NodeStatus<()>, now: &NodeStatus<()>) {
    let all = |status: &NodeStatus<()>| -> BTreeSet<(String, String, String)> {
        let of_segments = status.conflicts.iter().flat_map(|(vip, segments)| {
            segments.iter().map(move |(segment, conflict)| (vip, segment, conflict))
        });
        let macs = of_segments.flat_map(|(vip, segment, conflict)| {
            conflict.strangers.keys().map(move |mac| (vip.clone(), segment.clone(), mac.clone()))
        });
        macs.collect()
    };
    let (before, now) = (all(before), all(now));
    for (vip, segment, mac) in &now - &before {
        tracing::warn!(vip, segment, mac, "another machine says that it has this VIP");
    }
    for (vip, segment, mac) in &before - &now {
        tracing::info!(vip, segment, mac, "the other machine does not say any more that it has this VIP");
    }
}

fn log_service(frontend: &Frontend, service: &ServiceStatus, known: Option<&ServiceStatus>) {
    let endpoints = service.endpoints.len();
    let ready = service.endpoints.values().filter(|endpoint| endpoint.ready).count();
    let mode_differs =
        known.is_none_or(|known| known.forwarding != service.forwarding || known.reason != service.reason);
    match &service.reason {
        Some(reason) if mode_differs => {
            tracing::warn!(
                %frontend,
                service = service.service,
                endpoints,
                ready,
                reason,
                "{}",
                match service.forwarding {
                    ForwardingStatus::Dsr | ForwardingStatus::Kernel => "service is left to the kernel",
                    ForwardingStatus::Partly => "service is left to the kernel in part",
                }
            );
        }
        _ => tracing::info!(%frontend, service = service.service, endpoints, ready, "service"),
    }
    for (endpoint, reason) in
        service.endpoints.iter().filter_map(|(name, e)| Some((name, e.kernel.as_ref()?)))
    {
        let before = known.and_then(|known| known.endpoints.get(endpoint)).and_then(|e| e.kernel.as_ref());
        if before != Some(reason) {
            tracing::warn!(%frontend, endpoint, %reason, "flows to this endpoint are left to the kernel");
        }
    }
}

/// Keys whose value is not what it was: with the value now, and before.
pub fn changed<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    now: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, Option<&'a V>, Option<&'a V>)> {
    let set = now.iter().filter(|(key, value)| before.get(*key) != Some(*value));
    let gone = before.iter().filter(|(key, _)| !now.contains_key(*key));
    set.map(|(key, value)| (key, Some(value), before.get(key)))
        .chain(gone.map(|(key, value)| (key, None, Some(value))))
}
