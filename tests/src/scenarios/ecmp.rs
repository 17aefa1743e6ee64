//! A router that hashes again.

use anyhow::Result;

use super::{Outcome, traffic};
use crate::lab::{Connection, Lab, WEB, WEB_V6, frontend};

pub fn rehash(lab: &mut Lab) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    lab.set_next_hops(&["n1", "n2", "n3"])?;
    let client = &lab.clients()[2];
    let mut connections = client.connect_many(frontend(WEB), 100)?;
    connections.extend(client.connect_many(frontend(WEB_V6), 100)?);
    let mut hops = next_hops(lab, &connections)?;
    for (nodes, what) in [(&["n2", "n3"][..], "n1 away"), (&["n1", "n2", "n3"][..], "n1 back")] {
        lab.set_next_hops(nodes)?;
        let now = next_hops(lab, &connections)?;
        let moved = hops.iter().zip(&now).filter(|(before, now)| before != now).count();
        hops = now;
        let (lost, line) = traffic::ask(&mut connections, what);
        outcome.check(moved > 0 && lost.is_empty(), format!("{what}: {moved} moved, {line}"));
    }
    lab.remove_next_hops()?;
    Ok(outcome)
}

/// The gateway that the router takes for each connection.
fn next_hops(lab: &Lab, connections: &[Connection]) -> Result<Vec<String>> {
    let ask = |connection: &Connection| {
        let (from, to) = (connection.client, connection.vip);
        let family = if to.is_ipv6() { "-6" } else { "-4" };
        let route = lab.router().ip_json(&format!(
            "{family} route get {} from {} iif wan ipproto tcp sport {} dport {}",
            to.ip(),
            from.ip(),
            from.port(),
            to.port()
        ))?;
        Ok(route[0]["gateway"].as_str().unwrap_or_default().to_owned())
    };
    connections.iter().map(ask).collect()
}
