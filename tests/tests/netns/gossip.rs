//! What strangers send to the ports of liveness.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::FromRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb_agent::liveness::{OpenError, Sealer};
use lb_core::{
    liveness::{Condition, GOSSIP_PORT, Message, PROBE_PORT, Verdict},
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
    ("a_log_that_nobody_reads_delays_nothing", a_log_that_nobody_reads_delays_nothing),
];

/// Half of them to each port.
const DATAGRAMS: usize = 30_000;
const KINDS: usize = 6;
/// No more than a socket holds while its agent is busy otherwise.
const BURST: usize = 90;
/// The most that a datagram of UDP holds on Ethernet.
const LARGEST: usize = 1_472;

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
    let mut forger = Sealer::new(&wrong, NodeName("n1".into()), u64::MAX).context("a key")?;
    let mut insider = Sealer::new(&lab.gossip_secret(), NodeName("n1".into()), u64::MAX).context("a key")?;
    let mut random = fastrand::Rng::with_seed(7);
    let known = refused(&lab.nodes)?;
    let mut expected = 0.0;
    for number in 0..DATAGRAMS {
        let length = random.usize(..LARGEST);
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
        match number % KINDS {
            0 => bytes.resize(LARGEST, 1),
            1 => bytes = forger.seal(&accusation).unwrap_or_default(),
            2 => {
                bytes = insider.seal(&accusation).unwrap_or_default();
                bytes.truncate(random.usize(..bytes.len()));
            }
            // Not sealed at all.
            3 => bytes.clone_from(&accusation),
            4 => {
                bytes = insider.seal(&accusation).unwrap_or_default();
                let at = bytes.len() - 1 - random.usize(..accusation.len());
                bytes[at] ^= 1 << random.u8(..8);
            }
            _ => {}
        }
        let round = number / KINDS;
        let leg = legs[round / 2 % legs.len()];
        let port = if round.is_multiple_of(2) { GOSSIP_PORT } else { PROBE_PORT };
        socket.send_to(&bytes, SocketAddr::new(leg, port))?;
        expected += if port == GOSSIP_PORT { 1.0 } else { 0.0 };
        if number % BURST == BURST - 1 {
            lab.nodes.iter().try_for_each(|node| wait_until_taken(&node.namespace))?;
        }
    }
    let counts = wait(
        "all of it to be refused",
        || Ok(since(&known, &refused(&lab.nodes)?)),
        |counts| counts.values().sum::<f64>() >= expected,
    )?;
    let of_a_kind = expected / KINDS as f64;
    for reason in [OpenError::Secret, OpenError::Forged] {
        let count = counts.get(reason.name()).copied().unwrap_or_default();
        ensure!(count >= of_a_kind, "{count} were refused as {reason}, {of_a_kind} were sent: {counts:?}");
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

/// As fast as a client can, envelopes that take the most work to refuse: as large as the network takes them, and sealed but for a bit.
fn a_flood_of_gossip_delays_nothing(lab: &mut Lab) -> Result<()> {
    let client = lab.clients()[0].clone();
    let socket = client.namespace.run(|| Ok(UdpSocket::bind(SocketAddr::new(client.v4, GOSSIP_PORT))?))?;
    let target = SocketAddr::new(std::net::Ipv4Addr::new(192, 0, 2, 11).into(), GOSSIP_PORT);
    let mut forger = Sealer::new(&lab.gossip_secret(), NodeName("n2".into()), u64::MAX).context("a key")?;
    let overhead = forger.seal(&[]).context("a name")?.len();
    let mut bytes = forger.seal(&vec![0; LARGEST - overhead]).context("a name")?;
    ensure!(bytes.len() == LARGEST, "{} bytes are not the most", bytes.len());
    let known = refused(&lab.nodes[..1])?;
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
    // What its socket cannot hold is lost before the agent.
    let forged = OpenError::Forged.name();
    wait(
        "the flood to be refused",
        || Ok(since(&known, &refused(&lab.nodes[..1])?).get(forged).copied().unwrap_or_default()),
        |count| *count >= 1_000.0,
    )
    .map(drop)
}

/// The agent writes lines all the time, and whoever is to read them has stopped.
fn a_log_that_nobody_reads_delays_nothing(lab: &mut Lab) -> Result<()> {
    lab.nodes[0].kill()?;
    let _reader = lab.nodes[0].spawn_unread()?;
    lab.nodes[0].wait_for_pass()?;
    let seen = |lab: &Lab| -> Result<Vec<String>> {
        let mut conditions = Vec::new();
        for node in &lab.nodes[1..] {
            conditions.extend(node.status()?.nodes.remove("n1").map(|n1| n1.conditions).unwrap_or_default());
        }
        Ok(conditions.into_iter().map(|(_, condition)| condition).collect())
    };
    let is_there = |conditions: &Vec<String>| !conditions.iter().any(|condition| condition == "yielding");
    wait("n1 to be there", || seen(lab), is_there)?;
    let begin = Instant::now();
    while begin.elapsed() < FLOOD {
        let conditions = seen(lab)?;
        ensure!(is_there(&conditions), "n1 is seen {conditions:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// What these nodes have refused, by reason.
fn refused(nodes: &[Node]) -> Result<BTreeMap<&'static str, f64>> {
    let mut counts = BTreeMap::new();
    for node in nodes {
        let metrics = node.metrics()?;
        for reason in OpenError::ALL.map(OpenError::name) {
            let series = format!("magnetite_gossip_refused_total{{reason=\"{reason}\"}}");
            *counts.entry(reason).or_default() += metrics.get(&series).copied().unwrap_or_default();
        }
    }
    Ok(counts)
}

/// What was refused meanwhile.
fn since(
    before: &BTreeMap<&'static str, f64>,
    now: &BTreeMap<&'static str, f64>,
) -> BTreeMap<&'static str, f64> {
    now.iter()
        .map(|(reason, count)| (*reason, count - before.get(reason).copied().unwrap_or_default()))
        .collect()
}

/// Until the agent has taken all gossip that has come.
fn wait_until_taken(namespace: &Namespace) -> Result<()> {
    let begin = Instant::now();
    loop {
        // Local address and port, and last bytes to be sent and to be taken, are the second and the fifth column.
        let table = namespace.run(|| Ok(fs::read_to_string("/proc/thread-self/net/udp")?))?;
        let port = format!(":{GOSSIP_PORT:04X}");
        let is_taken = |line: &str| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            !columns.get(1).is_some_and(|local| local.ends_with(&port))
                || columns.get(4).is_some_and(|queues| queues.ends_with(":00000000"))
        };
        if table.lines().all(is_taken) {
            return Ok(());
        }
        ensure!(begin.elapsed() < PATIENCE, "gossip is not taken: {table}");
        std::thread::yield_now();
    }
}

/// Envelopes that are replayed.
const RECORDED: usize = 20;
/// So often.
const REPLAYS: usize = 150;
/// The clock of an agent was so far ahead, in nanoseconds, when it last began.
const AHEAD: u64 = 365 * 86_400 * 1_000_000_000;

/// What an agent has said is recorded, and said again by its own node when the agent was started again, thousands of times; with what it
/// has said since. Its clock was ahead when it last began: it is heard nevertheless.
fn gossip_from_before_a_restart_changes_nothing(lab: &mut Lab) -> Result<()> {
    let sender: IpAddr = std::net::Ipv4Addr::new(192, 0, 2, 12).into();
    let mut recorder = Recorder::new(&lab.nodes[0].namespace, sender)?;
    let recorded = recorder.take(RECORDED, |_| true)?;
    let before = boot_of(&recorded[0])?;
    lab.nodes[1].stop()?;
    fs::write(lab.nodes[1].state.join("n2.boot"), (before + AHEAD).to_string())?;
    lab.nodes[1].start()?;
    // Before the agent is told of what comes later, it has heard this.
    let is_later = |envelope: &[u8]| boot_of(envelope).is_ok_and(|boot| boot > before + AHEAD);
    let current = recorder.take(RECORDED, is_later)?;
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
    // The agent has the port: as what no socket of UDP sends, with the same.
    let socket = raw_socket(&lab.nodes[1].namespace)?;
    for (envelopes, reason) in [(&recorded, OpenError::OldBoot), (&current, OpenError::Replayed)] {
        let of_reason = |lab: &Lab| -> Result<f64> {
            Ok(refused(&lab.nodes[..1])?.get(reason.name()).copied().unwrap_or_default())
        };
        let known = of_reason(lab)?;
        for _ in 0..REPLAYS {
            for envelope in envelopes {
                let port = GOSSIP_PORT.to_be_bytes();
                let length = u16::try_from(8 + envelope.len())?.to_be_bytes();
                let datagram = [&port, &port, &length, &[0, 0], &envelope[..]].concat();
                socket
                    .send_to(&datagram, SocketAddr::new(std::net::Ipv4Addr::new(192, 0, 2, 11).into(), 0))?;
            }
            wait_until_taken(&lab.nodes[0].namespace)?;
        }
        let expected = known + (REPLAYS * RECORDED) as f64;
        wait("all of it to be refused", || of_reason(lab), |count| *count >= expected)?;
        ensure!(of_reason(lab)? == expected, "more was refused as {reason} than was replayed");
    }
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
