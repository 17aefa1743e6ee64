//! Nodes that the source knows by IPv6 addresses alone: they find, probe, tell and replace each other over IPv6.

use std::{collections::BTreeSet, fs, net::IpAddr};

use anyhow::{Context, Result, bail, ensure};
use lb_agent::output::PeerStatus;
use magnetite_tests::lab::{Lab, Node, WEB, WEB_V6, frontend};
use serde_json::Value;

use crate::{agent::Test, seen::wait};

/// Names, and what they do with a lab of their own.
pub const TESTS: &[(&str, Test)] = &[
    ("nodes_that_are_known_by_ipv6_alone_replace_each_other", nodes_that_are_known_by_ipv6_alone),
    ("solicitations_of_each_vip_are_heard_on_links_that_appear_later", solicitations_are_heard),
];

/// The solicited-node group of the VIP (RFC 4291, section 2.7.1) is joined on every link: switches that look at MLD send solicitations
/// nowhere else.
fn solicitations_are_heard(lab: &mut Lab) -> Result<()> {
    let IpAddr::V6(vip) = WEB_V6 else { bail!("{WEB_V6} is not IPv6") };
    let [.., a, b, c] = vip.octets();
    let group = format!("ff0200000000000000000001ff{a:02x}{b:02x}{c:02x}");
    let namespace = lab.nodes[0].namespace.clone();
    // By link.
    let joined = || -> Result<BTreeSet<String>> {
        let text = namespace.run(|| Ok(fs::read_to_string("/proc/thread-self/net/igmp6")?))?;
        let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        Ok(words
            .filter(|words| words.get(2) == Some(&group.as_str()))
            .map(|words| words[1].to_owned())
            .collect())
    };
    wait("the group on eth0", joined, |links| links.contains("eth0"))?;
    namespace.ip("link add late0 type veth peer name late1")?;
    namespace.ip("address add 198.51.100.1/24 dev late0")?;
    namespace.ip("link set late1 up")?;
    namespace.ip("link set late0 up")?;
    wait("the group on late0", joined, |links| links.contains("late0")).map(drop)
}

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
