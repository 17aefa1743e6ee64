//! `explain` says what the decision does, on maps as packets leave them.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use lb_agent::{
    commands::{Flow, FlowError, Known, explain},
    output::{ForwardingStatus, NodeStatus, ServiceStatus},
};
use lb_common::{decide, packet::Frame, parse, spread::share_of};
use lb_core::{host::HostMaps, maps::Maps, model::Protocol};
use magnetite_tests::{
    fixture::{
        self, BOTH, CLIENT, CLIENT4, CLIENT6, ELSEWHERE, HERE, IFINDEX, KERNEL, NODE, SPREAD_VIP4, UNKNOWN,
        VIP4, is_own_share,
    },
    frames::{Flags, Way, tcp},
};

const CLIENT_PORT: u16 = 40_000;

/// A node that has seen these segments to a port of the VIP.
fn after(port: u16, segments: &[Flags]) -> Result<Known> {
    let mut maps = Maps::empty(&fixture::sizes());
    fixture::ops().iter().for_each(|op| maps.apply(op));
    let mut host = HostMaps::new(maps);
    let addresses = (CLIENT4.into(), VIP4.into());
    let way = Way { macs: (CLIENT, NODE), addresses, ports: (CLIENT_PORT, port), ttl: 64 };
    for flags in segments {
        let frame = Frame::new(&tcp(&way, *flags, &[])).context("a frame")?;
        let meta = parse(&frame, IFINDEX);
        let tick = host.tick;
        decide(&meta, &host).remember(&meta, tick, &mut host);
    }
    Ok(Known { flows: host.flows.clone(), maps: host })
}

fn asked(known: &Known, vip: IpAddr, port: u16) -> Result<String> {
    let client = SocketAddr::new(CLIENT4.into(), CLIENT_PORT);
    let flow = Flow::new(client, SocketAddr::new(vip, port), Protocol::Tcp)?;
    Ok(explain(known, &Flow { sender: Some(CLIENT), ..flow }, None))
}

#[track_caller]
fn expect(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|said| said.contains(line)), "no line with {line:?} in\n{text}");
    }
}

#[test]
fn a_flow_to_another_node_is_followed_by_flows() -> Result<()> {
    let text = asked(&after(ELSEWHERE, &[Flags::SYN])?, VIP4.into(), ELSEWHERE)?;
    expect(
        &text,
        &["FLOWS     to 10.0.0.6:8080", "CONNS     nothing", "(02:00:00:00:00:02)", "[flow-forwarded]"],
    );
    Ok(())
}

#[test]
fn a_flow_to_a_pod_here_is_followed_by_conns_and_reverse() -> Result<()> {
    let text = asked(&after(HERE, &[Flags::SYN])?, VIP4.into(), HERE)?;
    expect(
        &text,
        &[
            "FLOWS     nothing",
            "CONNS     delivered to 10.0.0.5:8080 on this node",
            "REVERSE   replies leave as 192.0.2.1:80",
            "[conn-delivered]",
        ],
    );
    Ok(())
}

#[test]
fn what_is_not_known_is_said_to_walk_or_to_be_picked() -> Result<()> {
    let text = asked(&after(BOTH, &[])?, VIP4.into(), BOTH)?;
    expect(
        &text,
        &["FLOWS     nothing", "CONNS     nothing", "next      forwarded", "[walked]", "as a SYN  "],
    );
    Ok(())
}

#[test]
fn what_the_kernel_has_is_said_to_be_the_kernels() -> Result<()> {
    let text = asked(&after(KERNEL, &[Flags::SYN])?, VIP4.into(), KERNEL)?;
    expect(&text, &["forwarding kernel", "CONNS     left to the kernel", "next      to the kernel"]);
    Ok(())
}

#[test]
fn a_service_that_is_left_in_part_is_said_to_be_and_why() -> Result<()> {
    let service = ServiceStatus {
        forwarding: ForwardingStatus::Partly,
        reason: Some("1 of 2 ready endpoints: its node n9 is unknown".to_owned()),
        ..ServiceStatus::default()
    };
    let frontend = format!("{VIP4}:{BOTH}/TCP");
    let status = NodeStatus { services: [(frontend, service)].into(), ..NodeStatus::default() };
    let client = SocketAddr::new(CLIENT4.into(), CLIENT_PORT);
    let flow = Flow::new(client, SocketAddr::new(VIP4.into(), BOTH), Protocol::Tcp)?;
    let text = explain(&after(BOTH, &[])?, &flow, Some(&status));
    expect(&text, &["forwarding partly, because 1 of 2 ready endpoints: its node n9 is unknown"]);
    Ok(())
}

#[test]
fn who_answers_a_client_of_a_spread_vip_is_said() -> Result<()> {
    let share = share_of(&SPREAD_VIP4.into(), &CLIENT4.into());
    let who = if is_own_share(share) { "this node" } else { "another node" };
    let line = format!("share     {share} of 1024, which {who} answers in segment 0");
    expect(&asked(&after(HERE, &[])?, SPREAD_VIP4.into(), HERE)?, &[&line]);
    Ok(())
}

#[test]
fn each_vlan_is_a_link_with_flows_of_its_own() -> Result<()> {
    let mut known = after(ELSEWHERE, &[Flags::SYN])?;
    fixture::vlan_ops().iter().for_each(|op| known.maps.maps.apply(op));
    let text = asked(&known, VIP4.into(), ELSEWHERE)?;
    let links: Vec<Vec<&str>> = text.split("link      ").skip(1).map(|link| link.lines().collect()).collect();
    let [without_tag, in_vlan] = links.as_slice() else { panic!("not two links in\n{text}") };
    assert_eq!(without_tag[..2], ["1", "FLOWS     to 10.0.0.6:8080 on an unknown node (ready)"]);
    assert_eq!(in_vlan[..2], ["1, VLAN 100", "FLOWS     nothing of a flow from 02:00:00:00:01:01"]);
    expect(&in_vlan.join("\n"), &["as a SYN  forwarded to an unknown node (02:00:00:00:64:02)"]);
    Ok(())
}

#[test]
fn what_is_not_ours_is_said_so() -> Result<()> {
    let known = after(HERE, &[])?;
    expect(&asked(&known, fixture::PEER4.into(), HERE)?, &["is none of ours", "next      to the kernel"]);
    expect(&asked(&known, VIP4.into(), UNKNOWN)?, &["next      dropped"]);
    let families =
        Flow::new(SocketAddr::new(CLIENT6.into(), 1), SocketAddr::new(VIP4.into(), HERE), Protocol::Tcp);
    assert!(matches!(families, Err(FlowError::Families { .. })));
    Ok(())
}
