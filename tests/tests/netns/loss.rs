//! The owner's packets are lost one way only.

use anyhow::{Result, ensure};
use lb_agent::output::NodeStatus;
use magnetite_tests::{
    lab::{Lab, Lost, Node, WEB, WEB_V6, frontend},
    scenarios::{death, traffic},
};

use crate::{agent::Test, seen::wait};

/// Names, and what they do with a lab of their own.
pub const TESTS: &[(&str, Test)] = &[
    ("an_owner_whose_link_goes_down_is_replaced", an_owner_whose_link_goes_down_is_replaced),
    ("an_owner_that_nobody_hears_is_replaced", an_owner_that_nobody_hears_is_replaced),
    ("an_owner_that_hears_nobody_is_replaced_whatever_it_says", an_owner_that_hears_nobody_is_replaced),
];

const VIPS: [std::net::IpAddr; 2] = [WEB, WEB_V6];

fn an_owner_whose_link_goes_down_is_replaced(lab: &mut Lab) -> Result<()> {
    let outcome = death::owner_loses_its_link(lab)?;
    ensure!(outcome.has_passed(), "{}", outcome.happened());
    Ok(())
}

fn an_owner_that_nobody_hears_is_replaced(lab: &mut Lab) -> Result<()> {
    let dead = lab.owner(WEB)?;
    lab.set_loss(&dead, Some(Lost::Sent))?;
    is_replaced(lab, &dead)?;
    heals(lab, &dead)
}

/// Its agent begins anew, knows of nobody's silence, and announces all that it would own.
fn an_owner_that_hears_nobody_is_replaced(lab: &mut Lab) -> Result<()> {
    let dead = lab.owner(WEB)?;
    lab.set_loss(&dead, Some(Lost::SentToIt))?;
    is_replaced(lab, &dead)?;
    let heard = |node: &Node| -> Result<f64> {
        Ok(node.metrics()?.get("magnetite_claims_two_owners_total").copied().unwrap_or_default())
    };
    let owners = owners(lab, &dead)?;
    let before = owners.iter().map(|owner| heard(lab.node(owner)?)).collect::<Result<Vec<_>>>()?;
    lab.node_mut(&dead)?.kill()?;
    lab.node_mut(&dead)?.spawn()?;
    for (owner, before) in owners.iter().zip(before) {
        // Both VIPs, five times each.
        let more = before + 10.0 / owners.len() as f64;
        wait("all that the deaf node says", || heard(lab.node(owner)?), |count| *count >= more)?;
    }
    is_served(lab, &dead)?;
    heals(lab, &dead)
}

/// The survivors' owners of each VIP, which they agree on.
fn owners(lab: &mut Lab, dead: &str) -> Result<Vec<String>> {
    let mut owners = Vec::new();
    for vip in VIPS.map(|vip| vip.to_string()) {
        let of = |status: &NodeStatus| status.vips.get(&vip).and_then(|vip| vip.owner.clone());
        let mut named = Vec::new();
        for node in lab.nodes.iter_mut().filter(|node| node.name != dead) {
            let status =
                node.wait("another owner", |status| of(status).is_some_and(|owner| owner != dead))?;
            named.extend(of(&status));
        }
        ensure!(named.len() == 2 && named[0] == named[1], "{vip} has owners {named:?}");
        owners.push(named.remove(0));
    }
    owners.dedup();
    Ok(owners)
}

fn is_replaced(lab: &mut Lab, dead: &str) -> Result<()> {
    owners(lab, dead)?;
    is_served(lab, dead)
}

/// Nobody forgets a MAC: whoever was told wrong is told right.
fn is_served(lab: &Lab, dead: &str) -> Result<()> {
    let mut connections = Vec::new();
    for client in lab.clients() {
        for vip in VIPS {
            connections.extend(client.connect_many(frontend(vip), 5)?);
        }
    }
    let wrong = connections.iter().filter(|connection| lab.node_of(&connection.pod) == dead).count();
    ensure!(wrong == 0, "{wrong} connections to pods of {dead}");
    let (lost, line) = traffic::ask(&mut connections, "one way");
    ensure!(lost.is_empty(), "{line}");
    Ok(())
}

/// Exactly one node owns each VIP, and all nodes name it.
fn heals(lab: &mut Lab, dead: &str) -> Result<()> {
    lab.set_loss(dead, None)?;
    for vip in VIPS {
        let seen = || -> Result<_> {
            let status =
                |node: &Node| Ok(node.status()?.vips.get(&vip.to_string()).and_then(|v| v.owner.clone()));
            let named: Vec<Option<String>> = lab.nodes.iter().map(status).collect::<Result<_>>()?;
            let mut answering = Vec::new();
            for node in &lab.nodes {
                answering.extend(lab.answers(&node.name, vip)?.then(|| node.name.clone()));
            }
            Ok((named, answering))
        };
        wait("one owner that all name", seen, |(named, answering)| {
            answering.len() == 1 && named.iter().all(|name| name.as_ref() == answering.first())
        })?;
    }
    for client in lab.clients() {
        for vip in VIPS {
            client.forget(vip)?;
            client.connect(frontend(vip))?;
        }
    }
    Ok(())
}
