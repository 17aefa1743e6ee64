//! The objects that a pass has to say something in: of which kind, under which name.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use jiff::Timestamp;
use lb_api::{ALLOCATED_FROM, ObjectKey, Problem, Settled};
use lb_core::{allocate::Allocation, model::ObjectName, plan::Plan};
use serde_json::{Value, json};

use super::{
    conflicts::{Conflicts, conditions},
    maps::MapsView,
    owned::Owned,
    services::Services,
    status::{NodeStatus, Outcome},
};

/// An object to write.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Who says it: a node, or [`CONTROLLER`](crate::controller::CONTROLLER).
    pub author: String,
    /// Kind, namespace and name: its path.
    pub key: ObjectKey,
    /// The object.
    pub value: Value,
}

/// What a node says of Services where no controller does: their addresses, and what strangers have of them.
pub fn of_services(plan: &Plan, settled: &Settled, conflicts: &Conflicts) -> impl Iterator<Item = Document> {
    services(&plan.node.0, &settled.allocation).chain(conditions(plan, conflicts))
}

/// What a node says of itself: announcements, and configuration (and since when it is as it is).
pub fn of_node(
    plan: &Plan,
    settled: &Settled,
    owned: &Owned,
    since: Timestamp,
) -> impl Iterator<Item = Document> {
    let name = &*plan.node.0;
    let labels = json!({"metallb.io/component-type": "speaker", "metallb.io/node-name": name});
    let state =
        configuration(name, &format!("speaker-{name}"), labels, ("configReconcilerValid", since), settled);
    announced(plan, owned).chain([state])
}

/// Status, and what the maps should hold.
pub fn of_dry_run(outcome: &Outcome<'_>, maps: &MapsView) -> [Document; 2] {
    let name = &*outcome.plan.node.0;
    let status = NodeStatus::of(outcome, Services::of(outcome)).object(name);
    let maps = json!({
        "apiVersion": "magnetite.io/v1alpha1",
        "kind": "NodeMaps",
        "metadata": {"name": name},
        "maps": maps,
    });
    [("NodeStatus", json!(status)), ("NodeMaps", maps)]
        .map(|(kind, value)| document(name, kind, "", name, value))
}

/// Addresses of Services that have some, and of which pool they are.
pub(crate) fn services(author: &str, allocation: &Allocation) -> impl Iterator<Item = Document> {
    let of = move |(service, addresses): (&ObjectName, &Vec<IpAddr>)| {
        let ingress: Vec<Value> =
            addresses.iter().map(|address| json!({"ip": address, "ipMode": "VIP"})).collect();
        let pool = allocation.pools.get(service);
        let annotations: BTreeMap<&str, &String> =
            pool.map(|pool| (ALLOCATED_FROM, pool)).into_iter().collect();
        let value = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": service.name,
                "namespace": service.namespace,
                "annotations": annotations,
            },
            "status": {"loadBalancer": {"ingress": ingress}},
        });
        document(author, "Service", &service.namespace, &service.name, value)
    };
    allocation.addresses.iter().map(of)
}

/// `ServiceL2Status` for each Service that this node answers for (MetalLB: `api/v1beta1/servicel2status_types.go`,
/// `internal/k8s/controllers/layer2_status_controller.go`), with the links by which it does. In MetalLB's namespace, so the name says the
/// Service's: neither that nor the Service's name has a point.
fn announced(plan: &Plan, owned: &Owned) -> impl Iterator<Item = Document> {
    let node = &plan.node;
    let of = move |(service, addresses): (&ObjectName, &BTreeMap<IpAddr, BTreeSet<String>>)| {
        let segments: BTreeSet<&String> = addresses.values().flatten().collect();
        let links = plan.links.iter().filter(|(_, link)| segments.contains(&link.segment));
        let interfaces: Vec<Value> = links.map(|(name, _)| json!({"name": name})).collect();
        let name = fitting(format!("l2-{}.{}.{node}", service.namespace, service.name));
        let value = json!({
            "apiVersion": "metallb.io/v1beta1",
            "kind": "ServiceL2Status",
            "metadata": {
                "name": name,
                "namespace": SYSTEM,
                "labels": {
                    "metallb.io/node": &*node.0,
                    "metallb.io/service-name": service.name,
                    "metallb.io/service-namespace": service.namespace,
                },
            },
            "spec": {},
            "status": {
                "node": &*node.0,
                "serviceName": service.name,
                "serviceNamespace": service.namespace,
                "interfaces": interfaces,
            },
        });
        document(&node.0, "ServiceL2Status", SYSTEM, &name, value)
    };
    owned.iter().map(of)
}

/// Since when a configuration has been valid, or has not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Validity(Option<(bool, Timestamp)>);

impl Validity {
    /// Since when it is as it is now, in whole seconds.
    pub fn observe(&mut self, settled: &Settled, now: Timestamp) -> Timestamp {
        let is_valid = !settled.is_stale();
        match self.0 {
            Some((known, since)) if known == is_valid => since,
            _ => {
                let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
                self.0 = Some((is_valid, now));
                now
            }
        }
    }
}

/// `ConfigurationState` (MetalLB: `api/v1beta1/configurationstate_types.go`): errors only, for a warning stops nothing.
pub(crate) fn configuration(
    author: &str,
    name: &str,
    labels: Value,
    (condition, since): (&str, Timestamp),
    settled: &Settled,
) -> Document {
    let errors = summary(settled.configuration_errors());
    let is_valid = errors.is_empty();
    let (status, reason) = if is_valid { ("True", "Reconciled") } else { ("False", "ConfigurationError") };
    let value = json!({
        "apiVersion": "metallb.io/v1beta1",
        "kind": "ConfigurationState",
        "metadata": {"name": name, "namespace": SYSTEM, "labels": labels},
        "status": {
            "result": if is_valid { "Valid" } else { "Invalid" },
            "errorSummary": errors,
            "conditions": [{
                "type": condition,
                "status": status,
                "reason": reason,
                "lastTransitionTime": since,
                "message": errors,
            }],
        },
    });
    document(author, "ConfigurationState", SYSTEM, name, value)
}

/// A line for each, as many as an object may say: a condition's message has 32,768 bytes (`metav1.Condition`).
fn summary<'a>(errors: impl Iterator<Item = &'a Problem>) -> String {
    const MOST: usize = 30_000;
    let (mut text, mut left_out) = (String::new(), 0);
    for error in errors {
        let line = error.to_string();
        if left_out > 0 || text.len() + line.len() > MOST {
            left_out += 1;
            continue;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&line);
    }
    if left_out > 0 {
        text = format!("{text}\nand {left_out} more: lb-agent validate names all");
    }
    text
}

/// Namespace of objects that belong to no Service.
const SYSTEM: &str = "metallb-system";

/// A name that an API server takes: of one that is too long, as much as fits, and what tells it from others.
pub(super) fn fitting(name: String) -> String {
    /// Of a DNS subdomain (RFC 1123).
    const MOST: usize = 253;
    if name.len() <= MOST {
        return name;
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes());
    let suffix: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let end = name.floor_char_boundary(MOST - suffix.len() - 1);
    format!("{}-{suffix}", name[..end].trim_end_matches(['.', '-']))
}

pub(crate) fn document(author: &str, kind: &str, namespace: &str, name: &str, value: Value) -> Document {
    let key = ObjectKey { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() };
    Document { author: author.to_owned(), key, value }
}

#[cfg(test)]
mod tests {
    use super::fitting;

    #[test]
    fn names_that_are_too_long_fit_and_stay_apart() {
        assert_eq!(fitting("l2-shop.web.n1".to_owned()), "l2-shop.web.n1");
        let long = |last: char| fitting(format!("l2-{}.{last}", "n.".repeat(150)));
        assert!(long('a').len() <= 253 && long('a') != long('b'), "{}", long('a'));
        assert!(!long('a').contains(".-"), "{}", long('a'));
    }
}
