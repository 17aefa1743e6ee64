//! A VIP that is spread over nodes, of which one goes and comes back.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context, Result, ensure};
use magnetite_tests::{
    lab::{Client, Lab, Node, WEB, WEB_V6, frontend},
    scenarios::shares::node_of,
};

use crate::{
    agent::Test,
    seen::{UNTIL_SETTLED, wait, wait_for},
};

/// Names, and what they do with a lab of their own.
pub const TESTS: &[(&str, Test)] =
    &[("a_node_that_was_away_gets_its_clients_back", a_node_that_was_away_gets_its_clients_back)];

const CLIENTS: u8 = 8;

/// By client and VIP, the node whose MAC it has.
type Entries = BTreeMap<(String, IpAddr), String>;

fn entries(lab: &Lab, clients: &[Client]) -> Result<Entries> {
    let all = clients.iter().flat_map(|client| [WEB, WEB_V6].map(|vip| (client, vip)));
    all.map(|(client, vip)| Ok(((client.name.clone(), vip), node_of(lab, client, vip)?))).collect()
}

/// Shares by node, as each node but this one says.
fn owners(lab: &Lab, vip: IpAddr, absent: &str) -> Result<Vec<BTreeMap<String, u32>>> {
    let of = |node: &Node| {
        let vip = node.status()?.vips.remove(&vip.to_string()).context("the VIP is there")?;
        Ok(vip.shares)
    };
    lab.nodes.iter().filter(|node| node.name != absent).map(of).collect()
}

/// Clients believe what they have until they are told: nobody asks again.
fn a_node_that_was_away_gets_its_clients_back(lab: &mut Lab) -> Result<()> {
    lab.set_spread(true)?;
    let clients = lab.add_clients(CLIENTS)?;
    clients.iter().try_for_each(|client| client.never_doubt("eth0"))?;
    for client in &clients {
        for vip in [WEB, WEB_V6] {
            client.connect(frontend(vip))?;
        }
    }
    let before = entries(lab, &clients)?;
    let shares = owners(lab, WEB, "")?;
    ensure!(shares.iter().all(|seen| *seen == shares[0]), "nodes do not agree: {shares:?}");
    let counts: Vec<u32> = shares[0].values().copied().collect();
    ensure!(counts.len() == 3 && counts.iter().all(|count| *count > 300), "uneven: {shares:?}");
    let away = before.values().next().cloned().context("there are clients")?;

    lab.node(&away)?.freeze(true)?;
    let seen = || entries(lab, &clients);
    let moved = wait("its clients to be told", seen, |now| now.values().all(|node| *node != away))?;
    for (client, node) in before.iter().filter(|(_, node)| **node != away) {
        ensure!(moved[client] == *node, "{client:?} was moved from {node} to {}", moved[client]);
    }
    let seen = || owners(lab, WEB, &away);
    wait("its shares to be others'", seen, |all| all.iter().all(|seen| seen.get(&away) == Some(&0)))?;

    lab.node(&away)?.freeze(false)?;
    let seen = || owners(lab, WEB, "");
    wait_for(UNTIL_SETTLED, "its shares to be its own", seen, |now| *now == shares)?;
    wait("its clients to be told", || entries(lab, &clients), |now| *now == before)?;
    for client in &clients {
        for vip in [WEB, WEB_V6] {
            client.connect(frontend(vip))?;
        }
    }
    ensure!(entries(lab, &clients)? == before, "somebody has asked");
    Ok(())
}
