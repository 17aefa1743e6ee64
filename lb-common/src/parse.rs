//! From bytes to [`Meta`].

use crate::{
    layout::Addr,
    meta::{Kind, Meta},
    packet::{
        Arp, Ethernet, Icmp, Ipv4, Ipv6, NeighbourTarget, Packet, Tcp, Udp, VlanTag, ethertype, icmp_type,
        protocol,
    },
};

/// Reads a frame's headers. Never fails: what cannot be read is a [`Kind`] too.
///
/// One IEEE 802.1Q tag is looked through. A frame with two, or with one of IEEE 802.1ad, is [`Kind::Other`]: its VLAN ids mean something
/// else.
#[inline(always)]
pub fn parse(packet: &impl Packet, ifindex: u32) -> Meta {
    let mut meta = Meta::EMPTY;
    parse_into(packet, ifindex, &mut meta);
    meta
}

/// [`parse()`] into a place of the caller's, which holds [`Meta::EMPTY`].
#[inline(always)]
pub fn parse_into(packet: &impl Packet, ifindex: u32, meta: &mut Meta) {
    meta.ifindex = ifindex;
    meta.length = packet.length() as u32;
    meta.kind = ethernet(packet, meta).unwrap_or(Kind::Malformed);
}

#[inline(always)]
fn ethernet(packet: &impl Packet, meta: &mut Meta) -> Option<Kind> {
    let header: Ethernet = packet.load(0)?;
    meta.source_mac = header.source;
    meta.destination_mac = header.destination;
    let mut ethertype = u16::from_be(header.ethertype);
    if ethertype == ethertype::VLAN {
        let tag: VlanTag = packet.load(14)?;
        meta.vlan = u16::from_be(tag.control) & 0x0fff;
        meta.l3 = 18;
        ethertype = u16::from_be(tag.ethertype);
    }
    match ethertype {
        ethertype::ARP => arp(packet, meta),
        ethertype::IPV4 => ipv4(packet, meta),
        ethertype::IPV6 => ipv6(packet, meta),
        _ => Some(Kind::Other),
    }
}

#[inline(always)]
fn arp(packet: &impl Packet, meta: &mut Meta) -> Option<Kind> {
    let header: Arp = packet.load(meta.l3 as usize)?;
    let for_ipv4 = header.hardware == 1_u16.to_be()
        && header.protocol == ethertype::IPV4.to_be()
        && header.lengths == 0x0604_u16.to_be();
    if !for_ipv4 {
        return Some(Kind::Other);
    }
    meta.source = Addr::from_v4_wire(header.sender);
    meta.destination = Addr::from_v4_wire(header.target);
    Some(match u16::from_be(header.operation) {
        1 => Kind::ArpRequest,
        2 => Kind::ArpReply,
        _ => Kind::Other,
    })
}

#[inline(always)]
fn ipv4(packet: &impl Packet, meta: &mut Meta) -> Option<Kind> {
    let header: Ipv4 = packet.load(meta.l3 as usize)?;
    let [version_and_length, _] = header.version_and_tos.to_ne_bytes();
    let [ttl, protocol] = header.ttl_and_protocol;
    let header_length = (version_and_length & 0x0f) as usize * 4;
    let total_length = u16::from_be(header.total_length) as usize;
    meta.source = Addr::from_v4_wire(header.source);
    meta.destination = Addr::from_v4_wire(header.destination);
    meta.ttl = ttl;
    meta.protocol = protocol as u32;
    meta.l4 = meta.l3 + header_length as u8;

    let truthful = version_and_length >> 4 == 4
        && header_length >= 20
        && total_length >= header_length
        && meta.l3 as usize + total_length <= packet.length();
    if !truthful {
        return None;
    }
    // More fragments, or an offset: everything but "don't fragment" and the reserved bit.
    if u16::from_be(header.fragment) & 0x3fff != 0 {
        return Some(Kind::Fragment);
    }
    transport(packet, meta, protocol, total_length - header_length)
}

#[inline(always)]
fn ipv6(packet: &impl Packet, meta: &mut Meta) -> Option<Kind> {
    let header: Ipv6 = packet.load(meta.l3 as usize)?;
    let [next, hop_limit] = header.next_and_hop_limit;
    let payload_length = u16::from_be(header.payload_length) as usize;
    meta.v6 = true;
    meta.source = Addr { words: header.source };
    meta.destination = Addr { words: header.destination };
    meta.ttl = hop_limit;
    meta.protocol = next as u32;
    meta.l4 = meta.l3 + 40;

    // A v4-mapped address on the wire would be taken for IPv4 in every map (and is not to be forwarded, RFC 4942 2.2).
    if meta.source.is_v4() || meta.destination.is_v4() {
        meta.destination = Addr::UNSPECIFIED;
        return None;
    }
    if u32::from_be(header.version_and_flow) >> 28 != 6 || meta.l4 as usize + payload_length > packet.length()
    {
        return None;
    }
    transport(packet, meta, next, payload_length)
}

/// `length` is what IP says of the bytes behind its header, and is within the frame.
#[inline(always)]
fn transport(packet: &impl Packet, meta: &mut Meta, protocol: u8, length: usize) -> Option<Kind> {
    match (protocol, meta.v6) {
        (protocol::TCP, _) => tcp(packet, meta, length),
        (protocol::UDP, _) => udp(packet, meta, length),
        (protocol::ICMP, false) => icmp(packet, meta, length),
        (protocol::ICMPV6, true) => icmpv6(packet, meta, length),
        (protocol::FRAGMENT, true) => Some(Kind::Fragment),
        // Hop-by-hop, routing, authentication, destination options, mobility, HIP, shim6.
        (0 | 43 | 51 | 60 | 135 | 139 | 140, true) => Some(Kind::ExtensionHeader),
        _ => Some(Kind::OtherProtocol),
    }
}

#[inline(always)]
fn tcp(packet: &impl Packet, meta: &mut Meta, length: usize) -> Option<Kind> {
    let header: Tcp = packet.load(meta.l4 as usize)?;
    let [offset, flags] = header.offset_and_flags;
    let header_length = (offset >> 4) as usize * 4;
    if header_length < 20 || header_length > length {
        return None;
    }
    meta.source_port = header.source;
    meta.destination_port = header.destination;
    meta.tcp_flags = flags;
    Some(Kind::Tcp)
}

#[inline(always)]
fn udp(packet: &impl Packet, meta: &mut Meta, length: usize) -> Option<Kind> {
    let header: Udp = packet.load(meta.l4 as usize)?;
    let datagram_length = u16::from_be(header.length) as usize;
    if datagram_length < 8 || datagram_length > length {
        return None;
    }
    meta.source_port = header.source;
    meta.destination_port = header.destination;
    Some(Kind::Udp)
}

#[inline(always)]
fn icmp(packet: &impl Packet, meta: &mut Meta, length: usize) -> Option<Kind> {
    let header: Icmp = packet.load(meta.l4 as usize)?;
    if length < 8 {
        return None;
    }
    Some(match header.type_and_code {
        [icmp_type::V4_ECHO_REQUEST, 0] => Kind::EchoRequest,
        [icmp_type::V4_UNREACHABLE | icmp_type::V4_TIME_EXCEEDED | icmp_type::V4_PARAMETER_PROBLEM, _] => {
            Kind::IcmpError
        }
        _ => Kind::OtherProtocol,
    })
}

#[inline(always)]
fn icmpv6(packet: &impl Packet, meta: &mut Meta, length: usize) -> Option<Kind> {
    let header: Icmp = packet.load(meta.l4 as usize)?;
    if length < 8 {
        return None;
    }
    match header.type_and_code {
        [icmp_type::V6_ECHO_REQUEST, 0] => Some(Kind::EchoRequest),
        [icmp_type::NEIGHBOUR_SOLICITATION | icmp_type::NEIGHBOUR_ADVERTISEMENT, 0] => {
            neighbour(packet, meta, length, header.type_and_code[0])
        }
        [kind, _] if kind < icmp_type::V6_FIRST_INFORMATIONAL => Some(Kind::IcmpError),
        _ => Some(Kind::OtherProtocol),
    }
}

/// The checks of RFC 4861 7.1.1 and 7.1.2 that need no sum over the packet: the answer to a solicitation tells nothing that a wrong
/// checksum could change, and an advertisement is only heard.
#[inline(always)]
fn neighbour(packet: &impl Packet, meta: &mut Meta, length: usize, icmp_type: u8) -> Option<Kind> {
    let body: NeighbourTarget = packet.load(meta.l4 as usize + 8)?;
    let target = Addr { words: body.target };
    let is_multicast = target.words[0].to_ne_bytes()[0] == 0xff;
    if meta.ttl != 255 || length < 24 || is_multicast || target.is_v4() {
        return None;
    }
    if icmp_type == icmp_type::NEIGHBOUR_ADVERTISEMENT {
        meta.source = target;
        return Some(Kind::NeighbourAdvertisement);
    }
    meta.destination = target;
    Some(Kind::NeighbourSolicitation)
}
