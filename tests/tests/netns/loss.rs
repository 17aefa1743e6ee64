//! The owner's packets are lost one way only.

use anyhow::{Result, ensure};
use lb_agent::output::NodeStatus;
use magnetite_tests::{
    lab::{Lab, Lost, Node, WEB, WEB_V6, frontend},
    scenarios::{death, elsewhere::Elsewhere, traffic},
};

use crate::{agent::Test, seen::wait};

/// Names, and what they do with a lab of their own.
pub const TESTS: &[(&str, Test)] = &[
    ("an_owner_whose_link_goes_down_is_replaced", an_owner_whose_link_goes_down_is_replaced),
    ("an_owner_that_nobody_hears_is_replaced", an_owner_that_nobody_hears_is_replaced),
    ("an_owner_that_hears_nobody_is_replaced_whatever_it_says", an_owner_that_hears_nobody_is_replaced),
];

const VIPS: [std::net::IpAddr; 2] = [WEB, WEB_V6];

/// So often a node says at first that it has a VIP; then once a minute.
const SAID_AT_FIRST: f64 = 5.0;

fn an_owner_whose_link_goes_down_is_replaced(lab: &mut Lab) -> Result<()> {
    let outcome = death::owner_loses_its_link(lab)?;
    ensure!(outcome.has_passed(), "{}", outcome.happened());
    Ok(())
}

fn an_owner_that_nobody_hears_is_replaced(lab: &mut Lab) -> Result<()> {
    let dead = lab.owner(WEB)?;
    let mut traffic = begin(lab, &dead)?;
    lab.set_loss(&dead, Some(Lost::Sent))?;
    is_replaced(lab, &dead, &mut traffic)?;
    heals(lab, &dead, traffic)
}

/// Its agent begins anew, knows of nobody's silence, and announces all that it would own.
fn an_owner_that_hears_nobody_is_replaced(lab: &mut Lab) -> Result<()> {
    let dead = lab.owner(WEB)?;
    let mut traffic = begin(lab, &dead)?;
    lab.set_loss(&dead, Some(Lost::SentToIt))?;
    let owners = is_replaced(lab, &dead, &mut traffic)?;
    let heard = |node: &Node| -> Result<f64> {
        Ok(node.metrics()?.get("magnetite_claims_two_owners_total").copied().unwrap_or_default())
    };
    let mut named = owners.clone();
    named.dedup();
    let before = named.iter().map(|owner| heard(lab.node(owner)?)).collect::<Result<Vec<_>>>()?;
    // Until they are told right, those who are told wrong send to a node that hears nothing.
    traffic.disturb();
    lab.node_mut(&dead)?.kill()?;
    lab.node_mut(&dead)?.spawn()?;
    for (owner, before) in named.iter().zip(before) {
        // Both VIPs, five times each.
        let more = before + 10.0 / named.len() as f64;
        wait("all that the deaf node says", || heard(lab.node(owner)?), |count| *count >= more)?;
    }
    has_said_all(lab, &dead)?;
    goes_on(lab, &dead, &owners, &mut traffic)?;
    heals(lab, &dead, traffic)
}

/// Until it has nothing to say for a while: it would tell clients wrong once more.
fn has_said_all(lab: &Lab, node: &str) -> Result<()> {
    for vip in VIPS {
        let series = format!("metallb_layer2_gratuitous_sent{{ip=\"{vip}\"}}");
        let said = || Ok(lab.node(node)?.metrics()?.get(&series).copied().unwrap_or_default());
        wait("all that is said at first", said, |count| *count >= SAID_AT_FIRST)?;
    }
    Ok(())
}

/// Of clients that take what they are told, and ask nobody.
fn begin(lab: &Lab, dead: &str) -> Result<Elsewhere> {
    has_said_all(lab, dead)?;
    lab.askers().iter().try_for_each(|asker| asker.never_doubt("eth0"))?;
    Elsewhere::begin(lab, dead, &traffic::pairs(lab))
}

/// The survivors' owner of each VIP, which they agree on.
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
    Ok(owners)
}

fn is_replaced(lab: &mut Lab, dead: &str, traffic: &mut Elsewhere) -> Result<Vec<String>> {
    let owners = owners(lab, dead)?;
    goes_on(lab, dead, &owners, traffic)?;
    Ok(owners)
}

/// Once all that send to the VIPs have been told, nothing is lost.
fn goes_on(lab: &Lab, dead: &str, owners: &[String], traffic: &mut Elsewhere) -> Result<()> {
    for asker in lab.askers() {
        for (vip, owner) in VIPS.into_iter().zip(owners) {
            let mac = Some(lab.node(owner)?.mac.clone());
            wait("the owner's announcement", || asker.neighbour(vip), |known| *known == mac)?;
        }
    }
    traffic.settle();
    traffic.ask("taken over")?;
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

/// Exactly one node owns each VIP, and all nodes name it; meanwhile nothing is lost.
fn heals(lab: &mut Lab, dead: &str, mut traffic: Elsewhere) -> Result<()> {
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
    traffic.ask("healed")?;
    traffic.end()?;
    for client in lab.clients() {
        for vip in VIPS {
            client.forget(vip)?;
            client.connect(frontend(vip))?;
        }
    }
    Ok(())
}
