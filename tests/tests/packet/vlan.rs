//! Frames with a VLAN tag: a link of its own on the same interface, and whatever goes back or on keeps the tag.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use lb_common::{
    Reason,
    layout::{ClaimEvent, Client, ClientKey, NO_NODE, event_kind},
};
use lb_core::liveness::PROBE_PORT;
use magnetite_tests::{
    fixture::{
        CLIENT, CLIENT4, CLIENT6, ELSEWHERE, HERE, IFINDEX, NODE, NODE4, NODE6, PEER, PEER4, POD_PORT, POD4,
        POD6, SPREAD_VIP4, VIP4, VIP6, VLAN, VLAN_NODE, VLAN_PEER, VLAN_SEGMENT, vlan_ops,
    },
    frames::{
        Flags, Way, arp_reply, arp_request, echo_request, neighbour_solicitation, probe, tagged, tcp, udp,
        untagged, way, with_tag,
    },
};

use crate::{
    cases::{ALL_NODES, Case, OVERRIDE, SOLICITED_OVERRIDE, expect, expect_advertisement, untouched},
    machine::{DROP, Machine, NEXT, Outcome, PASS, TX},
};

pub fn cases() -> Vec<Case> {
    vec![
        ("in a VLAN, ARP and NDP are answered with its link's MAC and the tag", discovery),
        ("in a VLAN, echo requests and probes are answered with the tag", answers),
        (
            "in a VLAN, a connection is delivered with the tag, and its reply restored with it or without",
            here,
        ),
        ("in a VLAN, a connection goes to the pod's node by its MAC there, with the tag", elsewhere),
        ("in a VLAN, who asks and who claims is known by its segment", memory),
        ("frames of a VLAN that is not served pass as they are", not_served),
        ("a priority tag names no VLAN", priority),
        ("frames with two tags, or one of a provider, pass as they are", other_tags),
    ]
}

/// With a priority, which is to be kept too.
const TAG: u16 = 5 << 13 | VLAN;

fn begin(node: &mut dyn Machine) -> Result<()> {
    vlan_ops().iter().try_for_each(|op| node.apply(op))
}

/// From the client to the VIP, in both families.
fn ways(port: u16) -> [Way; 2] {
    let way = |addresses| Way { macs: (CLIENT, VLAN_NODE), addresses, ports: (40_000, port), ttl: 64 };
    [way((CLIENT4.into(), VIP4.into())), way((CLIENT6.into(), VIP6.into()))]
}

/// Does with the tagged frame what it says, and gives what comes of it without the tag.
fn arrive(node: &mut dyn Machine, frame: &[u8], action: u32, reason: Reason) -> Result<Vec<u8>> {
    let outcome = node.arrive(&tagged(frame, TAG))?;
    expect(node, &outcome, action, reason)?;
    without_tag(&outcome)
}

fn without_tag(outcome: &Outcome) -> Result<Vec<u8>> {
    untagged(&outcome.frame, TAG).with_context(|| format!("the tag is lost: {:02x?}", outcome.frame))
}

fn discovery(node: &mut dyn Machine) -> Result<()> {
    begin(node)?;
    let answer = arrive(node, &arp_request(CLIENT, CLIENT4, VIP4), TX, Reason::ArpAnswered)?;
    ensure!(answer == arp_reply(VLAN_NODE, VIP4, (CLIENT, CLIENT4)), "{answer:02x?}");
    for option in [true, false] {
        let solicitation = neighbour_solicitation(CLIENT, CLIENT6, VIP6, option);
        let answer = arrive(node, &solicitation, TX, Reason::NdpAnswered)?;
        expect_advertisement(&answer, (VLAN_NODE, VIP6), (CLIENT, CLIENT6), SOLICITED_OVERRIDE)?;
    }
    let probe = neighbour_solicitation(CLIENT, Ipv6Addr::UNSPECIFIED, VIP6, false);
    let answer = arrive(node, &probe, TX, Reason::NdpAnswered)?;
    expect_advertisement(&answer, (VLAN_NODE, VIP6), ALL_NODES, OVERRIDE)?;
    // The link without a tag goes on as it was.
    let outcome = node.arrive(&arp_request(CLIENT, CLIENT4, VIP4))?;
    expect(node, &outcome, TX, Reason::ArpAnswered)?;
    ensure!(outcome.frame == arp_reply(NODE, VIP4, (CLIENT, CLIENT4)), "{:02x?}", outcome.frame);
    Ok(())
}

fn answers(node: &mut dyn Machine) -> Result<()> {
    begin(node)?;
    for asked in ways(0) {
        let answer = arrive(node, &echo_request(&asked, b"0123456789"), TX, Reason::EchoAnswered)?;
        ensure!(answer[..12] == [CLIENT, VLAN_NODE].concat(), "{answer:02x?}");
        // Source and destination in the other order are the same sum: all else is as without a tag.
        let untagged = Way { macs: (CLIENT, NODE), ..asked };
        let same = node.arrive(&echo_request(&untagged, b"0123456789"))?;
        expect(node, &same, TX, Reason::EchoAnswered)?;
        ensure!(answer[12..] == same.frame[12..], "{answer:02x?}");
    }
    node.set_lease(true)?;
    for (from, to) in [(IpAddr::from(PEER4), IpAddr::from(NODE4)), (CLIENT6.into(), NODE6.into())] {
        let macs = (VLAN_PEER, VLAN_NODE);
        let asked = Way { macs, addresses: (from, to), ports: (50_000, PROBE_PORT), ttl: 64 };
        let answer = arrive(node, &probe(&asked, *b"MgPr", 7), TX, Reason::ProbeAnswered)?;
        let back =
            Way { macs: (VLAN_NODE, VLAN_PEER), addresses: (to, from), ports: (PROBE_PORT, 50_000), ttl: 64 };
        ensure!(way(&answer) == Some(back), "{:?}", way(&answer));
    }
    Ok(())
}

fn here(node: &mut dyn Machine) -> Result<()> {
    begin(node)?;
    for way_in in ways(HERE) {
        let (client, vip) = way_in.addresses;
        let pod: IpAddr = if client.is_ipv4() { POD4.into() } else { POD6.into() };
        let delivered = Way { addresses: (client, pod), ports: (way_in.ports.0, POD_PORT), ..way_in };
        for (frame, reason) in [
            (tcp(&way_in, Flags::SYN, &[]), Reason::NewDelivered),
            (tcp(&way_in, Flags::ACK, b"odd"), Reason::ConnDelivered),
            (udp(&way_in, b"odd"), Reason::NewDelivered),
            (udp(&way_in, b"even"), Reason::ConnDelivered),
        ] {
            let frame = arrive(node, &frame, PASS, reason)?;
            ensure!(way(&frame) == Some(delivered), "{:?}", way(&frame));
        }
        let ports = (POD_PORT, way_in.ports.0);
        let reply = Way { macs: (VLAN_NODE, CLIENT), addresses: (pod, client), ports, ttl: 63 };
        let restored = Way { addresses: (vip, client), ports: (HERE, ports.1), ..reply };
        for frame in [tcp(&reply, Flags::SYN_ACK, &[]), udp(&reply, b"odd")] {
            // A VLAN device that does not reorder headers writes the tag into the frame; all others leave it beside.
            let outcome = node.leave(&tagged(&frame, TAG))?;
            expect(node, &outcome, NEXT, Reason::ReplyRestored)?;
            ensure!(way(&without_tag(&outcome)?) == Some(restored), "{:02x?}", outcome.frame);
            let outcome = node.leave(&frame)?;
            expect(node, &outcome, NEXT, Reason::ReplyRestored)?;
            ensure!(way(&outcome.frame) == Some(restored), "{:?}", way(&outcome.frame));
        }
    }
    Ok(())
}

fn elsewhere(node: &mut dyn Machine) -> Result<()> {
    begin(node)?;
    for way_in in ways(ELSEWHERE) {
        let forwarded = Way { macs: (VLAN_NODE, VLAN_PEER), ttl: 63, ..way_in };
        // The same flow by the link without a tag is another, and stays on that link.
        let beside = Way { macs: (CLIENT, NODE), ..way_in };
        let forwarded_beside = Way { macs: (NODE, PEER), ttl: 63, ..way_in };
        for (frame, frame_beside, reason) in [
            (tcp(&way_in, Flags::SYN, &[]), tcp(&beside, Flags::SYN, &[]), Reason::NewForwarded),
            (tcp(&way_in, Flags::ACK, b"odd"), tcp(&beside, Flags::ACK, b"odd"), Reason::FlowForwarded),
            (udp(&way_in, b"odd"), udp(&beside, b"odd"), Reason::NewForwarded),
            (udp(&way_in, b"even"), udp(&beside, b"even"), Reason::FlowForwarded),
        ] {
            let frame = arrive(node, &frame, TX, reason)?;
            ensure!(way(&frame) == Some(forwarded), "{:?}", way(&frame));
            let outcome = node.arrive(&frame_beside)?;
            expect(node, &outcome, TX, reason)?;
            ensure!(way(&outcome.frame) == Some(forwarded_beside), "{:?}", way(&outcome.frame));
        }
        // A peer is one by its MAC in this segment.
        let from_peer = tcp(&Way { macs: (VLAN_PEER, VLAN_NODE), ..way_in }, Flags::SYN, &[]);
        untouched(node, &tagged(&from_peer, TAG), PASS, Reason::PeerNoCandidate)?;
    }
    Ok(())
}

fn memory(node: &mut dyn Machine) -> Result<()> {
    begin(node)?;
    node.arrive(&tagged(&arp_request(CLIENT, CLIENT4, SPREAD_VIP4), TAG))?;
    node.reasons()?;
    let key = ClientKey { client: CLIENT4.into(), vip: SPREAD_VIP4.into() };
    let client = Client { mac: CLIENT.into(), segment: VLAN_SEGMENT, ifindex: IFINDEX, time: 0 };
    ensure!(node.clients()? == [(key, client)].into(), "{:?}", node.clients()?);
    untouched(node, &tagged(&arp_request(PEER, VIP4, VIP4), TAG), DROP, Reason::ForeignClaim)?;
    untouched(node, &tagged(&arp_request(VLAN_PEER, VIP4, VIP4), TAG), DROP, Reason::PeerAnnounced)?;
    let claim = |mac: [u8; 6], kind, node| ClaimEvent {
        time: 0,
        address: VIP4.into(),
        ifindex: IFINDEX,
        segment: VLAN_SEGMENT,
        kind,
        is_answer: 0,
        node,
        mac: mac.into(),
    };
    let expected =
        [claim(PEER, event_kind::FOREIGN_CLAIM, NO_NODE), claim(VLAN_PEER, event_kind::PEER_CLAIM, 1)];
    let told = node.claims()?;
    ensure!(told == expected, "{told:?}");
    Ok(())
}

/// What would be answered, delivered or forwarded without a tag.
fn frames_of_all_kinds(mac: [u8; 6]) -> Vec<Vec<u8>> {
    let probe_way = Way {
        macs: (PEER, mac),
        addresses: (PEER4.into(), NODE4.into()),
        ports: (50_000, PROBE_PORT),
        ttl: 64,
    };
    let mut frames = vec![
        arp_request(CLIENT, CLIENT4, VIP4),
        arp_request(CLIENT, VIP4, VIP4),
        neighbour_solicitation(CLIENT, CLIENT6, VIP6, true),
        probe(&probe_way, *b"MgPr", 7),
    ];
    for (here, elsewhere) in ways(HERE).into_iter().zip(ways(ELSEWHERE)) {
        let [here, elsewhere] = [here, elsewhere].map(|way| Way { macs: (CLIENT, mac), ..way });
        frames.extend([
            echo_request(&here, b"0123456789"),
            tcp(&here, Flags::SYN, &[]),
            udp(&here, b"odd"),
            tcp(&elsewhere, Flags::SYN, &[]),
            udp(&elsewhere, b"odd"),
        ]);
    }
    frames
}

fn not_served(node: &mut dyn Machine) -> Result<()> {
    begin(node)?;
    for frame in frames_of_all_kinds(NODE).iter().chain(&frames_of_all_kinds(VLAN_NODE)) {
        untouched(node, &tagged(frame, VLAN + 1), PASS, Reason::NotOurLink)?;
    }
    // The NIC's MAC is none in the VLAN, and the other way round.
    let [way_in, _] = ways(HERE);
    let to_nic = tcp(&Way { macs: (CLIENT, NODE), ..way_in }, Flags::SYN, &[]);
    untouched(node, &tagged(&to_nic, TAG), PASS, Reason::NotOurMac)?;
    untouched(node, &tcp(&way_in, Flags::SYN, &[]), PASS, Reason::NotOurMac)
}

fn priority(node: &mut dyn Machine) -> Result<()> {
    begin(node)?;
    let control = 5 << 13;
    let outcome = node.arrive(&tagged(&arp_request(CLIENT, CLIENT4, VIP4), control))?;
    expect(node, &outcome, TX, Reason::ArpAnswered)?;
    let answer = untagged(&outcome.frame, control);
    ensure!(answer == Some(arp_reply(NODE, VIP4, (CLIENT, CLIENT4))), "{:02x?}", outcome.frame);
    Ok(())
}

fn other_tags(node: &mut dyn Machine) -> Result<()> {
    begin(node)?;
    for frame in frames_of_all_kinds(VLAN_NODE) {
        untouched(node, &with_tag(&frame, 0x88a8, VLAN), PASS, Reason::NotIp)?;
        untouched(node, &tagged(&tagged(&frame, VLAN), VLAN), PASS, Reason::NotIp)?;
        untouched(node, &with_tag(&tagged(&frame, VLAN), 0x88a8, 7), PASS, Reason::NotIp)?;
    }
    Ok(())
}
