//! Hand-made packets, and what must become of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use lb_common::{
    Reason,
    layout::{MAX_SEGMENTS, Neighbour, node_state, reach},
    packet::protocol,
};
use lb_core::{liveness::PROBE_PORT, maps::Op};
use magnetite_tests::{
    fixture::{
        BOTH, CLIENT, CLIENT4, CLIENT6, ELSEWHERE, HERE, KERNEL, NO_ENDPOINTS, NODE, NODE4, NODE6,
        OFF_SEGMENT, OTHER_VIP4, PEER, PEER4, POD_PORT, POD4, POD6, UNKNOWN, VIP4, VIP6, backend_of,
    },
    frames::{Flags, Way, arp_request, echo_request, neighbour_solicitation, probe, tcp, udp, way},
};

use crate::machine::{DROP, Machine, NEXT, Outcome, PASS, TX};

/// A case's name, and what it asks of a machine that has seen nothing yet.
pub type Case = (&'static str, fn(&mut dyn Machine) -> Result<()>);

pub fn cases() -> Vec<Case> {
    vec![
        ("arp request for an owned VIP is answered", arp_owned),
        ("arp request for another's VIP is dropped, for no VIP is passed", arp_not_owned),
        ("neighbour solicitation is answered with and without option", ndp_answered),
        ("duplicate address probe is answered to all nodes", ndp_probe),
        ("echo request is answered, or dropped where the VIP is silent", echo),
        ("a probe is answered with the state of the lease, and nothing else is", probe_answered),
        ("new connection is delivered to a pod here, and its reply leaves as the VIP", deliver_and_reply),
        ("new connection goes to the pod's node, and stays there", forward),
        ("a peer's new connection is delivered and never forwarded again", from_peer),
        ("the middle of an unknown connection walks to the other node, and ends here", walk),
        ("what is kept is used although its node is suspect or gone, and nothing else is", kept),
        ("what the kernel is to have passes as it is", kernel),
        ("frames for other MACs and of nodes' own traffic pass as they are", not_ours),
        ("a spent TTL is the kernel's to answer", ttl),
        ("lying and truncated packets pass as they are", malformed),
    ]
}

/// From the client to the VIP, in both families.
fn ways(port: u16) -> [Way; 2] {
    let way = |addresses| Way { macs: (CLIENT, NODE), addresses, ports: (40_000, port), ttl: 64 };
    [way((CLIENT4.into(), VIP4.into())), way((CLIENT6.into(), VIP6.into()))]
}

pub fn expect(node: &mut dyn Machine, outcome: &Outcome, action: u32, reason: Reason) -> Result<()> {
    let reasons = node.reasons()?;
    ensure!(reasons == [reason], "counted {reasons:?} instead of {reason:?}");
    ensure!(outcome.action == action, "action {} instead of {action}", outcome.action);
    Ok(())
}

pub fn untouched(node: &mut dyn Machine, frame: &[u8], action: u32, reason: Reason) -> Result<()> {
    let outcome = node.arrive(frame)?;
    expect(node, &outcome, action, reason)?;
    ensure!(outcome.frame == frame, "the frame was changed");
    Ok(())
}

fn arp_owned(node: &mut dyn Machine) -> Result<()> {
    let outcome = node.arrive(&arp_request(CLIENT, CLIENT4, VIP4))?;
    expect(node, &outcome, TX, Reason::ArpAnswered)?;
    let mut expected = [CLIENT.as_slice(), &NODE, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]].concat();
    expected.extend(NODE);
    expected.extend(VIP4.octets());
    expected.extend(CLIENT);
    expected.extend(CLIENT4.octets());
    expected.resize(60, 0);
    ensure!(outcome.frame == expected, "{:02x?}", outcome.frame);
    Ok(())
}

fn arp_not_owned(node: &mut dyn Machine) -> Result<()> {
    untouched(node, &arp_request(CLIENT, CLIENT4, OTHER_VIP4), DROP, Reason::NotOwner)?;
    for vip in [VIP4, OTHER_VIP4] {
        untouched(node, &arp_request(PEER, vip, vip), DROP, Reason::PeerAnnounced)?;
        untouched(node, &arp_request(CLIENT, vip, vip), DROP, Reason::ForeignClaim)?;
    }
    untouched(node, &arp_request(CLIENT, CLIENT4, PEER4), PASS, Reason::NotVip)
}

/// Who has the VIP, whom it is told to, flags of the advertisement, and the rest as RFC 4861 4.4 has it.
pub fn expect_advertisement(
    frame: &[u8],
    (mac, vip): ([u8; 6], Ipv6Addr),
    (to_mac, to): ([u8; 6], Ipv6Addr),
    flags: u8,
) -> Result<()> {
    ensure!(frame.len() == 14 + 40 + 32, "{} bytes", frame.len());
    ensure!(frame[..6] == to_mac && frame[6..12] == mac, "MACs {:02x?}", &frame[..12]);
    let packet = etherparse_icmpv6(frame)?;
    ensure!(packet.source == vip && packet.destination == to && packet.hop_limit == 255, "{packet:?}");
    let mut body = vec![flags, 0, 0, 0];
    body.extend(vip.octets());
    body.extend([2, 1]);
    body.extend(mac);
    ensure!(packet.kind == (136, 0) && packet.body == body, "{packet:02x?}");
    Ok(())
}

#[derive(Debug)]
struct Icmpv6Packet {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    hop_limit: u8,
    kind: (u8, u8),
    /// All behind the checksum.
    body: Vec<u8>,
}

/// Fails if the checksum is wrong.
fn etherparse_icmpv6(frame: &[u8]) -> Result<Icmpv6Packet> {
    let packet = etherparse::SlicedPacket::from_ethernet(frame)?;
    let Some(etherparse::NetSlice::Ipv6(ip)) = &packet.net else { anyhow::bail!("not IPv6") };
    let Some(etherparse::TransportSlice::Icmpv6(icmp)) = &packet.transport else {
        anyhow::bail!("not ICMPv6")
    };
    let header = ip.header();
    ensure!(icmp.is_checksum_valid(header.source(), header.destination()), "checksum");
    Ok(Icmpv6Packet {
        source: header.source().into(),
        destination: header.destination().into(),
        hop_limit: header.hop_limit(),
        kind: (icmp.type_u8(), icmp.code_u8()),
        body: icmp.slice()[4..].to_vec(),
    })
}

/// MAC and address.
pub const ALL_NODES: ([u8; 6], Ipv6Addr) =
    ([0x33, 0x33, 0, 0, 0, 1], Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
pub const SOLICITED_OVERRIDE: u8 = 0x60;
pub const OVERRIDE: u8 = 0x20;

fn ndp_answered(node: &mut dyn Machine) -> Result<()> {
    for option in [true, false] {
        let outcome = node.arrive(&neighbour_solicitation(CLIENT, CLIENT6, VIP6, option))?;
        expect(node, &outcome, TX, Reason::NdpAnswered)?;
        expect_advertisement(&outcome.frame, (NODE, VIP6), (CLIENT, CLIENT6), SOLICITED_OVERRIDE)?;
    }
    Ok(())
}

fn ndp_probe(node: &mut dyn Machine) -> Result<()> {
    let outcome = node.arrive(&neighbour_solicitation(CLIENT, Ipv6Addr::UNSPECIFIED, VIP6, false))?;
    expect(node, &outcome, TX, Reason::NdpAnswered)?;
    expect_advertisement(&outcome.frame, (NODE, VIP6), ALL_NODES, OVERRIDE)
}

fn echo(node: &mut dyn Machine) -> Result<()> {
    for way in ways(0) {
        let outcome = node.arrive(&echo_request(&way, b"0123456789"))?;
        expect(node, &outcome, TX, Reason::EchoAnswered)?;
        let packet = etherparse::SlicedPacket::from_ethernet(&outcome.frame)?;
        let holds = match (packet.net.context("IP")?, packet.transport.context("ICMP")?) {
            (etherparse::NetSlice::Ipv4(ip), etherparse::TransportSlice::Icmpv4(icmp)) => {
                let header = ip.header().to_header();
                ensure!(
                    (header.source, header.destination) == (VIP4.octets(), CLIENT4.octets()),
                    "{header:?}"
                );
                ensure!(header.calc_header_checksum() == header.header_checksum, "header checksum");
                let body = icmp.header().icmp_type;
                matches!(body, etherparse::Icmpv4Type::EchoReply(e) if e.id == 7 && e.seq == 1)
                    && etherparse::checksum::Sum16BitWords::new().add_slice(icmp.slice()).ones_complement()
                        == 0
            }
            (etherparse::NetSlice::Ipv6(_), etherparse::TransportSlice::Icmpv6(_)) => {
                let packet = etherparse_icmpv6(&outcome.frame)?;
                packet.kind == (129, 0) && packet.source == VIP6 && packet.destination == CLIENT6
            }
            _ => false,
        };
        ensure!(holds, "{:02x?}", outcome.frame);
    }
    let silent = Way { addresses: (CLIENT4.into(), OTHER_VIP4.into()), ..ways(0)[0] };
    untouched(node, &echo_request(&silent, &[]), DROP, Reason::EchoSilent)
}

fn probe_answered(node: &mut dyn Machine) -> Result<()> {
    const NONCE: u64 = 0x0123_4567_89ab_cdef;
    let to = |address: IpAddr, from: IpAddr| Way {
        macs: (PEER, NODE),
        addresses: (from, address),
        ports: (50_000, PROBE_PORT),
        ttl: 64,
    };
    let ways = [to(NODE4.into(), PEER4.into()), to(NODE6.into(), CLIENT6.into())];
    for (holds, lease) in [(false, 2), (true, 1)] {
        node.set_lease(holds)?;
        for asked in ways {
            let outcome = node.arrive(&probe(&asked, *b"MgPr", NONCE))?;
            expect(node, &outcome, TX, Reason::ProbeAnswered)?;
            let back = Way {
                macs: (NODE, PEER),
                addresses: (asked.addresses.1, asked.addresses.0),
                ports: (PROBE_PORT, 50_000),
                ttl: 64,
            };
            ensure!(way(&outcome.frame) == Some(back), "{:?}", way(&outcome.frame));
            let expected = [b"MgPr".as_slice(), &[2, lease, 0, 0], &NONCE.to_ne_bytes()].concat();
            ensure!(outcome.frame.ends_with(&expected), "{:02x?}", outcome.frame);
        }
    }
    for asked in ways {
        for (frame, what) in [
            (udp(&asked, &[0; 1_400]), "a flood"),
            (udp(&asked, b""), "nothing"),
            (probe(&asked, *b"MgPx", NONCE), "another magic"),
        ] {
            let outcome = node.arrive(&frame)?;
            let reasons = node.reasons()?;
            ensure!(reasons == [Reason::ProbeAnswered, Reason::RewriteFailed], "{what}: {reasons:?}");
            ensure!(outcome.action == DROP && outcome.frame == frame, "{what}: {outcome:?}");
        }
        let elsewhere = Way { macs: (PEER, CLIENT), ..asked };
        untouched(node, &probe(&elsewhere, *b"MgPr", NONCE), PASS, Reason::NotOurMac)?;
    }
    Ok(())
}

fn deliver_and_reply(node: &mut dyn Machine) -> Result<()> {
    for way_in in ways(HERE) {
        let pod: IpAddr = if way_in.addresses.0.is_ipv4() { POD4.into() } else { POD6.into() };
        let delivered =
            Way { addresses: (way_in.addresses.0, pod), ports: (way_in.ports.0, POD_PORT), ..way_in };
        let reply = Way {
            macs: (NODE, CLIENT),
            addresses: (pod, way_in.addresses.0),
            ports: (POD_PORT, way_in.ports.0),
            ttl: 63,
        };
        let restored =
            Way { addresses: (way_in.addresses.1, reply.addresses.1), ports: (HERE, reply.ports.1), ..reply };

        for (frame, reason) in [
            (tcp(&way_in, Flags::SYN, &[]), Reason::NewDelivered),
            (tcp(&way_in, Flags::ACK, b"odd"), Reason::ConnDelivered),
            (udp(&way_in, b"odd"), Reason::NewDelivered),
            (udp(&way_in, b"even"), Reason::ConnDelivered),
        ] {
            let outcome = node.arrive(&frame)?;
            expect(node, &outcome, PASS, reason)?;
            ensure!(way(&outcome.frame) == Some(delivered), "{:?}", way(&outcome.frame));
        }
        for frame in [tcp(&reply, Flags::SYN_ACK, &[]), udp(&reply, b"odd")] {
            let outcome = node.leave(&frame)?;
            expect(node, &outcome, NEXT, Reason::ReplyRestored)?;
            ensure!(way(&outcome.frame) == Some(restored), "{:?}", way(&outcome.frame));
        }
        let other = Way { ports: (POD_PORT, 41_000), ..reply };
        let outcome = node.leave(&tcp(&other, Flags::ACK, &[]))?;
        expect(node, &outcome, NEXT, Reason::ReplyUnknown)?;
        ensure!(way(&outcome.frame) == Some(other), "a pod's other traffic was changed");
    }
    Ok(())
}

fn forward(node: &mut dyn Machine) -> Result<()> {
    for way_in in ways(ELSEWHERE) {
        let forwarded = Way { macs: (NODE, PEER), ttl: 63, ..way_in };
        for (frame, reason) in [
            (tcp(&way_in, Flags::SYN, &[]), Reason::NewForwarded),
            (tcp(&way_in, Flags::ACK, b"odd"), Reason::FlowForwarded),
            (udp(&way_in, b"odd"), Reason::NewForwarded),
            (udp(&way_in, b"even"), Reason::FlowForwarded),
        ] {
            let outcome = node.arrive(&frame)?;
            expect(node, &outcome, TX, reason)?;
            ensure!(way(&outcome.frame) == Some(forwarded), "{:?}", way(&outcome.frame));
        }
    }
    Ok(())
}

fn from_peer(node: &mut dyn Machine) -> Result<()> {
    for way_in in ways(BOTH) {
        let from_peer = Way { macs: (PEER, NODE), ..way_in };
        let outcome = node.arrive(&tcp(&from_peer, Flags::SYN, &[]))?;
        expect(node, &outcome, PASS, Reason::PeerDelivered)?;
        let to = way(&outcome.frame).context("a valid packet")?;
        ensure!(to.ports.1 == POD_PORT && to.macs == from_peer.macs, "{to:?}");
    }
    for way_in in ways(ELSEWHERE) {
        let from_peer = Way { macs: (PEER, NODE), ..way_in };
        untouched(node, &tcp(&from_peer, Flags::SYN, &[]), PASS, Reason::PeerNoCandidate)?;
    }
    Ok(())
}

fn walk(node: &mut dyn Machine) -> Result<()> {
    for way_in in ways(BOTH) {
        let outcome = node.arrive(&tcp(&way_in, Flags::ACK, &[]))?;
        expect(node, &outcome, TX, Reason::Walked)?;
        let walked = Way { macs: (NODE, PEER), ttl: 16, ..way_in };
        ensure!(way(&outcome.frame) == Some(walked), "{:?}", way(&outcome.frame));

        let back = Way { macs: (PEER, NODE), ttl: 16, ..way_in };
        let outcome = node.arrive(&tcp(&back, Flags::ACK, &[]))?;
        expect(node, &outcome, PASS, Reason::WalkEnded)?;
        ensure!(way(&outcome.frame).is_some_and(|way| way.ports.1 == POD_PORT), "{:?}", way(&outcome.frame));
    }
    Ok(())
}

/// Of 16 new flows, those that go to the peer.
fn to_peer(node: &mut dyn Machine, first_port: u16) -> Result<Vec<Way>> {
    let mut forwarded = Vec::new();
    for port in first_port..first_port + 16 {
        let way_in = Way { ports: (port, BOTH), ..ways(BOTH)[0] };
        let outcome = node.arrive(&tcp(&way_in, Flags::SYN, &[]))?;
        if node.reasons()? == [Reason::NewForwarded] {
            ensure!(outcome.action == TX, "action {}", outcome.action);
            forwarded.push(way_in);
        }
    }
    Ok(forwarded)
}

fn kept(node: &mut dyn Machine) -> Result<()> {
    let peer_is = |state| {
        let entry =
            Neighbour { mac: PEER.into(), reach: reach::SEGMENT, dsr_capable: 1, ..Neighbour::default() };
        Op::WriteNeighbours { offset: MAX_SEGMENTS, neighbours: vec![Neighbour { state, ..entry }] }
    };
    let of_peer = backend_of(VIP4.into(), protocol::TCP, BOTH, 1);
    let mut ports = (10_000..).step_by(16);
    let mut next_ports = || ports.next().context("ports");
    let known = to_peer(node, next_ports()?)?;
    let Some(first) = known.first() else { anyhow::bail!("nothing goes to the peer") };
    ensure!(known.len() < 16, "everything goes to the peer");

    for state in [node_state::SUSPECT, node_state::GONE] {
        node.apply(&peer_is(state))?;
        // In another segment alone, and of a backend here: neither is this one.
        for (backend, segments) in [(of_peer, 0), (of_peer - 1, 1), (of_peer, 2)] {
            node.keep(backend, segments)?;
            ensure!(to_peer(node, next_ports()?)?.is_empty(), "the peer is not avoided");
        }
        node.keep(of_peer, 1)?;
        ensure!(!to_peer(node, next_ports()?)?.is_empty(), "the peer is avoided");
        let outcome = node.arrive(&tcp(first, Flags::SYN, &[]))?;
        expect(node, &outcome, TX, Reason::FlowForwarded)?;
        node.keep(of_peer, 0)?;
    }

    // What has begun with a node that is gone is given up, unless it is kept.
    for (segments, reason) in [(0, Reason::WalkEnded), (1, Reason::FlowForwarded)] {
        node.keep(of_peer, segments)?;
        node.arrive(&tcp(first, Flags::ACK, &[]))?;
        let reasons = node.reasons()?;
        ensure!(reasons == [reason], "{reasons:?} instead of {reason:?} with {segments}");
    }
    let other = Way { ports: (50_000, BOTH), ..*first };
    for (segments, reason) in [(0, Reason::WalkEnded), (1, Reason::Walked)] {
        node.keep(of_peer, segments)?;
        node.arrive(&tcp(&other, Flags::ACK, &[]))?;
        let reasons = node.reasons()?;
        ensure!(reasons == [reason], "{reasons:?} instead of {reason:?} with {segments}");
    }
    Ok(())
}

fn kernel(node: &mut dyn Machine) -> Result<()> {
    for (port, first, later) in [
        (KERNEL, Reason::ServiceKernel, Reason::ConnKernel),
        (NO_ENDPOINTS, Reason::NoEndpoints, Reason::NoEndpoints),
        (OFF_SEGMENT, Reason::NotCapable, Reason::ConnKernel),
    ] {
        for way_in in ways(port) {
            untouched(node, &tcp(&way_in, Flags::SYN, &[]), PASS, first)?;
            untouched(node, &tcp(&way_in, Flags::ACK, &[]), PASS, later)?;
        }
    }
    Ok(())
}

fn not_ours(node: &mut dyn Machine) -> Result<()> {
    let [v4, _] = ways(HERE);
    let other_mac = Way { macs: (CLIENT, PEER), ..v4 };
    untouched(node, &tcp(&other_mac, Flags::SYN, &[]), PASS, Reason::NotOurMac)?;
    let own_traffic = Way { macs: (PEER, NODE), addresses: (PEER4.into(), VIP4.into()), ..v4 };
    untouched(node, &tcp(&own_traffic, Flags::SYN, &[]), PASS, Reason::PeerOwnTraffic)?;
    let elsewhere = Way { addresses: (CLIENT4.into(), Ipv4Addr::new(192, 0, 2, 99).into()), ..v4 };
    untouched(node, &tcp(&elsewhere, Flags::SYN, &[]), PASS, Reason::NotVip)?;
    let unknown = Way { ports: (40_000, UNKNOWN), ..v4 };
    untouched(node, &tcp(&unknown, Flags::SYN, &[]), DROP, Reason::NoSuchPort)
}

fn ttl(node: &mut dyn Machine) -> Result<()> {
    for way_in in ways(ELSEWHERE) {
        let spent = Way { ttl: 1, ..way_in };
        untouched(node, &tcp(&spent, Flags::SYN, &[]), PASS, Reason::TtlExceeded)?;
    }
    Ok(())
}

fn malformed(node: &mut dyn Machine) -> Result<()> {
    let [v4, v6] = ways(HERE);
    let tcp4 = tcp(&v4, Flags::SYN, &[]);
    let change = |frame: &[u8], at: usize, value: u8| {
        let mut frame = frame.to_vec();
        frame[at] = value;
        frame
    };
    let lies = [
        ("cut in the TCP header", tcp4[..14 + 20 + 12].to_vec()),
        ("header length below 5", change(&tcp4, 14, 0x44)),
        ("header length beyond the packet", change(&tcp4, 14, 0x4f)),
        ("total length beyond the frame", change(&tcp4, 16, 1)),
        ("data offset beyond the packet", change(&tcp4, 14 + 20 + 12, 0xf0)),
        ("data offset below 5", change(&tcp4, 14 + 20 + 12, 0x40)),
        ("UDP length beyond the packet", change(&udp(&v4, b"abc"), 14 + 20 + 4, 1)),
        ("IPv6 payload length beyond the frame", change(&tcp(&v6, Flags::SYN, &[]), 18, 1)),
        ("version 5", change(&tcp4, 14, 0x55)),
    ];
    for (lie, frame) in lies {
        untouched(node, &frame, PASS, Reason::Malformed).context(lie)?;
    }
    let fragment = change(&tcp4, 20, 0x20);
    untouched(node, &fragment, PASS, Reason::Fragment)?;
    let hop_by_hop = change(&tcp(&v6, Flags::SYN, &[]), 20, 0);
    untouched(node, &hop_by_hop, PASS, Reason::ExtensionHeader)
}
