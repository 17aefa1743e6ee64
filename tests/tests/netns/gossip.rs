//! What strangers send to the ports of liveness.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::FromRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb_agent::liveness::Sealer;
use lb_core::{
    liveness::{Condition, Description, GOSSIP_PORT, Message, PROBE_PORT, Verdict},
    model::{GossipSecret, NodeName},
};
use magnetite_tests::lab::{Lab, Namespace, Node, WEB};

use crate::{
    agent::Test,
    seen::{UNTIL_SETTLED, wait, wait_for},
};

/// Names, and what they do with a lab of their own.
pub const TESTS: &[(&str, Test)] = &[
    ("gossip_of_strangers_changes_nothing", gossip_of_strangers_changes_nothing),
    ("gossip_from_before_a_restart_changes_nothing", gossip_from_before_a_restart_changes_nothing),
    ("a_flood_of_gossip_delays_nothing", a_flood_of_gossip_delays_nothing),
];

const DATAGRAMS: usize = 5_000;

/// Noise of every length, floods of whole packets, and messages that would be believed if they were sealed with the secret.
fn gossip_of_strangers_changes_nothing(lab: &mut Lab) -> Result<()> {
    let owner = lab.owner(WEB)?;
    let legs: Vec<IpAddr> = (11..=13).map(|host| std::net::Ipv4Addr::new(192, 0, 2, host).into()).collect();
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

/// Envelopes of an earlier agent that are replayed.
const RECORDED: usize = 20;

/// What an agent has said is recorded, and said again by its own node when the agent was started again.
fn gossip_from_before_a_restart_changes_nothing(lab: &mut Lab) -> Result<()> {
    let sender: IpAddr = std::net::Ipv4Addr::new(192, 0, 2, 12).into();
    let mut recorder = Recorder::new(&lab.nodes[0].namespace, sender)?;
    let recorded = recorder.take(RECORDED, |_| true)?;
    let before = boot_of(&recorded[0])?;
    lab.nodes[1].stop()?;
    lab.nodes[1].start()?;
    // Before the agent is told of what comes later, it has heard this.
    recorder.take(1, |envelope| boot_of(envelope).is_ok_and(|boot| boot > before))?;
    // Its lease may have lapsed meanwhile.
    let troubles = |lab: &Lab| -> Result<Vec<String>> {
        let of = |node: &Node| -> Result<Vec<String>> {
            let seen = node.status()?.nodes.into_iter();
            let troubled = seen.filter(|(_, seen)| !seen.conditions.is_empty());
            Ok(troubled
                .map(|(other, seen)| format!("{} sees {other} {:?}", node.name, seen.conditions))
                .collect())
        };
        Ok(lab.nodes.iter().map(of).collect::<Result<Vec<_>>>()?.concat())
    };
    wait_for(UNTIL_SETTLED, "all to be well", || troubles(lab), Vec::is_empty)?;
    let owner = lab.owner(WEB)?;
    let series = "magnetite_gossip_refused_total{reason=\"old-generation\"}";
    let refused = |lab: &Lab| -> Result<f64> {
        lab.nodes[0].metrics()?.get(series).copied().with_context(|| format!("no {series}"))
    };
    let known = refused(lab)?;
    // The agent has the port: as what no socket of UDP sends, with the same.
    let socket = raw_socket(&lab.nodes[1].namespace)?;
    for envelope in &recorded {
        let port = GOSSIP_PORT.to_be_bytes();
        let length = u16::try_from(8 + envelope.len())?.to_be_bytes();
        let datagram = [&port, &port, &length, &[0, 0], &envelope[..]].concat();
        socket.send_to(&datagram, SocketAddr::new(std::net::Ipv4Addr::new(192, 0, 2, 11).into(), 0))?;
    }
    let expected = known + RECORDED as f64;
    wait("all of it to be refused", || refused(lab), |count| *count >= expected)?;
    ensure!(refused(lab)? == expected, "more was refused than was replayed");
    let troubles = troubles(lab)?;
    ensure!(troubles.is_empty(), "it was believed: {troubles:?}");
    ensure!(lab.owner(WEB)? == owner, "the VIP has moved");
    Ok(())
}

/// When the agent of an envelope's sender began: in the clear, after version and key id.
fn boot_of(envelope: &[u8]) -> Result<u64> {
    let bytes = envelope.get(2..10).context("an envelope has a boot")?;
    Ok(u64::from_be_bytes(bytes.try_into()?))
}

/// A socket in a namespace that takes and hears UDP with its header.
fn raw_socket(namespace: &Namespace) -> Result<UdpSocket> {
    namespace.run(|| {
        // SAFETY: the call takes numbers.
        let fd =
            unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_UDP) };
        if fd < 0 {
            return Err(io::Error::last_os_error().into());
        }
        // SAFETY: the descriptor is new, and nobody else's. The type has what both kinds of sockets have.
        Ok(unsafe { UdpSocket::from_raw_fd(fd) })
    })
}

/// Hears the gossip of one node that arrives at another.
struct Recorder {
    socket: UdpSocket,
    sender: IpAddr,
}

impl Recorder {
    fn new(namespace: &Namespace, sender: IpAddr) -> Result<Self> {
        let socket = raw_socket(namespace)?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(Self { socket, sender })
    }

    /// The next that are wanted.
    fn take(&mut self, count: usize, is_wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<Vec<u8>>> {
        let begin = Instant::now();
        let (mut envelopes, mut buffer) = (Vec::new(), [0; 2048]);
        while envelopes.len() < count {
            ensure!(begin.elapsed() < PATIENCE, "{} envelopes within {PATIENCE:?}", envelopes.len());
            let Ok((length, from)) = self.socket.recv_from(&mut buffer) else { continue };
            // IPv4 without options, then UDP.
            let (header, payload) =
                buffer[..length].split_at_checked(28).context("a datagram has headers")?;
            let is_gossip = header[22..24] == GOSSIP_PORT.to_be_bytes() && from.ip() == self.sender;
            if is_gossip && is_wanted(payload) {
                envelopes.push(payload.to_vec());
            }
        }
        Ok(envelopes)
    }
}

/// Nodes say something every second.
const PATIENCE: Duration = Duration::from_secs(60);
