//! The frames of ARP and NDP that this node sends of its own accord.

use std::net::{IpAddr, Ipv6Addr};

use lb_common::{
    checksum::Sum,
    layout::{Addr, Mac, Plain},
    packet::{Arp, Ethernet, Icmp, Ipv6, LinkLayerOption, NeighbourTarget, ethertype, icmp_type, protocol},
};

use crate::announce::Recipient;

/// That `mac` has `vip`: an ARP request of the address for itself (RFC 5227 2.3), or an unsolicited neighbour advertisement (RFC 4861
/// 7.2.6); broadcast and to all nodes, or to one.
pub fn announcement(vip: IpAddr, mac: Mac, to: Option<Recipient>) -> Vec<u8> {
    match vip {
        IpAddr::V4(v4) => {
            let (address, to) = (u32::from_ne_bytes(v4.octets()), to.map_or(Mac::BROADCAST, |to| to.mac));
            arp_request(mac, address, address, to)
        }
        IpAddr::V6(_) => {
            let advertisement = Neighbour {
                source: vip.into(),
                icmp_type: icmp_type::NEIGHBOUR_ADVERTISEMENT,
                flags: OVERRIDE,
                target: vip.into(),
                option: Some(mac),
            };
            advertisement.frame(mac, to.unwrap_or(ALL_NODES))
        }
    }
}

/// Whether anybody has `vip`, and claims nothing: an ARP probe (RFC 5227 1.1), or a neighbour solicitation from the unspecified address
/// (RFC 4862 5.4.2).
pub fn probe(vip: IpAddr, mac: Mac) -> Vec<u8> {
    match vip {
        IpAddr::V4(v4) => arp_request(mac, 0, u32::from_ne_bytes(v4.octets()), Mac::BROADCAST),
        IpAddr::V6(_) => solicitation(vip.into(), Addr::UNSPECIFIED, mac, None),
    }
}

/// The same, but whoever answers answers `mac` alone: an ARP probe is answered so anyway, a neighbour solicitation if it comes from an
/// address (RFC 4861 7.2.2, 7.2.4). Without one it is the probe.
pub fn question(vip: IpAddr, mac: Mac, source: Option<Ipv6Addr>) -> Vec<u8> {
    match (vip, source) {
        (IpAddr::V6(_), Some(source)) => solicitation(vip.into(), source.into(), mac, Some(mac)),
        (IpAddr::V4(_), _) | (IpAddr::V6(_), None) => probe(vip, mac),
    }
}

fn solicitation(target: Addr, source: Addr, mac: Mac, option: Option<Mac>) -> Vec<u8> {
    let solicitation =
        Neighbour { source, icmp_type: icmp_type::NEIGHBOUR_SOLICITATION, flags: 0, target, option };
    solicitation.frame(mac, solicited_nodes(target))
}

/// `ff02::1` (RFC 2464 7).
const ALL_NODES: Recipient = Recipient {
    address: Addr { words: [0xff02_0000_u32.to_be(), 0, 0, 1_u32.to_be()] },
    mac: Mac { words: [0x3333, 0, 1_u16.to_be()] },
};

/// `ff02::1:ff` and the last 24 bits of an address (RFC 4291 2.7.1); its MAC has the last 32 (RFC 2464 7).
fn solicited_nodes(address: Addr) -> Recipient {
    let last = u32::from_be(address.words[3]) & 0x00ff_ffff | 0xff00_0000;
    let [a, b, c, d] = last.to_be_bytes();
    Recipient {
        address: Addr { words: [0xff02_0000_u32.to_be(), 0, 1_u32.to_be(), last.to_be()] },
        mac: [0x33, 0x33, a, b, c, d].into(),
    }
}

/// Addresses as they are on the wire.
fn arp_request(mac: Mac, sender: u32, target: u32, to: Mac) -> Vec<u8> {
    let ethernet = Ethernet { destination: to, source: mac, ethertype: ethertype::ARP.to_be() };
    let arp = Arp {
        hardware: 1_u16.to_be(),
        protocol: ethertype::IPV4.to_be(),
        lengths: 0x0604_u16.to_be(),
        operation: 1_u16.to_be(),
        sender_mac: mac,
        sender,
        target_mac: Mac::default(),
        target,
    };
    let mut frame = [ethernet.as_bytes(), arp.as_bytes()].concat();
    // The least that Ethernet carries.
    frame.resize(60, 0);
    frame
}

/// Flag of an advertisement: it replaces what others have (RFC 4861 4.4).
const OVERRIDE: u32 = 0x2000_0000_u32.to_be();

/// A solicitation or an advertisement (RFC 4861 4.3, 4.4).
struct Neighbour {
    source: Addr,
    icmp_type: u8,
    flags: u32,
    target: Addr,
    /// Link-layer address of the source in a solicitation, of the target in an advertisement (RFC 4861 4.6.1); without it the message
    /// has no option.
    option: Option<Mac>,
}

impl Neighbour {
    fn frame(&self, mac: Mac, to: Recipient) -> Vec<u8> {
        let ethernet = Ethernet { destination: to.mac, source: mac, ethertype: ethertype::IPV6.to_be() };
        let target = NeighbourTarget { target: self.target.words };
        let kind = if self.icmp_type == icmp_type::NEIGHBOUR_SOLICITATION { 1 } else { 2 };
        let option = self.option.map(|mac| LinkLayerOption { type_and_length: [kind, 1], mac });
        let body = [target.as_bytes(), option.as_ref().map_or(&[], Plain::as_bytes)].concat();
        let length = (size_of::<Icmp>() + body.len()) as u16;
        let ipv6 = Ipv6 {
            version_and_flow: 0x6000_0000_u32.to_be(),
            payload_length: length.to_be(),
            next_and_hop_limit: [protocol::ICMPV6, 255],
            source: self.source.words,
            destination: to.address.words,
        };
        let icmp = Icmp { type_and_code: [self.icmp_type, 0], checksum: 0, rest: self.flags };
        let pseudo = Sum::ZERO
            .add_words(self.source.words)
            .add_words(to.address.words)
            .add(u32::from(length.to_be()))
            .add(u32::from(u16::from(protocol::ICMPV6).to_be()));
        // Header and body have even lengths.
        let message = [icmp.as_bytes(), &body].concat();
        let (pairs, _) = message.as_chunks::<2>();
        let sum = pairs.iter().fold(pseudo, |sum, pair| sum.add(u32::from(u16::from_ne_bytes(*pair))));
        let icmp = Icmp { checksum: sum.checksum(), ..icmp };
        [ethernet.as_bytes(), ipv6.as_bytes(), icmp.as_bytes(), &body].concat()
    }
}
