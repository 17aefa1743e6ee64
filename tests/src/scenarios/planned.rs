//! A node that leaves on purpose.

use anyhow::{Result, ensure};
use lb_agent::output::NodeStatus;

use super::{
    Outcome,
    traffic::{self, Stream},
};
use crate::lab::{Lab, WEB, WEB_V6, frontend};

/// `lb-agent drain` on the owner, until nothing is left.
pub fn drain(lab: &mut Lab) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let old = lab.owner(WEB)?;
    let mut connections = traffic::connections(lab, 120)?;
    let streams = [(0, WEB), (2, WEB), (2, WEB_V6)];
    let streams: Result<Vec<Stream>> =
        streams.iter().map(|(client, vip)| Stream::begin(&lab.clients()[*client], frontend(*vip))).collect();
    let mut streams = streams?;
    // And one of a client that hears of no other owner.
    let old_mac = lab.node(&old)?.mac.clone();
    lab.clients()[1].pin(WEB_V6, &old_mac)?;
    streams.push(Stream::over(traffic::udp_elsewhere(lab, &old, (&lab.clients()[1], WEB_V6))?)?);

    let waiting = lab.node(&old)?.drain(&["--wait"])?;
    lab.wait_all("another owner", |status| has_moved(status, &old))?;
    let (lost, line) = traffic::ask(&mut connections, "moved");
    outcome.check(lost.is_empty(), format!("the VIPs have moved from {old}; TCP: {line}"));
    let mut fresh = traffic::connections(lab, 60)?;
    let there = fresh.iter().filter(|connection| lab.node_of(&connection.pod) == old).count();
    outcome.check(there > 0, format!("{} new connections, {there} of them to pods of {old}", fresh.len()));
    let status = lab.node_mut(&old)?.wait("all clients but one to use another node", |status| {
        let flows = status.drain.as_ref().and_then(|drain| drain.flows);
        flows.is_some_and(|flows| flows.entering == 1 && flows.to_pods > 0)
    })?;
    let drain = status.drain.unwrap_or_default();
    let begin = drain.flows_at_begin.unwrap_or(0);
    outcome.check(begin > 40, format!("{old} carried {begin} flows; {}", drain.line()));
    let (sent, lost) = traffic::end_all(streams)?;
    outcome.check(lost == 0 && sent > 0, format!("UDP: {lost} of {sent} lost"));
    connections.append(&mut fresh);
    let (lost, line) = traffic::ask(&mut connections, "still");
    outcome.check(lost.is_empty(), format!("TCP, some time later: {line}"));

    drop(connections);
    lab.clients()[1].unpin(WEB_V6)?;
    lab.node_mut(&old)?.wait("nothing to be left", |status| {
        status.drain.as_ref().is_some_and(|drain| drain.drained && drain.percent == 100)
    })?;
    let ended = waiting.wait_with_output()?;
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    let last = said.lines().last().unwrap_or_default();
    outcome.check(
        ended.status.success() && last == "drained 100 %, no flow left",
        format!("lb-agent drain --wait: {last}"),
    );
    let undone = lab.node(&old)?.drain(&["--undo"])?.wait()?;
    ensure!(undone.success(), "--undo ended with {undone}");
    lab.node_mut(&old)?.wait("the node to stay", |status| status.drain.is_none())?;
    Ok(outcome)
}

/// Whether another node owns both VIPs.
pub fn has_moved(status: &NodeStatus, old: &str) -> bool {
    let owner =
        |vip: std::net::IpAddr| status.vips.get(&vip.to_string()).and_then(|vip| vip.owner.as_deref());
    [WEB, WEB_V6].iter().all(|vip| owner(*vip).is_some_and(|owner| owner != old))
}
