//! The frames of ARP and NDP, byte by byte.

use std::net::{Ipv4Addr, Ipv6Addr};

use lb_core::{
    announce::Recipient,
    frames::{announcement, probe, question},
};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

#[test]
fn one_client_is_told_in_frames_to_itself() {
    let (to, client) = ([2, 0, 0, 0, 1, 1], Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x101));
    let recipient = Recipient { address: client.into(), mac: to.into() };
    let vip = Ipv4Addr::new(192, 0, 2, 1);
    let all = announcement(vip.into(), MAC.into(), None);
    let one = announcement(vip.into(), MAC.into(), Some(recipient));
    assert_eq!((&one[..6], &one[6..]), (to.as_slice(), &all[6..]));

    let vip = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x200);
    let one = announcement(vip.into(), MAC.into(), Some(recipient));
    let (ethernet, ipv6) = one.split_at(14);
    assert_eq!(ethernet, [to.as_slice(), &MAC, &[0x86, 0xdd]].concat());
    let (header, body) = ipv6.split_at(40);
    assert_eq!((&header[8..24], &header[24..]), (vip.octets().as_slice(), client.octets().as_slice()));
    assert_eq!(internet_sum(header, body), 0xffff);
}

#[test]
fn an_ipv4_vip_is_announced_by_a_request_for_itself() {
    let vip = Ipv4Addr::new(192, 0, 2, 1);
    let mut expected = [[0xff; 6].as_slice(), &MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &MAC].concat();
    expected.extend(vip.octets());
    expected.extend([0; 6]);
    expected.extend(vip.octets());
    expected.resize(60, 0);
    assert_eq!(announcement(vip.into(), MAC.into(), None), expected);
}

#[test]
fn an_ipv6_vip_is_announced_by_an_advertisement_with_the_override_flag() {
    let vip = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x200);
    let frame = announcement(vip.into(), MAC.into(), None);
    let (ethernet, ipv6) = frame.split_at(14);
    assert_eq!(ethernet, [[0x33, 0x33, 0, 0, 0, 1].as_slice(), &MAC, &[0x86, 0xdd]].concat());
    let (header, body) = ipv6.split_at(40);
    assert_eq!(header[..8], [0x60, 0, 0, 0, 0, 32, 58, 255]);
    assert_eq!(header[8..24], vip.octets());
    assert_eq!(header[24..], Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets());
    assert_eq!((body[0], body[1], body[4]), (136, 0, 0x20));
    assert_eq!(body[8..24], vip.octets());
    assert_eq!(body[24..], [[2, 1].as_slice(), &MAC].concat());

    assert_eq!(internet_sum(header, body), 0xffff);
}

#[test]
fn a_probe_asks_and_claims_nothing() {
    let vip = Ipv4Addr::new(192, 0, 2, 200);
    let mut expected = [[0xff; 6].as_slice(), &MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &MAC].concat();
    expected.extend([0; 10]);
    expected.extend(vip.octets());
    expected.resize(60, 0);
    assert_eq!(probe(vip.into(), MAC.into()), expected);

    let vip = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0x12, 0x3456);
    let frame = probe(vip.into(), MAC.into());
    let (ethernet, ipv6) = frame.split_at(14);
    assert_eq!(ethernet, [[0x33, 0x33, 0xff, 0x12, 0x34, 0x56].as_slice(), &MAC, &[0x86, 0xdd]].concat());
    let (header, body) = ipv6.split_at(40);
    assert_eq!(header[..8], [0x60, 0, 0, 0, 0, 24, 58, 255]);
    assert_eq!(header[8..24], [0; 16]);
    assert_eq!(header[24..], Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff12, 0x3456).octets());
    assert_eq!((body[0], body[1], &body[4..8]), (135, 0, [0; 4].as_slice()));
    assert_eq!(body[8..], vip.octets());
    assert_eq!(internet_sum(header, body), 0xffff);
}

#[test]
fn a_question_comes_from_an_address_so_that_the_answer_is_for_its_sender_alone() {
    let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let vip = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0x12, 0x3456);
    let frame = question(vip.into(), MAC.into(), Some(source));
    let (ethernet, ipv6) = frame.split_at(14);
    assert_eq!(ethernet, [[0x33, 0x33, 0xff, 0x12, 0x34, 0x56].as_slice(), &MAC, &[0x86, 0xdd]].concat());
    let (header, body) = ipv6.split_at(40);
    assert_eq!(header[..8], [0x60, 0, 0, 0, 0, 32, 58, 255]);
    assert_eq!(header[8..24], source.octets());
    assert_eq!(header[24..], Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff12, 0x3456).octets());
    assert_eq!((body[0], body[1], &body[4..8]), (135, 0, [0; 4].as_slice()));
    assert_eq!(body[8..24], vip.octets());
    assert_eq!(body[24..], [[1, 1].as_slice(), &MAC].concat());
    assert_eq!(internet_sum(header, body), 0xffff);

    // Without an address it asks as it can, and of an IPv4 address a probe is answered to its sender alone.
    assert_eq!(question(vip.into(), MAC.into(), None), probe(vip.into(), MAC.into()));
    let vip = Ipv4Addr::new(192, 0, 2, 200);
    assert_eq!(question(vip.into(), MAC.into(), Some(source)), probe(vip.into(), MAC.into()));
}

/// Over the pseudo-header and all of the message: all ones if the checksum is right (RFC 1071).
fn internet_sum(header: &[u8], body: &[u8]) -> u32 {
    let covered = [&header[8..], &[0, 0, 0, body.len() as u8, 0, 0, 0, 58], body].concat();
    let sum = covered.chunks(2).fold(0_u32, |sum, pair| sum + u32::from(pair[0]) * 256 + u32::from(pair[1]));
    (sum & 0xffff) + (sum >> 16)
}
