//! Nodes that run the real [`Liveness`], the network between them, and a clock that jumps.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::{Duration, Instant},
};

use lb_common::layout::{Addr, Mac};
use lb_core::{
    liveness::{Condition, Leg, Message, Profile, Transmit},
    moves,
};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use crate::node::{Input, Node, NodeNumber, Source, State, leg, number, vip};

/// A probe or its answer in a frame: Ethernet with FCS, IPv4, UDP, 16 bytes.
const PROBE_BYTES: u64 = 18 + 20 + 8 + 16;
/// Around a message: Ethernet with FCS, IPv4, UDP, an envelope with a node's name of 20 bytes.
const ENVELOPE_BYTES: u64 = 18 + 20 + 8 + 55;

/// What is wrong with the network.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Share of packets that get lost.
    pub loss: f64,
    /// From one node to another nothing arrives.
    pub cut: BTreeSet<(NodeNumber, NodeNumber)>,
    /// From these nodes so many of the packets that they send get lost, beside the rest.
    pub lossy: BTreeMap<NodeNumber, f64>,
}

/// What a node has for the one that is not simulated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// A probe of its data path.
    Probe {
        /// Comes back with the answer.
        nonce: u64,
    },
    /// A data path's answer.
    Answer {
        /// The probe's.
        nonce: u64,
        /// Whether the agent is there.
        lease_holds: bool,
    },
    /// Gossip.
    Message(Message),
}

/// Nodes, and the network between them.
pub struct Cluster {
    profile: Profile,
    begin: Instant,
    now: Instant,
    nodes: Vec<Node>,
    /// What is wrong with the network from now on.
    pub faults: Faults,
    random: StdRng,
    events: BinaryHeap<Reverse<Event>>,
    sequence: u64,
    /// Packets that nodes have sent, answers of data planes included.
    sent: u64,
    /// As frames on the wire, without preamble and gap.
    bytes: u64,
    counted_since: Instant,
    /// A node that is a real one, and what others have for it.
    external: Option<NodeNumber>,
    outbox: Vec<(NodeNumber, Outgoing)>,
    /// Generations of agents so far.
    starts: u64,
    source: Source,
    /// Who has last begun to own each VIP.
    owners: BTreeMap<Addr, NodeNumber>,
    /// When each VIP has moved, and whether its owner was fit then.
    moved: BTreeMap<Addr, Vec<(Instant, bool)>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Timer,
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

impl Cluster {
    /// Everybody knows everybody; the seed decides all that chance decides.
    pub fn new(nodes: usize, profile: Profile, seed: u64) -> Self {
        Self::with_vips(nodes, 8, profile, seed)
    }

    /// As [`Self::new`], with so many VIPs.
    pub fn with_vips(nodes: usize, vips: usize, profile: Profile, seed: u64) -> Self {
        Self::with_absent(nodes, &[], vips, profile, seed)
    }

    /// As [`Self::with_vips`], and on some nodes no agent has ever run.
    pub fn with_absent(
        nodes: usize,
        absent: &[NodeNumber],
        vips: usize,
        profile: Profile,
        seed: u64,
    ) -> Self {
        let begin = Instant::now();
        let mut random = StdRng::seed_from_u64(seed);
        let source = Source::new(nodes, vips);
        let mut cluster = Self {
            profile,
            begin,
            now: begin,
            nodes: Vec::new(),
            faults: Faults::default(),
            events: BinaryHeap::new(),
            sequence: 0,
            sent: 0,
            bytes: 0,
            counted_since: begin,
            random: StdRng::seed_from_u64(random.next_u64()),
            external: None,
            outbox: Vec::new(),
            starts: 1,
            owners: BTreeMap::new(),
            moved: BTreeMap::new(),
            source,
        };
        for node in 0..nodes {
            let mut seed = [0; 32];
            random.fill_bytes(&mut seed);
            cluster.nodes.push(Node::new(node, &cluster.source, profile, seed, 1, begin));
            if absent.contains(&node) {
                cluster.kill(node);
                continue;
            }
            cluster.renew(node);
            cluster.carry_out(node);
        }
        let first = |vip: &Addr| Some((*vip, cluster.nodes.first()?.owner(*vip)?));
        cluster.owners = cluster.source.vips.keys().filter_map(first).collect();
        cluster
    }

    /// Since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.now - self.begin
    }

    /// Nothing is heard of a node any more.
    pub fn kill(&mut self, node: NodeNumber) {
        self.nodes[node].state = State::Dead;
        self.nodes[node].forget_inputs();
    }

    /// The agent stops; what comes waits for it.
    pub fn put_to_sleep(&mut self, node: NodeNumber) {
        self.nodes[node].state = State::Asleep;
    }

    /// The agent goes on, or the node is heard again.
    pub fn wake(&mut self, node: NodeNumber) {
        self.nodes[node].state = State::Running;
        self.renew(node);
        for input in std::mem::take(&mut self.nodes[node].inbox) {
            self.nodes[node].handle(input, self.now);
        }
        self.nodes[node].handle_timeout(self.now);
        self.carry_out(node);
    }

    /// Another agent begins on a node, and knows nothing of what was.
    pub fn start_anew(&mut self, node: NodeNumber) {
        let mut seed = [0; 32];
        self.random.fill_bytes(&mut seed);
        self.starts += 1;
        self.nodes[node] = Node::new(node, &self.source, self.profile, seed, self.starts, self.now);
        self.renew(node);
        self.carry_out(node);
    }

    /// A node is a real one from now on, all others say that they are at this MAC.
    pub fn set_external(&mut self, node: NodeNumber, mac: Mac) {
        self.kill(node);
        self.external = Some(node);
        (0..self.nodes.len()).filter(|other| *other != node).for_each(|other| self.change_mac(other, mac));
    }

    /// What nodes have for the real one.
    pub fn take_outbox(&mut self) -> Vec<(NodeNumber, Outgoing)> {
        std::mem::take(&mut self.outbox)
    }

    /// What the real one has for a node arrives.
    pub fn arrive(&mut self, to: NodeNumber, outgoing: Outgoing) {
        let Some(from) = self.external else { return };
        let what = match outgoing {
            Outgoing::Probe { nonce } => What::Probe { from, nonce },
            Outgoing::Answer { nonce, lease_holds } => {
                What::Input(Input::Answer { from: leg(from), nonce, lease_holds })
            }
            Outgoing::Message(message) => What::Input(Input::Message { from: leg(from), message }),
        };
        self.push(self.now, to, what);
    }

    /// A node's clock jumps.
    pub fn slip(&mut self, node: NodeNumber, by: Duration) {
        self.nodes[node].ahead += by;
        self.nodes[node].timer = None;
        self.carry_out(node);
    }

    /// A node says that it goes, or that it stays.
    pub fn leave(&mut self, node: NodeNumber, is_leaving: bool) {
        let now = self.now + self.nodes[node].ahead;
        self.nodes[node].liveness.leave(is_leaving, now);
        self.carry_out(node);
    }

    /// A node hears from its source that these are all that there are.
    pub fn set_members(&mut self, node: NodeNumber, members: &[NodeNumber]) {
        let legs = members.iter().map(|member| leg(*member)).collect();
        self.nodes[node].set_members(legs, self.now);
        self.carry_out(node);
    }

    /// Probes that a node has sent.
    pub fn probes(&self, node: NodeNumber) -> u64 {
        self.nodes[node].liveness.counts().probes
    }

    /// The node's link has another MAC now, and says so.
    pub fn change_mac(&mut self, node: NodeNumber, mac: Mac) {
        self.nodes[node].mac = mac;
        self.nodes[node].describe(mac, self.now);
        self.carry_out(node);
    }

    /// A node says that its MAC is one at which it is not.
    pub fn lie_about_mac(&mut self, node: NodeNumber, mac: Mac) {
        self.nodes[node].describe(mac, self.now);
        self.carry_out(node);
    }

    /// A node would use this algorithm.
    pub fn set_algorithm(&mut self, node: NodeNumber, algorithm: u32) {
        self.nodes[node].algorithm = algorithm;
        let mac = self.nodes[node].mac;
        self.nodes[node].describe(mac, self.now);
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

    /// Lets so much time pass.
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

    /// Whether a node holds another to be dead for so long that its flows have ended.
    pub fn is_gone(&self, of: NodeNumber, by: NodeNumber) -> bool {
        self.nodes[by].liveness.is_gone(leg(of), self.now + self.nodes[by].ahead)
    }

    /// Whether new flows avoid a node, as another sees it.
    pub fn is_avoided(&self, of: NodeNumber, by: NodeNumber) -> bool {
        self.nodes[by].standing.is_avoided(leg(of))
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

    /// Times that a node of all missed so many probes that others were asked.
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

    /// What each node that runs holds of all, for a person.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for by in self.running() {
            let letters = (0..self.nodes.len()).map(|of| match self.condition(of, by) {
                Condition::Answering => 'a',
                Condition::Returning => 'r',
                Condition::Leaving => 'l',
                Condition::Yielding => 'y',
                Condition::Absent => '-',
                Condition::Silent => 'S',
            });
            let owners =
                (0..4).map(|number| self.nodes[by].owner(vip(number)).map_or(-1, |node| node as i64));
            text += &format!("\n{by}: {} {:?}", letters.collect::<String>(), owners.collect::<Vec<_>>());
        }
        text
    }

    /// How many nodes there are.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// How many nodes run.
    pub fn runs(&self) -> usize {
        self.running().count()
    }

    fn running(&self) -> impl Iterator<Item = NodeNumber> + '_ {
        let is_running = |(_, node): &(usize, &Node)| node.state == State::Running;
        self.nodes.iter().enumerate().filter(is_running).map(|(number, _)| number)
    }

    fn push(&mut self, at: Instant, node: NodeNumber, what: What) {
        self.sequence += 1;
        self.events.push(Reverse(Event { at, sequence: self.sequence, node, what }));
    }

    fn renew(&mut self, node: NodeNumber) {
        let next = self.now + self.profile.lease / 3;
        self.nodes[node].lease = self.now + self.profile.lease;
        self.nodes[node].renewal = Some(next);
        self.push(next, node, What::Renew);
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
            What::Timer if self.nodes[node].timer != Some(event.at) => {}
            What::Timer => {
                self.nodes[node].timer = None;
                if state == State::Running {
                    self.nodes[node].handle_timeout(self.now);
                    self.carry_out(node);
                }
            }
            What::Renew if self.nodes[node].renewal != Some(event.at) => {}
            What::Renew => {
                self.nodes[node].renewal = None;
                if state == State::Running {
                    self.renew(node);
                }
            }
            What::Probe { from, nonce } => {
                if state != State::Dead {
                    let lease_holds = self.now < self.nodes[node].lease;
                    let answer = Input::Answer { from: leg(node), nonce, lease_holds };
                    self.transmit(node, from, What::Input(answer));
                }
            }
            What::Input(input) => match state {
                State::Running => {
                    if self.nodes[node].handle(input, self.now) {
                        self.carry_out(node);
                    }
                }
                State::Asleep => self.nodes[node].inbox.push_back(input),
                State::Dead => {}
            },
        }
        true
    }

    /// Sends what a node has to say, sets its timer, and notes what VIPs it sees move.
    fn carry_out(&mut self, node: NodeNumber) {
        let moved = self.nodes[node].moves.total();
        for transmit in self.nodes[node].run(self.now) {
            match transmit {
                Transmit::Probe { to, nonce } => {
                    self.transmit(node, number(to), What::Probe { from: node, nonce });
                }
                Transmit::Proof { to, mac, nonce } => {
                    if mac == self.nodes[number(to)].mac || self.external == Some(number(to)) {
                        self.transmit(node, number(to), What::Probe { from: node, nonce });
                    }
                }
                Transmit::Message { to, message } => {
                    let input = Input::Message { from: leg(node), message };
                    self.transmit(node, number(to), What::Input(input));
                }
            }
        }
        if let Some(at) = self.nodes[node].poll_timeout().map(|at| at.max(self.now))
            && self.nodes[node].timer.is_none_or(|timer| at < timer)
        {
            self.nodes[node].timer = Some(at);
            self.push(at, node, What::Timer);
        }
        if self.nodes[node].moves.total() != moved {
            self.note_moves(node);
        }
    }

    /// What the network sees: who says last that it has a VIP.
    fn note_moves(&mut self, node: NodeNumber) {
        for number in 0..self.source.vips.len() {
            let vip = vip(number);
            if self.nodes[node].owner(vip) != Some(node) {
                continue;
            }
            let before = self.owners.insert(vip, node);
            let Some(before) = before.filter(|before| *before != node) else { continue };
            let was_fit = self.nodes[before].state == State::Running && !self.is_cut(before);
            self.moved.entry(vip).or_default().push((self.now, was_fit));
        }
    }

    /// From most of the others.
    fn is_cut(&self, node: NodeNumber) -> bool {
        let is_from = |other: &NodeNumber| {
            self.faults.cut.contains(&(node, *other)) || self.faults.cut.contains(&(*other, node))
        };
        2 * (0..self.nodes.len()).filter(is_from).count() >= self.nodes.len()
    }

    /// The most moves of a VIP within [`moves::WINDOW`], as the network sees them, that end with one away from an owner that was fit: not
    /// from one that was dead, or cut off from half of the others or more.
    pub fn most_moves(&self) -> usize {
        let within = |moves: &[(Instant, bool)], last: usize| {
            moves[..=last].iter().filter(|(at, _)| moves[last].0 < *at + moves::WINDOW).count()
        };
        let most = |moves: &Vec<(Instant, bool)>| {
            let chosen = (0..moves.len()).filter(|last| moves[*last].1);
            chosen.map(|last| within(moves, last)).max().unwrap_or(0)
        };
        self.moved.values().map(most).max().unwrap_or(0)
    }

    /// Moves of all VIPs since the beginning, as the network sees them.
    pub fn moves(&self) -> usize {
        self.moved.values().map(Vec::len).sum()
    }

    /// Who believes that it owns a VIP, of the nodes that run.
    pub fn owners(&self, vip: Addr) -> Vec<NodeNumber> {
        self.running().filter(|node| self.nodes[*node].owner(vip) == Some(*node)).collect()
    }

    /// Whether all nodes that run know which others do not.
    pub fn all_troubles_are_known(&self) -> bool {
        let is_known = |of: NodeNumber| {
            self.nodes[of].state == State::Running
                || self.running().all(|by| !self.condition(of, by).is_present())
        };
        (0..self.nodes.len()).all(is_known)
    }

    /// Whether each VIP has exactly one owner among the nodes that run.
    pub fn each_has_one_owner(&self) -> bool {
        self.source.vips.keys().all(|vip| self.owners(*vip).len() == 1)
    }

    /// Whether a node that runs has announced a VIP after a moment since the beginning.
    pub fn is_announced(&self, vip: Addr, after: Duration) -> bool {
        let is_new = |(at, announced): &&(Instant, Addr)| *announced == vip && *at > self.begin + after;
        self.running().any(|node| self.nodes[node].announced.iter().rev().any(|it| is_new(&it)))
    }

    /// The most announcements that a node has sent within a second.
    pub fn most_announcements(&self) -> usize {
        let most = |node: &Node| {
            let times: Vec<Instant> = node.announced.iter().map(|(at, _)| *at).collect();
            let within = |first: usize| {
                times[first..].iter().take_while(|at| **at < times[first] + Duration::from_secs(1)).count()
            };
            (0..times.len()).map(within).max().unwrap_or(0)
        };
        self.nodes.iter().map(most).max().unwrap_or(0)
    }

    fn transmit(&mut self, from: NodeNumber, to: NodeNumber, what: What) {
        if self.external == Some(to) {
            self.outbox.push(match what {
                What::Probe { nonce, .. } => (from, Outgoing::Probe { nonce }),
                What::Input(Input::Answer { nonce, lease_holds, .. }) => {
                    (from, Outgoing::Answer { nonce, lease_holds })
                }
                What::Input(Input::Message { message, .. }) => (from, Outgoing::Message(message)),
                What::Timer | What::Renew => return,
            });
            return;
        }
        self.sent += 1;
        self.bytes += match &what {
            What::Probe { .. } | What::Input(Input::Answer { .. }) => PROBE_BYTES,
            What::Input(Input::Message { message, .. }) => ENVELOPE_BYTES + message.encode().len() as u64,
            What::Timer | What::Renew => 0,
        };
        let lossy = self.faults.lossy.get(&from).copied().unwrap_or(0.0);
        let is_lost = self.faults.cut.contains(&(from, to))
            || self.random.random_bool(self.faults.loss)
            || self.random.random_bool(lossy);
        if !is_lost {
            let latency = Duration::from_micros(self.random.random_range(100..500));
            self.push(self.now + latency, to, what);
        }
    }
}
