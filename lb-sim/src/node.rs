//! One node of a simulated cluster: what the liveness thread of an agent does, without its sockets.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use lb_common::layout::{Addr, Mac, Vip};
use lb_core::{
    announce::Announcements,
    armed::{Armed, ArmedLink, ArmedSegment, ArmedVip},
    few::Few,
    liveness::{Description, Leg, LinkDescription, Liveness, Message, Profile, Standing, Transmit},
    model::NodeName,
    moves::{self, Moves},
    ownership,
};

/// A node by its number.
pub type NodeNumber = usize;

/// Hosts of 10.0.0.0/16, from 1.
pub fn leg(node: NodeNumber) -> Leg {
    let host = node + 1;
    IpAddr::from([10, 0, (host >> 8) as u8, host as u8])
}

/// The node of a leg, as [`leg`] makes them.
pub(crate) fn number(leg: Leg) -> NodeNumber {
    match leg {
        IpAddr::V4(v4) => (usize::from(v4.octets()[2]) << 8 | usize::from(v4.octets()[3])) - 1,
        IpAddr::V6(_) => unreachable!("legs here are IPv4"),
    }
}

/// A VIP by its number.
pub fn vip(number: usize) -> Addr {
    IpAddr::from([192, 0, 2 + (number >> 8) as u8, number as u8]).into()
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    /// The agent does nothing; the data plane goes on.
    Asleep,
    /// Nothing is heard of it.
    Dead,
}

/// What arrives at an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Answer { from: Leg, nonce: u64, lease_holds: bool },
    Message { from: Leg, message: Message },
}

/// Every node knows all others and all VIPs from its source.
#[derive(Clone)]
pub(crate) struct Source {
    pub legs: BTreeSet<Leg>,
    pub vips: BTreeMap<Addr, ArmedVip>,
}

impl Source {
    pub fn new(nodes: usize, vips: usize) -> Self {
        let names: BTreeMap<NodeName, Leg> =
            (0..nodes).map(|node| (NodeName(format!("n{node}").into()), leg(node))).collect();
        let ranked = |vip: Addr| {
            let ranked = ownership::ranked(vip.to_ip(), names.keys().map(|name| (name, 0)));
            let legs = ranked.iter().map(|name| names[*name]).collect();
            let entry = Vip { announced: 1, ..Vip::default() };
            (vip, ArmedVip { entry, ranked: [(0, legs)].into(), tables: Few::new() })
        };
        Self { legs: names.values().copied().collect(), vips: (0..vips).map(vip).map(ranked).collect() }
    }
}

/// A node.
pub(crate) struct Node {
    pub number: NodeNumber,
    pub liveness: Liveness,
    pub mac: Mac,
    pub state: State,
    /// By the cluster's clock.
    pub lease: Instant,
    /// What came while the agent was asleep.
    pub inbox: VecDeque<Input>,
    /// No agent wakes for an answer.
    answers: Vec<(Leg, u64, bool)>,
    /// So much this node's clock is ahead of the cluster's.
    pub ahead: Duration,
    /// When its timer will ring, by the cluster's clock.
    pub timer: Option<Instant>,
    /// When it renews its lease, by the cluster's clock.
    pub renewal: Option<Instant>,
    pub algorithm: u32,
    pub armed: Armed,
    pub moves: Moves,
    pub standing: Standing,
    announcements: Announcements,
    /// What it has announced, and when by the cluster's clock.
    pub announced: Vec<(Instant, Addr)>,
}

impl Node {
    pub fn new(
        number: NodeNumber,
        source: &Source,
        profile: Profile,
        seed: [u8; 32],
        generation: u64,
        now: Instant,
    ) -> Self {
        let mac = Mac::from([2, 0, 0, 0, (number >> 8) as u8, number as u8]);
        let segment = ArmedSegment {
            name: "eth0".to_owned(),
            own: Some(leg(number)),
            claims_as: Some(leg(number)),
            stand_ins: BTreeMap::new(),
            legs: source.legs.iter().map(|leg| (*leg, NodeName(leg.to_string().into()))).collect(),
            links: [(1, ArmedLink { mac, asks_from: None, arrivals: [1].into() })].into(),
        };
        let armed = Armed { vips: source.vips.clone(), segments: [(0, segment)].into(), ..Armed::default() };
        let mut node = Self {
            number,
            liveness: Liveness::new(profile, seed, generation, now),
            mac,
            state: State::Running,
            lease: now + profile.lease,
            inbox: VecDeque::new(),
            answers: Vec::new(),
            ahead: Duration::ZERO,
            timer: None,
            renewal: None,
            algorithm: Description::default().algorithm,
            armed,
            moves: Moves::new(now),
            standing: Standing::default(),
            announcements: Announcements::default(),
            announced: Vec::new(),
        };
        node.describe(mac, now);
        node.set_members(source.legs.clone(), now);
        node
    }

    /// The node says that it is at this MAC.
    pub fn describe(&mut self, mac: Mac, now: Instant) {
        let addresses = vec![IpNet::new_assert(leg(self.number), 16)];
        let link = LinkDescription { name: "eth0".to_owned(), mac, addresses };
        let description =
            Description { links: vec![link], algorithm: self.algorithm, ..Description::default() };
        self.liveness.describe(description, now + self.ahead);
    }

    pub fn set_members(&mut self, legs: BTreeSet<Leg>, now: Instant) {
        self.liveness.set_segments(&[(leg(self.number), legs)], now + self.ahead);
        self.act(now);
    }

    /// Whether the agent has woken for it.
    pub fn handle(&mut self, input: Input, now: Instant) -> bool {
        match input {
            Input::Answer { from, nonce, lease_holds } => {
                self.answers.push((from, nonce, lease_holds));
                false
            }
            Input::Message { from, message } => {
                self.take_answers(now);
                self.liveness.handle_message(from, &message, now + self.ahead);
                true
            }
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.take_answers(now);
        self.liveness.handle_timeout(now + self.ahead);
    }

    /// What has come is lost.
    pub fn forget_inputs(&mut self) {
        self.inbox.clear();
        self.answers.clear();
    }

    fn take_answers(&mut self, now: Instant) {
        for (from, nonce, lease_holds) in self.answers.drain(..) {
            self.liveness.handle_answer(from, nonce, lease_holds, now + self.ahead);
        }
    }

    /// When there is something to do, by the cluster's clock.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = self.liveness.poll_timeout().into_iter().chain(self.announcements.poll_timeout()).min()?;
        due.checked_sub(self.ahead)
    }

    /// What is to be sent, after everything else that follows from the input.
    pub fn run(&mut self, now: Instant) -> Vec<Transmit> {
        let local = now + self.ahead;
        while let Some(leg) = self.liveness.poll_return(local) {
            let falls = |leg| self.liveness.view().falls(leg, moves::WINDOW, local);
            match self.moves.earliest_return(&self.armed, &self.standing, leg, falls, local) {
                None => self.liveness.settle(leg, local),
                Some(until) => self.liveness.postpone(leg, until),
            }
        }
        if self.liveness.poll_change() {
            self.act(now);
        }
        while let Some(((vip, _), _)) = self.announcements.poll_transmit(local) {
            self.announced.push((now, vip));
        }
        std::iter::from_fn(|| self.liveness.poll_transmit()).collect()
    }

    /// The node that owns a VIP, as this one sees it.
    pub fn owner(&self, vip: Addr) -> Option<NodeNumber> {
        self.standing.owner(&self.armed.vips[&vip].ranked[&0]).map(number)
    }

    fn act(&mut self, now: Instant) {
        let now = now + self.ahead;
        let silent = self.standing.silent();
        self.standing = self.liveness.standing(now);
        if self.standing.silent() > silent {
            self.announcements.forget_lost();
        }
        self.moves.observe(&self.armed, &self.standing, now);
        let own = self.armed.vips.keys().filter(|vip| self.owner(**vip) == Some(self.number));
        self.announcements.set(&own.map(|vip| (*vip, 1)).collect(), now);
        if self.standing.silent() < silent {
            self.announcements.repeat_all(now);
        }
    }
}
