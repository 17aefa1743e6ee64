//! The objects that the controller has something to say in.

use lb_api::{Settled, crd::IPAddressPoolStatus};
use lb_core::allocate::PoolCounts;
use serde_json::json;

use super::CONTROLLER;
use crate::output::{Document, configuration, document, services};

/// Status of Services and pools, and of the configuration.
pub fn objects(settled: &Settled) -> Vec<Document> {
    let mut documents = services(CONTROLLER, &settled.allocation);
    let cleared = settled.snapshot.services.iter().filter(|(name, service)| {
        !service.ingress.is_empty() && !settled.allocation.addresses.contains_key(*name)
    });
    documents.extend(cleared.map(|(name, _)| {
        let value = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name.name, "namespace": name.namespace},
            "status": {"loadBalancer": {}},
        });
        document(CONTROLLER, "Service", &name.namespace, &name.name, value)
    }));
    let pools = settled.origins.keys().filter(|key| key.kind == "IPAddressPool");
    let counted = pools.filter_map(|key| Some((key, settled.allocation.counts.get(&key.name)?)));
    documents.extend(counted.map(|(key, counts)| {
        let value = json!({
            "apiVersion": "metallb.io/v1beta1",
            "kind": key.kind,
            "metadata": {"name": key.name, "namespace": key.namespace},
            "status": pool_status(counts),
        });
        document(CONTROLLER, &key.kind, &key.namespace, &key.name, value)
    }));
    let labels = json!({"metallb.io/component-type": "controller"});
    documents.push(configuration(CONTROLLER, CONTROLLER, labels, "poolReconcilerValid", settled));
    documents
}

/// Of more than can be said, the most that can.
fn pool_status(counts: &PoolCounts) -> IPAddressPoolStatus {
    let shown = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    IPAddressPoolStatus {
        assigned_ipv4: shown(counts.assigned.v4),
        assigned_ipv6: shown(counts.assigned.v6),
        available_ipv4: shown(counts.available.v4),
        available_ipv6: shown(counts.available.v6),
    }
}
