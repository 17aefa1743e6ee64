//! How often VIPs may move with a node that comes and goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use lb_common::{
    hash::HashKey,
    layout::{Addr, Vip},
};
use lb_core::{
    armed::{Armed, ArmedSegment, ArmedVip},
    few::Few,
    liveness::{Condition, Leg, Standing},
    moves::{Moves, WINDOW},
    spread::Shares,
};

fn leg(host: u8) -> Leg {
    Leg::from([10, 0, 0, host])
}

/// A VIP for which this node, with leg 2, ranks after leg 1; if it is spread, over these classes.
fn armed(classes: &[&[u8]]) -> Armed {
    let ranked = [leg(1), leg(2), leg(3)].into();
    let of = |class: &&[u8]| class.iter().copied().map(leg).collect();
    let shares = Shares::new(&HashKey::default(), &classes.iter().map(of).collect::<Vec<_>>());
    let tables = if classes.is_empty() { Few::new() } else { [(0, 0)].into() };
    let vip = ArmedVip { entry: Vip::default(), ranked: [(0, ranked)].into(), tables };
    let segment = ArmedSegment {
        name: "lan".to_owned(),
        own: Some(leg(2)),
        claims_as: Some(leg(2)),
        stand_ins: BTreeMap::new(),
        legs: BTreeMap::new(),
        links: BTreeMap::new(),
    };
    Armed {
        vips: [(Addr::default(), vip)].into(),
        segments: [(0, segment)].into(),
        tables: vec![(0, shares)],
        ..Armed::default()
    }
}

/// Whether a node that falls and returns twice may return for the third time at once.
fn returns_at_once(classes: &[&[u8]]) -> bool {
    let armed = armed(classes);
    let begin = Instant::now();
    let mut moves = Moves::new(begin);
    let well = Standing::default();
    let away = Standing::new(&[(leg(2), Condition::Returning)], BTreeSet::new(), 3);
    let begin = begin + WINDOW;
    for (second, standing) in (0..).zip([&well, &away, &well, &away]) {
        moves.observe(&armed, standing, begin + Duration::from_secs(second));
    }
    let now = begin + Duration::from_secs(4);
    moves.earliest_return(&armed, &away, leg(2), |_| 0, now).is_none()
}

#[test]
fn the_shares_of_a_node_move_with_it_whatever_its_rank() {
    assert!(returns_at_once(&[]), "it moves nothing: another ranks before it");
    assert!(!returns_at_once(&[&[1, 2, 3]]), "its shares have moved three times");
    assert!(!returns_at_once(&[&[1, 2], &[3]]), "its shares have moved three times");
    assert!(returns_at_once(&[&[1], &[2, 3]]), "it has no share as long as a better class lives");
}
