//! Objects to begin with.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU16,
};

use lb_core::model::{
    AddressRange, Echo, Family, FamilyPolicy, Forwarding, Labels, Node, ObjectName, Pool, Protocol, Service,
    ServicePort, Snapshot, TrafficPolicy,
};

/// In namespace `default`.
pub fn name(name: &str) -> ObjectName {
    ObjectName { namespace: "default".into(), name: name.into() }
}

pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// Of ranges `a-b`, with commas between.
pub fn pool(ranges: &str) -> Pool {
    let range = |text: &str| {
        let (first, last) = text.split_once('-')?;
        AddressRange::new(first.parse().ok()?, last.parse().ok()?)
    };
    Pool {
        labels: Labels::new(),
        ranges: ranges.split(',').filter_map(range).collect(),
        auto_assign: true,
        avoid_buggy: false,
        service_allocation: None,
    }
}

/// With port 80/TCP, of IPv4.
pub fn service() -> Service {
    Service {
        created: None,
        labels: Labels::new(),
        families: vec![Family::V4],
        family_policy: FamilyPolicy::SingleStack,
        ports: vec![ServicePort { name: String::new(), protocol: Protocol::Tcp, port: port(80) }],
        sctp_ports: BTreeSet::new(),
        selector: Labels::new(),
        policy: TrafficPolicy::Cluster,
        client_ip_affinity: false,
        sources: BTreeSet::new(),
        requested: Vec::new(),
        requested_pool: None,
        sharing_key: String::new(),
        ingress: Vec::new(),
        held_pool: None,
        forwarding: Forwarding::Auto,
        echo: Echo::Always,
        table_size: None,
        table_grown: None,
        l2: None,
        endpoints: vec![BTreeSet::new()],
    }
}

/// Of both families, IPv6 first.
pub fn dual(family_policy: FamilyPolicy) -> Service {
    Service { families: vec![Family::V6, Family::V4], family_policy, ..service() }
}

/// That has addresses, given from a pool or by somebody else.
pub fn held(addresses: &[&str], pool: Option<&str>) -> Service {
    let ingress = addresses.iter().map(|text| address(text)).collect();
    Service { ingress, held_pool: pool.map(str::to_owned), ..service() }
}

/// That shares by key, with a port of its own.
pub fn sharing(key: &str, number: u16) -> Service {
    let mut sharing = Service { sharing_key: key.to_owned(), ..service() };
    sharing.ports[0].port = port(number);
    sharing
}

pub fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::MIN.saturating_add(number - 1)
}

/// With one address.
pub fn node(address: IpAddr) -> Node {
    Node {
        labels: Labels::new(),
        addresses: vec![address],
        pod_cidrs: Vec::new(),
        excluded: false,
        network_unavailable: false,
        leaving: BTreeMap::new(),
    }
}

/// With pool `main`: four IPv4 addresses and two of IPv6.
pub fn snapshot(services: &[(&str, Service)]) -> Snapshot {
    with_pools(&[("main", pool("192.0.2.0-192.0.2.3,2001:db8::1-2001:db8::2"))], services)
}

pub fn with_pools(pools: &[(&str, Pool)], services: &[(&str, Service)]) -> Snapshot {
    Snapshot {
        services: services.iter().map(|(n, service)| (name(n), service.clone().into())).collect(),
        pools: pools.iter().map(|(name, pool)| ((*name).to_owned(), pool.clone())).collect(),
        ..Snapshot::default()
    }
}
