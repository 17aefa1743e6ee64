//! Who is alive, found out by clusters of the real state machine on a virtual clock.

mod owners;
mod segments;

use std::time::Duration;

use lb_common::layout::Mac;
use lb_core::{
    liveness::{Condition, Profile},
    moves,
};
use lb_sim::{Cluster, Distribution, Faults, seeds, vip};
use rand::{RngExt, SeedableRng, rngs::StdRng};

const SECOND: Duration = Duration::from_secs(1);

fn settled(nodes: usize, seed: u64) -> Cluster {
    let mut cluster = Cluster::new(nodes, Profile::FAST, seed);
    cluster.run_for(SECOND);
    assert_eq!(cluster.accusations(), 0);
    cluster
}

#[test]
fn all_hear_of_a_dead_node() {
    for (nodes, runs) in [(2, 40), (3, 40), (50, 20), (500, 3)] {
        let mut times = Vec::new();
        for seed in seeds(runs) {
            let mut cluster = settled(nodes, seed);
            // Not always at the same moment of everybody's probes.
            cluster.run_for(Duration::from_millis(seed * 7 % 30));
            let dead = seed as usize % nodes;
            cluster.kill(dead);
            let time = cluster.run_until(SECOND, |cluster| cluster.all_hold(dead, Condition::Silent));
            let time = time.unwrap_or_else(|| panic!("{nodes} nodes, seed {seed}: not all know"));
            assert!(!cluster.is_gone(dead, (dead + 1) % nodes));
            times.push(time);
            let others = (0..nodes).filter(|of| *of != dead);
            assert!(others.into_iter().all(|of| cluster.all_hold(of, Condition::Answering)), "seed {seed}");
        }
        let times = Distribution::of(times);
        println!("{nodes} nodes, one dies; until all know: {times}");
        assert!(times.quantile(1.0) < 250.0, "{nodes} nodes: {times}");
    }
}

#[test]
fn a_dead_node_is_gone_after_a_while_and_welcome_when_it_returns() {
    for seed in seeds(10) {
        let mut cluster = settled(3, seed);
        cluster.kill(0);
        cluster.run_for(Profile::FAST.gone);
        assert!(!cluster.is_gone(0, 1), "the time begins with the verdict");
        cluster.run_for(SECOND);
        assert!(cluster.is_gone(0, 1) && cluster.is_gone(0, 2));
        cluster.wake(0);
        let back = cluster.run_until(SECOND, |cluster| cluster.all_hold(0, Condition::Returning));
        assert!(back.is_some(), "seed {seed}");
        assert!(cluster.run_until(2 * SECOND, Cluster::agree).is_some(), "seed {seed}");
    }
}

/// Whoever is cut off hears nobody, and gives nobody up, not even in the moment in which it hears the first of them again.
#[test]
fn a_node_that_was_cut_off_gives_up_nobody() {
    for seed in seeds(20) {
        let mut cluster = settled(3, seed);
        cluster.part(&[0], &[1, 2]);
        cluster.run_for(30 * SECOND);
        assert!(cluster.is_gone(0, 1) && cluster.is_gone(0, 2), "seed {seed}");
        let gives_up = |cluster: &Cluster| cluster.is_gone(1, 0) || cluster.is_gone(2, 0);
        assert!(!gives_up(&cluster), "seed {seed}");
        cluster.faults = Faults::default();
        assert_eq!(cluster.run_until(3 * SECOND, gives_up), None, "seed {seed}");
        assert!((1..3).all(|of| cluster.condition(of, 0) == Condition::Answering), "seed {seed}");
    }
}

/// The others that a node could not hear are taken out of the cluster: the one that is left is given up like any that is silent.
#[test]
fn whoever_is_left_alone_with_a_silent_node_gives_it_up() {
    let mut cluster = settled(3, 1);
    cluster.part(&[0], &[1, 2]);
    cluster.run_for(10 * SECOND);
    assert!(!cluster.is_gone(1, 0), "cut off from both");
    cluster.set_members(0, &[0, 1]);
    cluster.run_for(Profile::FAST.gone - SECOND);
    assert!(!cluster.is_gone(1, 0), "the time begins anew");
    cluster.run_for(2 * SECOND);
    assert!(cluster.is_gone(1, 0));
}

#[test]
fn all_prove_where_all_are_and_believe_no_other_mac() {
    for (nodes, seed) in [(3, 1), (50, 2)] {
        let mut cluster = settled(nodes, seed);
        cluster.faults.loss = 0.05;
        let all = |cluster: &Cluster| (0..nodes).all(|of| cluster.all_have_proven(of));
        assert!(cluster.run_until(30 * SECOND, all).is_some(), "{nodes} nodes");
        let wrong = Mac::from([2, 0, 0, 0, 9, 9]);
        cluster.lie_about_mac(0, wrong);
        cluster.run_for(30 * SECOND);
        assert!(cluster.all_have_proven(0), "what was proven holds until something else is");
        cluster.change_mac(0, wrong);
        // Whoever has missed the words three times hears them by and by.
        assert!(cluster.run_until(300 * SECOND, |cluster| cluster.all_have_proven(0)).is_some());
    }
}

#[test]
fn all_use_the_lowest_algorithm_that_is_alive() {
    for seed in seeds(3) {
        let mut cluster = settled(20, seed);
        cluster.faults.loss = 0.05;
        for node in 0..20 {
            cluster.set_algorithm(node, if node == 7 { 1 } else { 2 });
            cluster.run_for(SECOND / 10);
        }
        let agree_on = |algorithm| move |cluster: &Cluster| cluster.algorithm() == Some(algorithm);
        assert!(cluster.run_until(30 * SECOND, agree_on(1)).is_some(), "seed {seed}");
        cluster.run_for(10 * SECOND);
        assert_eq!(cluster.algorithm(), Some(1), "seed {seed}");
        cluster.kill(7);
        assert!(cluster.run_until(SECOND, agree_on(2)).is_some(), "seed {seed}");
    }
}

/// Those that are left observe only some of the dead: of the others they learn because their agents are missed.
#[test]
fn the_dead_are_missed_whose_observers_died_with_them() {
    for seed in seeds(5) {
        let mut cluster = settled(20, seed);
        cluster.run_for(30 * SECOND);
        assert_eq!(cluster.members(0).len(), 20, "seed {seed}");
        (2..20).for_each(|node| cluster.kill(node));
        let all_known = |cluster: &Cluster| (2..20).all(|of| cluster.all_hold(of, Condition::Silent));
        let time = cluster.run_until(60 * SECOND, all_known);
        println!("18 of 20 died at once; until both others know of all: {time:?}");
        assert!(time.is_some(), "seed {seed}");
        cluster.run_for(30 * SECOND);
        assert_eq!(cluster.members(0).len(), 2, "seed {seed}");
    }
}

/// Nobody else can say anything: the burst of the only observer is twice as long.
#[test]
fn the_only_observer_asks_twice_as_often() {
    let mut cluster = settled(2, 1);
    cluster.kill(0);
    let before = cluster.probes(1);
    assert!(cluster.run_until(SECOND, |cluster| cluster.all_hold(0, Condition::Silent)).is_some());
    let sent = cluster.probes(1) - before;
    assert!(sent >= u64::from(2 * Profile::FAST.burst), "{sent} probes");
}

#[test]
fn loss_accuses_nobody() {
    for (loss, nodes, seconds) in
        [(0.01, 3, 600), (0.05, 3, 600), (0.01, 50, 120), (0.05, 50, 120), (0.01, 500, 5), (0.05, 500, 5)]
    {
        for seed in seeds(2) {
            let mut cluster = settled(nodes, seed);
            cluster.faults.loss = loss;
            cluster.run_for(seconds * SECOND);
            println!(
                "{nodes} nodes, loss {loss}, {:?}: {} suspicions, {} accusations",
                cluster.elapsed(),
                cluster.suspicions(),
                cluster.accusations()
            );
            assert_eq!(cluster.accusations(), 0, "seed {seed}");
        }
    }
}

#[test]
fn an_agent_that_sleeps_yields_and_is_never_silent() {
    for seed in seeds(10) {
        let mut cluster = settled(3, seed);
        cluster.put_to_sleep(0);
        cluster.run_for(Duration::from_millis(500));
        assert!(cluster.all_hold(0, Condition::Answering), "half a second is forgiven");
        let time = cluster.run_until(2 * SECOND, |cluster| cluster.all_hold(0, Condition::Yielding));
        assert!(time.is_some(), "seed {seed}");
        cluster.run_for(60 * SECOND);
        assert!(cluster.all_hold(0, Condition::Yielding), "seed {seed}");
        cluster.wake(0);
        let back = cluster.run_until(SECOND, |cluster| cluster.all_hold(0, Condition::Returning));
        assert!(back.is_some(), "seed {seed}");
        assert_eq!(cluster.accusations(), 0, "who has slept accuses nobody");
    }
}

#[test]
fn agents_that_starve_accuse_nobody() {
    for seed in seeds(3) {
        let mut cluster = settled(50, seed);
        for round in 0..50 {
            let starved = [round, (round * 7 + 3) % 50, (round * 11 + 5) % 50];
            starved.iter().for_each(|node| cluster.put_to_sleep(*node));
            cluster.run_for(Duration::from_millis(500));
            starved.iter().for_each(|node| cluster.wake(*node));
            cluster.run_for(Duration::from_millis(100));
        }
        assert_eq!(cluster.accusations(), 0, "seed {seed}");
    }
}

/// One node does not hear another: others do, so nobody is accused.
#[test]
fn one_deaf_node_accuses_nobody() {
    for seed in seeds(10) {
        let mut cluster = settled(5, seed);
        (1..5).for_each(|from| {
            if from != 2 {
                cluster.faults.cut.insert((from, 0));
            }
        });
        cluster.run_for(10 * SECOND);
        let heard = [1, 3, 4].map(|of| cluster.condition(of, 2));
        assert_eq!(heard, [Condition::Answering; 3], "seed {seed}");
    }
}

/// Agents are installed node by node. Where none has been, pods are the kernel's affair, and nothing has died.
#[test]
fn a_node_on_which_no_agent_ever_ran_is_absent_and_not_avoided() {
    for seed in seeds(10) {
        let mut cluster = Cluster::with_absent(5, &[3, 4], 8, Profile::FAST, seed);
        cluster.run_for(10 * SECOND);
        let all_see = |cluster: &Cluster, of: usize, condition: Condition, is_avoided: bool| {
            cluster.all_hold(of, condition) && (0..3).all(|by| cluster.is_avoided(of, by) == is_avoided)
        };
        for absent in [3, 4] {
            assert!(
                all_see(&cluster, absent, Condition::Absent, false),
                "seed {seed}: {}",
                cluster.describe()
            );
        }
        assert_eq!((cluster.accusations(), cluster.each_has_one_owner()), (0, true), "seed {seed}");

        cluster.start_anew(3);
        let is_there = |cluster: &Cluster| cluster.all_hold(3, Condition::Returning);
        assert!(cluster.run_until(SECOND, is_there).is_some(), "seed {seed}: {}", cluster.describe());
        cluster.run_for(40 * SECOND);
        assert!(cluster.all_hold(3, Condition::Answering) && cluster.all_hold(4, Condition::Absent));

        cluster.kill(3);
        cluster.run_for(SECOND);
        assert!(all_see(&cluster, 3, Condition::Silent, true), "seed {seed}: {}", cluster.describe());
        // One that has never heard it is told by those that have.
        cluster.start_anew(0);
        cluster.run_for(10 * SECOND);
        assert!(all_see(&cluster, 3, Condition::Silent, true), "seed {seed}: {}", cluster.describe());
        assert!(all_see(&cluster, 4, Condition::Absent, false), "seed {seed}: {}", cluster.describe());
    }
}

/// Of few agents among many nodes each is observed by others, wherever they stand.
#[test]
fn a_few_agents_among_many_nodes_observe_each_other() {
    for seed in seeds(5) {
        let absent: Vec<usize> = (5..50).collect();
        let mut cluster = Cluster::with_absent(50, &absent, 50, Profile::FAST, seed);
        let all_known = |cluster: &Cluster| absent.iter().all(|of| cluster.all_hold(*of, Condition::Absent));
        let time = cluster.run_until(10 * SECOND, all_known);
        assert!(time.is_some(), "seed {seed}: {}", cluster.describe());
        assert!(
            (0..50).all(|number| cluster.owners(vip(number)).len() == 1),
            "seed {seed}: an absent node owns"
        );
        cluster.run_for(5 * SECOND);
        cluster.count_anew();
        cluster.run_for(10 * SECOND);
        let packets = 50.0 * cluster.packets_per_node_and_second() / 5.0;
        assert!(packets < 250.0, "{packets} of each agent");
        for dead in 0..5 {
            cluster.kill(dead);
            let is_silent = |cluster: &Cluster| cluster.all_hold(dead, Condition::Silent);
            let time = cluster.run_until(SECOND / 2, is_silent);
            assert!(time.is_some(), "seed {seed}: {}", cluster.describe());
            cluster.start_anew(dead);
            let is_back = |cluster: &Cluster| cluster.all_hold(dead, Condition::Returning);
            assert!(cluster.run_until(2 * SECOND, is_back).is_some(), "seed {seed}: {}", cluster.describe());
            cluster.run_for(10 * SECOND);
        }
    }
}

/// Two of six do not hear a third, and one of them does not hear a fourth, for ever: the others know better, and little moves.
#[test]
fn nodes_that_differ_for_ever_move_little() {
    for seed in seeds(20) {
        let mut cluster = settled(6, seed);
        let x = cluster.owners(vip(0))[0];
        let others: Vec<usize> = (0..6).filter(|node| *node != x).collect();
        let [y, z, w] = [others[0], others[1], others[2]];
        cluster.part(&[x], &[y, z]);
        cluster.part(&[y], &[w]);
        cluster.run_for(600 * SECOND);
        let most = cluster.most_moves();
        println!("{} moves in ten minutes, {most} of a VIP within three", cluster.moves());
        assert!(most <= moves::MOST, "seed {seed}: {most} moves, {}", cluster.describe());
        cluster.faults = Faults::default();
        let whole = |cluster: &Cluster| (0..6).all(|of| cluster.all_hold(of, Condition::Answering));
        assert!(cluster.run_until(700 * SECOND, whole).is_some(), "seed {seed}: {}", cluster.describe());
    }
}

/// Pairs that do not hear each other, for ever, of nodes that hear most of the others: little moves, and in the end all are well.
#[test]
fn pairs_that_do_not_hear_each_other_move_little() {
    const NODES: usize = 6;
    let pairs: Vec<(usize, usize)> = (0..NODES).flat_map(|a| (a + 1..NODES).map(move |b| (a, b))).collect();
    // Seed 144: both observers of a node do not hear it, and one of them not who does.
    for seed in seeds(20).chain([144]) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut cluster = settled(NODES, seed);
        let mut heard = [NODES - 1; NODES];
        let mut cuts = Vec::new();
        for _ in 0..random.random_range(1..=NODES) {
            let (a, b) = pairs[random.random_range(0..pairs.len())];
            if !cuts.contains(&(a, b)) && heard[a].min(heard[b]) > NODES / 2 {
                cluster.part(&[a], &[b]);
                cuts.push((a, b));
                heard[a] -= 1;
                heard[b] -= 1;
            }
        }
        cluster.run_for(300 * SECOND);
        let most = cluster.most_moves();
        assert!(most <= moves::MOST, "seed {seed}, {cuts:?}: {most} moves, {}", cluster.describe());
        cluster.faults = Faults::default();
        let whole = |cluster: &Cluster| (0..NODES).all(|of| cluster.all_hold(of, Condition::Answering));
        assert!(cluster.run_until(700 * SECOND, whole).is_some(), "seed {seed}: {}", cluster.describe());
    }
}

/// A node hears none that hears what it does not: what it finds is overruled each time, and it finds it less and less often.
#[test]
fn who_is_overruled_again_and_again_accuses_seldom() {
    for seed in seeds(5) {
        let mut cluster = settled(4, seed);
        cluster.part(&[0], &[1, 2]);
        cluster.part(&[1], &[3]);
        cluster.run_for(300 * SECOND);
        let (accusations, moves) = (cluster.accusations(), cluster.moves());
        assert!(accusations < 20 && moves == 0, "seed {seed}: {accusations} accusations, {moves} moves");
    }
}

/// What happened long ago makes nobody wait: whoever was overruled before accuses as often as at first.
#[test]
fn who_was_overruled_long_ago_accuses_as_before() {
    for seed in seeds(3) {
        let mut cluster = settled(4, seed);
        let mut accusations = Vec::new();
        for _ in 0..3 {
            cluster.run_for(700 * SECOND);
            let before = cluster.accusations();
            cluster.part(&[0], &[1, 2]);
            cluster.part(&[1], &[3]);
            cluster.run_for(60 * SECOND);
            cluster.faults = Faults::default();
            accusations.push(cluster.accusations() - before);
        }
        assert!(accusations[0] > 3, "seed {seed}: {accusations:?}");
        assert!(
            accusations[1..].iter().all(|later| later + 2 >= accusations[0]),
            "seed {seed}: {accusations:?}"
        );
    }
}

/// The slower presets do the same, each in its own time.
#[test]
fn each_preset_finds_the_dead_and_accuses_nobody_else() {
    for (profile, limit) in [(Profile::FAST, 1), (Profile::CALM, 3), (Profile::WAN, 15)] {
        for seed in seeds(3) {
            let mut cluster = Cluster::new(10, profile, seed);
            cluster.run_for(20 * SECOND);
            cluster.faults.loss = 0.01;
            cluster.put_to_sleep(3);
            let yields = |cluster: &Cluster| cluster.all_hold(3, Condition::Yielding);
            assert!(cluster.run_until(3 * profile.lease, yields).is_some(), "{profile:?}, seed {seed}");
            cluster.start_anew(3);
            cluster.run_for(300 * SECOND);
            assert_eq!(cluster.accusations(), 0, "{profile:?}, seed {seed}");
            cluster.faults = Faults::default();
            cluster.kill(7);
            let is_silent = |cluster: &Cluster| cluster.all_hold(7, Condition::Silent);
            let time = cluster.run_until(limit * SECOND, is_silent);
            println!("until all know: {time:?}");
            assert!(time.is_some(), "{profile:?}, seed {seed}: {}", cluster.describe());
            cluster.run_for(profile.gone + SECOND);
            assert!(cluster.is_gone(7, 0), "{profile:?}, seed {seed}");
        }
    }
}

#[test]
fn a_partition_heals() {
    for seed in seeds(5) {
        let mut cluster = settled(10, seed);
        cluster.part(&[0, 1, 2, 3], &[4, 5, 6, 7, 8, 9]);
        let parted = |cluster: &Cluster| {
            let silent = |of: usize, by: usize| cluster.condition(of, by) == Condition::Silent;
            (0..4).all(|a| (4..10).all(|b| silent(a, b) && silent(b, a)))
        };
        assert!(cluster.run_until(5 * SECOND, parted).is_some(), "seed {seed}");
        cluster.run_for(30 * SECOND);
        assert!((0..4).all(|a| (0..4).all(|b| cluster.condition(a, b) == Condition::Answering)));
        cluster.faults = Faults::default();
        let whole = |cluster: &Cluster| (0..10).all(|of| cluster.all_hold(of, Condition::Answering));
        let time = cluster.run_until(10 * SECOND, whole);
        println!("healed after {time:?}");
        assert!(time.is_some(), "seed {seed}: {}", cluster.describe());
    }
}

/// What is tried one by one with a few nodes, with many: clocks that slip, pauses, agents that begin anew, another version of the
/// algorithm, loss in one direction, and a partition.
#[test]
fn clusters_of_all_sizes_go_through_the_same() {
    for (nodes, runs) in [(3, 10), (50, 3), (500, 1)] {
        seeds(runs).for_each(|seed| goes_through_all(nodes, seed));
    }
}

fn goes_through_all(nodes: usize, seed: u64) {
    let mut cluster = settled(nodes, seed);
    cluster.run_for(6 * SECOND);
    let some = |step: usize| {
        let each = (0..nodes).step_by((nodes / 10).max(1)).map(move |node| (node + step) % nodes);
        each.take((nodes / 5).clamp(1, 10))
    };
    for node in some(0) {
        cluster.slip(node, Duration::from_millis(900));
        cluster.run_for(SECOND / 10);
    }
    some(1).for_each(|node| cluster.put_to_sleep(node));
    cluster.run_for(SECOND * 7 / 10);
    some(1).for_each(|node| cluster.wake(node));
    for node in some(2) {
        cluster.start_anew(node);
        cluster.run_for(SECOND / 10);
    }
    cluster.run_for(3 * SECOND);
    let Some(newest) = cluster.algorithm() else { panic!("all began with the same") };
    for algorithm in [newest - 1, newest] {
        cluster.set_algorithm(nodes - 1, algorithm);
        let all_use_it = |cluster: &Cluster| cluster.algorithm() == Some(algorithm);
        assert!(cluster.run_until(SECOND, all_use_it).is_some(), "seed {seed}");
    }
    cluster.faults.lossy.extend(some(4).map(|node| (node, 0.3)));
    cluster.run_for(10 * SECOND);
    cluster.faults = Faults::default();
    cluster.run_for(SECOND);
    assert_eq!(cluster.accusations(), 0, "seed {seed}");
    assert!(cluster.agree(), "seed {seed}");

    let (few, many): (Vec<usize>, Vec<usize>) = (0..nodes).partition(|node| node % 5 < 2);
    cluster.part(&few, &many);
    cluster.run_for(10 * SECOND);
    let silent = |of: usize, by: usize| cluster.condition(of, by) == Condition::Silent;
    assert!(few.iter().all(|a| many.iter().all(|b| silent(*a, *b) && silent(*b, *a))), "seed {seed}");
    cluster.faults = Faults::default();
    cluster.run_for(10 * SECOND);
    assert!(cluster.agree(), "seed {seed}");
    let well = (0..nodes).filter(|of| cluster.all_hold(*of, Condition::Answering)).count();
    println!("{well} of {nodes} answer again ten seconds after a partition");
    assert!(2 * well > nodes, "seed {seed}: {well}");
    assert!((0..8).all(|number| cluster.owners(vip(number)).len() == 1), "seed {seed}");
}

#[test]
fn the_load_does_not_grow_with_the_cluster() {
    for nodes in [3, 50, 500] {
        for seed in seeds(1) {
            let mut cluster = settled(nodes, seed);
            // Until all know each other.
            cluster.run_for(15 * SECOND);
            cluster.count_anew();
            cluster.run_for(10 * SECOND);
            let (packets, bits) =
                (cluster.packets_per_node_and_second(), cluster.kilobits_per_node_and_second());
            println!("{nodes} nodes: {packets:.0} packets, {bits:.0} kbit per node and second");
            assert!(packets < 200.0 && bits < 200.0, "{nodes} nodes: {packets} packets, {bits} kbit");
        }
    }
}

/// What it heard before it slept is old by the time it wakes, whenever it looks at it.
#[test]
fn who_sleeps_while_a_node_dies_does_not_bring_it_back() {
    for (nodes, seed) in [3, 5, 10].into_iter().flat_map(|nodes| seeds(20).map(move |seed| (nodes, seed))) {
        let mut cluster = settled(nodes, seed);
        cluster.run_for(6 * SECOND + Duration::from_millis(seed * 7 % 30));
        (1..=nodes / 3).for_each(|sleeper| cluster.put_to_sleep(sleeper));
        cluster.kill(0);
        cluster.run_for(SECOND);
        let holds_it_silent = |cluster: &Cluster, by: usize| cluster.condition(0, by) == Condition::Silent;
        let know: Vec<usize> = (1 + nodes / 3..nodes).filter(|by| holds_it_silent(&cluster, *by)).collect();
        (1..=nodes / 3).for_each(|sleeper| cluster.wake(sleeper));
        for _ in 0..200 {
            cluster.run_for(Duration::from_millis(5));
            let still = know.iter().all(|by| holds_it_silent(&cluster, *by));
            assert!(still, "{nodes} nodes, seed {seed}: {}", cluster.describe());
        }
        let all_know = |cluster: &Cluster| cluster.all_hold(0, Condition::Silent);
        assert!(cluster.run_until(10 * SECOND, all_know).is_some(), "{nodes} nodes, seed {seed}");
    }
}
