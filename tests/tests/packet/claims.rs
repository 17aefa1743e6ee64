//! Others who say that they have a VIP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use lb_common::{
    Reason,
    layout::{ClaimEvent, EVENT_LIMIT, Link, LinkKey, NO_NODE, Peer, PeerKey, event_kind, link_mode},
};
use lb_core::{
    frames::{probe, question},
    maps::Op,
};
use magnetite_tests::{
    fixture::{CLIENT, CLIENT4, CLIENT6, IFINDEX, NODE, NODE4, NODE6, OTHER_VIP4, PEER, PEER4, VIP4, VIP6},
    frames::{arp_reply, arp_request, neighbour_advertisement, neighbour_solicitation},
};

use crate::{
    cases::{ALL_NODES, Case},
    machine::{DROP, HostNode, Machine, PASS, TX},
};

pub fn cases() -> Vec<Case> {
    vec![
        ("what a stranger says of a VIP is dropped and told", strangers),
        ("what a node says of a VIP is told, and its answers pass", peers),
        ("questions and probes of nodes claim nothing", questions),
        (
            "what a data path answers a node's question is told as an answer, its answer to a probe is not",
            answers,
        ),
        ("what this node says itself is not told", own),
        ("a flood of claims is told of within the budget, each kind within its own", flood),
        ("a node's claim takes the VIP from a node whose agent is gone, and from no other", disowns),
    ]
}

/// A frame, what is done with it, of whose VIP it tells, and whether to this node alone.
type Heard = (Vec<u8>, u32, IpAddr, bool);

fn claims_of(mac: [u8; 6]) -> Result<[Heard; 6]> {
    let answer = if mac == PEER { PASS } else { DROP };
    let to = |destination: [u8; 6], mut frame: Vec<u8>| {
        frame[..6].copy_from_slice(&destination);
        frame
    };
    // As an owner with that MAC answers this node.
    let mut owner = HostNode::new();
    become_node(&mut owner, mac, NODE)?;
    let answered = owner.arrive(&question(VIP6.into(), NODE.into(), Some(LINK_LOCAL)))?.frame;
    Ok([
        (arp_request(mac, VIP4, VIP4), DROP, VIP4.into(), false),
        (to(NODE, arp_request(mac, VIP4, VIP4)), DROP, VIP4.into(), false),
        (arp_reply(mac, OTHER_VIP4, (NODE, NODE4)), answer, OTHER_VIP4.into(), true),
        (neighbour_advertisement(mac, VIP6, VIP6), answer, VIP6.into(), false),
        (answered, answer, VIP6.into(), true),
        // Flooded by a switch that does not know whom it is for.
        (to([2, 9, 9, 9, 9, 9], neighbour_advertisement(mac, VIP6, VIP6)), answer, VIP6.into(), false),
    ])
}

/// A node's address that is nobody's VIP.
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);

/// Makes it the node with a MAC, and whoever has the other one its peer.
fn become_node(node: &mut dyn Machine, mac: [u8; 6], peer: [u8; 6]) -> Result<()> {
    let link = Link { segment: 0, mac: mac.into(), mode: link_mode::NATIVE, flags: 0 };
    node.apply(&Op::SetLink(LinkKey { ifindex: IFINDEX, vlan: 0 }, link))?;
    node.apply(&Op::RemovePeer(PeerKey { segment: 0, mac: mac.into() }))?;
    node.apply(&Op::SetPeer(PeerKey { segment: 0, mac: peer.into() }, Peer { node: 1 }))
}

fn told(address: IpAddr, mac: [u8; 6], is_answer: bool) -> ClaimEvent {
    let (kind, node) =
        if mac == PEER { (event_kind::PEER_CLAIM, 1) } else { (event_kind::FOREIGN_CLAIM, NO_NODE) };
    ClaimEvent {
        time: 0,
        address: address.into(),
        ifindex: IFINDEX,
        segment: 0,
        kind,
        is_answer: is_answer.into(),
        node,
        mac: mac.into(),
    }
}

fn expect(
    node: &mut dyn Machine,
    frame: &[u8],
    action: u32,
    reason: Reason,
    claims: &[ClaimEvent],
) -> Result<()> {
    let outcome = node.arrive(frame)?;
    let (reasons, told) = (node.reasons()?, node.claims()?);
    ensure!(reasons == [reason], "counted {reasons:?} instead of {reason:?}");
    ensure!(told == claims, "told of {told:?} instead of {claims:?}");
    ensure!(outcome.action == action, "action {} instead of {action}", outcome.action);
    ensure!(outcome.frame == frame, "the frame was changed");
    Ok(())
}

fn strangers(node: &mut dyn Machine) -> Result<()> {
    for (frame, action, vip, is_answer) in claims_of(CLIENT)? {
        expect(node, &frame, action, Reason::ForeignClaim, &[told(vip, CLIENT, is_answer)])?;
    }
    // It asks for something, with the VIP as its own: the kernel may have the answer.
    for frame in [arp_request(CLIENT, VIP4, NODE4), neighbour_solicitation(CLIENT, VIP6, NODE6, true)] {
        let vip = if frame[12..14] == [8, 6] { VIP4.into() } else { VIP6.into() };
        expect(node, &frame, PASS, Reason::ForeignClaim, &[told(vip, CLIENT, false)])?;
    }
    for vip in [IpAddr::from(VIP4), VIP6.into()] {
        ensure!(node.vip(vip)?.owned == 1, "a stranger took {vip}");
    }
    Ok(())
}

fn peers(node: &mut dyn Machine) -> Result<()> {
    for (frame, action, vip, is_answer) in claims_of(PEER)? {
        expect(node, &frame, action, Reason::PeerAnnounced, &[told(vip, PEER, is_answer)])?;
    }
    expect(node, &arp_reply(PEER, PEER4, (NODE, NODE4)), PASS, Reason::NotVip, &[])?;
    expect(node, &neighbour_advertisement(CLIENT, CLIENT6, CLIENT6), PASS, Reason::NotVip, &[])
}

fn questions(node: &mut dyn Machine) -> Result<()> {
    for mac in [PEER, CLIENT] {
        expect(node, &arp_request(mac, Ipv4Addr::UNSPECIFIED, OTHER_VIP4), DROP, Reason::NotOwner, &[])?;
        expect(node, &arp_request(mac, CLIENT4, OTHER_VIP4), DROP, Reason::NotOwner, &[])?;
        for frame in [
            arp_request(mac, Ipv4Addr::UNSPECIFIED, VIP4),
            neighbour_solicitation(mac, Ipv6Addr::UNSPECIFIED, VIP6, false),
        ] {
            node.arrive(&frame)?;
            let reasons = node.reasons()?;
            ensure!(matches!(*reasons, [Reason::ArpAnswered | Reason::NdpAnswered]), "{reasons:?}");
            ensure!(node.claims()?.is_empty(), "a probe was taken for a claim");
        }
    }
    // A kernel that has bound the VIP for a proxy asks with it.
    expect(node, &arp_request(PEER, VIP4, NODE4), PASS, Reason::NotVip, &[])
}

fn answers(node: &mut dyn Machine) -> Result<()> {
    node.set_lease(true)?;
    for (vip, asked, is_answer) in [
        (IpAddr::from(VIP4), question(VIP4.into(), NODE.into(), Some(LINK_LOCAL)), true),
        (VIP6.into(), question(VIP6.into(), NODE.into(), Some(LINK_LOCAL)), true),
        (VIP6.into(), question(VIP6.into(), NODE.into(), None), false),
        (VIP6.into(), probe(VIP6.into(), NODE.into()), false),
    ] {
        become_node(node, PEER, NODE)?;
        let answered = node.arrive(&asked)?;
        let to = if is_answer { NODE } else { ALL_NODES.0 };
        ensure!((answered.action, &answered.frame[..6]) == (TX, &to), "{vip}: {answered:02x?}");
        node.reasons()?;
        become_node(node, NODE, PEER)?;
        expect(node, &answered.frame, PASS, Reason::PeerAnnounced, &[told(vip, PEER, is_answer)])?;
    }
    Ok(())
}

fn own(node: &mut dyn Machine) -> Result<()> {
    expect(node, &arp_request(NODE, VIP4, VIP4), DROP, Reason::PeerAnnounced, &[])
}

fn flood(node: &mut dyn Machine) -> Result<()> {
    let limit = EVENT_LIMIT as usize;
    for _ in 0..2 * limit {
        node.arrive(&arp_request(CLIENT, VIP4, VIP4))?;
    }
    ensure!(node.claims()? == vec![told(VIP4.into(), CLIENT, false); limit], "another number of events");
    node.arrive(&arp_request(PEER, VIP4, VIP4))?;
    ensure!(node.claims()? == [told(VIP4.into(), PEER, false)], "strangers have spent the nodes' budget");
    Ok(())
}

fn disowns(node: &mut dyn Machine) -> Result<()> {
    let owned = |node: &mut dyn Machine| -> Result<[u32; 2]> {
        Ok([node.vip(VIP4.into())?.owned, node.vip(VIP6.into())?.owned])
    };
    let claim = |node: &mut dyn Machine, mac| -> Result<()> {
        node.arrive(&arp_request(mac, VIP4, VIP4))?;
        node.arrive(&neighbour_advertisement(mac, VIP6, VIP6)).map(drop)
    };
    node.set_lease(true)?;
    claim(node, PEER)?;
    ensure!(owned(node)? == [1, 1], "taken from an agent that is there");
    node.set_lease(false)?;
    claim(node, CLIENT)?;
    ensure!(owned(node)? == [1, 1], "taken by a stranger");
    claim(node, NODE)?;
    ensure!(owned(node)? == [1, 1], "taken by itself");
    claim(node, PEER)?;
    ensure!(owned(node)? == [0, 0], "{:?} are still owned", owned(node)?);
    node.reasons()?;
    node.claims()?;
    expect(node, &arp_request(CLIENT, CLIENT4, VIP4), DROP, Reason::NotOwner, &[])
}
