//! The objects that the controller has something to say in.

use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::Timestamp;
use lb_api::{Mirror, ObjectKey, Settled, crd::IPAddressPoolStatus};
use lb_core::allocate::PoolCounts;
use serde_json::json;

use super::CONTROLLER;
use crate::output::{Document, configuration, document, services};

/// Status of Services and pools, and of the configuration, which is as it is since then. One after the other: of thousands of Services
/// all together would take the most memory.
pub fn objects(settled: &Settled, since: Timestamp) -> impl Iterator<Item = Document> {
    let cleared = settled.snapshot.services.iter().filter(|(name, service)| {
        !service.ingress.is_empty() && !settled.allocation.addresses.contains_key(*name)
    });
    let cleared = cleared.map(|(name, _)| without_addresses(&name.namespace, &name.name));
    let pools = settled.origins.keys().filter(|key| key.kind == "IPAddressPool");
    let counted = pools.filter_map(|key| Some((key, settled.allocation.counts.get(&key.name)?)));
    let pools = counted.map(|(key, counts)| {
        let value = json!({
            "apiVersion": "metallb.io/v1beta1",
            "kind": key.kind,
            "metadata": {"name": key.name, "namespace": key.namespace},
            "status": pool_status(counts),
        });
        document(CONTROLLER, &key.kind, &key.namespace, &key.name, value)
    });
    let labels = json!({"metallb.io/component-type": "controller"});
    let state = configuration(CONTROLLER, CONTROLLER, labels, ("poolReconcilerValid", since), settled);
    services(CONTROLLER, &settled.allocation).chain(cleared).chain(pools).chain([state])
}

/// Services that have something of ours, and are not ours any more: of another type or class.
pub fn released(mirror: &Mirror) -> impl Iterator<Item = Document> {
    mirror.released().map(|name| without_addresses(&name.namespace, &name.name))
}

/// Whether a Service says other addresses, or another pool, than it was allocated, and in that case a number for what it says: somebody else
/// has written there.
pub fn says_otherwise(key: &ObjectKey, settled: &Settled) -> Option<u64> {
    let name = key.object_name();
    let service = settled.snapshot.services.get(&name).filter(|_| key.kind == "Service")?;
    let allocation = &settled.allocation;
    let addresses = allocation.addresses.get(&name).map_or(&[][..], Vec::as_slice);
    let pool = allocation.pools.get(&name);
    let is_said = service.ingress == addresses && (pool.is_none() || service.held_pool.as_ref() == pool);
    (!is_said).then(|| {
        let mut hasher = DefaultHasher::new();
        (&service.ingress, &service.held_pool).hash(&mut hasher);
        hasher.finish()
    })
}

fn without_addresses(namespace: &str, name: &str) -> Document {
    let value = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "status": {"loadBalancer": {}},
    });
    document(CONTROLLER, "Service", namespace, name, value)
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
