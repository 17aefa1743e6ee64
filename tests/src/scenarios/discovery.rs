//! ARP, NDP and echo.

use anyhow::Result;
use lb_common::Reason;

use super::Outcome;
use crate::lab::{Lab, WEB, WEB_V6};

pub fn answers(lab: &mut Lab) -> Result<Outcome> {
    let owner = lab.owner(WEB)?;
    let mac = lab.node(&owner)?.mac.clone();
    let mut outcome = Outcome::default();
    let counted = |lab: &Lab| -> Result<Vec<[u64; 3]>> {
        let reasons = [Reason::ArpAnswered, Reason::NdpAnswered, Reason::NotOwner];
        lab.nodes
            .iter()
            .map(|node| {
                let mut counts = [0; 3];
                for (count, reason) in counts.iter_mut().zip(reasons) {
                    *count = node.count(reason)?;
                }
                Ok(counts)
            })
            .collect()
    };
    let before = counted(lab)?;
    for client in &lab.clients()[..2] {
        for vip in [WEB, WEB_V6] {
            client.forget(vip)?;
            client.ping(vip, 1)?;
            let answer = client.neighbour(vip)?;
            outcome.check(
                answer.as_ref() == Some(&mac),
                format!("{}: {vip} is at {}", client.name, answer.unwrap_or_else(|| "nobody".to_owned())),
            );
        }
    }
    for ((node, before), after) in lab.nodes.iter().zip(before).zip(counted(lab)?) {
        let [arp, ndp, silent] = std::array::from_fn(|i| after[i] - before[i]);
        let is_right = if node.name == owner {
            arp >= 2 && ndp >= 2 && silent == 0
        } else {
            arp == 0 && ndp == 0 && silent >= 4
        };
        let role = if node.name == owner { "owner" } else { "not owner" };
        outcome.check(
            is_right,
            format!("{} ({role}): arp-answered {arp}, ndp-answered {ndp}, not-owner {silent}", node.name),
        );
    }
    let mut holders = Vec::new();
    for node in &lab.nodes {
        for vip in [WEB, WEB_V6] {
            let links = node.namespace.ip_json(&format!("addr show to {vip}"))?;
            let has =
                links.as_array().is_some_and(|links| links.iter().any(|link| link["ifname"].is_string()));
            holders.extend(has.then_some(&*node.name));
        }
    }
    outcome.check(holders.is_empty(), format!("kernels that have a VIP: {}", holders.len()));
    Ok(outcome)
}

pub fn ping(lab: &mut Lab) -> Result<Outcome> {
    let before = lab.reasons()?[&Reason::EchoAnswered];
    let mut received = 0;
    for client in lab.clients() {
        for vip in [WEB, WEB_V6] {
            received += client.ping(vip, 10)?;
        }
    }
    let counted = lab.reasons()?[&Reason::EchoAnswered] - before;
    let mut outcome = Outcome::default();
    outcome.check(received == 60, format!("{received} replies"));
    outcome.check(counted == 60, format!("echo-answered {counted}"));
    Ok(outcome)
}
