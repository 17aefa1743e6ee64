//! The objects that a pass has to say something in: of which kind, under which name.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_api::{ObjectKey, Settled, Severity};
use lb_core::{
    model::{NodeName, ObjectName},
    plan::Plan,
};
use serde_json::{Value, json};

use super::{conflicts::conditions, maps::MapsView, owned::Owned, status::NodeStatus};

/// The annotation by which a Service says of which pool its addresses are (MetalLB: `controller/service.go`).
const ALLOCATED_FROM: &str = "metallb.io/ip-allocated-from-pool";

/// An object to write.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Who says it.
    pub node: NodeName,
    /// Kind, namespace and name: its path.
    pub key: ObjectKey,
    /// The object.
    pub value: Value,
}

/// Status of Services, announcements, configuration and the node; with `maps` what they should hold.
pub fn documents(
    plan: &Plan,
    settled: &Settled,
    status: NodeStatus,
    owned: &Owned,
    maps: Option<&MapsView>,
) -> Vec<Document> {
    let node = &plan.node;
    let mut documents: Vec<Document> = settled
        .allocation
        .addresses
        .iter()
        .map(|(service, addresses)| {
            let ingress: Vec<Value> =
                addresses.iter().map(|address| json!({"ip": address, "ipMode": "VIP"})).collect();
            let annotations: BTreeMap<&str, &String> = settled
                .allocation
                .pools
                .get(service)
                .map(|pool| (ALLOCATED_FROM, pool))
                .into_iter()
                .collect();
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
            document(node, "Service", &service.namespace, &service.name, value)
        })
        .collect();
    documents.extend(announced(plan, owned));
    documents.extend(conditions(plan, &status));
    documents.push(configuration(node, settled));
    let name = &node.0;
    documents.push(document(node, "NodeStatus", "", name, json!(status.object(name))));
    if let Some(maps) = maps {
        let value = json!({
            "apiVersion": "magnetite.io/v1alpha1",
            "kind": "NodeMaps",
            "metadata": {"name": name},
            "maps": maps,
        });
        documents.push(document(node, "NodeMaps", "", name, value));
    }
    documents
}

/// `ServiceL2Status` for each Service that this node answers for (MetalLB: `api/v1beta1/servicel2status_types.go`,
/// `internal/k8s/controllers/layer2_status_controller.go`), with the links by which it does. In MetalLB's namespace, so the name says the
/// Service's: neither that nor the Service's name has a point.
fn announced(plan: &Plan, owned: &Owned) -> Vec<Document> {
    let node = &plan.node;
    let of = |(service, addresses): (&ObjectName, &BTreeMap<IpAddr, BTreeSet<String>>)| {
        let segments: BTreeSet<&String> = addresses.values().flatten().collect();
        let links = plan.links.iter().filter(|(_, link)| segments.contains(&link.segment));
        let interfaces: Vec<Value> = links.map(|(name, _)| json!({"name": name})).collect();
        let name = format!("l2-{}.{}.{node}", service.namespace, service.name);
        let value = json!({
            "apiVersion": "metallb.io/v1beta1",
            "kind": "ServiceL2Status",
            "metadata": {
                "name": name,
                "namespace": SYSTEM,
                "labels": {
                    "metallb.io/node": node.0,
                    "metallb.io/service-name": service.name,
                    "metallb.io/service-namespace": service.namespace,
                },
            },
            "status": {
                "node": node.0,
                "serviceName": service.name,
                "serviceNamespace": service.namespace,
                "interfaces": interfaces,
            },
        });
        document(node, "ServiceL2Status", SYSTEM, &name, value)
    };
    owned.iter().map(of).collect()
}

/// `ConfigurationState` (MetalLB: `api/v1beta1/configurationstate_types.go`): errors only, for a warning stops nothing.
fn configuration(node: &NodeName, settled: &Settled) -> Document {
    let errors: Vec<String> = settled
        .problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error)
        .map(ToString::to_string)
        .collect();
    let is_valid = errors.is_empty();
    let name = format!("speaker-{node}");
    let (status, reason) = if is_valid { ("True", "Reconciled") } else { ("False", "ConfigurationError") };
    let value = json!({
        "apiVersion": "metallb.io/v1beta1",
        "kind": "ConfigurationState",
        "metadata": {
            "name": name,
            "namespace": SYSTEM,
            "labels": {"metallb.io/component-type": "speaker", "metallb.io/node-name": node.0},
        },
        "status": {
            "result": if is_valid { "Valid" } else { "Invalid" },
            "errorSummary": errors.join("\n"),
            "conditions": [{
                "type": "configReconcilerValid",
                "status": status,
                "reason": reason,
                "message": errors.join("\n"),
            }],
        },
    });
    document(node, "ConfigurationState", SYSTEM, &name, value)
}

/// Namespace of objects that belong to no Service.
const SYSTEM: &str = "metallb-system";

pub(super) fn document(node: &NodeName, kind: &str, namespace: &str, name: &str, value: Value) -> Document {
    let key = ObjectKey { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() };
    Document { node: node.clone(), key, value }
}
