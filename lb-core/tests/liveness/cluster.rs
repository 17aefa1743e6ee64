//! Nodes that run the real [`Liveness`], the network between them, and a clock that jumps.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use lb_common::layout::Mac;
use lb_core::liveness::{Condition, Description, Leg, LinkDescription, Liveness, Message, Profile, Transmit};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

/// A probe or its answer in a frame: Ethernet with FCS, IPv4, UDP, 16 bytes.
const PROBE_BYTES: u64 = 18 + 20 + 8 + 16;
/// Around a message: Ethernet with FCS, IPv4, UDP, an envelope with a node's name of 20 bytes.
const ENVELOPE_BYTES: u64 = 18 + 20 + 8 + 55;

/// A node by its number.
pub type NodeNumber = usize;

/// What is wrong with the network.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Share of packets that get lost.
    pub loss: f64,
    /// From one node to another nothing arrives.
    pub cut: BTreeSet<(NodeNumber, NodeNumber)>,
}

pub struct Cluster {
    profile: Profile,
    now: Instant,
    nodes: Vec<Node>,
    pub faults: Faults,
    random: StdRng,
    events: BinaryHeap<Reverse<Event>>,
    sequence: u64,
    /// Packets that nodes have sent, answers of data planes included.
    sent: u64,
    /// As frames on the wire, without preamble and gap.
    bytes: u64,
    counted_since: Instant,
}

struct Node {
    liveness: Liveness,
    mac: Mac,
    state: State,
    lease: Instant,
    /// What came while the agent was asleep.
    inbox: VecDeque<Input>,
    /// The latest timer that was set; others are stale.
    timer: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// The agent does nothing; the data plane goes on.
    Asleep,
    /// Nothing is heard of it.
    Dead,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Input {
    Answer { from: Leg, nonce: u64, lease_holds: bool },
    Message { from: Leg, message: Message },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Timer(u64),
    Renew,
    Probe { from: NodeNumber, nonce: u64 },
    Input(Input),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    at: Instant,
    sequence: u64,
    node: NodeNumber,
    what: What,
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

pub fn leg(node: NodeNumber) -> Leg {
    IpAddr::from([10, 0, (node >> 8) as u8, node as u8])
}

fn description(node: NodeNumber, mac: Mac) -> Description {
    let name = "eth0".to_owned();
    let link = LinkDescription { name, mac, addresses: vec![IpNet::new_assert(leg(node), 16)] };
    Description { links: vec![link], ..Description::default() }
}

fn number(leg: Leg) -> NodeNumber {
    match leg {
        IpAddr::V4(v4) => usize::from(v4.octets()[2]) << 8 | usize::from(v4.octets()[3]),
        IpAddr::V6(_) => unreachable!("legs here are IPv4"),
    }
}

impl Cluster {
    /// Everybody knows everybody; the seed decides all that chance decides.
    pub fn new(nodes: usize, profile: Profile, seed: u64) -> Self {
        let begin = Instant::now();
        let mut random = StdRng::seed_from_u64(seed);
        let mut cluster = Self {
            profile,
            now: begin,
            nodes: Vec::new(),
            faults: Faults::default(),
            events: BinaryHeap::new(),
            sequence: 0,
            sent: 0,
            bytes: 0,
            counted_since: begin,
            random: StdRng::seed_from_u64(random.next_u64()),
        };
        let legs: BTreeSet<Leg> = (0..nodes).map(leg).collect();
        for node in 0..nodes {
            let mut seed = [0; 32];
            random.fill_bytes(&mut seed);
            let mut liveness = Liveness::new(profile, seed, 1, begin);
            let mac = Mac::from([2, 0, 0, 0, (node >> 8) as u8, node as u8]);
            liveness.describe(description(node, mac), begin);
            liveness.set_segments(&[(leg(node), legs.clone())], begin);
            let lease = begin + profile.lease;
            cluster.nodes.push(Node {
                liveness,
                mac,
                state: State::Running,
                lease,
                inbox: VecDeque::new(),
                timer: 0,
            });
            cluster.push(begin, node, What::Renew);
            cluster.carry_out(node);
        }
        cluster
    }

    pub fn kill(&mut self, node: NodeNumber) {
        self.nodes[node].state = State::Dead;
        self.nodes[node].inbox.clear();
    }

    /// The agent stops; what comes waits for it.
    pub fn put_to_sleep(&mut self, node: NodeNumber) {
        self.nodes[node].state = State::Asleep;
    }

    /// The agent goes on, or the node is heard again.
    pub fn wake(&mut self, node: NodeNumber) {
        self.nodes[node].state = State::Running;
        self.push(self.now, node, What::Renew);
        for input in std::mem::take(&mut self.nodes[node].inbox) {
            self.handle(node, input);
        }
        self.nodes[node].liveness.handle_timeout(self.now);
        self.carry_out(node);
    }

    /// A node hears from its source that these are all that there are.
    pub fn set_members(&mut self, node: NodeNumber, members: &[NodeNumber]) {
        let legs = members.iter().map(|member| leg(*member)).collect();
        self.nodes[node].liveness.set_segments(&[(leg(node), legs)], self.now);
        self.carry_out(node);
    }

    /// Probes that a node has sent.
    pub fn probes(&self, node: NodeNumber) -> u64 {
        self.nodes[node].liveness.counts().probes
    }

    /// The node's link has another MAC now, and says so.
    pub fn change_mac(&mut self, node: NodeNumber, mac: Mac) {
        self.nodes[node].mac = mac;
        self.nodes[node].liveness.describe(description(node, mac), self.now);
        self.carry_out(node);
    }

    /// A node says that its MAC is one at which it is not.
    pub fn lie_about_mac(&mut self, node: NodeNumber, mac: Mac) {
        self.nodes[node].liveness.describe(description(node, mac), self.now);
        self.carry_out(node);
    }

    /// A node would use this algorithm.
    pub fn set_algorithm(&mut self, node: NodeNumber, algorithm: u32) {
        let description = Description { algorithm, ..description(node, self.nodes[node].mac) };
        self.nodes[node].liveness.describe(description, self.now);
        self.carry_out(node);
    }

    /// What all nodes that run use, if they agree.
    pub fn algorithm(&self) -> Option<u32> {
        let algorithms: BTreeSet<u32> =
            self.running().map(|node| self.nodes[node].liveness.algorithm()).collect();
        algorithms.first().copied().filter(|_| algorithms.len() == 1)
    }

    /// The MAC of a node that a probe of another has proven.
    pub fn proven(&self, of: NodeNumber, by: NodeNumber) -> Option<Mac> {
        self.nodes[by].liveness.proven().get(&leg(of)).copied()
    }

    /// The MAC that a node has.
    pub fn mac(&self, node: NodeNumber) -> Mac {
        self.nodes[node].mac
    }

    /// Whether all nodes that run know of a node where it is.
    pub fn all_have_proven(&self, of: NodeNumber) -> bool {
        self.running().filter(|by| *by != of).all(|by| self.proven(of, by) == Some(self.mac(of)))
    }

    /// Legs whose agents take part, as a node has heard.
    pub fn members(&self, by: NodeNumber) -> BTreeSet<Leg> {
        self.nodes[by].liveness.members()
    }

    /// Both ways, or none.
    pub fn part(&mut self, one: &[NodeNumber], other: &[NodeNumber]) {
        for a in one {
            for b in other {
                self.faults.cut.insert((*a, *b));
                self.faults.cut.insert((*b, *a));
            }
        }
    }

    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until something holds; the time that it took, or `None` if it does not hold in time.
    pub fn run_until(&mut self, limit: Duration, holds: impl Fn(&Self) -> bool) -> Option<Duration> {
        let (begin, end) = (self.now, self.now + limit);
        while !holds(self) {
            if !self.step(end) {
                self.now = end;
                return None;
            }
        }
        Some(self.now - begin)
    }

    /// What a node holds of another.
    pub fn condition(&self, of: NodeNumber, by: NodeNumber) -> Condition {
        self.nodes[by].liveness.view().condition(leg(of))
    }

    pub fn is_gone(&self, of: NodeNumber, by: NodeNumber) -> bool {
        self.nodes[by].liveness.is_gone(leg(of), self.now)
    }

    /// Whether all nodes that run hold the same of a node.
    pub fn all_hold(&self, of: NodeNumber, condition: Condition) -> bool {
        self.running().filter(|by| *by != of).all(|by| self.condition(of, by) == condition)
    }

    /// Whether all nodes that run hold the same of all.
    pub fn agree(&self) -> bool {
        let mut running = self.running();
        let Some(first) = running.next() else { return true };
        running.all(|by| (0..self.nodes.len()).all(|of| self.condition(of, by) == self.condition(of, first)))
    }

    /// Verdicts of all nodes that a leg is silent.
    pub fn accusations(&self) -> u64 {
        self.nodes.iter().map(|node| node.liveness.counts().accusations).sum()
    }

    pub fn suspicions(&self) -> u64 {
        self.nodes.iter().map(|node| node.liveness.counts().suspicions).sum()
    }

    /// Packets that were sent, by kind of sender: all of it, for a node and second.
    pub fn packets_per_node_and_second(&self) -> f64 {
        self.sent as f64 / self.nodes.len() as f64 / (self.now - self.counted_since).as_secs_f64()
    }

    /// As [`Self::packets_per_node_and_second`], in bits on the wire.
    pub fn kilobits_per_node_and_second(&self) -> f64 {
        8e-3 * self.bytes as f64 / self.nodes.len() as f64 / (self.now - self.counted_since).as_secs_f64()
    }

    /// What was sent before does not count.
    pub fn count_anew(&mut self) {
        (self.sent, self.bytes, self.counted_since) = (0, 0, self.now);
    }

    fn running(&self) -> impl Iterator<Item = NodeNumber> + '_ {
        let is_running = |(_, node): &(usize, &Node)| node.state == State::Running;
        self.nodes.iter().enumerate().filter(is_running).map(|(number, _)| number)
    }

    fn push(&mut self, at: Instant, node: NodeNumber, what: What) {
        self.sequence += 1;
        self.events.push(Reverse(Event { at, sequence: self.sequence, node, what }));
    }

    /// The next event, unless it is after `end`.
    fn step(&mut self, end: Instant) -> bool {
        if self.events.peek().is_none_or(|Reverse(event)| event.at > end) {
            return false;
        }
        let Some(Reverse(event)) = self.events.pop() else { return false };
        self.now = event.at;
        let node = event.node;
        let state = self.nodes[node].state;
        match event.what {
            What::Timer(timer) if timer != self.nodes[node].timer => {}
            What::Timer(_) if state == State::Running => {
                self.nodes[node].liveness.handle_timeout(self.now);
                self.carry_out(node);
            }
            What::Timer(_) => {}
            What::Renew if state == State::Running => {
                self.nodes[node].lease = self.now + self.profile.lease;
                self.push(self.now + self.profile.lease / 3, node, What::Renew);
            }
            What::Renew => {}
            What::Probe { from, nonce } => {
                if state != State::Dead {
                    let lease_holds = self.now < self.nodes[node].lease;
                    let answer = Input::Answer { from: leg(node), nonce, lease_holds };
                    self.transmit(node, from, What::Input(answer));
                }
            }
            What::Input(input) => match state {
                State::Running => {
                    self.handle(node, input);
                    self.carry_out(node);
                }
                State::Asleep => self.nodes[node].inbox.push_back(input),
                State::Dead => {}
            },
        }
        true
    }

    fn handle(&mut self, node: NodeNumber, input: Input) {
        let liveness = &mut self.nodes[node].liveness;
        match input {
            Input::Answer { from, nonce, lease_holds } => {
                liveness.handle_answer(from, nonce, lease_holds, self.now);
            }
            Input::Message { from, message } => liveness.handle_message(from, &message, self.now),
        }
    }

    /// Sends what a node has to say, and sets its timer.
    fn carry_out(&mut self, node: NodeNumber) {
        while let Some(transmit) = self.nodes[node].liveness.poll_transmit() {
            match transmit {
                Transmit::Probe { to, nonce } => {
                    self.transmit(node, number(to), What::Probe { from: node, nonce });
                }
                Transmit::Proof { to, mac, nonce } => {
                    if mac == self.nodes[number(to)].mac {
                        self.transmit(node, number(to), What::Probe { from: node, nonce });
                    }
                }
                Transmit::Message { to, message } => {
                    let input = Input::Message { from: leg(node), message };
                    self.transmit(node, number(to), What::Input(input));
                }
            }
        }
        if let Some(at) = self.nodes[node].liveness.poll_timeout() {
            self.nodes[node].timer += 1;
            let timer = self.nodes[node].timer;
            self.push(at.max(self.now), node, What::Timer(timer));
        }
    }

    fn transmit(&mut self, from: NodeNumber, to: NodeNumber, what: What) {
        self.sent += 1;
        self.bytes += match &what {
            What::Probe { .. } | What::Input(Input::Answer { .. }) => PROBE_BYTES,
            What::Input(Input::Message { message, .. }) => ENVELOPE_BYTES + message.encode().len() as u64,
            What::Timer(_) | What::Renew => 0,
        };
        let is_lost = self.faults.cut.contains(&(from, to)) || self.random.random_bool(self.faults.loss);
        if !is_lost {
            let latency = Duration::from_micros(self.random.random_range(100..500));
            self.push(self.now + latency, to, what);
        }
    }
}

/// Times in milliseconds, in order.
pub struct Distribution(Vec<f64>);

impl Distribution {
    pub fn of(times: impl IntoIterator<Item = Duration>) -> Self {
        let mut times: Vec<f64> = times.into_iter().map(|time| time.as_secs_f64() * 1e3).collect();
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    pub fn quantile(&self, share: f64) -> f64 {
        let place = (share * (self.0.len() as f64 - 1.0)).round() as usize;
        self.0.get(place).copied().unwrap_or(f64::NAN)
    }
}

impl std::fmt::Display for Distribution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| self.quantile(share));
        write!(f, "median {p50:.0} ms, p99 {p99:.0} ms, most {max:.0} ms of {}", self.0.len())
    }
}

/// Seeds of a test: one from the environment that failed before, or those that are asked for.
pub fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let asked: BTreeMap<String, String> = std::env::vars().filter(|(name, _)| name == "SEED").collect();
    let one = asked.get("SEED").and_then(|seed| seed.parse().ok());
    let range = one.map_or(0..count, |seed: u64| seed..seed + 1);
    range.inspect(|seed| println!("seed {seed} (SEED={seed} runs it alone)"))
}
