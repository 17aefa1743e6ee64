//! When VIPs are announced, on a clock of the test's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use lb_common::layout::Addr;
use lb_core::announce::{Announcements, Place};

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
