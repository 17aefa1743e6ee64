//! What kube-proxy would write on a node, for the Services that the data path leaves to the kernel: and counters that tell what
//! has reached it.

use std::{fmt::Write as _, net::IpAddr};

use anyhow::{Context, Result};

use super::namespace::Namespace;

const TABLE: &str = "kube-proxy";

/// A rule: where packets to a VIP go; nowhere means that they are rejected.
pub struct Rule {
    /// The VIP.
    pub vip: IpAddr,
    /// The pod.
    pub pod: Option<IpAddr>,
}

/// Replaces all rules of a node.
pub fn set(node: &Namespace, rules: &[Rule]) -> Result<()> {
    let mut counters = String::new();
    let (mut count, mut dnat, mut reject) = (String::new(), String::new(), String::new());
    for Rule { vip, pod } in rules {
        let (family, counter) = (if vip.is_ipv6() { "ip6" } else { "ip" }, counter(*vip));
        writeln!(counters, "counter {counter} {{ }}")?;
        writeln!(count, "{family} daddr {vip} counter name {counter}")?;
        match pod {
            Some(pod) => writeln!(
                dnat,
                "{family} daddr {vip} meta l4proto {{ tcp, udp }} th dport 80 dnat {family} to {pod}:8080"
            )?,
            None => writeln!(reject, "{family} daddr {vip} reject")?,
        }
    }
    let text = format!(
        "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n{counters}
         chain count-vips {{ type filter hook prerouting priority raw;\n{count} }}
         chain translate {{ type nat hook prerouting priority dstnat;\n{dnat} }}
         chain refuse {{ type filter hook forward priority filter;\n{reject} }}
         chain hide {{ type nat hook postrouting priority srcnat;\nct status dnat masquerade\n }}\n}}\n"
    );
    node.nft(&text)
}

/// Packets to a VIP that have reached a node's kernel.
pub fn packets(node: &Namespace, vip: IpAddr) -> Result<u64> {
    let output = node.command("nft", &["-j", "list", "counter", "inet", TABLE, &counter(vip)])?;
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let items = listed["nftables"].as_array().context("nft lists")?;
    items
        .iter()
        .find_map(|item| item["counter"]["packets"].as_u64())
        .with_context(|| format!("nft has no counter for {vip}"))
}

fn counter(vip: IpAddr) -> String {
    format!("vip-{vip}").replace(['.', ':'], "-")
}
