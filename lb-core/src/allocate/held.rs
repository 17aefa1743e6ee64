//! What Services have by their own status: for whoever follows a controller, and gives nothing.

use std::{collections::BTreeMap, net::IpAddr};

use super::Allocation;
use crate::model::{ObjectName, Pool, Service, Snapshot};

impl Allocation {
    /// Services with these names have what their status says, or nothing.
    ///
    /// An address is one of ours if a pool has it, or if the Service says of which pool it was ([`Service::held_pool`]): it is stranded
    /// then, and stays. Any other was given by somebody else (MetalLB: the speaker's reason `ipNotAllowed`).
    pub fn hold<'a>(&mut self, snapshot: &Snapshot, names: impl IntoIterator<Item = &'a ObjectName>) {
        for name in names {
            let held = snapshot.services.get(name).and_then(|service| held(&snapshot.pools, service));
            if let Some((addresses, pool)) = held {
                self.addresses.insert(name.clone(), addresses);
                self.pools.insert(name.clone(), pool);
            } else {
                self.addresses.remove(name);
                self.pools.remove(name);
            }
        }
    }
}

fn held(pools: &BTreeMap<String, Pool>, service: &Service) -> Option<(Vec<IpAddr>, String)> {
    let mut addresses = service.ingress.clone();
    addresses.sort_unstable();
    let has = |pool: &Pool| pool.ranges.iter().any(|range| addresses.iter().any(|a| range.contains(a)));
    let pool = pools.iter().find(|(_, pool)| has(pool)).map(|(name, _)| name);
    let pool = pool.or(service.held_pool.as_ref())?.clone();
    (!addresses.is_empty()).then_some((addresses, pool))
}
