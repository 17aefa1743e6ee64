//! `explain` against what happens.

use anyhow::{Context, Result};

use super::Outcome;
use crate::lab::{Lab, WEB, frontend};

pub fn live_connection(lab: &mut Lab) -> Result<Outcome> {
    let owner = lab.owner(WEB)?;
    lab.clients()[0].forget(WEB)?;
    let connections = lab.clients()[0].connect_many(frontend(WEB), 30)?;
    let elsewhere = connections.into_iter().find(|connection| lab.node_of(&connection.pod) != owner);
    let mut connection =
        elsewhere.context("none of 30 connections has its pod on another node than the owner")?;
    let node = lab.node_of(&connection.pod).to_owned();
    let endpoint = lab.endpoint(&connection.pod, false);
    let mut outcome = Outcome::default();
    outcome.check(
        connection.ask("who")?.pod == connection.pod,
        format!("{} is served by {} ({endpoint}) on {node}", connection.client, connection.pod),
    );
    let expected = [
        (&owner, "VIP ", format!("owner {owner}")),
        (&owner, "FLOWS ", format!("to {endpoint} on {node}")),
        (&owner, "next ", format!("forwarded to {node}")),
        (&node, "CONNS ", format!("delivered to {endpoint} on this node")),
        (&node, "REVERSE ", format!("replies leave as {}", connection.vip)),
    ];
    for (asked, title, words) in expected {
        let text = lab.node(asked)?.explain(connection.client, connection.vip)?;
        let line = text.lines().find(|line| line.starts_with(title)).unwrap_or("nothing");
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        outcome.check(line.contains(&words), format!("{asked}: {line}"));
    }
    Ok(outcome)
}
