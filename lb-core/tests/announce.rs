//! When VIPs are announced, on a clock of the test's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use lb_common::layout::Addr;
use lb_core::announce::{Announcements, Place, frame};

fn places(count: u32) -> BTreeSet<Place> {
    (0..count).map(|n| (Addr::from(Ipv4Addr::from_bits(0x0a00_0000 + n)), 2)).collect()
}

fn said_until(announcements: &mut Announcements, begin: Instant, end: Instant) -> Vec<(Duration, Place)> {
    let mut said = Vec::new();
    let mut now = begin;
    while now <= end {
        while let Some(place) = announcements.poll_transmit(now) {
            said.push((now - begin, place));
        }
        match announcements.poll_timeout() {
            Some(next) => now = next.max(now),
            None => break,
        }
    }
    said
}

#[test]
fn what_is_new_is_said_at_once_and_again_and_then_for_ever() {
    let (mut announcements, begin) = (Announcements::default(), Instant::now());
    announcements.set(&places(1));
    let said = said_until(&mut announcements, begin, begin + Duration::from_secs(130));
    let times: Vec<u128> = said.iter().map(|(at, _)| at.as_millis()).collect();
    assert_eq!(times, [0, 100, 500, 1_600, 3_600, 63_600, 123_600]);

    announcements.set(&BTreeSet::new());
    assert_eq!(announcements.poll_timeout(), None);
    assert_eq!(announcements.poll_transmit(begin + Duration::from_secs(1_000)), None);
}

#[test]
fn a_thousand_are_said_at_once_and_repeated_within_the_budget() {
    let (mut announcements, begin) = (Announcements::default(), Instant::now());
    announcements.set(&places(1_000));
    let said = said_until(&mut announcements, begin, begin + Duration::from_secs(120));
    assert!(said[..1_000].iter().all(|(at, _)| at.is_zero()));
    let mut seconds: BTreeMap<u64, usize> = BTreeMap::new();
    said[1_000..].iter().for_each(|(at, _)| *seconds.entry(at.as_secs()).or_default() += 1);
    assert!(seconds.values().all(|count| *count <= 201), "{seconds:?}");
}

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

#[test]
fn an_ipv4_vip_is_announced_by_a_request_for_itself() {
    let vip = Ipv4Addr::new(192, 0, 2, 1);
    let mut expected = [[0xff; 6].as_slice(), &MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &MAC].concat();
    expected.extend(vip.octets());
    expected.extend([0; 6]);
    expected.extend(vip.octets());
    expected.resize(60, 0);
    assert_eq!(frame(vip.into(), MAC.into()), expected);
}

#[test]
fn an_ipv6_vip_is_announced_by_an_advertisement_with_the_override_flag() {
    let vip = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x200);
    let frame = frame(vip.into(), MAC.into());
    let (ethernet, ipv6) = frame.split_at(14);
    assert_eq!(ethernet, [[0x33, 0x33, 0, 0, 0, 1].as_slice(), &MAC, &[0x86, 0xdd]].concat());
    let (header, body) = ipv6.split_at(40);
    assert_eq!(header[..8], [0x60, 0, 0, 0, 0, 32, 58, 255]);
    assert_eq!(header[8..24], vip.octets());
    assert_eq!(header[24..], Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets());
    assert_eq!((body[0], body[1], body[4]), (136, 0, 0x20));
    assert_eq!(body[8..24], vip.octets());
    assert_eq!(body[24..], [[2, 1].as_slice(), &MAC].concat());

    // Over the pseudo-header and all of the message the sum is all ones (RFC 1071).
    let covered = [&header[8..], &[0, 0, 0, 32, 0, 0, 0, 58], body].concat();
    let sum = covered.chunks(2).fold(0_u32, |sum, pair| sum + u32::from(pair[0]) * 256 + u32::from(pair[1]));
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
}
