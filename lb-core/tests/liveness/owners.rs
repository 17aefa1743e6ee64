//! Who owns, while nodes come and go: one owner, few moves, few announcements.

use std::time::Duration;

use lb_core::{
    liveness::{Condition, Profile},
    moves,
};
use lb_sim::{Cluster, Faults, seeds, vip};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{SECOND, settled};

#[test]
fn a_node_that_comes_and_goes_moves_vips_three_times_in_three_minutes_at_most() {
    for seed in seeds(10) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut cluster = settled(5, seed);
        let flapping = cluster.owners(vip(0))[0];
        for _ in 0..30 {
            let away = Duration::from_millis(random.random_range(100..60_000));
            match random.random_range(0..3) {
                0 => {
                    cluster.kill(flapping);
                    cluster.run_for(away);
                    cluster.wake(flapping);
                }
                1 => {
                    cluster.kill(flapping);
                    cluster.run_for(away);
                    cluster.start_anew(flapping);
                }
                _ => {
                    cluster.put_to_sleep(flapping);
                    cluster.run_for(away);
                    cluster.start_anew(flapping);
                }
            }
            cluster.run_for(Duration::from_millis(random.random_range(100..90_000)));
        }
        assert!(cluster.moves() > 0, "seed {seed}");
        assert!(cluster.most_moves() <= moves::MOST, "seed {seed}: {} moves", cluster.most_moves());
        cluster.run_for(11 * 60 * SECOND);
        assert_eq!(cluster.owners(vip(0)), [flapping], "seed {seed}: {}", cluster.describe());
    }
}

#[test]
fn a_return_waits_until_the_node_has_been_quiet() {
    let mut cluster = settled(3, 1);
    let owner = cluster.owners(vip(0))[0];
    cluster.kill(owner);
    cluster.run_for(SECOND);
    let heir = cluster.owners(vip(0));
    cluster.start_anew(owner);
    cluster.run_for(Profile::FAST.quiet - SECOND);
    assert!(cluster.all_hold(owner, Condition::Returning));
    assert_eq!(cluster.owners(vip(0)), heir);
    cluster.run_for(3 * SECOND);
    assert!(cluster.all_hold(owner, Condition::Answering));
    assert_eq!(cluster.owners(vip(0)), [owner]);
}

#[test]
fn an_agent_that_starts_anew_at_once_moves_nothing() {
    for seed in seeds(5) {
        let mut cluster = settled(5, seed);
        for node in 0..5 {
            cluster.put_to_sleep(node);
            cluster.run_for(Duration::from_millis(700));
            cluster.start_anew(node);
            cluster.run_for(5 * SECOND);
        }
        assert_eq!((cluster.moves(), cluster.accusations()), (0, 0), "seed {seed}");
        assert!(cluster.each_has_one_owner());
    }
}

#[test]
fn rolling_restarts_lose_no_owner() {
    for seed in seeds(3) {
        let mut cluster = settled(20, seed);
        let before: Vec<_> = (0..8).map(|number| cluster.owners(vip(number))).collect();
        for node in 0..20 {
            cluster.kill(node);
            cluster.run_for(20 * SECOND);
            assert!(cluster.each_has_one_owner(), "seed {seed}, {node} is away: {}", cluster.describe());
            cluster.start_anew(node);
            cluster.run_for(41 * SECOND);
            assert!(cluster.each_has_one_owner(), "seed {seed}, {node} is back: {}", cluster.describe());
        }
        cluster.run_for(5 * 60 * SECOND);
        let after: Vec<_> = (0..8).map(|number| cluster.owners(vip(number))).collect();
        assert_eq!(after, before, "seed {seed}");
        assert!(cluster.most_moves() <= moves::MOST, "seed {seed}: {} moves", cluster.most_moves());
    }
}

#[test]
fn a_node_that_leaves_hands_over_at_once_and_is_not_avoided() {
    let mut cluster = settled(5, 1);
    let owner = cluster.owners(vip(0))[0];
    cluster.leave(owner, true);
    let handed_over = |cluster: &Cluster| {
        cluster.owners(vip(0)).first().is_some_and(|now| *now != owner) && cluster.each_has_one_owner()
    };
    let time = cluster.run_until(SECOND, handed_over);
    assert!(time.is_some_and(|time| time < Duration::from_millis(50)), "{time:?}");
    cluster.run_for(SECOND);
    assert!(cluster.all_hold(owner, Condition::Leaving));
    cluster.run_for(60 * SECOND);
    cluster.leave(owner, false);
    cluster.run_for(Profile::FAST.quiet + 2 * SECOND);
    assert_eq!(cluster.owners(vip(0)), [owner]);
    assert_eq!(cluster.accusations(), 0);
}

#[test]
fn clocks_that_slip_accuse_nobody_and_move_nothing() {
    for seed in seeds(5) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut cluster = settled(10, seed);
        for _ in 0..200 {
            let by = Duration::from_millis(random.random_range(10..5_000));
            cluster.slip(random.random_range(0..10), by);
            cluster.run_for(Duration::from_millis(random.random_range(10..500)));
        }
        assert_eq!((cluster.moves(), cluster.accusations()), (0, 0), "seed {seed}");
    }
}

/// Of what a node sends a third gets lost; what it is sent arrives.
#[test]
fn loss_in_one_direction_accuses_nobody() {
    for seed in seeds(5) {
        let mut cluster = settled(5, seed);
        cluster.faults.lossy.insert(2, 0.3);
        cluster.run_for(300 * SECOND);
        assert_eq!((cluster.moves(), cluster.accusations()), (0, 0), "seed {seed}");
    }
}

/// Nothing that a node sends arrives: others see it silent, and it stops to own because it hears that.
#[test]
fn a_node_that_is_not_heard_hears_that_it_is_silent() {
    for seed in seeds(5) {
        let mut cluster = settled(5, seed);
        let mute = cluster.owners(vip(0))[0];
        (0..5).filter(|to| *to != mute).for_each(|to| {
            cluster.faults.cut.insert((mute, to));
        });
        let heard = cluster.run_until(SECOND, |cluster| {
            cluster.all_hold(mute, Condition::Silent) && cluster.condition(mute, mute) == Condition::Silent
        });
        assert!(heard.is_some(), "seed {seed}");
        cluster.run_for(10 * SECOND);
        let heirs = (0..5).filter(|node| *node != mute && cluster.owners(vip(0)).contains(node));
        assert_eq!(heirs.count(), 1, "seed {seed}: what the mute one holds, nobody hears");
        cluster.faults = Faults::default();
        cluster.run_for(6 * 60 * SECOND);
        assert!(
            cluster.agree() && cluster.each_has_one_owner(),
            "seed {seed}, {mute} was mute: {}",
            cluster.describe()
        );
        assert_eq!(cluster.owners(vip(0)), [mute], "seed {seed}");
    }
}

/// Whoever is cut off holds all others to be silent, and says so as soon as it is heard: it alone has fallen, however often.
#[test]
fn a_node_that_is_cut_off_again_and_again_makes_no_other_wait() {
    for (nodes, seed) in [3, 5, 10].into_iter().flat_map(|nodes| seeds(5).map(move |seed| (nodes, seed))) {
        let mut cluster = settled(nodes, seed);
        cluster.run_for(6 * SECOND);
        let cut_off = cluster.owners(vip(0))[0];
        let others: Vec<usize> = (0..nodes).filter(|node| *node != cut_off).collect();
        for time in 0..4 {
            cluster.part(&[cut_off], &others);
            cluster.run_for(3 * SECOND);
            cluster.faults = Faults::default();
            let are_well = |cluster: &Cluster| {
                others.iter().all(|of| cluster.all_hold(*of, Condition::Answering))
                    && cluster.all_hold(cut_off, Condition::Returning)
            };
            let what = format!("{nodes} nodes, seed {seed}, time {time}");
            assert!(cluster.run_until(3 * SECOND, are_well).is_some(), "{what}: {}", cluster.describe());
            cluster.run_for(20 * SECOND);
            assert!(are_well(&cluster), "{what}: {}", cluster.describe());
            cluster.run_for(20 * SECOND);
        }
    }
}

#[test]
fn a_partition_heals_without_a_storm() {
    for seed in seeds(3) {
        let mut cluster = Cluster::with_vips(10, 500, Profile::FAST, seed);
        cluster.run_for(10 * SECOND);
        for _ in 0..3 {
            cluster.part(&[0, 1, 2, 3], &[4, 5, 6, 7, 8, 9]);
            cluster.run_for(60 * SECOND);
            cluster.faults = Faults::default();
            let whole = |cluster: &Cluster| cluster.agree() && cluster.each_has_one_owner();
            let time = cluster.run_until(10 * SECOND, whole);
            println!("healed: one owner for each of 500 VIPs after {time:?}");
            assert!(time.is_some(), "seed {seed}");
            cluster.run_for(120 * SECOND);
        }
        // Each VIP may be new to a node once for each view that it comes to; what is said again is paced.
        let most = cluster.most_announcements();
        println!("{most} announcements of a node within a second");
        assert!(most <= 500 + 220, "seed {seed}: {most}");
    }
}

/// Whatever happens: when all that run hold the same, each VIP has one owner; and VIPs do not move without need.
#[test]
fn chaos_leaves_one_owner() {
    for seed in seeds(20) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut cluster = settled(7, seed);
        for _ in 0..60 {
            let node = random.random_range(0..7);
            match random.random_range(0..8) {
                0 => cluster.kill(node),
                1 => cluster.put_to_sleep(node),
                2 | 3 => cluster.start_anew(node),
                4 => cluster.part(&[node], &(0..7).filter(|other| *other != node).collect::<Vec<_>>()),
                5 => cluster.faults = Faults::default(),
                6 => cluster.faults.loss = random.random_range(0.0..0.1),
                _ => cluster.leave(node, random.random_bool(0.5)),
            }
            for _ in 0..random.random_range(1..100) {
                cluster.run_for(Duration::from_millis(100));
                if cluster.agree() && cluster.all_troubles_are_known() && cluster.runs() > 0 {
                    assert!(cluster.each_has_one_owner(), "seed {seed}");
                }
            }
        }
        cluster.faults = Faults::default();
        (0..7).for_each(|node| cluster.start_anew(node));
        let whole = |cluster: &Cluster| cluster.agree() && cluster.each_has_one_owner();
        assert!(cluster.run_until(30 * SECOND, whole).is_some(), "seed {seed}");
    }
}
