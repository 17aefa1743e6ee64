//! A node of a small cluster, as map contents: this node, one peer, and a service for every way a packet can go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{
    hash::HashKey,
    layout::{
        ALGORITHM_VERSION, Addr, Backend, CANDIDATES, Config, Link, LinkKey, LocalPort, LocalPortKey,
        MAX_SEGMENTS, Mac, NO_CANDIDATE, Neighbour, Peer, PeerKey, Port, Row, SHARES, Service, ServiceId,
        ServiceKey, Source, SourceKey, Spread, SpreadKey, Vip, backend_state, link_mode, node_state, reach,
        service_flags, vip_flags,
    },
    packet::protocol,
};
use lb_core::{
    liveness::PROBE_PORT,
    maps::{Op, Sizes},
};

/// This node's MAC.
pub const NODE: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The peer's MAC.
pub const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// A client's MAC.
pub const CLIENT: [u8; 6] = [2, 0, 0, 0, 1, 1];
/// The interface that test runs come in by: loopback.
pub const IFINDEX: u32 = 1;

/// VIP that this node owns.
pub const VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// VIP that the peer owns, and that does not answer echo requests.
pub const OTHER_VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// VIP that both nodes own, each for a part of its clients.
pub const SPREAD_VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
/// VIP that both nodes own, each for a part of its clients.
pub const SPREAD_VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 3);
/// VIP that this node owns.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1);
/// A client.
pub const CLIENT4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// A client.
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 7);
/// This node's own address.
pub const NODE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
/// This node's own address.
pub const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x11);
/// The peer's own address.
pub const PEER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 12);
/// A pod of this node.
pub const POD4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
/// A pod of this node.
pub const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5);
/// Port of all pods.
pub const POD_PORT: u16 = 8080;

/// Port whose only backend is on this node.
pub const HERE: u16 = 80;
/// Port whose only backend is on the peer.
pub const ELSEWHERE: u16 = 81;
/// Port that is left to the kernel.
pub const KERNEL: u16 = 82;
/// Port without endpoints.
pub const NO_ENDPOINTS: u16 = 83;
/// Port whose rows name both nodes, this one first in half of them.
pub const BOTH: u16 = 84;
/// Port whose only backend is on a node without a leg in the segment.
pub const OFF_SEGMENT: u16 = 85;
/// Port that no service has.
pub const UNKNOWN: u16 = 86;

/// Place in `BACKENDS` of a service's pod on a node.
pub fn backend_of(vip: IpAddr, protocol: u8, port: u16, node: u32) -> u32 {
    let key = ServiceKey { address: vip.into(), port: Port::new(port), protocol, pad: 0 };
    let offset = ops().into_iter().find_map(|op| match op {
        Op::SetService(known, service) if known == key => Some(service.backend_offset),
        _ => None,
    });
    offset.map_or(u32::MAX, |offset| offset + node)
}

/// Sizes that a test needs.
pub fn sizes() -> Sizes {
    Sizes {
        links: 4,
        nodes: 4,
        peers: 16,
        vips: 16,
        spread: 16,
        clients: 64,
        services: 64,
        table: 1024,
        backends: 256,
        flow_lines: 64,
        conns: 1 << 16,
        local_ports: 64,
        sources: 16,
        vip_stats: 17,
        service_stats: 64,
        backend_stats: 256,
    }
}

/// What puts the fixture into empty maps.
pub fn ops() -> Vec<Op> {
    let mut ops = vec![
        Op::SetConfig(Config {
            flow_key: HashKey::expand([1, 2, 3, 4]),
            row_key: HashKey::expand([5, 6, 7, 8]),
            node: 0,
            algorithm: ALGORITHM_VERSION,
            flow_lines: sizes().flow_lines,
            tick_shift: 20,
            udp_idle: 120,
            udp_unanswered_idle: 30,
            closing_idle: 10,
            echo_limit: u32::MAX,
            flow_queues: 1,
            pad: 0,
        }),
        Op::SetLink(
            LinkKey { ifindex: IFINDEX, vlan: 0 },
            Link { segment: 0, mac: NODE.into(), mode: link_mode::NATIVE, flags: 0 },
        ),
        Op::SetPeer(PeerKey { segment: 0, mac: PEER.into() }, Peer { node: 1 }),
        Op::SetSource(source(PEER4.into(), 128), Source { allow: 1 }),
    ];
    for (node, mac, reach) in [(0, NODE, reach::SELF), (1, PEER, reach::SEGMENT)] {
        let neighbour = Neighbour {
            mac: Mac::from(mac),
            reach,
            state: node_state::READY,
            dsr_capable: 1,
            ..Neighbour::default()
        };
        ops.push(Op::WriteNeighbours { offset: node * MAX_SEGMENTS, neighbours: vec![neighbour] });
    }
    services(&mut ops);
    for (address, owned, flags, stats) in [
        (IpAddr::from(VIP4), 1, vip_flags::ECHO, 1),
        (VIP6.into(), 1, vip_flags::ECHO, 2),
        (OTHER_VIP4.into(), 0, 0, 3),
        (SPREAD_VIP4.into(), 1, vip_flags::SPREAD, 4),
        (SPREAD_VIP6.into(), 1, vip_flags::SPREAD, 5),
    ] {
        ops.push(Op::SetVip(address.into(), Vip { announced: 1, owned, flags, stats }));
    }
    for vip in [Addr::from(SPREAD_VIP4), SPREAD_VIP6.into()] {
        let mut own = Spread::default();
        (0..SHARES).filter(|share| is_own_share(*share)).for_each(|share| own.add(share));
        ops.push(Op::SetSpread(SpreadKey { vip, segment: 0 }, own));
    }
    ops
}

/// A VLAN of the interface.
pub const VLAN: u16 = 100;
/// This node's MAC in the VLAN.
pub const VLAN_NODE: [u8; 6] = [2, 0, 0, 0, 100, 1];
/// The peer's MAC in the VLAN.
pub const VLAN_PEER: [u8; 6] = [2, 0, 0, 0, 100, 2];
/// The VLAN's segment.
pub const VLAN_SEGMENT: u16 = 1;

/// What puts a link of the VLAN beside the fixture's: a segment of its own, in which this node owns the VIPs that it owns elsewhere.
pub fn vlan_ops() -> Vec<Op> {
    let segment = VLAN_SEGMENT;
    let key = LinkKey { ifindex: IFINDEX, vlan: u32::from(VLAN) };
    let mut ops = vec![
        Op::SetLink(key, Link { segment, mac: VLAN_NODE.into(), mode: link_mode::NATIVE, flags: 0 }),
        Op::SetPeer(PeerKey { segment, mac: VLAN_PEER.into() }, Peer { node: 1 }),
    ];
    for (node, mac, reach) in [(0, VLAN_NODE, reach::SELF), (1, VLAN_PEER, reach::SEGMENT)] {
        let state = node_state::READY;
        let neighbour =
            Neighbour { mac: Mac::from(mac), reach, state, dsr_capable: 1, ..Neighbour::default() };
        let offset = node * MAX_SEGMENTS + u32::from(segment);
        ops.push(Op::WriteNeighbours { offset, neighbours: vec![neighbour] });
    }
    let spread = self::ops().into_iter().filter_map(|op| match op {
        Op::SetVip(address, vip) => {
            Some(Op::SetVip(address, Vip { announced: 0b11, owned: vip.owned * 0b11, ..vip }))
        }
        Op::SetSpread(key, own) => Some(Op::SetSpread(SpreadKey { segment: u32::from(segment), ..key }, own)),
        _ => None,
    });
    ops.extend(spread);
    ops
}

/// Whether this node has the share of a spread VIP: every third is the peer's.
pub fn is_own_share(share: u32) -> bool {
    !share.is_multiple_of(3)
}

fn services(ops: &mut Vec<Op>) {
    for own in [IpAddr::from(NODE4), NODE6.into()] {
        let (address, port) = (own.into(), Port::new(PROBE_PORT));
        let key = ServiceKey { address, port, protocol: protocol::UDP, pad: 0 };
        ops.push(Op::SetService(key, Service { flags: service_flags::PROBE, ..Service::default() }));
    }
    // Places 0 and 1 of each service are a pod here and one on the peer, place 2 is on a node that is nowhere.
    let ports = [
        (HERE, [0, NO_CANDIDATE], 0),
        (ELSEWHERE, [1, NO_CANDIDATE], 0),
        (KERNEL, [0, NO_CANDIDATE], service_flags::KERNEL),
        (NO_ENDPOINTS, [NO_CANDIDATE; 2], service_flags::NO_ENDPOINTS),
        (BOTH, [0, 1], 0),
        (OFF_SEGMENT, [2, NO_CANDIDATE], 0),
    ];
    let mut index = 0_u16;
    for vip in [IpAddr::from(VIP4), VIP6.into()] {
        for protocol in [protocol::TCP, protocol::UDP] {
            for (port, [first, second], flags) in ports {
                index += 1;
                let (offset, backend_offset) = (u32::from(index) * 4, u32::from(index) * 4);
                let rows = (0..4).map(|slot| {
                    let mut candidates = [NO_CANDIDATE; CANDIDATES];
                    let swap = port == BOTH && slot % 2 == 1;
                    [candidates[0], candidates[1]] = if swap { [second, first] } else { [first, second] };
                    Row { candidates }
                });
                let backends = (0..3).map(|node| backend(vip, node)).collect();
                ops.push(Op::WriteBackends { offset: backend_offset, backends });
                ops.push(Op::WriteRows { offset, rows: rows.collect() });
                let address = Addr::from(vip);
                ops.push(Op::SetService(
                    ServiceKey { address, port: Port::new(port), protocol, pad: 0 },
                    Service {
                        id: ServiceId::new(index, 1),
                        table_offset: offset,
                        table_length: 4,
                        backend_offset,
                        backend_length: 4,
                        flags,
                    },
                ));
            }
            let pod: IpAddr = if vip.is_ipv4() { POD4.into() } else { POD6.into() };
            let key = LocalPortKey { address: pod.into(), port: Port::new(POD_PORT), protocol, pad: 0 };
            ops.push(Op::SetLocalPort(key, LocalPort { services: 1 }));
        }
    }
}

/// The pod of a node: its address ends with 5 + node.
fn backend(vip: IpAddr, node: u16) -> Backend {
    let address: IpAddr = if vip.is_ipv4() {
        Ipv4Addr::from_bits(POD4.to_bits() + u32::from(node)).into()
    } else {
        Ipv6Addr::from_bits(POD6.to_bits() + u128::from(node)).into()
    };
    Backend {
        address: address.into(),
        port: Port::new(POD_PORT),
        node,
        state: backend_state::READY,
        generation: 1,
        pad: 0,
        since: 0,
    }
}

fn source(address: IpAddr, bits: u32) -> SourceKey {
    SourceKey { prefix_length: 32 + bits, service: 0, address: address.into() }
}
