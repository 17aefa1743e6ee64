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
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

/// Of all legs of this node.
#[derive(Default)]
pub(super) struct Sockets {
    legs: BTreeMap<Leg, Pair>,
    next_token: usize,
}

struct Pair {
    /// The poll does not tell of it: answers are looked for whenever the thread is awake, and it need not wake for them.
    probes: std::net::UdpSocket,
    gossip: Socket,
}

struct Socket {
    socket: UdpSocket,
    token: Token,
    /// Something may be in it: the poll tells of new arrivals only, and what is left must be remembered.
    is_ready: bool,
}

/// What has come in.
#[derive(Debug)]
pub(super) enum Received {
    Answer { from: Leg, nonce: u64, lease_holds: bool },
    Gossip { from: Leg, bytes: Vec<u8> },
}

/// Longer than anything that is sent; more is cut off and then is no envelope.
const LONGEST: usize = 2048;
/// Octets of gossip that wait to be read at most; the kernel doubles it for its own use. Its default is less than what a few hundred nodes
/// have to say to one that joins them.
const GOSSIP_BUFFER: usize = 2 << 20;
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
            // It is closed in any case.
            let _ = registry.deregister(&mut pair.gossip.socket);
        }
    }

    /// Something has come in.
    pub(super) fn is_readable(&mut self, token: Token) {
        let sockets = self.legs.values_mut().map(|pair| &mut pair.gossip);
        sockets.filter(|socket| socket.token == token).for_each(|socket| socket.is_ready = true);
    }

    /// Legs that have sockets.
    pub(super) fn legs(&self) -> impl Iterator<Item = Leg> + '_ {
        self.legs.keys().copied()
    }

    fn open(&mut self, leg: Leg, registry: &Registry) -> io::Result<Pair> {
        let probes = bind(SocketAddr::new(leg, 0))?;
        self.next_token += 1;
        let mut gossip = Socket {
            socket: UdpSocket::from_std(bind(SocketAddr::new(leg, GOSSIP_PORT))?),
            token: Token(self.next_token),
            is_ready: true,
        };
        sockopt::set_socket_recv_buffer_size_force(&gossip.socket, GOSSIP_BUFFER)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&gossip.socket, GOSSIP_BUFFER))?;
        registry.register(&mut gossip.socket, gossip.token, Interest::READABLE)?;
        Ok(Pair { probes, gossip })
    }

    /// What has come in, answers first, for they may have waited; and whether nothing is left.
    pub(super) fn receive(&mut self) -> (Vec<Received>, bool) {
        let mut received = Vec::new();
        let mut is_drained = true;
        for pair in self.legs.values() {
            let probes = &pair.probes;
            is_drained &=
                drain(|buffer| probes.recv_from(buffer), |bytes, from| received.extend(answer(bytes, from)));
        }
        for pair in self.legs.values_mut() {
            is_drained &= pair.gossip.receive(|bytes, from| {
                if from.port() == GOSSIP_PORT {
                    received.push(Received::Gossip { from: from.ip(), bytes: bytes.to_vec() });
                }
            });
        }
        (received, is_drained)
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
        pair.gossip.socket.send_to(bytes, SocketAddr::new(to, GOSSIP_PORT)).map(drop)
    }
}

impl Socket {
    /// Whether nothing is left.
    fn receive(&mut self, take: impl FnMut(&[u8], SocketAddr)) -> bool {
        if self.is_ready {
            self.is_ready = !drain(|buffer| self.socket.recv_from(buffer), take);
        }
        !self.is_ready
    }
}

/// Whether nothing is left.
fn drain(
    receive: impl Fn(&mut [u8]) -> io::Result<(usize, SocketAddr)>,
    mut take: impl FnMut(&[u8], SocketAddr),
) -> bool {
    let mut buffer = [0; LONGEST];
    for _ in 0..MOST {
        match receive(&mut buffer) {
            Ok((length, from)) => take(&buffer[..length], from),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            // The kernel tells of earlier datagrams that nobody took.
            Err(_) => {}
        }
    }
    false
}

/// A socket with an address that may not be there yet: IPv6 makes sure for a second or more that nobody else has it (RFC 4862, section 5.4).
fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(family, SocketType::DGRAM, flags, None)?;
    match address {
        SocketAddr::V4(_) => sockopt::set_ip_freebind(&socket, true)?,
        SocketAddr::V6(_) => sockopt::set_ipv6_freebind(&socket, true)?,
    }
    net::bind(&socket, &address)?;
    Ok(socket.into())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As while DAD goes on: nothing would look again before the next pass.
    #[test]
    fn a_leg_has_sockets_before_its_address_is_there() {
        let has_ipv6 = std::net::UdpSocket::bind("[::1]:0").is_ok();
        let legs = ["192.0.2.1", "2001:db8::1"].map(|leg| leg.parse::<Leg>().unwrap());
        let legs: Vec<Leg> = legs.into_iter().filter(|leg| leg.is_ipv4() || has_ipv6).collect();
        let poll = mio::Poll::new().unwrap();
        let mut sockets = Sockets::default();
        sockets.set(legs.iter().copied(), poll.registry());
        assert_eq!(sockets.legs().collect::<Vec<Leg>>(), legs);
    }
}
