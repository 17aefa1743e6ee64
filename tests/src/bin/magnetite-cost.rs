//! What liveness costs a node of a large cluster: a real agent, and all others simulated in real time behind real sockets.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lb_agent::{
    liveness::{Opener, Sealer},
    node::raise_open_files,
};
use lb_common::{
    layout::{Mac, Plain},
    packet::{PROBE_MAGIC, Probe, probe_kind, probe_lease},
};
use lb_core::{
    liveness::{Condition, GOSSIP_PORT, Leg, Message, PROBE_PORT, Profile},
    model::{GossipSecret, NodeName},
};
use lb_sim::{Cluster, Outgoing, leg};
use magnetite_tests::lab::{CROWD_MACS, Crowd, SECRET};
use tokio::{net::UdpSocket, sync::mpsc};

/// What one node of a large cluster spends on liveness: CPU of its agent's liveness thread and of its XDP program, packets and bits.
/// Needs root.
#[derive(Parser)]
#[command(name = "cargo xtask bench cost", bin_name = "cargo xtask bench cost")]
struct Arguments {
    /// One JSON object a line and figure: figure, value, unit, target, met.
    #[arg(long)]
    json: bool,
    /// Nodes of the cluster.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(3..=1000))]
    nodes: u16,
    /// Seconds that are measured, after all know each other.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

/// The node that is real.
const REAL: usize = 0;
/// How often is looked whether the agent has found all.
const LOOK: Duration = Duration::from_secs(1);
/// How often the simulation catches up with the clock.
const TICK: Duration = Duration::from_millis(1);
/// What has passed before the agent begins, on the simulation's clock.
const BEFORE: Duration = Duration::from_secs(10);
/// Until all have heard of each other, and of what the real one knows nothing is news any more.
const WARM_UP: Duration = Duration::from_secs(40);
const MOST_WARM_UP: Duration = Duration::from_secs(400);
/// Whoever has missed what others say of themselves asks a few of them each second; each answer leads to a pass.
const SETTLE: Duration = Duration::from_secs(100);
const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // Two sockets for each node, and some more.
    raise_open_files().context("the limit of open files cannot be raised")?;
    let nodes = usize::from(arguments.nodes);
    let mut cluster = Cluster::with_vips(nodes, 0, Profile::FAST, 1);
    cluster.set_external(REAL, Mac::from(CROWD_MACS[1]));
    // That so many get to know each other takes longer than it does: the agent comes to a cluster that is there.
    cluster.run_for(BEFORE);
    cluster.take_outbox();
    let addresses: Vec<Leg> = (0..nodes).map(leg).collect();
    let crowd = Crowd::up(&addresses)?;
    crowd.others.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(measure(cluster, &crowd, &arguments))
    })
}

async fn measure(cluster: Cluster, crowd: &Crowd, arguments: &Arguments) -> Result<()> {
    let mut others = Others::new(cluster)?;
    eprintln!("bench: {} nodes get to know each other", arguments.nodes);
    others.run_for(WARM_UP).await?;
    while crowd.node.status()?.nodes.values().any(|node| node.macs.is_empty()) {
        ensure!(others.begin.elapsed() < MOST_WARM_UP, "the agent does not find all nodes");
        others.run_for(LOOK).await?;
    }
    others.run_for(SETTLE).await?;
    fs::write(STATS, "1").with_context(|| format!("writing {STATS}"))?;
    others.most_behind = Duration::ZERO;
    let before = Sample::take(crowd)?;
    let seconds = Duration::from_secs(arguments.seconds);
    others.run_for(seconds).await?;
    let after = Sample::take(crowd)?;
    fs::write(STATS, "0").with_context(|| format!("writing {STATS}"))?;
    let cluster = &others.cluster;
    let accusers =
        (0..cluster.size()).filter(|by| *by != REAL && cluster.condition(REAL, *by) != Condition::Answering);
    let accusers = accusers.count();
    let behind = others.most_behind;
    eprintln!("bench: the simulation was {} ms behind the clock at most", behind.as_millis());
    ensure!(accusers == 0, "{accusers} nodes do not hold the agent to be well: is the machine busy?");

    let elapsed = (after.at - before.at).as_secs_f64();
    let share = |before: Duration, after: Duration| 100.0 * (after - before).as_secs_f64() / elapsed;
    let thread = share(before.agent[0], after.agent[0]);
    let xdp = share(before.xdp, after.xdp);
    let figures = [
        ("liveness thread", thread, "% of a core", None),
        ("whole agent", share(before.agent[1], after.agent[1]), "% of a core", None),
        ("XDP program", xdp, "% of a core", None),
        ("liveness thread and XDP program", thread + xdp, "% of a core", Some(1.0)),
        ("packets sent per second", (after.packets - before.packets) as f64 / elapsed, "", Some(200.0)),
        ("sent", 8e-3 * (after.bytes - before.bytes) as f64 / elapsed, "kbit/s", Some(200.0)),
        ("packets received per second", (after.received - before.received) as f64 / elapsed, "", None),
    ];
    for (figure, value, unit, target) in figures {
        report(&format!("a node of {}: {figure}", arguments.nodes), value, unit, target, arguments.json);
    }
    Ok(())
}

/// What was spent so far.
struct Sample {
    at: Instant,
    agent: [Duration; 2],
    xdp: Duration,
    packets: u64,
    bytes: u64,
    received: u64,
}

impl Sample {
    fn take(crowd: &Crowd) -> Result<Self> {
        // At the other end of the wire: what XDP sends is counted there as all else.
        let link = crowd.others.ip_json("-s link show dev wire")?;
        let stats = &link[0]["stats64"];
        let count = |way: &str, what: &str| stats[way][what].as_u64().context("no statistics of the wire");
        Ok(Self {
            at: Instant::now(),
            agent: crowd.agent_time()?,
            xdp: crowd.xdp_time()?.0,
            packets: count("rx", "packets")?,
            bytes: count("rx", "bytes")?,
            received: count("tx", "packets")?,
        })
    }
}

/// All nodes but the real one.
struct Others {
    cluster: Cluster,
    begin: Instant,
    sockets: BTreeMap<usize, Sockets>,
    sealers: BTreeMap<usize, Sealer>,
    opener: Opener,
    arrivals: mpsc::UnboundedReceiver<(usize, Arrival)>,
    /// The furthest that the simulation has been behind the clock.
    most_behind: Duration,
}

struct Sockets {
    probes: Arc<UdpSocket>,
    gossip: Arc<UdpSocket>,
}

enum Arrival {
    Probe(SocketAddr, Vec<u8>),
    Gossip(Vec<u8>),
}

impl Others {
    fn new(cluster: Cluster) -> Result<Self> {
        let secret = GossipSecret { current: SECRET.as_bytes().to_vec(), previous: None };
        let numbers: Vec<usize> = (0..cluster.size()).filter(|number| *number != REAL).collect();
        let (sender, arrivals) = mpsc::unbounded_channel();
        let mut sockets = BTreeMap::new();
        let mut sealers = BTreeMap::new();
        for number in numbers {
            let bind = |port| -> Result<Arc<UdpSocket>> {
                let socket = std::net::UdpSocket::bind(SocketAddr::new(leg(number), port))?;
                socket.set_nonblocking(true)?;
                Ok(Arc::new(UdpSocket::from_std(socket)?))
            };
            let (probes, gossip) = (bind(PROBE_PORT)?, bind(GOSSIP_PORT)?);
            for (socket, is_probe) in [(&probes, true), (&gossip, false)] {
                let (socket, sender) = (Arc::clone(socket), sender.clone());
                tokio::spawn(async move {
                    let mut buffer = [0; 2048];
                    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                        let bytes = buffer[..length].to_vec();
                        let arrival =
                            if is_probe { Arrival::Probe(from, bytes) } else { Arrival::Gossip(bytes) };
                        if sender.send((number, arrival)).is_err() {
                            return;
                        }
                    }
                });
            }
            sockets.insert(number, Sockets { probes, gossip });
            let sealer = Sealer::new(&secret, NodeName(format!("n{number}").into()), 1);
            sealers.insert(number, sealer.context("no key")?);
        }
        let mut opener = Opener::new(&secret);
        opener.set_members([NodeName(format!("n{REAL}").into())].iter());
        let begin = Instant::now().checked_sub(cluster.elapsed()).context("the machine has just started")?;
        Ok(Self { cluster, begin, sockets, sealers, opener, arrivals, most_behind: Duration::ZERO })
    }

    async fn run_for(&mut self, duration: Duration) -> Result<()> {
        let mut ticks = tokio::time::interval(TICK);
        let end = Instant::now() + duration;
        while Instant::now() < end {
            ticks.tick().await;
            // A tick that is overdue does not wait, and nobody else would have a turn.
            tokio::task::yield_now().await;
            while let Ok((to, arrival)) = self.arrivals.try_recv() {
                self.arrive(to, arrival).await?;
            }
            // In small steps: what has arrived meanwhile is not to look late to those that wait for it.
            let behind = self.begin.elapsed().saturating_sub(self.cluster.elapsed());
            self.most_behind = self.most_behind.max(behind);
            self.cluster.run_for(behind.min(TICK));
            for (from, outgoing) in self.cluster.take_outbox() {
                self.send(from, outgoing).await?;
            }
        }
        Ok(())
    }

    async fn arrive(&mut self, to: usize, arrival: Arrival) -> Result<()> {
        match arrival {
            Arrival::Probe(from, bytes) => {
                let Some(probe) = Probe::from_bytes(&bytes) else { return Ok(()) };
                if probe.kind_and_lease[0] == probe_kind::REQUEST {
                    // As its data plane would, at once.
                    let kind_and_lease = [probe_kind::ANSWER, probe_lease::HELD];
                    let answer = Probe { kind_and_lease, ..probe };
                    self.sockets[&to].probes.send_to(answer.as_bytes(), from).await?;
                } else {
                    let lease_holds = probe.kind_and_lease[1] == probe_lease::HELD;
                    self.cluster.arrive(to, Outgoing::Answer { nonce: probe.nonce, lease_holds });
                }
            }
            Arrival::Gossip(bytes) => {
                // Of one sender to many: what was opened for another receiver counts for this one as well.
                let opened = self.opener.open(&bytes);
                if let Ok(message) = opened.map(|opened| Message::decode(&opened.payload)) {
                    self.cluster.arrive(to, Outgoing::Message(message?));
                }
            }
        }
        Ok(())
    }

    async fn send(&mut self, from: usize, outgoing: Outgoing) -> Result<()> {
        let sockets = self.sockets.get(&from).context("no such node")?;
        let to = leg(REAL);
        match outgoing {
            Outgoing::Probe { nonce } => {
                let kind_and_lease = [probe_kind::REQUEST, 0];
                let probe = Probe { magic: PROBE_MAGIC, kind_and_lease, pad: 0, nonce };
                sockets.probes.send_to(probe.as_bytes(), SocketAddr::new(to, PROBE_PORT)).await?;
            }
            // Answered when the probe came.
            Outgoing::Answer { .. } => {}
            Outgoing::Message(message) => {
                let sealer = self.sealers.get_mut(&from).context("no such node")?;
                let sealed = sealer.seal(&message.encode()).context("not sealed")?;
                sockets.gossip.send_to(&sealed, SocketAddr::new(to, GOSSIP_PORT)).await?;
            }
        }
        Ok(())
    }
}

fn report(figure: &str, value: f64, unit: &str, target: Option<f64>, is_json: bool) {
    if is_json {
        let mut line = serde_json::json!({"figure": figure, "value": value, "unit": unit});
        if let Some(target) = target {
            line["target"] = target.into();
            line["met"] = (value < target).into();
        }
        println!("{line}");
    } else {
        let target = match target {
            Some(target) if value < target => format!("target under {target}, met"),
            Some(target) => format!("target under {target}, MISSED"),
            None => String::new(),
        };
        println!("{figure:<60} {value:>8.2} {unit:<12} {target}");
    }
}
