//! Whole clusters on the host: the real decision, real rows, and connections that notice when they end up at the wrong pod.
//!
//! Time is ticks, and nothing is random but what the seed makes so.

mod cluster;
mod traffic;

use cluster::{Cluster, NodeIndex};
use traffic::{Loss, Traffic};

const NODES: usize = 5;
const PODS: u32 = 20;
const CONNECTIONS: usize = 2000;
/// Pods that are replaced at once.
const REPLACED: u32 = 8;

fn settled(seed: u64) -> (Cluster, Traffic) {
    let mut cluster = Cluster::new(NODES, PODS);
    let mut traffic = Traffic::new(seed);
    traffic.open(&mut cluster, CONNECTIONS);
    (cluster, traffic)
}

#[test]
fn nothing_is_lost_while_nothing_changes() {
    let (mut cluster, mut traffic) = settled(1);
    for _ in 0..5 {
        traffic.send_on_all(&mut cluster);
    }
    assert_eq!(traffic.lost(), []);
}

#[test]
fn a_rehash_loses_nothing() {
    let (mut cluster, mut traffic) = settled(2);
    for round in 0..6 {
        cluster.rehash(round);
        traffic.send_on_all(&mut cluster);
    }
    assert_eq!(traffic.lost(), []);
}

#[test]
fn a_router_that_leaves_out_a_node_loses_nothing() {
    let (mut cluster, mut traffic) = settled(3);
    for round in 0..6 {
        cluster.enter_only_by((0..NODES).filter(|node| *node != round % NODES).collect());
        traffic.send_on_all(&mut cluster);
    }
    assert_eq!(traffic.lost(), []);
}

#[test]
fn flows_that_move_to_other_queues_lose_nothing() {
    let (mut cluster, mut traffic) = settled(4);
    for round in 1..6 {
        cluster.move_queues(round);
        traffic.send_on_all(&mut cluster);
    }
    assert_eq!(traffic.lost(), []);
}

#[test]
fn false_suspicion_loses_nothing() {
    let (mut cluster, mut traffic) = settled(5);
    for suspect in 0..NODES {
        cluster.suspect(suspect as NodeIndex, true);
        cluster.rehash(suspect as u64);
        traffic.send_on_all(&mut cluster);
        traffic.open(&mut cluster, 200);
        cluster.suspect(suspect as NodeIndex, false);
        traffic.send_on_all(&mut cluster);
    }
    assert_eq!(traffic.lost(), []);
}

/// Connections that `FLOWS` forgets are lost only if their pod is no candidate of their slot any more.
#[test]
fn a_rolling_replacement_loses_only_what_rows_do_not_reach() {
    let (mut cluster, mut traffic) = settled(6);
    for pod in 0..PODS {
        cluster.replace_pod(pod, PODS + pod);
        traffic.send_on_all(&mut cluster);
        assert_eq!(traffic.lost(), [], "with FLOWS, after {} pods", pod + 1);
        // A new connection for each that went with its pod.
        let short = CONNECTIONS.saturating_sub(traffic.living());
        traffic.open(&mut cluster, short);
    }

    // The same all at once, and nodes forget what they remember of others' flows.
    let (mut cluster, mut traffic) = settled(7);
    let before = cluster.table();
    for pod in 0..REPLACED {
        cluster.replace_pod(pod, PODS + pod);
    }
    let unreached = lb_core::rows::stranded((&before.0, &before.1), (&cluster.table().0, &cluster.table().1));
    cluster.forget_flows();
    cluster.rehash(99);
    traffic.send_on_all(&mut cluster);
    let lost = traffic.lost();
    println!(
        "{REPLACED} of {PODS} pods replaced, FLOWS forgotten: {} of {} connections lost, {} of {} slots unreached",
        lost.len(),
        CONNECTIONS,
        unreached.len(),
        before.0.len()
    );
    for loss in &lost {
        assert_eq!(loss.cause, traffic::Cause::NoCandidate, "{loss:?}");
    }
    assert!(
        lost.len() * before.0.len() <= 2 * unreached.len() * CONNECTIONS + CONNECTIONS,
        "more than their share"
    );
}

/// Nodes that do not agree on the table for a while: nothing circles, and what is lost is said.
#[test]
fn different_tables_end_every_walk() {
    let (mut cluster, mut traffic) = settled(8);
    for version in 0..3 {
        cluster.replace_pod_on(version as NodeIndex, 2 * version, PODS + version);
        cluster.rehash(u64::from(version));
        traffic.send_on_all(&mut cluster);
        traffic.open(&mut cluster, 200);
    }
    let lost = traffic.lost();
    println!("three versions of the table at once: {} of {} connections lost", lost.len(), CONNECTIONS + 600);
    report(&lost);
    assert!(cluster.longest_way() <= 17, "a packet took {} hops", cluster.longest_way());
    assert!(
        cluster.most_forwards_of_opening() <= 1,
        "a SYN was forwarded {} times",
        cluster.most_forwards_of_opening()
    );
}

/// A client that takes a port again, at once: the new connection goes where its SYN goes.
#[test]
fn ports_that_are_used_again_open_new_connections() {
    let (mut cluster, mut traffic) = settled(9);
    traffic.close_all(&mut cluster);
    cluster.rehash(1);
    let reopened = traffic.reopen_all(&mut cluster);
    cluster.rehash(2);
    traffic.send_on_all(&mut cluster);
    let lost = traffic.lost();
    println!("{reopened} ports used again at once: {} connections lost", lost.len());
    report(&lost);
    assert!(lost.len() * 50 < reopened, "{} of {reopened}", lost.len());
}

fn report(lost: &[Loss]) {
    let mut causes = std::collections::BTreeMap::new();
    for loss in lost {
        *causes.entry(loss.cause).or_insert(0) += 1;
    }
    for (cause, count) in causes {
        println!("  {count} {cause:?}");
    }
}
