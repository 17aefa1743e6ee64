//! A machine that is no node, and has a VIP as its own address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use lb_agent::output::{ADDRESS_CONFLICT, NodeStatus};
use magnetite_tests::{
    lab::{Client, Lab, WEB, WEB_V6, frontend},
    scenarios::traffic,
};

use crate::{agent::Test, seen::wait};

/// Names, and what they do with a lab of their own.
pub const TESTS: &[(&str, Test)] = &[
    ("a_squatter_keeps_a_new_address_and_nothing_else", a_squatter_keeps_a_new_address_and_nothing_else),
    ("a_squatter_that_comes_later_is_reported_and_takes_nothing", a_squatter_that_comes_later_takes_nothing),
];

const LATE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 210)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x210)),
];

/// Gives a client addresses on its link, or takes them away.
fn squat(client: &Client, vips: &[IpAddr], is_there: bool) -> Result<()> {
    for vip in vips {
        client.namespace.ip(&match (vip.is_ipv6(), is_there) {
            (false, true) => format!("addr add {vip}/24 dev eth0"),
            (false, false) => format!("addr del {vip}/24 dev eth0"),
            (true, true) => format!("addr add {vip}/64 dev eth0 nodad"),
            (true, false) => format!("addr del {vip}/64 dev eth0"),
        })?;
    }
    Ok(())
}

fn mac_of(client: &Client) -> Result<String> {
    let link = client.namespace.ip_json("link show dev eth0")?;
    link[0]["address"].as_str().map(str::to_owned).context("eth0 has a MAC")
}

/// Whether the status names this machine for each VIP, and says that the VIP is not used, or that it is.
fn is_reported(status: &NodeStatus, vips: &[IpAddr], mac: &str, is_taken: bool) -> bool {
    vips.iter().all(|vip| {
        let vip = vip.to_string();
        let conflict = status.conflicts.get(&vip).and_then(|segments| segments.get("eth0"));
        let withheld = status.vips.get(&vip).is_some_and(|vip| !vip.withheld.is_empty());
        conflict.is_some_and(|conflict| conflict.strangers.contains_key(mac) && conflict.is_taken == is_taken)
            && withheld == is_taken
    })
}

/// What the condition on a Service says, in the words of a node.
fn condition(lab: &Lab, node: &str, service: &str) -> Result<Option<String>> {
    Ok(lab.node(node)?.document(&format!("Service/default/{service}.{node}.yaml")))
}

/// The same when it says something: files are written one after the other, and a node's status comes before it.
fn wait_for_condition(lab: &Lab, node: &str, service: &str) -> Result<String> {
    let said = wait("the condition", || condition(lab, node, service), Option::is_some)?;
    said.context("it was there")
}

fn a_squatter_keeps_a_new_address_and_nothing_else(lab: &mut Lab) -> Result<()> {
    let squatter = lab.clients()[1].clone();
    let mac = mac_of(&squatter)?;
    squat(&squatter, &LATE, true)?;
    lab.serve("late", &LATE)?;
    // All nodes rank alike, and the best is the only one that asks.
    lab.wait_all("the new VIP", |status| status.vips.contains_key(&LATE[0].to_string()))?;
    let mut owner = None;
    for node in &mut lab.nodes {
        let name = node.name.clone();
        let status = node.wait("the conflict or another owner", |status| {
            let is_ours = |vip: &IpAddr| {
                let vip = status.vips.get(&vip.to_string());
                vip.is_none_or(|vip| vip.owner.is_none() || vip.owner.as_ref() == Some(&name))
            };
            !LATE.iter().any(is_ours) || is_reported(status, &LATE, &mac, true)
        })?;
        if is_reported(&status, &LATE, &mac, true) {
            owner = Some(name);
        }
    }
    let owner = owner.context("nobody reports the squatter")?;
    let said = wait_for_condition(lab, &owner, "late")?;
    for expected in [ADDRESS_CONFLICT, "AddressTaken", &mac, "192.0.2.210", "2001:db8:0:1::210", "eth0"] {
        ensure!(said.contains(expected), "the condition does not say {expected}:\n{said}");
    }
    ensure!(condition(lab, &owner, "web")?.is_none(), "another Service has it too");
    let table = lab.node(&owner)?.ask_status()?;
    ensure!(table.contains(&mac) && table.contains("another machine has it"), "{table}");

    let client = lab.clients()[0].clone();
    for vip in LATE {
        ensure!(lab.nodes.iter().all(|node| !lab.answers(&node.name, vip).unwrap_or(true)), "{vip} is used");
        client.ping(vip, 1)?;
        ensure!(client.neighbour(vip)?.as_ref() == Some(&mac), "{vip} is the squatter's");
    }
    client.connect(frontend(WEB))?;
    client.connect(frontend(WEB_V6))?;

    squat(&squatter, &LATE, false)?;
    lab.node_mut(&owner)?.wait("the address to be free", |status| {
        status.conflicts.is_empty() && status.vips.values().all(|vip| vip.withheld.is_empty())
    })?;
    wait("the condition to go", || condition(lab, &owner, "late"), Option::is_none)?;
    for vip in LATE {
        client.forget(vip)?;
        client.connect(frontend(vip))?;
    }
    Ok(())
}

fn a_squatter_that_comes_later_takes_nothing(lab: &mut Lab) -> Result<()> {
    let owner = lab.owner(WEB)?;
    let squatter = lab.clients()[1].clone();
    let mac = mac_of(&squatter)?;
    let mut connections = Vec::new();
    for client in [0, 2] {
        for vip in [WEB, WEB_V6] {
            connections.extend(lab.clients()[client].connect_many(frontend(vip), 20)?);
        }
    }
    // What was said at the beginning must not be what helps: each is said five times within four seconds.
    let value = |lab: &Lab, series: &str| -> Result<f64> {
        Ok(lab.node(&owner)?.metrics()?.get(series).copied().unwrap_or_default())
    };
    for vip in [WEB, WEB_V6] {
        let said = format!("metallb_layer2_gratuitous_sent{{ip=\"{vip}\"}}");
        wait("the first announcements", || value(lab, &said), |count| *count >= 5.0)?;
    }
    // As other systems do, they believe the latest, however young it is.
    for machine in [&lab.clients()[0].namespace, lab.router()] {
        machine.sysctl("net/ipv4/neigh/eth0/locktime", "0")?;
    }
    squat(&squatter, &[WEB, WEB_V6], true)?;
    // With the VIP as its own it asks for the router, and the router and all who hear it believe that.
    for (vip, router) in [(WEB, "192.0.2.1"), (WEB_V6, "2001:db8:0:1::1")] {
        squatter.namespace.command("ping", &["-n", "-c", "1", "-W", "1", "-I", &vip.to_string(), router])?;
    }
    lab.wait_all("the squatter to be reported", |status| is_reported(status, &[WEB, WEB_V6], &mac, false))?;
    wait(
        "the VIPs to be announced again",
        || value(lab, "magnetite_claims_announced_again_total"),
        |count| *count >= 2.0,
    )?;
    for client in [0, 2] {
        for vip in [WEB, WEB_V6] {
            connections.extend(lab.clients()[client].connect_many(frontend(vip), 5)?);
        }
    }
    let (lost, line) = traffic::ask(&mut connections, "still");
    ensure!(lost.is_empty(), "{line}");
    ensure!(lab.owner(WEB)? == owner, "the VIP has moved");
    for vip in [WEB, WEB_V6] {
        ensure!(lab.answers(&owner, vip)?, "{vip} is not answered any more");
    }
    let said = wait_for_condition(lab, &owner, "web")?;
    for expected in [ADDRESS_CONFLICT, "AddressClaimed", &mac, "192.0.2.200", "2001:db8:0:1::200"] {
        ensure!(said.contains(expected), "the condition does not say {expected}:\n{said}");
    }
    Ok(())
}
