//! Nodes that leave on purpose, and agents that end or come meanwhile.

use anyhow::{Context, Result, ensure};
use lb_agent::output::{DrainStatus, NodeStatus};
use magnetite_tests::{
    lab::{Lab, WEB, frontend, memberlist},
    scenarios::{planned::has_moved, traffic},
};

use crate::agent::Test;

/// Names, and what they do with a lab of their own.
pub const TESTS: &[(&str, Test)] = &[
    (
        "a_node_leaves_by_its_annotation_and_nothing_is_cut",
        a_node_leaves_by_its_annotation_and_nothing_is_cut,
    ),
    ("a_drain_outlives_the_agent", a_drain_outlives_the_agent),
    ("sigterm_can_drain_first", sigterm_can_drain_first),
];

fn drain(status: &NodeStatus) -> Result<DrainStatus> {
    status.drain.clone().context("the node stays")
}

/// Without the Secret too, for each node reads it from the source.
fn a_node_leaves_by_its_annotation_and_nothing_is_cut(lab: &mut Lab) -> Result<()> {
    lab.objects.remove(&memberlist())?;
    let owner = lab.owner(WEB)?;
    let mut connections = traffic::connections(lab, 60)?;
    let mut node = lab.node_object(&owner)?;
    node["spec"]["unschedulable"] = true.into();
    lab.objects.put(&node)?;
    // Who has read this has read that too.
    lab.objects.write("broken.yaml", "kind: [\n")?;
    lab.wait_all("the cordon to be read", |status| !status.problems.is_empty())?;
    ensure!(lab.owner(WEB)? == owner, "a cordon has moved the VIP");
    lab.objects.write("broken.yaml", "")?;

    node["metadata"]["annotations"] = serde_json::json!({"magnetite.io/drain": "1ms"});
    lab.objects.put(&node)?;
    lab.wait_all("another owner", |status| has_moved(status, &owner))?;
    let status = lab.node_mut(&owner)?.wait("the deadline", |status| {
        status.drain.as_ref().is_some_and(|drain| drain.overdue && drain.vips == 0 && drain.flows.is_some())
    })?;
    let drain = drain(&status)?;
    ensure!(drain.reasons == ["annotation magnetite.io/drain"], "{:?}", drain.reasons);
    ensure!(drain.flows.is_some_and(|flows| flows.to_pods > 0), "{:?}", drain.flows);
    let (lost, line) = traffic::ask(&mut connections, "overdue");
    ensure!(lost.is_empty(), "{line}");
    lab.node(&owner)?.wait_for_log("has passed, and nothing was cut")?;
    let table = lab.node(&owner)?.ask_status()?;
    ensure!(table.contains("LEAVES since") && table.contains("flows left"), "{table}");

    node["metadata"]["annotations"] = serde_json::json!({"magnetite.io/drain": "false"});
    lab.objects.put(&node)?;
    lab.wait_all("the owner to be back", |status| !has_moved(status, &owner))
}

fn a_drain_outlives_the_agent(lab: &mut Lab) -> Result<()> {
    let owner = lab.owner(WEB)?;
    let connections = traffic::connections(lab, 60)?;
    let asked = lab.node(&owner)?.drain(&["--deadline", "1h"])?.wait()?;
    ensure!(asked.success(), "{asked}");
    lab.wait_all("another owner", |status| has_moved(status, &owner))?;
    let counted = |status: &NodeStatus| {
        status.drain.as_ref().is_some_and(|drain| drain.vips == 0 && drain.flows.is_some())
    };
    let before = drain(&lab.node_mut(&owner)?.wait("a count", counted)?)?;
    let node = lab.node_mut(&owner)?;
    node.kill()?;
    // What has ended meanwhile is progress.
    drop(connections);
    node.start()?;
    let after = drain(&node.wait("what was left to end", |status| {
        counted(status) && status.drain.as_ref().is_some_and(|drain| drain.drained)
    })?)?;
    ensure!((after.since, after.deadline) == (before.since, before.deadline), "{before:?}, then {after:?}");
    ensure!(after.flows_at_begin == before.flows_at_begin, "{before:?}, then {after:?}");
    ensure!(has_moved(&lab.node(&owner)?.status()?, &owner), "the node owns again");
    // A deadline that has passed has an exit status of its own.
    let mut connection = lab.clients()[0].connect(frontend(WEB))?;
    while lab.node_of(&connection.pod) != owner {
        connection = lab.clients()[0].connect(frontend(WEB))?;
    }
    lab.node_mut(&owner)?.wait("the connection to be counted", |status| {
        status.drain.as_ref().is_some_and(|drain| !drain.drained)
    })?;
    let overdue = lab.node(&owner)?.drain(&["--deadline", "0s", "--wait"])?.wait()?;
    ensure!(overdue.code() == Some(3), "{overdue}");
    connection.ask("still").map(drop)
}

fn sigterm_can_drain_first(lab: &mut Lab) -> Result<()> {
    for node in &mut lab.nodes {
        node.stop()?;
        node.arguments = ["--drain-on-sigterm", "1h"].map(str::to_owned).to_vec();
        node.start()?;
    }
    let owner = lab.owner(WEB)?;
    let mut connections = traffic::connections(lab, 60)?;
    lab.node(&owner)?.terminate()?;
    lab.wait_all("another owner", |status| has_moved(status, &owner))?;
    lab.node_mut(&owner)?.wait("a count", |status| {
        status.drain.as_ref().is_some_and(|drain| drain.reasons == ["SIGTERM"] && drain.flows.is_some())
    })?;
    let (lost, line) = traffic::ask(&mut connections, "leaving");
    ensure!(lost.is_empty(), "{line}");
    drop(connections);
    lab.node_mut(&owner)?.wait_for_end()?;

    // The second ends it at once.
    let node = lab.node_mut(&owner)?;
    node.start()?;
    let connections = traffic::connections(lab, 60)?;
    let node = lab.node_mut(&owner)?;
    node.terminate()?;
    node.wait("the drain", |status| status.drain.is_some())?;
    node.terminate()?;
    node.wait_for_end()?;
    drop(connections);
    Ok(())
}
