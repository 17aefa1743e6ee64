//! Flows, as clients and pods see them.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{hash::mix, packet::tcp_flags};

use crate::cluster::{ClientPacket, Cluster, Fate, Flow, PodNumber, Transport};

/// Why a flow whose pod lived on was lost: a connection to its end, a UDP flow to another pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The pod is no candidate of the slot any more.
    NoCandidate,
    /// UDP only: the pod is not the first of its slot, and the node that chose again remembered nothing.
    NotFirst,
    /// UDP only: its node was suspect when another node chose again.
    Suspect,
    /// Another pod got a packet in the middle of the connection, and reset it.
    OtherPod,
    /// The pod's answers did not leave as the VIP.
    Mute,
    /// A node left it to its kernel.
    Kernel,
    /// A node dropped it.
    Dropped,
}

/// A flow that was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    pub flow: Flow,
    pub cause: Cause,
}

/// Clients, and what their flows of one protocol have come to.
pub struct Traffic {
    transport: Transport,
    random: u64,
    /// The pod that accepted.
    living: BTreeMap<Flow, PodNumber>,
    lost: Vec<Loss>,
    closed: Vec<Flow>,
    used: BTreeSet<Flow>,
}

impl Traffic {
    pub fn new(transport: Transport, seed: u64) -> Self {
        Self {
            transport,
            random: mix(seed),
            living: BTreeMap::new(),
            lost: Vec::new(),
            closed: Vec::new(),
            used: BTreeSet::new(),
        }
    }

    pub fn living(&self) -> usize {
        self.living.len()
    }

    pub fn lost(&self) -> Vec<Loss> {
        self.lost.clone()
    }

    /// Opens flows from ports that were never used.
    pub fn open(&mut self, cluster: &mut Cluster, count: usize) {
        for _ in 0..count {
            let flow = self.unused();
            self.connect(cluster, flow);
        }
    }

    /// A packet of every flow; those whose pod has gone end in peace.
    pub fn send_on_all(&mut self, cluster: &mut Cluster) {
        cluster.advance(1);
        let flows: Vec<_> = self.living.iter().map(|(flow, pod)| (*flow, *pod)).collect();
        for (flow, pod) in flows {
            if cluster.is_in_service(pod) {
                self.send(cluster, flow, pod);
            } else {
                self.living.remove(&flow);
            }
        }
    }

    /// Clients send a RST on every connection, which pods ignore, as one that is out of window.
    pub fn send_stray_resets(&mut self, cluster: &mut Cluster) {
        for flow in self.living.keys() {
            cluster.send(&ClientPacket { flow: *flow, flags: tcp_flags::RST });
        }
    }

    /// Pods forget all connections, and say so when they are asked; clients have their ports back.
    pub fn be_reset(&mut self, cluster: &mut Cluster) {
        for flow in std::mem::take(&mut self.living).into_keys() {
            cluster.send_to_be_reset(&ClientPacket { flow, flags: tcp_flags::ACK });
            self.closed.push(flow);
        }
    }

    /// Both sides say FIN on every connection.
    pub fn close_all(&mut self, cluster: &mut Cluster) {
        for flow in std::mem::take(&mut self.living).into_keys() {
            // The answer of the pod has the FIN too.
            cluster.send(&ClientPacket { flow, flags: tcp_flags::FIN | tcp_flags::ACK });
            self.closed.push(flow);
        }
    }

    /// Opens what was closed from the same ports; says how many.
    pub fn reopen_all(&mut self, cluster: &mut Cluster) -> usize {
        let flows = std::mem::take(&mut self.closed);
        flows.iter().for_each(|flow| self.connect(cluster, *flow));
        flows.len()
    }

    fn unused(&mut self) -> Flow {
        loop {
            self.random = mix(self.random.wrapping_add(0x9e37_79b9_7f4a_7c15));
            let client = 0xc633_6400 + (self.random as u32 & 0xff);
            let flow = Flow { transport: self.transport, client, port: (self.random >> 32) as u16 | 1024 };
            if self.used.insert(flow) {
                return flow;
            }
        }
    }

    fn connect(&mut self, cluster: &mut Cluster, flow: Flow) {
        let flags = match self.transport {
            Transport::Tcp => tcp_flags::SYN,
            Transport::Udp => 0,
        };
        let cause = match cluster.send(&ClientPacket { flow, flags }) {
            Fate::Delivered(pod) => {
                self.living.insert(flow, pod);
                return self.send(cluster, flow, pod);
            }
            Fate::Mute(_) => Cause::Mute,
            Fate::Kernel => Cause::Kernel,
            Fate::Dropped => Cause::Dropped,
        };
        self.lost.push(Loss { flow, cause });
    }

    fn send(&mut self, cluster: &mut Cluster, flow: Flow, pod: PodNumber) {
        let flags = match self.transport {
            Transport::Tcp => tcp_flags::ACK,
            Transport::Udp => 0,
        };
        let fate = cluster.send(&ClientPacket { flow, flags });
        if fate == Fate::Delivered(pod) {
            return;
        }
        let cause = match (fate, cluster.rank(flow, pod)) {
            (_, None) => Cause::NoCandidate,
            (Fate::Delivered(_), Some(_)) if self.transport == Transport::Udp && cluster.is_suspect(pod) => {
                Cause::Suspect
            }
            (Fate::Delivered(_), Some(1..)) if self.transport == Transport::Udp => Cause::NotFirst,
            (Fate::Delivered(_), Some(_)) => Cause::OtherPod,
            (Fate::Mute(_), Some(_)) => Cause::Mute,
            (Fate::Kernel, Some(_)) => Cause::Kernel,
            (Fate::Dropped, Some(_)) => Cause::Dropped,
        };
        self.living.remove(&flow);
        self.lost.push(Loss { flow, cause });
    }
}
