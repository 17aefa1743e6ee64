//! When VIPs are announced, on a clock of the test's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use lb_common::layout::Addr;
use lb_core::announce::{Announcements, MOST_PER_SECOND, MOST_REMINDED, Place, Recipient, Takeover};

fn places(count: u32) -> BTreeSet<Place> {
    (0..count).map(|n| (Addr::from(Ipv4Addr::from_bits(0x0a00_0000 + n)), 2)).collect()
}

fn said_until(announcements: &mut Announcements, begin: Instant, end: Instant) -> Vec<(Duration, Place)> {
    let mut said = Vec::new();
    let mut now = begin;
    while now <= end {
        while let Some((place, recipient)) = announcements.poll_transmit(now) {
            assert_eq!(recipient, None);
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
    announcements.set(&places(1), begin);
    let said = said_until(&mut announcements, begin, begin + Duration::from_secs(130));
    let times: Vec<u128> = said.iter().map(|(at, _)| at.as_millis()).collect();
    assert_eq!(times, [0, 100, 500, 1_600, 3_600, 63_600, 123_600]);

    announcements.set(&BTreeSet::new(), begin);
    assert_eq!(announcements.poll_timeout(), None);
    assert_eq!(announcements.poll_transmit(begin + Duration::from_secs(1_000)), None);
}

#[test]
fn what_others_claim_is_said_again_once_and_in_its_turn() {
    let (mut announcements, begin) = (Announcements::default(), Instant::now());
    let all = places(100);
    announcements.set(&all, begin);
    said_until(&mut announcements, begin, begin + Duration::from_secs(10));
    let now = begin + Duration::from_secs(10);
    all.iter().for_each(|place| announcements.repeat(*place, now));
    announcements.repeat(places(101).last().copied().unwrap_or_default(), now);
    let said = said_until(&mut announcements, now, now + Duration::from_secs(59));
    let times: Vec<u128> = said.iter().map(|(at, _)| at.as_millis()).collect();
    // In small bursts, for to wake costs more than to say something.
    assert_eq!(times, (0..100).map(|number| number / 9 * 50).collect::<Vec<_>>());
}

#[test]
fn a_thousand_are_said_at_once_and_repeated_within_the_budget() {
    let (mut announcements, begin) = (Announcements::default(), Instant::now());
    announcements.set(&places(1_000), begin);
    let said = said_until(&mut announcements, begin, begin + Duration::from_secs(120));
    assert!(said[..1_000].iter().all(|(at, _)| at.is_zero()));
    let mut seconds: BTreeMap<u64, usize> = BTreeMap::new();
    said[1_000..].iter().for_each(|(at, _)| *seconds.entry(at.as_secs()).or_default() += 1);
    assert!(seconds.values().all(|count| *count <= 201), "{seconds:?}");
}

#[test]
fn what_comes_and_goes_within_a_second_is_no_storm() {
    let (mut announcements, begin) = (Announcements::default(), Instant::now());
    let ms = |ms| begin + Duration::from_millis(ms);
    let mut said = 0;
    for time in (0..1_000).step_by(100) {
        announcements.set(&places(1_000), ms(time));
        said += said_until(&mut announcements, ms(time), ms(time + 49)).len();
        announcements.set(&BTreeSet::new(), ms(time + 50));
    }
    assert!((1_000..=1_101).contains(&said), "{said}");
    // What was away for longer is new.
    announcements.set(&places(1_000), ms(1_951));
    assert_eq!(said_until(&mut announcements, ms(1_951), ms(1_951)).len(), 1_000);
    // And so is what comes back from one that has died.
    announcements.set(&BTreeSet::new(), ms(2_000));
    announcements.forget_lost();
    announcements.set(&places(1_000), ms(2_100));
    assert_eq!(said_until(&mut announcements, ms(2_100), ms(2_100)).len(), 1_000);
}

#[test]
fn a_takeover_is_told_of_when_its_last_place_has_been_said() {
    let (mut announcements, begin) = (Announcements::default(), Instant::now());
    assert_eq!(announcements.poll_takeover(), None);
    announcements.set(&places(2), begin);
    let (later, end) = (begin + Duration::from_millis(10), begin + Duration::from_millis(20));
    announcements.poll_transmit(later);
    assert_eq!(announcements.poll_takeover(), None, "one of two has been said");
    announcements.set(&places(3), later);
    while announcements.poll_transmit(end).is_some() {}
    assert_eq!(announcements.poll_takeover(), Some(Takeover { places: 3, since: begin }));
    assert_eq!(announcements.poll_takeover(), None, "it is told of once");

    announcements.set(&places(4), end);
    announcements.set(&places(3), end);
    while announcements.poll_transmit(end).is_some() {}
    assert_eq!(announcements.poll_takeover(), None, "it went before it was said");
}

/// Everything that is said to single clients until then.
fn told_until(announcements: &mut Announcements, begin: Instant, end: Instant) -> Vec<(Duration, Recipient)> {
    let mut told = Vec::new();
    let mut now = begin;
    while now <= end {
        while let Some((_, recipient)) = announcements.poll_transmit(now) {
            told.extend(recipient.map(|recipient| (now - begin, recipient)));
        }
        let Some(next) = announcements.poll_timeout() else { break };
        assert!(next > now, "nothing is said, and no time is given");
        now = next;
    }
    told
}

fn words(count: u32) -> Vec<(Place, Recipient)> {
    let place = (Addr::from(Ipv4Addr::new(192, 0, 2, 200)), 2);
    let recipient = |n| Recipient {
        address: Ipv4Addr::from_bits(0x0a00_0000 + n).into(),
        mac: [2, 0, 0, 0, 0, 1].into(),
    };
    (0..count).map(|n| (place, recipient(n))).collect()
}

#[test]
fn a_client_is_told_at_once_a_few_times_again_and_then_for_ever() {
    let (mut announcements, begin) = (Announcements::default(), Instant::now());
    announcements.tell(words(1), begin);
    let told = told_until(&mut announcements, begin, begin + Duration::from_secs(180));
    let times: Vec<u128> = told.iter().map(|(at, _)| at.as_millis()).collect();
    assert_eq!(times, [0, 100, 500, 1_600, 3_600, 63_600, 123_600]);
    announcements.retain_told(|_, _| false);
    assert_eq!(announcements.poll_timeout(), None);
}

#[test]
fn a_client_is_told_no_more_when_it_is_anothers_and_anew_when_it_comes_back() {
    let (mut announcements, begin) = (Announcements::default(), Instant::now());
    let all = words(2);
    announcements.tell(all.clone(), begin);
    let told = told_until(&mut announcements, begin, begin + Duration::from_millis(200));
    assert_eq!(told.len(), 4);
    announcements.retain_told(|_, recipient| *recipient == all[1].1);
    let told = told_until(&mut announcements, begin, begin + Duration::from_millis(600));
    assert_eq!(told.iter().map(|(_, to)| *to).collect::<Vec<_>>(), [all[1].1]);
    announcements.tell(all.clone(), begin + Duration::from_millis(700));
    let begin = begin + Duration::from_millis(700);
    let told = told_until(&mut announcements, begin, begin + Duration::from_secs(60));
    assert_eq!(told.len(), 10);
}

#[test]
fn thousands_of_clients_are_told_within_the_pace_and_hold_up_no_vip() {
    let (mut announcements, begin) = (Announcements::default(), Instant::now());
    announcements.tell(words(16_384), begin);
    announcements.set(&places(10), begin);
    let mut first = Vec::new();
    while let Some((_, recipient)) = announcements.poll_transmit(begin) {
        first.push(recipient);
    }
    assert_eq!(first.iter().filter(|recipient| recipient.is_none()).count(), 10);
    assert!(first[..10].iter().all(Option::is_none), "VIPs come first");
    announcements.set(&BTreeSet::new(), begin);
    let told = told_until(&mut announcements, begin, begin + Duration::from_secs(600));
    let all: BTreeSet<Recipient> =
        told.iter().map(|(_, to)| *to).chain(first.into_iter().flatten()).collect();
    assert_eq!(all.len(), 16_384);
    let mut seconds: BTreeMap<u64, usize> = BTreeMap::new();
    told.iter().for_each(|(at, _)| *seconds.entry(at.as_secs()).or_default() += 1);
    assert!(seconds.values().all(|count| *count <= 5_025), "{seconds:?}");
    let last = words(16_384)[16_383].1;
    let first_of_last = told.iter().find(|(_, to)| *to == last).map(|(at, _)| *at);
    assert!(first_of_last.is_some_and(|at| at < Duration::from_secs(10)), "{first_of_last:?}");

    let later: Vec<_> = told.iter().filter(|(at, _)| at.as_secs() > 300).collect();
    let reminded: BTreeSet<Recipient> = later.iter().map(|(_, to)| *to).collect();
    assert_eq!(reminded.len(), MOST_REMINDED);
    // Those that were taken over last.
    let newer: Vec<_> = words(16_384 + 10)[16_384..].to_vec();
    let end = begin + Duration::from_secs(601);
    announcements.tell(newer.clone(), end);
    let again = told_until(&mut announcements, end, end + Duration::from_secs(120));
    let after: BTreeSet<Recipient> =
        again.iter().filter(|(at, _)| at.as_secs() > 30).map(|(_, to)| *to).collect();
    assert!(newer.iter().all(|(_, to)| after.contains(to)));
    assert_eq!(after.len(), MOST_REMINDED);
    assert!(later.len() < 6 * MOST_REMINDED, "{}", later.len());
    let paced = seconds.range(300..).map(|(_, count)| *count as u64);
    assert!(paced.max() <= Some(MOST_PER_SECOND + 1), "{seconds:?}");
}
