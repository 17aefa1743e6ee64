//! Frames to send, and what to see of those that come back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    EtherType, Ethernet2Header, NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice,
};

/// Flags of a TCP segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// SYN.
    pub syn: bool,
    /// ACK.
    pub ack: bool,
    /// FIN.
    pub fin: bool,
    /// RST.
    pub rst: bool,
}

impl Flags {
    /// The first segment of a connection.
    pub const SYN: Self = Self { syn: true, ack: false, fin: false, rst: false };
    /// The answer to it.
    pub const SYN_ACK: Self = Self { syn: true, ack: true, fin: false, rst: false };
    /// A segment in the middle of a connection.
    pub const ACK: Self = Self { syn: false, ack: true, fin: false, rst: false };
}

/// Addresses of a packet, from where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// MACs.
    pub macs: ([u8; 6], [u8; 6]),
    /// Addresses, of one family.
    pub addresses: (IpAddr, IpAddr),
    /// Ports.
    pub ports: (u16, u16),
    /// TTL or hop limit.
    pub ttl: u8,
}

/// A TCP segment with valid checksums.
pub fn tcp(way: &Way, flags: Flags, payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(way.ports.0, way.ports.1, 1000, 65_000);
    (header.syn, header.ack, header.fin, header.rst) = (flags.syn, flags.ack, flags.fin, flags.rst);
    let builder = PacketBuilder::ethernet2(way.macs.0, way.macs.1);
    let mut frame = Vec::new();
    let written = match way.addresses {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            builder.ipv4(from.octets(), to.octets(), way.ttl).tcp_header(header).write(&mut frame, payload)
        }
        (from, to) => builder.ipv6(v6(from), v6(to), way.ttl).tcp_header(header).write(&mut frame, payload),
    };
    assert!(written.is_ok(), "a payload that fits");
    frame
}

/// A UDP datagram with valid checksums.
pub fn udp(way: &Way, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(way.macs.0, way.macs.1);
    let mut frame = Vec::new();
    let (source, destination) = way.ports;
    let written = match way.addresses {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder
            .ipv4(from.octets(), to.octets(), way.ttl)
            .udp(source, destination)
            .write(&mut frame, payload),
        (from, to) => {
            builder.ipv6(v6(from), v6(to), way.ttl).udp(source, destination).write(&mut frame, payload)
        }
    };
    assert!(written.is_ok(), "a payload that fits");
    frame
}

/// A probe, as an agent sends it; with another first word, no probe.
pub fn probe(way: &Way, magic: [u8; 4], nonce: u64) -> Vec<u8> {
    let request = [1, 0, 0, 0];
    udp(way, &[magic.as_slice(), &request, &nonce.to_ne_bytes()].concat())
}

/// An echo request with valid checksums.
pub fn echo_request(way: &Way, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(way.macs.0, way.macs.1);
    let mut frame = Vec::new();
    let written = match way.addresses {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder
            .ipv4(from.octets(), to.octets(), way.ttl)
            .icmpv4_echo_request(7, 1)
            .write(&mut frame, payload),
        (from, to) => {
            builder.ipv6(v6(from), v6(to), way.ttl).icmpv6_echo_request(7, 1).write(&mut frame, payload)
        }
    };
    assert!(written.is_ok(), "a payload that fits");
    frame
}

/// Who has `target`? Broadcast, padded to the least length of a frame.
pub fn arp_request(mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    arp(1, (mac, sender), ([0; 6], target), [0xff; 6])
}

/// `sender` is at `mac`: the answer to `to`.
pub fn arp_reply(mac: [u8; 6], sender: Ipv4Addr, to: ([u8; 6], Ipv4Addr)) -> Vec<u8> {
    arp(2, (mac, sender), to, to.0)
}

fn arp(
    operation: u8,
    sender: ([u8; 6], Ipv4Addr),
    target: ([u8; 6], Ipv4Addr),
    destination: [u8; 6],
) -> Vec<u8> {
    let mut frame = ethernet(sender.0, destination, EtherType::ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
    for (mac, address) in [sender, target] {
        frame.extend(mac);
        frame.extend(address.octets());
    }
    frame.resize(60, 0);
    frame
}

/// `target` is at `mac`: to all nodes, with the override flag and the target's link-layer address, by a source of the sender's.
pub fn neighbour_advertisement(mac: [u8; 6], source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let body = [target.octets().as_slice(), &[2, 1], &mac].concat();
    let message = etherparse::Icmpv6Type::Unknown { type_u8: 136, code_u8: 0, bytes5to8: [0x20, 0, 0, 0] };
    let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(mac, [0x33, 0x33, 0, 0, 0, 1]);
    let written = builder.ipv6(source.octets(), all_nodes, 255).icmpv6(message).write(&mut frame, &body);
    assert!(written.is_ok(), "an advertisement fits");
    frame
}

/// Who has `target`? To its solicited-node group; with the source link-layer option or without, as a probe without both.
pub fn neighbour_solicitation(mac: [u8; 6], sender: Ipv6Addr, target: Ipv6Addr, option: bool) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let mut body = target.octets().to_vec();
    if option {
        body.extend([1, 1]);
        body.extend(mac);
    }
    let message = etherparse::Icmpv6Type::Unknown { type_u8: 135, code_u8: 0, bytes5to8: [0; 4] };
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(mac, [0x33, 0x33, 0xff, a, b, c]);
    let written = builder.ipv6(sender.octets(), group.octets(), 255).icmpv6(message).write(&mut frame, &body);
    assert!(written.is_ok(), "a solicitation fits");
    frame
}

/// The frame with an IEEE 802.1Q tag: the id in the low 12 bits of `control`, above them drop eligibility and priority.
pub fn tagged(frame: &[u8], control: u16) -> Vec<u8> {
    with_tag(frame, 0x8100, control)
}

/// The frame with a tag of this Ethernet type.
pub fn with_tag(frame: &[u8], ether_type: u16, control: u16) -> Vec<u8> {
    let (macs, rest) = frame.split_at(12);
    [macs, &ether_type.to_be_bytes(), &control.to_be_bytes(), rest].concat()
}

/// The frame without its IEEE 802.1Q tag, if it has this one.
pub fn untagged(frame: &[u8], control: u16) -> Option<Vec<u8>> {
    let tag = [0x8100_u16.to_be_bytes(), control.to_be_bytes()].concat();
    let (macs, rest) = frame.split_at_checked(12)?;
    Some([macs, rest.strip_prefix(&*tag)?].concat())
}

fn ethernet(source: [u8; 6], destination: [u8; 6], ether_type: EtherType) -> Vec<u8> {
    Ethernet2Header { source, destination, ether_type }.to_bytes().to_vec()
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The way of a TCP or UDP frame; `None` if it is none, or a checksum is wrong.
pub fn way(frame: &[u8]) -> Option<Way> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(etherparse::LinkSlice::Ethernet2(link)) = &packet.link else { return None };
    let (addresses, ttl, checksums_hold) = match (packet.net.as_ref()?, packet.transport.as_ref()?) {
        (NetSlice::Ipv4(ip), transport) => {
            let header = ip.header().to_header();
            let (source, destination) = (header.source, header.destination);
            let transport_holds = match transport {
                TransportSlice::Tcp(tcp) => {
                    tcp.calc_checksum_ipv4(source, destination).ok()? == tcp.checksum()
                }
                TransportSlice::Udp(udp) => {
                    let full =
                        udp.to_header().calc_checksum_ipv4_raw(source, destination, udp.payload()).ok()?;
                    udp.checksum() == 0 || full == udp.checksum()
                }
                _ => return None,
            };
            let holds = header.calc_header_checksum() == header.header_checksum && transport_holds;
            ((IpAddr::from(source), IpAddr::from(destination)), header.time_to_live, holds)
        }
        (NetSlice::Ipv6(ip), transport) => {
            let header = ip.header();
            let (source, destination) = (header.source(), header.destination());
            let holds = match transport {
                TransportSlice::Tcp(tcp) => {
                    tcp.calc_checksum_ipv6(source, destination).ok()? == tcp.checksum()
                }
                TransportSlice::Udp(udp) => {
                    let full =
                        udp.to_header().calc_checksum_ipv6_raw(source, destination, udp.payload()).ok()?;
                    full == udp.checksum()
                }
                _ => return None,
            };
            ((IpAddr::from(source), IpAddr::from(destination)), header.hop_limit(), holds)
        }
        _ => return None,
    };
    let ports = match packet.transport? {
        TransportSlice::Tcp(tcp) => (tcp.source_port(), tcp.destination_port()),
        TransportSlice::Udp(udp) => (udp.source_port(), udp.destination_port()),
        _ => return None,
    };
    checksums_hold.then_some(Way { macs: (link.source(), link.destination()), addresses, ports, ttl })
}
