//! How evenly the clients of a VIP come in by the nodes that it is spread over: on a lab of real agents.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lb_common::Reason;
use magnetite_tests::lab::{Client, Lab, WEB, WEB_V6, frontend, lost};

/// What part of a VIP's ingress each of three nodes has, in bytes, with magnetite.io/l2: spread. Needs root.
#[derive(Parser)]
#[command(name = "cargo xtask bench spread", bin_name = "cargo xtask bench spread")]
struct Arguments {
    /// One JSON object a line and figure: figure, value, unit, and target and met where there is one.
    #[arg(long)]
    json: bool,
    /// Clients, each a machine with consecutive addresses.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u8).range(1..=100))]
    clients: u8,
}

/// The largest part, as a multiple of the mean, is to be below.
const TARGET: f64 = 1.5;
/// What each client sends.
const BYTES: usize = 20_000;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut lab = Lab::up()?;
    // With one pod, whatever its node does not hear from clients it hears from other nodes, once.
    let pod = lab.web()[0].clone();
    lab.set_web(vec![pod.clone()])?;
    lab.set_spread(true)?;
    let clients = lab.add_clients(arguments.clients)?;
    for vip in [WEB, WEB_V6] {
        let before = ingress(&lab, &pod)?;
        send(&clients, vip)?;
        let after = ingress(&lab, &pod)?;
        let bytes: BTreeMap<&String, u64> =
            after.iter().map(|(node, bytes)| (node, bytes - before[node])).collect();
        report(vip, &bytes, clients.len(), arguments.json);
    }
    Ok(())
}

fn send(clients: &[Client], vip: IpAddr) -> Result<()> {
    let connections: Result<Vec<_>> = clients.iter().map(|client| client.connect(frontend(vip))).collect();
    let mut connections = connections?;
    let lost = lost(connections.iter_mut(), &"x".repeat(BYTES));
    ensure!(lost.is_empty(), "{} of {} connections to {vip} were lost", lost.len(), clients.len());
    Ok(())
}

/// Bytes that have come from clients, by the node by which they came in.
fn ingress(lab: &Lab, pod: &str) -> Result<BTreeMap<String, u64>> {
    let mut bytes = BTreeMap::new();
    for node in &lab.nodes {
        bytes.insert(node.name.clone(), node.bytes(&[Reason::NewForwarded, Reason::FlowForwarded])?);
    }
    let forwarded: u64 = bytes.values().sum();
    let node = lab.node(lab.node_of(pod))?;
    let delivered = [Reason::NewDelivered, Reason::PeerDelivered, Reason::ConnDelivered];
    let direct = node.bytes(&delivered)?.checked_sub(forwarded);
    bytes.insert(node.name.clone(), direct.context("more was forwarded than has arrived")?);
    Ok(bytes)
}

fn report(vip: IpAddr, bytes: &BTreeMap<&String, u64>, clients: usize, is_json: bool) {
    let sum: u64 = bytes.values().sum();
    let part = |bytes: u64| bytes as f64 * 100.0 / sum as f64;
    for (node, bytes) in bytes {
        let figure = format!("ingress of {vip}, {clients} clients, by {node}");
        if is_json {
            println!("{}", serde_json::json!({"figure": figure, "value": part(*bytes), "unit": "%"}));
        } else {
            println!("{figure:<55} {:>7.1} %", part(*bytes));
        }
    }
    let most = bytes.values().max().copied().unwrap_or(0);
    let ratio = most as f64 * bytes.len() as f64 / sum as f64;
    let is_met = ratio < TARGET && bytes.values().all(|bytes| *bytes > 0);
    let figure = format!("ingress of {vip}, {clients} clients, largest/mean");
    if is_json {
        let line = serde_json::json!({
            "figure": figure, "value": ratio, "unit": "of the mean", "target": TARGET, "met": is_met,
        });
        println!("{line}");
    } else {
        let met = if is_met { "met" } else { "MISSED" };
        println!("{figure:<55} {ratio:>7.3}     target {TARGET}, {met}");
    }
}
