//! Pods that come and go.

use anyhow::Result;

use super::{Outcome, rows::without_row, traffic};
use crate::lab::Lab;

pub fn replacement(lab: &mut Lab) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut connections = traffic::connections(lab, 200)?;
    let mut ask = |connections: &mut [_], what: &str| {
        let (lost, line) = traffic::ask(connections, what);
        outcome.check(lost.is_empty(), format!("{what}: {line}"));
    };

    let mut web = lab.web().to_vec();
    let left = web.remove(0);
    lab.set_web(web.clone())?;
    ask(&mut connections, &format!("{left} has left"));

    for host in [0, 1] {
        web.push(lab.start_pod(host)?);
    }
    lab.set_web(web.clone())?;
    ask(&mut connections, "two have come");

    let mut ended = 0;
    for place in 0..4 {
        let new = lab.start_pod(lab.pods[&web[place]].node)?;
        let old = std::mem::replace(&mut web[place], new);
        lab.set_web(web.clone())?;
        lab.end_pod(&old)?;
        let all = connections.len();
        connections.retain(|connection| connection.pod != old);
        ended += all - connections.len();
    }
    ask(&mut connections, &format!("four were replaced, {ended} connections ended with them"));

    let without = without_row(lab, &lab.nodes[0], &connections)?;
    for node in &lab.nodes {
        node.tables()?.clear_flows()?;
    }
    let (lost, line) = traffic::ask(&mut connections, "all nodes forgot FLOWS");
    let allowance = without.len();
    outcome.check(
        lost.is_subset(&without),
        format!(
            "all nodes forgot FLOWS: {line}; {} of them in the allowance of {allowance} that rows do not reach",
            lost.intersection(&without).count()
        ),
    );
    drop(connections);
    // Whoever was lost has its port back at once, and its pod does not know: another connection from there would be another test.
    for node in &lab.nodes {
        node.tables()?.clear_connections()?;
    }
    lab.reset_web()?;
    Ok(outcome)
}
