//! Clients over pods.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use anyhow::Result;

use super::Outcome;
use crate::lab::{Client, Lab, WEB, WEB_V6, frontend};

/// Of each client to each VIP.
const COUNT: usize = 50;

pub fn tcp(lab: &mut Lab) -> Result<Outcome> {
    spread(lab, |client, vip| {
        let connections = client.connect_many(vip, COUNT)?;
        Ok(connections.into_iter().map(|connection| (connection.pod.clone(), connection.seen)).collect())
    })
}

pub fn udp(lab: &mut Lab) -> Result<Outcome> {
    spread(lab, |client, vip| {
        let exchanges = (0..COUNT).map(|_| client.exchange(vip, "hello"));
        exchanges.map(|answer| answer.map(|answer| (answer.pod, answer.seen))).collect()
    })
}

fn spread(lab: &Lab, ask: impl Fn(&Client, SocketAddr) -> Result<Vec<(String, IpAddr)>>) -> Result<Outcome> {
    let mut shares: BTreeMap<String, usize> = lab.web().iter().map(|pod| (pod.clone(), 0)).collect();
    let mut foreign = BTreeSet::new();
    for client in lab.clients() {
        for vip in [WEB, WEB_V6].map(frontend) {
            for (pod, seen) in ask(client, vip)? {
                *shares.entry(pod).or_default() += 1;
                foreign.extend((seen != client.address(&vip)).then_some(seen));
            }
        }
    }
    let mut outcome = Outcome::default();
    let nodes: BTreeSet<&str> = shares.keys().map(|pod| lab.node_of(pod)).collect();
    let texts = shares.iter().map(|(pod, count)| format!("{pod}@{} {count}", lab.node_of(pod)));
    let texts: Vec<String> = texts.collect();
    outcome.check(
        shares.len() == 6 && nodes.len() == 3 && shares.values().all(|count| (25..=75).contains(count)),
        texts.join(", "),
    );
    let sum: usize = shares.values().sum();
    outcome.check(sum == 6 * COUNT, format!("{sum} answers"));
    outcome.check(foreign.is_empty(), format!("addresses seen that are not the client's: {}", foreign.len()));
    Ok(outcome)
}
