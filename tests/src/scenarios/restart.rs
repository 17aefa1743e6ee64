//! Agents that end.

use std::{thread, time::Duration};

use anyhow::Result;
use lb_agent::output::PeerStatus;

use super::{
    Outcome,
    traffic::{self, Stream},
};
use crate::lab::{Lab, WEB, WEB_V6, frontend};

/// Kills the owner's agent for a few seconds.
pub fn killed(lab: &mut Lab) -> Result<Outcome> {
    killed_for(lab, Duration::from_secs(3), 20)
}

/// Kills the owner's agent, for so long and with at least so many connections to its own pods, and more to others.
pub fn killed_for(lab: &mut Lab, away: Duration, least: usize) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let owner = lab.owner(WEB)?;
    let mut connections = Vec::new();
    let mut there = 0;
    // About a third of them are to its pods.
    while there < least && connections.len() < 6 * least {
        connections.extend(traffic::connections(lab, 30.max(3 * (least - there)))?);
        there = connections.iter().filter(|connection| lab.node_of(&connection.pod) == owner).count();
    }
    outcome.check(there >= least, format!("{there} connections to pods of {owner}, at least {least}"));
    let streams = [(0, WEB), (1, WEB_V6), (2, WEB)];
    let streams: Result<Vec<Stream>> =
        streams.iter().map(|(client, vip)| Stream::begin(&lab.clients()[*client], frontend(*vip))).collect();
    let streams = streams?;

    lab.node_mut(&owner)?.kill()?;
    thread::sleep(away);
    let (lost, line) = traffic::ask(&mut connections, "away");
    outcome.check(lost.is_empty(), format!("TCP, agent of {owner} away, {there} to its own pods: {line}"));
    let new = traffic::connections(lab, 30)?;
    outcome.check(new.len() == 30, format!("{} new connections meanwhile", new.len()));

    let node = lab.node_mut(&owner)?;
    let adopted = |log: &str| log.matches("adopted=true").count();
    let before = adopted(&node.log());
    node.start()?;
    let adoptions = adopted(&node.log()) - before;
    outcome.check(adoptions == 1, format!("started again, adopted {adoptions} time"));
    connections.extend(new);
    let (lost, line) = traffic::ask(&mut connections, "back");
    outcome.check(lost.is_empty(), format!("TCP, agent back: {line}"));

    let (sent, lost) = traffic::end_all(streams)?;
    outcome.check(lost == 0 && sent > 0, format!("UDP: {lost} of {sent} lost"));
    Ok(outcome)
}

/// For long enough that the others notice, and go on noticing.
const FROZEN: Duration = Duration::from_secs(5);

/// Stops the owner's agent in the middle of whatever it does.
pub fn frozen(lab: &mut Lab) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let owner = lab.owner(WEB)?;
    let mut connections = traffic::connections(lab, 120)?;
    let there = connections.iter().filter(|connection| lab.node_of(&connection.pod) == owner).count();
    let streams = [(0, WEB), (1, WEB_V6), (2, WEB)];
    let streams: Result<Vec<Stream>> =
        streams.iter().map(|(client, vip)| Stream::begin(&lab.clients()[*client], frontend(*vip))).collect();
    let streams = streams?;

    lab.node(&owner)?.freeze(true)?;
    let others: Vec<String> =
        lab.nodes.iter().map(|node| node.name.clone()).filter(|name| *name != owner).collect();
    for name in &others {
        let status = lab.node_mut(name)?.wait("another owner", |status| {
            status
                .vips
                .get(&WEB.to_string())
                .and_then(|vip| vip.owner.as_ref())
                .is_some_and(|now| *now != owner)
        })?;
        let trouble = status.nodes.get(&owner).and_then(|node| node.conditions.values().next().cloned());
        outcome.check(
            trouble.as_deref() == Some("yielding"),
            format!("{name}: {owner} is {}", trouble.as_deref().unwrap_or("well")),
        );
    }
    thread::sleep(FROZEN);
    let answers = [WEB, WEB_V6].map(|vip| lab.answers(&owner, vip).unwrap_or(true));
    outcome.check(answers == [false; 2], format!("{owner} has heard it: it answers {answers:?}"));
    let (lost, line) = traffic::ask(&mut connections, "frozen");
    outcome.check(lost.is_empty() && there > 0, format!("TCP, {there} to pods of {owner}: {line}"));
    let fresh = traffic::connections(lab, 60)?;
    let wrong = fresh.iter().filter(|connection| lab.node_of(&connection.pod) == owner).count();
    outcome.check(wrong == 0, format!("{} new connections, {wrong} to pods of {owner}", fresh.len()));

    lab.node(&owner)?.freeze(false)?;
    lab.wait_all("the owner to be back", |status| status.nodes.values().all(PeerStatus::is_present))?;
    connections.extend(fresh);
    let (lost, line) = traffic::ask(&mut connections, "back");
    outcome.check(lost.is_empty(), format!("{owner} goes on: {line}"));
    let (sent, lost) = traffic::end_all(streams)?;
    outcome.check(lost == 0 && sent > 0, format!("UDP: {lost} of {sent} lost"));
    Ok(outcome)
}
