//! Clients over nodes: a VIP that is spread.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb_agent::output::PeerStatus;
use lb_common::Reason;

use super::{Outcome, traffic};
use crate::lab::{Client, Connection, Lab, WEB, WEB_V6, frontend};

const CLIENTS: u8 = 8;
/// Of each client to each VIP.
const CONNECTIONS: usize = 6;
/// After this, a client has not been told.
const PATIENCE: Duration = Duration::from_secs(20);

/// Eight clients over three nodes, of which one dies and comes back.
pub fn clients_over_nodes(lab: &mut Lab) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    lab.set_spread(true)?;
    let clients = lab.add_clients(CLIENTS)?;
    clients.iter().try_for_each(|client| client.never_doubt("eth0"))?;

    let before = forwarded(lab)?;
    let mut connections = Vec::new();
    for client in &clients {
        for vip in [WEB, WEB_V6] {
            connections.extend(client.connect_many(frontend(vip), CONNECTIONS)?);
        }
    }
    let text = "x".repeat(20_000);
    let (lost, line) = traffic::ask(&mut connections, &text);
    outcome.check(
        lost.is_empty(),
        format!("{CLIENTS} clients send 20 kB over each of their connections: {line}"),
    );
    for vip in [WEB, WEB_V6] {
        let counts = clients_by_node(lab, &clients, vip)?;
        let carries = counts.len() == lab.nodes.len();
        outcome.check(carries, format!("{vip} by node, clients: {}", text_of(&counts)));
    }
    let bytes: BTreeMap<String, u64> = forwarded(lab)?
        .into_iter()
        .map(|(node, bytes)| (node.clone(), (bytes - before[&node]) >> 10))
        .collect();
    let sum: u64 = bytes.values().sum();
    let each = bytes.values().all(|bytes| *bytes > sum / 10);
    outcome.check(each, format!("forwarded to pods elsewhere, KiB: {}", text_of(&bytes)));

    let dead = node_of(lab, &clients[0], WEB)?;
    let told: Vec<(&Client, IpAddr)> = clients
        .iter()
        .flat_map(|client| [(client, WEB), (client, WEB_V6)])
        .filter(|(client, vip)| node_of(lab, client, *vip).is_ok_and(|node| node == dead))
        .collect();
    lab.set_cable(&dead, false)?;
    let begin = Instant::now();
    for (client, vip) in &told {
        while node_of(lab, client, *vip)? == dead {
            ensure!(begin.elapsed() < PATIENCE, "{} is not told who has {vip} now", client.name);
            thread::sleep(Duration::from_millis(5));
        }
    }
    let all_told = begin.elapsed();
    let survivors: Vec<String> =
        lab.nodes.iter().map(|node| node.name.clone()).filter(|name| *name != dead).collect();
    for name in &survivors {
        let status = lab.node_mut(name)?.wait("the shares of the dead node to move", |status| {
            status.vips.get(&WEB.to_string()).is_some_and(|vip| vip.shares.get(&dead) == Some(&0))
        })?;
        outcome.check(true, format!("{name}: {WEB} {}", status.vips[&WEB.to_string()].answers()));
    }
    let entered = |connection: &Connection| {
        told.iter().any(|(client, vip)| {
            client.address(&connection.vip) == connection.client.ip() && connection.vip.ip() == *vip
        })
    };
    let mut alive: Vec<Connection> = connections
        .into_iter()
        .filter(|connection| lab.node_of(&connection.pod) != dead && entered(connection))
        .collect();
    let (lost, line) = traffic::ask(&mut alive, "moved");
    outcome.check(
        lost.is_empty() && !alive.is_empty(),
        format!(
            "its {} clients are told after {} ms; connections that entered by {dead}, to pods elsewhere: {line}",
            told.len(),
            all_told.as_millis()
        ),
    );

    lab.set_cable(&dead, true)?;
    lab.wait_all("the node to be back", |status| status.nodes.values().all(PeerStatus::is_present))?;
    let (lost, line) = traffic::ask(&mut alive, "back");
    outcome.check(lost.is_empty(), format!("{dead} is back: {line}"));
    drop(alive);
    clients.iter().try_for_each(|client| client.namespace.remove())?;
    lab.set_spread(false)?;
    for vip in [WEB, WEB_V6] {
        lab.clients().iter().try_for_each(|client| client.forget(vip))?;
    }
    Ok(outcome)
}

/// Bytes that each node has sent on to others: what is forwarded comes from clients.
fn forwarded(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    let reasons = [Reason::NewForwarded, Reason::FlowForwarded];
    lab.nodes.iter().map(|node| Ok((node.name.clone(), node.bytes(&reasons)?))).collect()
}

/// The node whose MAC the client has for a VIP.
///
/// # Errors
/// It has none, or a MAC that is no node's.
pub fn node_of(lab: &Lab, client: &Client, vip: IpAddr) -> Result<String> {
    let mac = client.neighbour(vip)?.with_context(|| format!("{} has no MAC for {vip}", client.name))?;
    let node = lab.node_with_mac(&mac).with_context(|| format!("{mac} is no node's"))?;
    Ok(node.to_owned())
}

/// How many clients have each node's MAC for a VIP.
fn clients_by_node(lab: &Lab, clients: &[Client], vip: IpAddr) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for client in clients {
        *counts.entry(node_of(lab, client, vip)?).or_default() += 1;
    }
    Ok(counts)
}

fn text_of(counts: &BTreeMap<String, u64>) -> String {
    counts.iter().map(|(node, count)| format!("{node} {count}")).collect::<Vec<_>>().join(", ")
}
