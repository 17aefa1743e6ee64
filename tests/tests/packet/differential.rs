//! The same packets through the decision on the host and in the kernel: same action, same bytes, same memory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use lb_agent::dataplane::{Entry, LinkMode};
use lb_core::liveness::PROBE_PORT;
use magnetite_tests::{
    fixture::{
        BOTH, CLIENT, CLIENT4, CLIENT6, ELSEWHERE, HERE, KERNEL, NO_ENDPOINTS, NODE, NODE4, NODE6,
        OFF_SEGMENT, OTHER_VIP4, PEER, PEER4, POD_PORT, POD4, POD6, SPREAD_VIP4, SPREAD_VIP6, UNKNOWN, VIP4,
        VIP6, VLAN, VLAN_NODE, VLAN_PEER, vlan_ops,
    },
    frames::{
        Flags, Way, arp_reply, arp_request, echo_request, neighbour_advertisement, neighbour_solicitation,
        probe, tcp, udp, with_tag,
    },
};

use crate::{
    Test,
    machine::{HostNode, Machine},
    node::Node,
};

pub fn trials() -> Vec<Test> {
    vec![
        ("random packets: host and program agree", || agree(LinkMode::Native, 1)),
        ("random packets: host and program with frags agree", || agree(LinkMode::NativeFrags, 2)),
    ]
}

const PACKETS: usize = 20_000;

fn agree(mode: LinkMode, seed: u64) -> Result<()> {
    let mut node = Node::new()?;
    let mut host = HostNode::new();
    for op in vlan_ops() {
        node.apply(&op)?;
        host.apply(&op)?;
    }
    let mut random = fastrand::Rng::with_seed(seed);
    for number in 0..PACKETS {
        let (entry, frame) = random_frame(&mut random, mode);
        let outcome = node.run(entry, &frame)?;
        let expected = host.run(entry, &frame)?;
        ensure!(
            outcome == expected,
            "packet {number} of seed {seed}, {entry:?} {frame:02x?}\nprogram {outcome:02x?}\nhost {expected:02x?}"
        );
    }
    ensure!(node.claims()? == host.claims()?, "EVENTS differ");
    for vip in [IpAddr::from(VIP4), OTHER_VIP4.into(), VIP6.into()] {
        ensure!(node.vip(vip)? == host.vip(vip)?, "VIPS differ");
    }
    let tables = node.dataplane().tables();
    let mut conns = tables.conns()?;
    conns.values_mut().for_each(|conn| conn.time = 0);
    ensure!(conns == host.maps().conns, "CONNS differ");
    let mut reverse = tables.reverse()?;
    reverse.values_mut().for_each(|reverse| reverse.time = 0);
    ensure!(reverse == host.maps().reverse, "REVERSE differ");
    ensure!(node.clients()? == host.clients()?, "CLIENTS differ");
    Ok(())
}

fn random_frame(random: &mut fastrand::Rng, mode: LinkMode) -> (Entry, Vec<u8>) {
    let (is_reply, way) = random_way(random);
    let length = random.usize(..40);
    let payload: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
    let mut frame = match random.u8(..20) {
        0 => {
            let sender = Ipv4Addr::from_bits(CLIENT4.to_bits() + u32::from(random.u8(..8)));
            let sender = *pick(random, &[sender, sender, Ipv4Addr::UNSPECIFIED]);
            arp_request(CLIENT, sender, *pick(random, &[VIP4, OTHER_VIP4, PEER4, SPREAD_VIP4, SPREAD_VIP4]))
        }
        1 => {
            let sender = Ipv6Addr::from_bits(CLIENT6.to_bits() + u128::from(random.u8(..8)));
            let target = *pick(random, &[VIP6, CLIENT6, SPREAD_VIP6, SPREAD_VIP6]);
            neighbour_solicitation(CLIENT, sender, target, random.bool())
        }
        4 => neighbour_advertisement(
            *pick(random, &[CLIENT, PEER, NODE]),
            VIP6,
            *pick(random, &[VIP6, CLIENT6]),
        ),
        5 => random_arp(random),
        2 => echo_request(&way, &payload),
        3 => {
            let own: (IpAddr, IpAddr) = if way.addresses.0.is_ipv4() {
                (PEER4.into(), NODE4.into())
            } else {
                (CLIENT6.into(), NODE6.into())
            };
            let asked = Way { addresses: own, ports: (way.ports.0, PROBE_PORT), ..way };
            probe(&asked, *pick(random, &[*b"MgPr", *b"MgPr", *b"MgPx"]), random.u64(..))
        }
        6..9 => udp(&way, &payload),
        _ => {
            let [syn, ack, fin, rst] = [(); 4].map(|()| random.u8(..4) == 0);
            tcp(&way, Flags { syn, ack, fin, rst }, &payload)
        }
    };
    // One in four has a tag, and one in four of these another.
    for _ in 0..2 {
        if random.u8(..4) != 0 {
            break;
        }
        let vlan = *pick(random, &[VLAN, VLAN, VLAN, VLAN + 1, 0]);
        let ether_type = *pick(random, &[0x8100, 0x8100, 0x8100, 0x8100, 0x88a8]);
        frame = with_tag(&frame, ether_type, u16::from(random.u8(..8)) << 13 | vlan);
    }
    // One in four is damaged: a byte of the headers, or the end.
    match random.u8(..8) {
        0 => {
            let at = random.usize(..frame.len().min(80));
            frame[at] = random.u8(..);
        }
        // The kernel makes no socket buffer of less than an IP header.
        1 if is_reply => frame.truncate(random.usize(14 + 40..=frame.len().max(14 + 40))),
        1 => frame.truncate(random.usize(14..=frame.len())),
        _ => {}
    }
    let entry = if is_reply { Entry::Departure } else { Entry::Arrival(mode) };
    (entry, frame)
}

/// Questions, answers and announcements, of and for VIPs.
fn random_arp(random: &mut fastrand::Rng) -> Vec<u8> {
    let mac = *pick(random, &[CLIENT, PEER, NODE]);
    let sender = *pick(random, &[CLIENT4, VIP4, OTHER_VIP4, Ipv4Addr::UNSPECIFIED]);
    let target = *pick(random, &[VIP4, OTHER_VIP4, PEER4]);
    if random.bool() { arp_request(mac, sender, target) } else { arp_reply(mac, sender, (NODE, target)) }
}

/// Few clients, so that many packets belong to known connections.
fn random_way(random: &mut fastrand::Rng) -> (bool, Way) {
    let client_port = 40_000 + random.u16(..32);
    let v4 = random.bool();
    let client: IpAddr = if v4 { CLIENT4.into() } else { CLIENT6.into() };
    let ttl = *pick(random, &[64, 64, 64, 2, 1]);
    if random.u8(..4) == 0 {
        let pod: IpAddr = if v4 { POD4.into() } else { POD6.into() };
        let way = Way { macs: (NODE, CLIENT), addresses: (pod, client), ports: (POD_PORT, client_port), ttl };
        return (true, way);
    }
    let vip: IpAddr =
        if v4 { *pick(random, &[VIP4.into(), VIP4.into(), OTHER_VIP4.into()]) } else { VIP6.into() };
    let ports = [HERE, ELSEWHERE, BOTH, BOTH, KERNEL, NO_ENDPOINTS, OFF_SEGMENT, UNKNOWN];
    let macs = [(CLIENT, NODE), (CLIENT, NODE), (PEER, NODE), (CLIENT, PEER)];
    let macs_of_vlan =
        [(CLIENT, VLAN_NODE), (CLIENT, VLAN_NODE), (VLAN_PEER, VLAN_NODE), (CLIENT, VLAN_PEER)];
    let macs = if random.u8(..4) == 0 { &macs_of_vlan } else { &macs };
    let macs = *pick(random, macs);
    let source = if v4 && random.u8(..16) == 0 { PEER4.into() } else { client };
    (false, Way { macs, addresses: (source, vip), ports: (client_port, *pick(random, &ports)), ttl })
}

fn pick<'a, T>(random: &mut fastrand::Rng, choices: &'a [T]) -> &'a T {
    &choices[random.usize(..choices.len())]
}
