//! Objects for tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU16,
};

use ipnet::IpNet;

use super::{
    AddressRange, Echo, Endpoint, EndpointCondition, Family, FamilyPolicy, Forwarding, Labels, Node,
    NodeLink, NodeName, ObjectName, Pool, Protocol, Service, ServicePort, TrafficPolicy,
};

/// In namespace `default`.
pub fn name(name: &str) -> ObjectName {
    ObjectName { namespace: "default".into(), name: name.into() }
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

/// One port 80/TCP, no endpoints, IPv4.
pub fn service() -> Service {
    Service {
        created: None,
        labels: Labels::new(),
        families: vec![Family::V4],
        family_policy: FamilyPolicy::SingleStack,
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: NonZeroU16::MIN.saturating_add(79),
        }],
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

/// A ready endpoint, port 8080.
pub fn endpoint(address: IpAddr, node: &str) -> Endpoint {
    Endpoint {
        address,
        port: NonZeroU16::MIN.saturating_add(8079),
        node: Some(NodeName(node.into())),
        condition: EndpointCondition::Ready,
    }
}

/// A link that is a NIC.
pub fn nic(ifindex: u32, mac: [u8; 6], prefixes: BTreeSet<IpNet>) -> NodeLink {
    NodeLink { ifindex, device: ifindex, ports: BTreeSet::new(), vlan: 0, mac, mtu: 1500, prefixes }
}

/// A node with one address.
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
