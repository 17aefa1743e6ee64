//! What strangers send to the ports of liveness.

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb_agent::liveness::Sealer;
use lb_core::{
    liveness::{Condition, Description, GOSSIP_PORT, Message, PROBE_PORT, Verdict},
    model::{GossipSecret, NodeName},
};
use magnetite_tests::lab::{Lab, WEB};

use crate::agent::Test;

/// Names, and what they do with a lab of their own.
pub const TESTS: &[(&str, Test)] = &[
    ("gossip_of_strangers_changes_nothing", gossip_of_strangers_changes_nothing),
    ("a_flood_of_gossip_delays_nothing", a_flood_of_gossip_delays_nothing),
];

const DATAGRAMS: usize = 5_000;

/// Noise of every length, floods of whole packets, and messages that would be believed if they were sealed with the secret.
fn gossip_of_strangers_changes_nothing(lab: &mut Lab) -> Result<()> {
    let owner = lab.owner(WEB)?;
    let legs: Vec<std::net::IpAddr> =
        (11..=13).map(|host| std::net::Ipv4Addr::new(192, 0, 2, host).into()).collect();
    let client = lab.clients()[0].clone();
    let socket = client.namespace.run(|| Ok(UdpSocket::bind(SocketAddr::new(client.v4, GOSSIP_PORT))?))?;
    let verdicts = legs
        .iter()
        .map(|leg| Verdict { leg: *leg, counter: 1_000, condition: Condition::Silent, falls: 0 })
        .collect();
    let accusation = Message::Verdicts(verdicts).encode();
    let wrong = GossipSecret { current: b"a secret that is not the lab's".to_vec(), previous: None };
    let mut forger = Sealer::new(&wrong, NodeName("n1".to_owned()), u64::MAX).context("a key")?;
    let mut random = fastrand::Rng::with_seed(7);
    for number in 0..DATAGRAMS {
        let length = random.usize(..1_472);
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
        match number % 5 {
            0 => bytes.resize(1_472, 1),
            1 => bytes = forger.seal(&accusation).unwrap_or_default(),
            2 => {
                bytes = forger.seal(&accusation).unwrap_or_default();
                bytes.truncate(random.usize(..bytes.len()));
            }
            // Not sealed at all.
            3 => bytes.clone_from(&accusation),
            _ => {}
        }
        let leg = legs[number % legs.len()];
        let port = if number % 2 == 0 { GOSSIP_PORT } else { PROBE_PORT };
        socket.send_to(&bytes, SocketAddr::new(leg, port))?;
    }
    for node in &mut lab.nodes {
        node.wait_for_log("gossip was refused")?;
        let status = node.status()?;
        ensure!(
            status.nodes.values().all(|node| node.conditions.is_empty()),
            "{}: somebody was believed: {:?}",
            node.name,
            status.nodes
        );
    }
    ensure!(lab.owner(WEB)? == owner, "the VIP has moved");
    lab.clients()[1].forget(WEB)?;
    lab.clients()[1].connect(magnetite_tests::lab::frontend(WEB)).map(drop)
}

/// Longer than the lease: a node whose thread did nothing but read would be seen to yield.
const FLOOD: Duration = Duration::from_secs(4);

/// As fast as a client can, envelopes that take the most work to refuse.
fn a_flood_of_gossip_delays_nothing(lab: &mut Lab) -> Result<()> {
    let client = lab.clients()[0].clone();
    let socket = client.namespace.run(|| Ok(UdpSocket::bind(SocketAddr::new(client.v4, GOSSIP_PORT))?))?;
    let target = SocketAddr::new(std::net::Ipv4Addr::new(192, 0, 2, 11).into(), GOSSIP_PORT);
    let mut forger =
        Sealer::new(&lab.gossip_secret(), NodeName("n2".to_owned()), u64::MAX).context("a key")?;
    let mut bytes = forger.seal(&Message::Hello(Description::default()).encode()).context("a name")?;
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    let begin = Instant::now();
    let mut sent = 0_u64;
    while begin.elapsed() < FLOOD {
        socket.send_to(&bytes, target)?;
        sent += 1;
        if sent.is_multiple_of(10_000) {
            for node in &lab.nodes[1..] {
                let troubles =
                    node.status()?.nodes.remove("n1").map(|node| node.conditions).unwrap_or_default();
                ensure!(troubles.is_empty(), "after {sent} datagrams {} sees n1 {troubles:?}", node.name);
            }
        }
    }
    ensure!(sent > 10_000, "{sent} datagrams are no flood");
    lab.nodes[0].wait_for_log("gossip was refused")
}
