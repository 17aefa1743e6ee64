//! Connections, as clients and pods see them.

use std::collections::BTreeMap;

use lb_common::{hash::mix, packet::tcp_flags};

use crate::cluster::{Cluster, Fate, PodNumber, Segment};

/// Why a connection whose pod lived on was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The pod is no candidate of the slot any more.
    NoCandidate,
    /// Another pod got a packet in the middle of the connection, and reset it.
    OtherPod,
    /// The pod's answers did not leave as the VIP.
    Mute,
    /// A kernel got it, or nobody.
    Nobody,
}

/// A connection that was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    pub segment: Segment,
    pub cause: Cause,
}

/// Clients, and what their connections have come to.
pub struct Traffic {
    random: u64,
    /// The pod that accepted, by client and port.
    living: BTreeMap<(u32, u16), PodNumber>,
    lost: Vec<Loss>,
    closed: Vec<(u32, u16)>,
}

impl Traffic {
    pub fn new(seed: u64) -> Self {
        Self { random: mix(seed), living: BTreeMap::new(), lost: Vec::new(), closed: Vec::new() }
    }

    pub fn living(&self) -> usize {
        self.living.len()
    }

    pub fn lost(&self) -> Vec<Loss> {
        self.lost.clone()
    }

    /// Opens connections from ports that were never used.
    pub fn open(&mut self, cluster: &mut Cluster, count: usize) {
        let target = self.living.len() + count;
        while self.living.len() < target {
            self.random = mix(self.random.wrapping_add(0x9e37_79b9_7f4a_7c15));
            let (client, port) =
                (0xc633_6400 + (self.random as u32 & 0xff), (self.random >> 32) as u16 | 1024);
            let is_used = self.living.contains_key(&(client, port))
                || self.closed.contains(&(client, port))
                || self.lost.iter().any(|loss| (loss.segment.client, loss.segment.port) == (client, port));
            if !is_used {
                self.connect(cluster, client, port);
            }
        }
    }

    /// A packet of every connection; those whose pod has gone end in peace.
    pub fn send_on_all(&mut self, cluster: &mut Cluster) {
        cluster.advance(1);
        let connections: Vec<_> = self.living.iter().map(|(flow, pod)| (*flow, *pod)).collect();
        for ((client, port), pod) in connections {
            if !cluster.is_in_service(pod) {
                self.living.remove(&(client, port));
                continue;
            }
            self.send(cluster, Segment { client, port, flags: tcp_flags::ACK }, pod);
        }
    }

    /// Both sides say FIN on every connection.
    pub fn close_all(&mut self, cluster: &mut Cluster) {
        let connections: Vec<_> = std::mem::take(&mut self.living).into_iter().collect();
        for ((client, port), _) in connections {
            // The answer of the pod has the FIN too.
            cluster.send(&Segment { client, port, flags: tcp_flags::FIN | tcp_flags::ACK });
            self.closed.push((client, port));
        }
    }

    /// Opens what was closed from the same ports; says how many.
    pub fn reopen_all(&mut self, cluster: &mut Cluster) -> usize {
        let ports = std::mem::take(&mut self.closed);
        ports.iter().for_each(|(client, port)| self.connect(cluster, *client, *port));
        ports.len()
    }

    fn connect(&mut self, cluster: &mut Cluster, client: u32, port: u16) {
        let segment = Segment { client, port, flags: tcp_flags::SYN };
        let Fate::Delivered(pod) = cluster.send(&segment) else {
            self.lost.push(Loss { segment, cause: Cause::Nobody });
            return;
        };
        self.living.insert((client, port), pod);
        self.send(cluster, Segment { flags: tcp_flags::ACK, ..segment }, pod);
    }

    fn send(&mut self, cluster: &mut Cluster, segment: Segment, pod: PodNumber) {
        let cause = match cluster.send(&segment) {
            Fate::Delivered(at) if at == pod => return,
            _ if !cluster.is_candidate(&segment, pod) => Cause::NoCandidate,
            Fate::Delivered(_) => Cause::OtherPod,
            Fate::Mute(_) => Cause::Mute,
            Fate::Lost => Cause::Nobody,
        };
        self.living.remove(&(segment.client, segment.port));
        self.lost.push(Loss { segment, cause });
    }
}
