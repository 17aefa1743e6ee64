//! The sockets of a leg: one that probes go out of and answers come back to, one at which gossip is heard.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
};

use etherparse::PacketBuilder;
use lb_common::{
    layout::{Mac, Plain},
    packet::{PROBE_MAGIC, Probe, probe_kind, probe_lease},
};
use lb_core::liveness::{GOSSIP_PORT, Leg, PROBE_PORT};
use mio::{Interest, Registry, Token, net::UdpSocket};

/// Of all legs of this node.
#[derive(Default)]
pub(super) struct Sockets {
    legs: BTreeMap<Leg, Pair>,
    next_token: usize,
}

struct Pair {
    probes: UdpSocket,
    gossip: UdpSocket,
}

/// What has come in.
#[derive(Debug)]
pub(super) enum Received {
    Answer { from: Leg, nonce: u64, lease_holds: bool },
    Gossip { from: Leg, bytes: Vec<u8> },
}

/// Longer than anything that is sent; more is cut off and then is no envelope.
const LONGEST: usize = 2048;
/// Probes go to neighbours, and are not routed.
const TTL: u8 = 1;
/// Datagrams of a socket that are taken at once: a flood at one must not keep the others waiting.
const MOST: usize = 256;

impl Sockets {
    /// Opens sockets for these legs, and closes all others. What fails is tried again with the next call.
    pub(super) fn set(&mut self, legs: impl Iterator<Item = Leg>, registry: &Registry) {
        let mut left = std::mem::take(&mut self.legs);
        for leg in legs {
            let pair = match left.remove(&leg) {
                Some(pair) => Ok(pair),
                None => self.open(leg, registry),
            };
            match pair {
                Ok(pair) => {
                    self.legs.insert(leg, pair);
                }
                Err(error) => {
                    tracing::warn!(leg = super::address(leg), %error, "no sockets for liveness here");
                }
            }
        }
        for mut pair in left.into_values() {
            // They are closed in any case.
            let _ = registry.deregister(&mut pair.probes).and(registry.deregister(&mut pair.gossip));
        }
    }

    /// Legs that have sockets.
    pub(super) fn legs(&self) -> impl Iterator<Item = Leg> + '_ {
        self.legs.keys().copied()
    }

    fn open(&mut self, leg: Leg, registry: &Registry) -> io::Result<Pair> {
        let mut pair = Pair {
            probes: UdpSocket::bind(SocketAddr::new(leg, 0))?,
            gossip: UdpSocket::bind(SocketAddr::new(leg, GOSSIP_PORT))?,
        };
        for socket in [&mut pair.probes, &mut pair.gossip] {
            self.next_token += 1;
            registry.register(socket, Token(self.next_token), Interest::READABLE)?;
        }
        Ok(pair)
    }

    /// What has come in, to be asked for until there is nothing: the poll tells of new arrivals only.
    pub(super) fn receive(&self) -> Vec<Received> {
        let mut received = Vec::new();
        let mut buffer = [0; LONGEST];
        for pair in self.legs.values() {
            for _ in 0..MOST {
                // An error is no datagram: the kernel tells of earlier ones that nobody took.
                let Ok((length, from)) = pair.probes.recv_from(&mut buffer) else { break };
                received.extend(answer(&buffer[..length], from));
            }
            for _ in 0..MOST {
                let Ok((length, from)) = pair.gossip.recv_from(&mut buffer) else { break };
                if from.port() == GOSSIP_PORT {
                    received.push(Received::Gossip { from: from.ip(), bytes: buffer[..length].to_vec() });
                }
            }
        }
        received
    }

    pub(super) fn send_probe(&self, from: Leg, to: Leg, nonce: u64) -> io::Result<()> {
        let Some(pair) = self.legs.get(&from) else { return Ok(()) };
        pair.probes.send_to(request(nonce).as_bytes(), SocketAddr::new(to, PROBE_PORT)).map(drop)
    }

    /// A probe as a frame between two MACs; its answer comes as to any probe. `None` without sockets.
    pub(super) fn probe_frame(&self, from: (Leg, Mac), to: (Leg, Mac), nonce: u64) -> Option<Vec<u8>> {
        let port = self.legs.get(&from.0)?.probes.local_addr().ok()?.port();
        let ethernet = PacketBuilder::ethernet2(from.1.octets(), to.1.octets());
        let packet = match (from.0, to.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), TTL),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), TTL),
            _ => return None,
        };
        let mut frame = Vec::new();
        packet.udp(port, PROBE_PORT).write(&mut frame, request(nonce).as_bytes()).ok()?;
        Some(frame)
    }

    pub(super) fn send_gossip(&self, from: Leg, to: Leg, bytes: &[u8]) -> io::Result<()> {
        let Some(pair) = self.legs.get(&from) else { return Ok(()) };
        pair.gossip.send_to(bytes, SocketAddr::new(to, GOSSIP_PORT)).map(drop)
    }
}

fn request(nonce: u64) -> Probe {
    Probe { magic: PROBE_MAGIC, kind_and_lease: [probe_kind::REQUEST, 0], pad: 0, nonce }
}

fn answer(bytes: &[u8], from: SocketAddr) -> Option<Received> {
    let probe = Probe::from_bytes(bytes)?;
    let [kind, lease] = probe.kind_and_lease;
    let is_answer = probe.magic == PROBE_MAGIC && kind == probe_kind::ANSWER && from.port() == PROBE_PORT;
    let from: IpAddr = from.ip();
    is_answer.then_some(Received::Answer {
        from,
        nonce: probe.nonce,
        lease_holds: lease == probe_lease::HELD,
    })
}
