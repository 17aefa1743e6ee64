//! Whole clusters on the host: the real decision, real rows, and flows that notice when they end up at the wrong pod.
//!
//! Time is ticks, and nothing is random but what the seed makes so. What may be lost is printed by cause
//! (`cargo test --test simulation -- --show-output`).

mod cluster;
mod traffic;

use std::collections::BTreeMap;

use cluster::{Cluster, NodeIndex, Transport};
use traffic::{Cause, Loss, Traffic};

const NODES: usize = 5;
const PODS: u32 = 20;
const FLOWS: usize = 2000;
/// Pods that are replaced at once.
const REPLACED: u32 = 8;

fn settled(transport: Transport, seed: u64) -> (Cluster, Traffic) {
    let mut cluster = Cluster::new(NODES, PODS);
    let mut traffic = Traffic::new(transport, seed);
    traffic.open(&mut cluster, FLOWS);
    (cluster, traffic)
}

#[test]
fn nothing_is_lost_while_nothing_changes() {
    for transport in Transport::ALL {
        let (mut cluster, mut traffic) = settled(transport, 1);
        for _ in 0..5 {
            traffic.send_on_all(&mut cluster);
        }
        assert_eq!(traffic.lost(), []);
    }
}

#[test]
fn a_rehash_loses_nothing() {
    for transport in Transport::ALL {
        let (mut cluster, mut traffic) = settled(transport, 2);
        for round in 0..6 {
            cluster.rehash(round);
            traffic.send_on_all(&mut cluster);
        }
        assert_eq!(traffic.lost(), []);
    }
}

#[test]
fn a_router_that_leaves_out_a_node_loses_nothing() {
    for transport in Transport::ALL {
        let (mut cluster, mut traffic) = settled(transport, 3);
        for round in 0..6 {
            cluster.enter_only_by((0..NODES).filter(|node| *node != round % NODES).collect());
            traffic.send_on_all(&mut cluster);
        }
        assert_eq!(traffic.lost(), []);
    }
}

#[test]
fn flows_that_move_to_other_queues_lose_nothing() {
    for transport in Transport::ALL {
        let (mut cluster, mut traffic) = settled(transport, 4);
        for round in 1..6 {
            cluster.move_queues(round);
            traffic.send_on_all(&mut cluster);
        }
        assert_eq!(traffic.lost(), []);
    }
}

/// Connections stay. A UDP flow may move, once its node is taken for dead or alive again and the router rehashes besides.
#[test]
fn false_suspicion_loses_no_connection() {
    for transport in Transport::ALL {
        let (mut cluster, mut traffic) = settled(transport, 5);
        for suspect in 0..NODES {
            cluster.suspect(suspect as NodeIndex, true);
            cluster.rehash(suspect as u64);
            traffic.send_on_all(&mut cluster);
            traffic.open(&mut cluster, 200);
            cluster.suspect(suspect as NodeIndex, false);
            traffic.send_on_all(&mut cluster);
        }
        let lost = traffic.lost();
        report("every node suspect once, and a rehash each time", transport, &lost, FLOWS + NODES * 200);
        match transport {
            Transport::Tcp => assert_eq!(lost, []),
            Transport::Udp => expect_only(&lost, &[Cause::Suspect, Cause::NotFirst]),
        }
    }
}

#[test]
fn a_rolling_replacement_loses_nothing_while_nodes_remember() {
    for transport in Transport::ALL {
        let (mut cluster, mut traffic) = settled(transport, 6);
        for pod in 0..PODS {
            cluster.replace_pod(pod, PODS + pod);
            traffic.send_on_all(&mut cluster);
            assert_eq!(traffic.lost(), [], "with FLOWS, after {} pods", pod + 1);
            // A new flow for each that went with its pod.
            let short = FLOWS.saturating_sub(traffic.living());
            traffic.open(&mut cluster, short);
        }
    }
}

/// Connections that `FLOWS` forgets are lost only if their pod is no candidate of their slot any more.
#[test]
fn a_replacement_that_nodes_forgot_loses_only_what_rows_do_not_reach() {
    for transport in Transport::ALL {
        let (mut cluster, mut traffic) = settled(transport, 7);
        let before = cluster.table();
        for pod in 0..REPLACED {
            cluster.replace_pod(pod, PODS + pod);
        }
        let after = cluster.table();
        let unreached = lb_core::rows::stranded((&before.0, &before.1), (&after.0, &after.1));
        cluster.forget_flows();
        cluster.rehash(99);
        traffic.send_on_all(&mut cluster);
        let lost = traffic.lost();
        report("8 of 20 pods replaced and FLOWS forgotten", transport, &lost, FLOWS);
        println!("  of {} slots, {} no longer reach their pod", before.0.len(), unreached.len());
        match transport {
            Transport::Tcp => {
                expect_only(&lost, &[Cause::NoCandidate]);
                assert!(
                    lost.len() * before.0.len() <= 2 * unreached.len() * FLOWS + FLOWS,
                    "more than their share"
                );
            }
            Transport::Udp => expect_only(&lost, &[Cause::NoCandidate, Cause::NotFirst]),
        }
    }
}

/// Nodes do not agree on the table for a while, and NICs and router spread flows in other ways meanwhile: nothing circles, what
/// is lost is said, and once they agree again no more is lost but what rows do not reach.
#[test]
fn different_tables_end_every_walk() {
    for transport in Transport::ALL {
        let (mut cluster, mut traffic) = settled(transport, 8);
        for version in 0..3 {
            cluster.replace_pod_on(version as NodeIndex, 2 * version, PODS + version);
            cluster.rehash(u64::from(version));
            cluster.move_queues(u64::from(version) + 1);
            traffic.send_on_all(&mut cluster);
            traffic.open(&mut cluster, 200);
        }
        let meanwhile = traffic.lost();
        report("three versions of the table at once", transport, &meanwhile, FLOWS + 600);
        assert!(cluster.longest_way() <= 17, "a packet took {} hops", cluster.longest_way());
        let forwards = cluster.most_forwards_of_opening();
        assert!(forwards <= 1, "a packet that opens a flow was forwarded {forwards} times");

        cluster.agree();
        for round in 4..8 {
            cluster.rehash(round);
            cluster.move_queues(round);
            traffic.send_on_all(&mut cluster);
        }
        let later = traffic.lost().split_off(meanwhile.len());
        report("the same, once nodes agree again", transport, &later, FLOWS + 600 - meanwhile.len());
        match transport {
            Transport::Tcp => expect_only(&later, &[Cause::NoCandidate]),
            Transport::Udp => expect_only(&later, &[Cause::NoCandidate, Cause::NotFirst]),
        }
    }
}

/// A client that takes a port again, at once: the new connection goes where its SYN goes.
#[test]
fn ports_that_are_used_again_open_new_connections() {
    let (mut cluster, mut traffic) = settled(Transport::Tcp, 9);
    traffic.close_all(&mut cluster);
    cluster.rehash(1);
    let reopened = traffic.reopen_all(&mut cluster);
    cluster.rehash(2);
    traffic.send_on_all(&mut cluster);
    let lost = traffic.lost();
    report("ports used again at once", Transport::Tcp, &lost, reopened);
    assert!(lost.len() * 50 < reopened, "{} of {reopened}", lost.len());
}

/// What a pod has reset is forgotten at once: a new connection from the same port, to a pod elsewhere, is found by whatever node it
/// comes to. Only where `FLOWS` still knew the old pod, which is in service but not in the row any more, its way is short.
#[test]
fn ports_that_are_used_again_after_a_reset_lose_nothing() {
    let (mut cluster, mut traffic) = settled(Transport::Tcp, 10);
    traffic.be_reset(&mut cluster);
    for pod in 0..REPLACED {
        cluster.replace_pod(pod, PODS + pod);
    }
    let reopened = traffic.reopen_all(&mut cluster);
    for round in 1..6 {
        cluster.rehash(round);
        traffic.send_on_all(&mut cluster);
    }
    report(
        "ports used again after a reset, 8 of 20 pods replaced, five rehashes",
        Transport::Tcp,
        &traffic.lost(),
        reopened,
    );
    expect_only(&traffic.lost(), &[Cause::NoCandidate]);
}

/// A RST that the pod ignores, as an attacker or an old duplicate sends it, costs nothing, however long the connection is silent.
#[test]
fn a_stray_reset_loses_nothing() {
    let (mut cluster, mut traffic) = settled(Transport::Tcp, 11);
    traffic.send_stray_resets(&mut cluster);
    traffic.send_on_all(&mut cluster);
    cluster.advance(3600);
    cluster.forget_flows();
    cluster.rehash(1);
    traffic.send_on_all(&mut cluster);
    assert_eq!(traffic.lost(), []);
}

#[track_caller]
fn expect_only(lost: &[Loss], causes: &[Cause]) {
    let other: Vec<_> = lost.iter().filter(|loss| !causes.contains(&loss.cause)).collect();
    assert!(other.is_empty(), "{} of {} lost for other causes: {:?}", other.len(), lost.len(), other.first());
}

fn report(what: &str, transport: Transport, lost: &[Loss], of: usize) {
    println!("{what}: {} of {of} {transport:?} flows lost", lost.len());
    let mut causes = BTreeMap::new();
    for loss in lost {
        *causes.entry(loss.cause).or_insert(0) += 1;
    }
    for (cause, count) in causes {
        println!("  {count} {cause:?}");
    }
}
