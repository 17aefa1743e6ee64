//! From a decision to a changed packet.

use crate::checksum::Sum;
use crate::{
    decide::{Decision, Verdict},
    layout::{Addr, Mac, Port},
    meta::{Kind, Meta},
    packet::{
        Arp, INITIAL_TTL, Icmp, InPlace, Ipv6, LinkLayerOption, NeighbourTarget, PROBE_MAGIC, PacketMut,
        Pair, Probe, Side, Udp, icmp_type, nonzero, probe_kind, probe_lease, protocol,
    },
};

/// What becomes of the packet once it is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// On its way: into the kernel on arrival, onto the wire on departure.
    Pass,
    /// Dropped.
    Drop,
    /// Out of the link by which it came.
    Transmit,
}

/// What can be done to a packet. `None` says that it could not, and the packet is to be dropped.
pub trait Rewrite {
    /// Replaces the destination of TCP or UDP.
    fn set_destination(&mut self, meta: &Meta, address: Addr, port: Port) -> Option<()>;
    /// Replaces the source of TCP or UDP.
    fn set_source(&mut self, meta: &Meta, address: Addr, port: Port) -> Option<()>;
    /// Sends the packet on to another machine of the segment.
    fn forward_l2(&mut self, meta: &Meta, mac: Mac, ttl: u8) -> Option<()>;
    /// Turns an ARP request or neighbour solicitation into the answer that `mac` has the address.
    fn advertise(&mut self, meta: &Meta, mac: Mac, is_shared: bool) -> Option<()>;
    /// Turns an echo request into its reply.
    fn echo_reply(&mut self, meta: &Meta) -> Option<()>;
    /// Turns a probe into its answer; `None` also for what is no probe.
    fn probe_answer(&mut self, meta: &Meta, lease_holds: bool) -> Option<()>;
}

/// Carries out a decision; `None` if the packet could not be rewritten.
#[inline(always)]
pub fn apply(decision: &Decision, meta: &Meta, packet: &mut impl Rewrite) -> Option<Action> {
    match decision.verdict {
        Verdict::Pass => Some(Action::Pass),
        Verdict::Drop => Some(Action::Drop),
        Verdict::Deliver { address, port } => {
            packet.set_destination(meta, address, port)?;
            Some(Action::Pass)
        }
        Verdict::Restore { address, port } => {
            packet.set_source(meta, address, port)?;
            Some(Action::Pass)
        }
        Verdict::Forward { mac, ttl } => {
            packet.forward_l2(meta, mac, ttl)?;
            Some(Action::Transmit)
        }
        Verdict::Advertise { mac, is_shared } => {
            packet.advertise(meta, mac, is_shared)?;
            Some(Action::Transmit)
        }
        Verdict::EchoReply => {
            packet.echo_reply(meta)?;
            Some(Action::Transmit)
        }
        Verdict::ProbeAnswer { lease_holds } => {
            packet.probe_answer(meta, lease_holds)?;
            Some(Action::Transmit)
        }
    }
}

impl<P: PacketMut> Rewrite for InPlace<P> {
    #[inline(always)]
    fn set_destination(&mut self, meta: &Meta, address: Addr, port: Port) -> Option<()> {
        self.translate(meta, Side::Destination, &meta.destination, &address, port)
    }

    #[inline(always)]
    fn set_source(&mut self, meta: &Meta, address: Addr, port: Port) -> Option<()> {
        self.translate(meta, Side::Source, &meta.source, &address, port)
    }

    #[inline(always)]
    fn forward_l2(&mut self, meta: &Meta, mac: Mac, ttl: u8) -> Option<()> {
        self.set_macs(mac, meta.destination_mac)?;
        self.set_ttl(meta, ttl)
    }

    #[inline(always)]
    fn advertise(&mut self, meta: &Meta, mac: Mac, is_shared: bool) -> Option<()> {
        match meta.kind {
            Kind::ArpRequest => arp_reply(&mut self.0, meta, mac)?,
            _ => neighbour_advertisement(&mut self.0, meta, mac, is_shared)?,
        }
        let is_probe = meta.v6 && meta.source.is_unspecified();
        self.set_macs(if is_probe { ALL_NODES_MAC } else { meta.source_mac }, mac)
    }

    #[inline(always)]
    fn echo_reply(&mut self, meta: &Meta) -> Option<()> {
        let at = meta.l4 as usize;
        let [old_type, code] = self.0.load::<Pair>(at)?.0;
        let new_type = if meta.v6 { icmp_type::V6_ECHO_REPLY } else { icmp_type::V4_ECHO_REPLY };
        let checksum: u16 = self.0.load(at + 2)?;
        let change = Sum::ZERO
            .subtract(u16::from_ne_bytes([old_type, code]) as u32)
            .add(u16::from_ne_bytes([new_type, code]) as u32);
        self.0.store(at, Pair([new_type, code]))?;
        self.0.store(at + 2, change.update(checksum))?;
        self.swap_addresses(meta)?;
        self.set_ttl(meta, INITIAL_TTL)?;
        self.set_macs(meta.source_mac, meta.destination_mac)
    }

    #[inline(always)]
    fn probe_answer(&mut self, meta: &Meta, lease_holds: bool) -> Option<()> {
        let at = meta.l4 as usize;
        let udp: Udp = self.0.load(at)?;
        let request: Probe = self.0.load(at + size_of::<Udp>())?;
        let is_probe = udp.length == PROBE_DATAGRAM.to_be()
            && request.magic == PROBE_MAGIC
            && request.kind_and_lease[0] == probe_kind::REQUEST;
        if !is_probe {
            return None;
        }
        let lease = if lease_holds { probe_lease::HELD } else { probe_lease::LAPSED };
        let answer = Probe { kind_and_lease: [probe_kind::ANSWER, lease], ..request };
        let change = Sum::ZERO
            .subtract(u16::from_ne_bytes(request.kind_and_lease) as u32)
            .add(u16::from_ne_bytes(answer.kind_and_lease) as u32);
        // Zero means that there is none.
        let checksum = if udp.checksum == 0 { 0 } else { nonzero(change.update(udp.checksum)) };
        self.0.store(
            at,
            Udp { source: udp.destination, destination: udp.source, length: udp.length, checksum },
        )?;
        self.0.store(at + size_of::<Udp>(), answer)?;
        self.swap_addresses(meta)?;
        self.set_ttl(meta, INITIAL_TTL)?;
        self.set_macs(meta.source_mac, meta.destination_mac)
    }
}

/// What UDP says of a probe's length.
const PROBE_DATAGRAM: u16 = (size_of::<Udp>() + size_of::<Probe>()) as u16;

/// `33:33:00:00:00:01` (RFC 2464 7).
const ALL_NODES_MAC: Mac = Mac { words: [0x3333, 0, 0x0001_u16.to_be()] };
/// `ff02::1`.
const ALL_NODES: Addr = Addr { words: [0xff02_0000_u32.to_be(), 0, 0, 1_u32.to_be()] };
/// Solicited and override (RFC 4861 4.4).
const SOLICITED_OVERRIDE: u32 = 0x6000_0000_u32.to_be();
/// Override alone.
const OVERRIDE: u32 = 0x2000_0000_u32.to_be();
/// Bytes of a neighbour advertisement with the target's link-layer address, behind the IPv6 header.
const ADVERTISEMENT_LENGTH: u16 = 32;

#[inline(always)]
fn arp_reply(packet: &mut impl PacketMut, meta: &Meta, mac: Mac) -> Option<()> {
    let request: Arp = packet.load(meta.l3 as usize)?;
    let reply = Arp {
        operation: 2_u16.to_be(),
        sender_mac: mac,
        sender: request.target,
        target_mac: request.sender_mac,
        target: request.sender,
        ..request
    };
    packet.store(meta.l3 as usize, reply)
}

/// A solicitation without source (duplicate address detection) is answered to all nodes, unsolicited (RFC 4861 7.2.4). Of an address
/// that other nodes have too, it must not take their clients away: without override, as for an anycast address (7.2.7).
#[inline(always)]
fn neighbour_advertisement(
    packet: &mut impl PacketMut,
    meta: &Meta,
    mac: Mac,
    is_shared: bool,
) -> Option<()> {
    let (l3, l4) = (meta.l3 as usize, meta.l4 as usize);
    let header: Ipv6 = packet.load(l3)?;
    packet.resize(l4 + ADVERTISEMENT_LENGTH as usize)?;

    let is_probe = meta.source.is_unspecified();
    let to = if is_probe { ALL_NODES } else { meta.source };
    packet.store(
        l3,
        Ipv6 {
            payload_length: ADVERTISEMENT_LENGTH.to_be(),
            next_and_hop_limit: [protocol::ICMPV6, 255],
            source: meta.destination.words,
            destination: to.words,
            ..header
        },
    )?;
    let flags = match (is_probe, is_shared) {
        (false, _) => SOLICITED_OVERRIDE,
        (true, false) => OVERRIDE,
        (true, true) => 0,
    };
    let type_and_code = [icmp_type::NEIGHBOUR_ADVERTISEMENT, 0];
    let option = LinkLayerOption { type_and_length: [2, 1], mac };
    let [m0, m1, m2] = mac.words.map(u32::from);
    let checksum = Sum::ZERO
        .add_words(meta.destination.words)
        .add_words(to.words)
        .add(ADVERTISEMENT_LENGTH.to_be() as u32)
        .add((protocol::ICMPV6 as u16).to_be() as u32)
        .add(u16::from_ne_bytes(type_and_code) as u32)
        .add(flags)
        .add_words(meta.destination.words)
        .add(u16::from_ne_bytes([2, 1]) as u32)
        .add(m0)
        .add(m1)
        .add(m2)
        .checksum();
    packet.store(l4, Icmp { type_and_code, checksum, rest: flags })?;
    packet.store(l4 + 8, NeighbourTarget { target: meta.destination.words })?;
    packet.store(l4 + 24, option)
}
