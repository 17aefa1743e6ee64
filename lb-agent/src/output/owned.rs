//! Which addresses this node answers for, as nodes stand.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_api::Settled;
use lb_common::layout::Addr;
use lb_core::{armed::Armed, claims::Report, liveness::Standing, model::ObjectName};

/// Addresses that this node owns, by Service, with the segments in which it does. An address that Services share is each one's.
pub type Owned = BTreeMap<ObjectName, BTreeMap<IpAddr, BTreeSet<String>>>;

/// What this node owns as nodes stand, without what it withholds because of others' claims.
pub fn owned(settled: &Settled, armed: &Armed, standing: &Standing, claims: &Report) -> Owned {
    let mut owned = Owned::new();
    let bits: BTreeMap<Addr, u32> = armed.vips(standing).map(|(address, vip)| (address, vip.owned)).collect();
    for (service, addresses) in &settled.allocation.addresses {
        for address in addresses {
            let bits = bits.get(&(*address).into()).copied().unwrap_or(0);
            let ours = armed.segments.iter().filter(|(place, _)| {
                bits >> **place & 1 == 1 && !claims.withheld.contains_key(&((*address).into(), **place))
            });
            let segments: BTreeSet<String> = ours.map(|(_, segment)| segment.name.clone()).collect();
            if !segments.is_empty() {
                owned.entry(service.clone()).or_default().insert(*address, segments);
            }
        }
    }
    owned
}
