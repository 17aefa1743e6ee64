//! A node that leaves the cluster.

use anyhow::Result;
use lb_common::Reason;

use super::{Outcome, traffic};
use crate::lab::{Connection, Lab, WEB, WEB_V6, frontend};

pub fn owner_leaves(lab: &mut Lab) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let old = lab.owner(WEB)?;
    let old_mac = lab.node(&old)?.mac.clone();
    let mut connections = traffic::connections(lab, 120)?;
    let there = connections.iter().filter(|connection| lab.node_of(&connection.pod) == old).count();
    for vip in [WEB, WEB_V6] {
        lab.clients()[1].pin(vip, &old_mac)?;
    }

    lab.set_member(&old, false)?;
    lab.wait_all("the VIPs to move", |status| {
        let owner =
            |vip: std::net::IpAddr| status.vips.get(&vip.to_string()).and_then(|vip| vip.owner.as_ref());
        [WEB, WEB_V6].iter().all(|vip| owner(*vip).is_some_and(|owner| *owner != old))
    })?;
    let new = lab.owner(WEB)?;
    let new_mac = lab.node(&new)?.mac.clone();
    for vip in [WEB, WEB_V6] {
        let client = &lab.clients()[0];
        client.forget(vip)?;
        client.ping(vip, 1)?;
        let mac = client.neighbour(vip)?;
        outcome.check(mac.as_ref() == Some(&new_mac), format!("{vip} moved from {old} to {new}"));
    }
    let (lost, line) = traffic::ask(&mut connections, "left");
    outcome
        .check(lost.is_empty() && there > 0, format!("open connections, {there} to pods of {old}: {line}"));

    let before = lab.node(&old)?.count(Reason::NewForwarded)?;
    let mut fresh: Vec<Connection> = Vec::new();
    for vip in [WEB, WEB_V6] {
        fresh.extend(lab.clients()[1].connect_many(frontend(vip), 20)?);
    }
    let forwarded = lab.node(&old)?.count(Reason::NewForwarded)? - before;
    outcome.check(forwarded >= 40, format!("old MAC: {} new connections, {forwarded} by {old}", fresh.len()));
    for client in [0, 2] {
        for vip in [WEB, WEB_V6] {
            fresh.extend(lab.clients()[client].connect_many(frontend(vip), 20)?);
        }
    }
    let wrong = fresh.iter().filter(|connection| lab.node_of(&connection.pod) == old).count();
    outcome.check(wrong == 0, format!("{wrong} of {} new connections to pods of {old}", fresh.len()));

    for vip in [WEB, WEB_V6] {
        lab.clients()[1].unpin(vip)?;
    }
    lab.set_member(&old, true)?;
    // It owns again unless it is quiet, after what other scenarios did to it.
    lab.wait_all("the node to be back", |status| {
        status.nodes.get(&old).is_some_and(|node| node.in_source && node.is_present())
    })?;
    // They would find the owner by themselves, but not before they doubt what they know.
    for vip in [WEB, WEB_V6] {
        lab.clients().iter().try_for_each(|client| client.forget(vip))?;
    }
    connections.extend(fresh);
    let (lost, line) = traffic::ask(&mut connections, "back");
    outcome.check(lost.is_empty(), format!("{old} is back: {line}"));
    Ok(outcome)
}
