//! VIPs that are spread over nodes: who is answered, and who is remembered.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Result, ensure};
use lb_common::{
    Reason,
    layout::{Addr, Client, ClientKey},
    spread::share_of,
};
use magnetite_tests::{
    fixture::{CLIENT, CLIENT4, CLIENT6, IFINDEX, NODE, PEER, SPREAD_VIP4, SPREAD_VIP6, VIP4, is_own_share},
    frames::{arp_request, neighbour_solicitation},
};

use crate::{
    cases::{ALL_NODES, Case, expect, expect_advertisement, untouched},
    machine::{DROP, Machine, TX},
};

pub fn cases() -> Vec<Case> {
    vec![
        ("a client of a spread VIP is answered by its share's node, and remembered by all", by_share),
        ("who asks for a spread VIP without an address is answered by one node, and not remembered", probes),
        ("who asks for a VIP with one owner is not remembered", one_owner),
    ]
}

/// Asks for the VIP of the family, as the client with this number.
fn request(is_v6: bool, number: u8) -> (Vec<u8>, Addr, Addr) {
    if is_v6 {
        let client = Ipv6Addr::from_bits(CLIENT6.to_bits() + u128::from(number));
        let frame = neighbour_solicitation(mac(number), client, SPREAD_VIP6, number.is_multiple_of(2));
        (frame, client.into(), SPREAD_VIP6.into())
    } else {
        let client = Ipv4Addr::from_bits(CLIENT4.to_bits() + u32::from(number));
        (arp_request(mac(number), client, SPREAD_VIP4), client.into(), SPREAD_VIP4.into())
    }
}

fn mac(number: u8) -> [u8; 6] {
    let [a, b, c, d, e, _] = CLIENT;
    [a, b, c, d, e, 100 + number]
}

fn by_share(node: &mut dyn Machine) -> Result<()> {
    let mut expected = BTreeMap::new();
    let mut answered = 0;
    for is_v6 in [false, true] {
        for number in 0..24 {
            let (frame, client, vip) = request(is_v6, number);
            if is_own_share(share_of(&vip, &client)) {
                let outcome = node.arrive(&frame)?;
                expect(node, &outcome, TX, if is_v6 { Reason::NdpAnswered } else { Reason::ArpAnswered })?;
                answered += 1;
            } else {
                untouched(node, &frame, DROP, Reason::NotOwnShare)?;
            }
            let known = Client { mac: mac(number).into(), segment: 0, ifindex: IFINDEX, time: 0 };
            expected.insert(ClientKey { client, vip }, known);
        }
    }
    ensure!((16..44).contains(&answered), "{answered} of 48 clients are this node's");
    ensure!(node.clients()? == expected, "{:?}", node.clients()?);
    Ok(())
}

fn probes(node: &mut dyn Machine) -> Result<()> {
    let none: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let frames = [
        arp_request(CLIENT, Ipv4Addr::UNSPECIFIED, SPREAD_VIP4),
        neighbour_solicitation(CLIENT, Ipv6Addr::UNSPECIFIED, SPREAD_VIP6, false),
    ];
    let vips = [Addr::from(SPREAD_VIP4), SPREAD_VIP6.into()];
    for ((frame, vip), none) in frames.iter().zip(vips).zip(none) {
        let outcome = node.arrive(frame)?;
        let reasons = node.reasons()?;
        let answer = if none.is_ipv4() { Reason::ArpAnswered } else { Reason::NdpAnswered };
        let (action, reason) = if is_own_share(share_of(&vip, &none.into())) {
            (TX, answer)
        } else {
            (DROP, Reason::NotOwnShare)
        };
        ensure!(outcome.action == action && reasons == [reason], "{none}: {} {reasons:?}", outcome.action);
    }
    // Of IPv6 all hear the answer, and those of other nodes must not take it for theirs: without override.
    ensure!(is_own_share(share_of(&vips[1], &none[1].into())), "the answer is the peer's");
    let outcome = node.arrive(&frames[1])?;
    expect(node, &outcome, TX, Reason::NdpAnswered)?;
    expect_advertisement(&outcome.frame, (NODE, SPREAD_VIP6), ALL_NODES, 0)?;
    // What tells asks nothing.
    untouched(node, &arp_request(PEER, SPREAD_VIP4, SPREAD_VIP4), DROP, Reason::PeerAnnounced)?;
    ensure!(node.clients()?.is_empty(), "{:?}", node.clients()?);
    Ok(())
}

fn one_owner(node: &mut dyn Machine) -> Result<()> {
    let outcome = node.arrive(&arp_request(CLIENT, CLIENT4, VIP4))?;
    expect(node, &outcome, TX, Reason::ArpAnswered)?;
    ensure!(node.clients()?.is_empty(), "{:?}", node.clients()?);
    Ok(())
}
