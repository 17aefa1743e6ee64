//! What a node reports of legs, on a clock of the test's own.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use lb_core::liveness::{Condition, Leg, Liveness, Profile, Source, Transmit};

fn leg(host: u8) -> Leg {
    IpAddr::from([10, 0, 0, host])
}

/// The first of several in a segment, and what its probes were answered with so far: leg 2 answers, leg 3 did for a second, the others
/// do not.
fn observed(legs: u8, for_so_long: Duration) -> (Liveness, Instant) {
    let begin = Instant::now();
    let mut liveness = Liveness::new(Profile::FAST, [7; 32], 1, begin);
    let all: BTreeSet<Leg> = (1..=legs).map(leg).collect();
    liveness.set_segments(&[(leg(1), all)], begin);
    let mut now = begin;
    while let Some(due) = liveness.poll_timeout().filter(|due| *due < begin + for_so_long) {
        now = due.max(now);
        liveness.handle_timeout(now);
        while let Some(transmit) = liveness.poll_transmit() {
            if let Transmit::Probe { to, nonce } = transmit
                && (to == leg(2) || to == leg(3) && now < begin + Duration::from_secs(1))
            {
                liveness.handle_answer(to, nonce, true, now);
            }
        }
    }
    (liveness, begin + for_so_long)
}

#[test]
fn of_two_nodes_each_says_when_the_other_answered() {
    let (liveness, now) = observed(2, Duration::from_secs(3));
    let report = liveness.report(now);
    assert_eq!(report.keys().copied().collect::<Vec<_>>(), [leg(1), leg(2)]);
    assert_eq!(report[&leg(1)].source, Source::Own);
    let other = &report[&leg(2)];
    assert_eq!(
        (other.condition, other.since, &*other.observers),
        (Condition::Answering, None, &[leg(1)][..])
    );
    let Source::Probes { last_answer: Some(last_answer) } = other.source else { panic!("{other:?}") };
    assert!(last_answer <= Profile::FAST.interval, "{last_answer:?}");
}

#[test]
fn a_silent_leg_is_so_since_the_verdict_and_others_observe_what_it_did() {
    let (liveness, now) = observed(4, Duration::from_secs(10));
    let report = liveness.report(now);
    let silent = &report[&leg(3)];
    assert_eq!(silent.condition, Condition::Silent);
    let Source::Probes { last_answer: Some(last_answer) } = silent.source else { panic!("{silent:?}") };
    let since = silent.since.unwrap_or_default();
    assert!(since > Duration::from_secs(8) && since < last_answer, "{since:?} since the verdict");
    assert_eq!(silent.observers.iter().copied().collect::<BTreeSet<_>>(), [leg(1), leg(2)].into());
    let absent = &report[&leg(4)];
    assert_eq!(absent.condition, Condition::Absent);
    assert_eq!(absent.source, Source::Probes { last_answer: None });
    assert_eq!(report[&leg(2)].observers, [leg(1)], "the silent observe nobody");
}

#[test]
fn of_many_most_is_known_from_others() {
    let (liveness, now) = observed(50, Duration::ZERO);
    let report = liveness.report(now);
    let heard = report.values().filter(|leg| leg.source == Source::Others).count();
    assert!(heard > 40, "{heard}");
    for (leg, reported) in &report {
        let probes = matches!(reported.source, Source::Probes { .. });
        assert_eq!(reported.observers.len(), Profile::FAST.observers, "{leg}");
        assert_eq!(reported.observers.contains(&self::leg(1)), probes, "{leg}");
    }
}
