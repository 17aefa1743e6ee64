//! Nodes that the source knows by IPv6 addresses alone: they find, probe, tell and replace each other over IPv6.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use lb_agent::output::PeerStatus;
use magnetite_tests::lab::{Lab, Node, WEB, WEB_V6, frontend};
use serde_json::Value;

use crate::{agent::Test, seen::wait};

/// Names, and what they do with a lab of their own.
pub const TESTS: &[(&str, Test)] =
    &[("nodes_that_are_known_by_ipv6_alone_replace_each_other", nodes_that_are_known_by_ipv6_alone)];

fn nodes_that_are_known_by_ipv6_alone(lab: &mut Lab) -> Result<()> {
    let names: Vec<String> = lab.nodes.iter().map(|node| node.name.clone()).collect();
    for name in &names {
        let mut object = lab.node_object(name)?;
        let addresses = object["status"]["addresses"].as_array_mut().context("a Node has addresses")?;
        addresses.retain(|address| address["address"].as_str().is_some_and(|text| text.contains(':')));
        lab.objects.put(&object)?;
    }
    let members = |node: &Node| -> Result<Value> { Ok(serde_json::from_str(&node.ask_members(true)?)?) };
    wait(
        "nodes that probe each other over IPv6",
        || members(&lab.nodes[0]),
        |all| {
            let probes = |viewer: &String, of: &String| {
                let seen = &all["views"][viewer]["nodes"][of]["eth0"];
                let is_v6 = seen["address"].as_str().is_some_and(|address| address.contains(':'));
                is_v6
                    && seen["condition"] == "answering"
                    && (viewer == of || seen["lastAnswerMs"].is_number())
            };
            names.iter().all(|viewer| names.iter().all(|of| probes(viewer, of)))
        },
    )?;

    leaves(lab)?;
    let dead = lab.owner(WEB)?;
    lab.set_cable(&dead, false)?;
    for vip in [WEB, WEB_V6] {
        let text = vip.to_string();
        for node in lab.nodes.iter_mut().filter(|node| node.name != dead) {
            node.wait("another owner", |status| {
                let owner = status.vips.get(&text).and_then(|vip| vip.owner.as_ref());
                owner.is_some_and(|owner| *owner != dead)
            })?;
        }
        let client = &lab.clients()[0];
        client.forget(vip)?;
        let answered = client.connect(frontend(vip))?;
        ensure!(lab.node_of(&answered.pod) != dead, "a new connection to {vip} goes to the dead node");
    }
    lab.set_cable(&dead, true)?;
    lab.wait_all("the node to be back", |status| status.nodes.values().all(PeerStatus::is_present))
}

/// Only the node's own word tells the others that it leaves, and it has none but over IPv6.
fn leaves(lab: &mut Lab) -> Result<()> {
    let leaving = lab.owner(WEB)?;
    let asked = lab.node(&leaving)?.drain(&[])?.wait()?;
    ensure!(asked.success(), "{asked}");
    lab.wait_all("the owner to leave", |status| {
        let owner = |vip: IpAddr| status.vips.get(&vip.to_string()).and_then(|vip| vip.owner.clone());
        [WEB, WEB_V6].into_iter().all(|vip| owner(vip).is_some_and(|owner| owner != leaving))
    })?;
    let asked = lab.node(&leaving)?.drain(&["--undo"])?.wait()?;
    ensure!(asked.success(), "{asked}");
    Ok(())
}
