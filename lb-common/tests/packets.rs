//! What is read of packets, and that no packet makes the parser or a rewrite read or write past its end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{
    Action, InPlace, Meta, apply,
    decide::{Decision, Verdict},
    hash::mix,
    layout::{Addr, Mac, Port},
    meta::Kind,
    packet::{Frame, tcp_flags},
    parse,
};

const IFINDEX: u32 = 3;
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);

/// A SYN from the client's port 40000 to the VIP's port 80; the checksums are of no packet in particular.
fn syn() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 1, 8, 0];
    frame.extend([0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0x43, 0x21]);
    frame.extend(CLIENT.octets());
    frame.extend(VIP.octets());
    frame.extend(40_000_u16.to_be_bytes());
    frame.extend(80_u16.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, tcp_flags::SYN, 0xff, 0, 0x12, 0x34, 0, 0]);
    frame
}

fn read(bytes: &[u8]) -> Option<Meta> {
    Frame::new(bytes).map(|frame| parse(&frame, IFINDEX))
}

fn addr(address: Ipv4Addr) -> Addr {
    IpAddr::from(address).into()
}

#[test]
fn addresses_ports_and_flags_are_read() {
    let expected = Meta {
        source: addr(CLIENT),
        destination: addr(VIP),
        source_port: Port::new(40_000),
        destination_port: Port::new(80),
        protocol: 6,
        source_mac: Mac::from([2, 0, 0, 0, 1, 1]),
        destination_mac: Mac::from([2, 0, 0, 0, 0, 1]),
        ifindex: IFINDEX,
        length: 54,
        l3: 14,
        l4: 34,
        tcp_flags: tcp_flags::SYN,
        ttl: 64,
        kind: Kind::Tcp,
        ..Meta::EMPTY
    };
    assert_eq!(read(&syn()), Some(expected));

    let mut tagged = syn();
    tagged.splice(12..12, [0x81, 0, 0x60, 100]);
    assert_eq!(read(&tagged), Some(Meta { vlan: 100, l3: 18, l4: 38, length: 58, ..expected }));

    // Whatever the ids are, the data path has no link for them.
    let ethernet =
        Meta { source_mac: expected.source_mac, destination_mac: expected.destination_mac, ..Meta::EMPTY };
    let other = Meta { ifindex: IFINDEX, kind: Kind::Other, ..ethernet };
    let mut of_provider = syn();
    of_provider.splice(12..12, [0x88, 0xa8, 0, 100]);
    assert_eq!(read(&of_provider), Some(Meta { length: 58, ..other }));
    let mut twice = tagged.clone();
    twice.splice(12..12, [0x81, 0, 0, 7]);
    assert_eq!(read(&twice), Some(Meta { vlan: 7, l3: 18, length: 62, ..other }));

    let mut with_option = syn();
    with_option[14] = 0x46;
    with_option[17] = 44;
    with_option.splice(34..34, [1; 4]);
    assert_eq!(read(&with_option), Some(Meta { l4: 38, length: 58, ..expected }));

    let mut padded = syn();
    padded.resize(60, 0);
    assert_eq!(read(&padded), Some(Meta { length: 60, ..expected }));
}

#[test]
fn a_packet_that_is_cut_off_is_malformed() {
    let whole = syn();
    for length in 14..whole.len() {
        let kind = read(&whole[..length]).map(|meta| meta.kind);
        assert_eq!(kind, Some(Kind::Malformed), "{length} of {} bytes", whole.len());
    }
}

#[test]
fn a_destination_that_is_replaced_and_put_back_leaves_every_byte() {
    let before = syn();
    let mut packet = InPlace(Frame::new(&before).expect("a frame"));
    for (address, port) in [(POD, 8080), (VIP, 80)] {
        let meta = parse(&packet.0, IFINDEX);
        let verdict = Verdict::Deliver { address: addr(address), port: Port::new(port) };
        let action = apply(&Decision { verdict, ..Decision::UNDECIDED }, &meta, &mut packet);
        assert_eq!(action, Some(Action::Pass));
        let meta = parse(&packet.0, IFINDEX);
        assert_eq!((meta.destination, meta.destination_port), (addr(address), Port::new(port)));
    }
    assert_eq!(packet.0.bytes(), before);
}

/// `source`, `destination` and kind, where an address is told of or asked for.
#[test]
fn what_tells_of_an_address_has_it_as_its_source() {
    let arp = |operation: u8| {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 1, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
        for address in [VIP, CLIENT] {
            frame.extend([2, 0, 0, 0, 1, 1]);
            frame.extend(address.octets());
        }
        read(&frame).map(|meta| (meta.kind, meta.source, meta.destination))
    };
    assert_eq!(arp(1), Some((Kind::ArpRequest, addr(VIP), addr(CLIENT))));
    assert_eq!(arp(2), Some((Kind::ArpReply, addr(VIP), addr(CLIENT))));
    assert_eq!(arp(3).map(|(kind, ..)| kind), Some(Kind::Other));

    let (source, target) =
        (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9), Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1));
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let advertisement = |hop_limit: u8, target: Ipv6Addr| {
        let mut frame =
            vec![0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 1, 1, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, hop_limit];
        frame.extend(source.octets());
        frame.extend(all_nodes.octets());
        frame.extend([136, 0, 0, 0, 0x20, 0, 0, 0]);
        frame.extend(target.octets());
        read(&frame).map(|meta| (meta.kind, meta.source))
    };
    assert_eq!(advertisement(255, target), Some((Kind::NeighbourAdvertisement, target.into())));
    for (hop_limit, target) in [(254, target), (255, all_nodes)] {
        assert_eq!(
            advertisement(hop_limit, target).map(|(kind, _)| kind),
            Some(Kind::Malformed),
            "{hop_limit} {target}"
        );
    }
}

/// Every verdict is tried on every packet, also where the decision would never come to it.
#[test]
fn nothing_panics_whatever_the_bytes() {
    let mac = Mac::from([2, 0, 0, 0, 0, 9]);
    let verdicts = [
        Verdict::Pass,
        Verdict::Drop,
        Verdict::Deliver { address: addr(POD), port: Port::new(8080) },
        Verdict::Restore { address: addr(VIP), port: Port::new(80) },
        Verdict::Forward { mac, ttl: 3 },
        Verdict::Advertise { mac, is_shared: false },
        Verdict::Advertise { mac, is_shared: true },
        Verdict::EchoReply,
    ];
    let ethertypes = [0x0800_u16, 0x86dd, 0x0806, 0x8100, 0x88a8];
    let mut random = 1_u64;
    for round in 0..60_000_u64 {
        let mut next = || {
            random = mix(random.wrapping_add(0x9e37_79b9_7f4a_7c15));
            random
        };
        let mut bytes: Vec<u8> = if round % 2 == 0 {
            let length = next() as usize % 120;
            std::iter::repeat_with(|| next() as u8).take(length).collect()
        } else {
            syn()
        };
        if bytes.len() >= 15 {
            if round % 2 == 0 {
                let ethertype = ethertypes[next() as usize % ethertypes.len()];
                bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
                bytes[14] = if ethertype == 0x86dd { 0x60 } else { 0x45 };
            }
            let at = next() as usize % bytes.len();
            bytes[at] = next() as u8;
        }
        let verdict = verdicts[next() as usize % verdicts.len()];
        let Some(frame) = Frame::new(&bytes) else { continue };
        let meta = parse(&frame, IFINDEX);
        apply(&Decision { verdict, ..Decision::UNDECIDED }, &meta, &mut InPlace(frame));
    }
}
