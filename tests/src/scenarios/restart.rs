//! Agents that end.

use std::{thread, time::Duration};

use anyhow::Result;

use super::{
    Outcome,
    traffic::{self, Stream},
};
use crate::lab::{Lab, WEB, WEB_V6, frontend};

const AWAY: Duration = Duration::from_secs(3);

pub fn killed(lab: &mut Lab) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let owner = lab.owner(WEB)?;
    let mut connections = traffic::connections(lab, 60)?;
    let streams = [(0, WEB), (1, WEB_V6), (2, WEB)];
    let streams: Result<Vec<Stream>> =
        streams.iter().map(|(client, vip)| Stream::begin(&lab.clients()[*client], frontend(*vip))).collect();
    let streams = streams?;

    lab.node_mut(&owner)?.kill()?;
    thread::sleep(AWAY);
    let (lost, line) = traffic::ask(&mut connections, "away");
    outcome.check(lost.is_empty(), format!("TCP, agent of {owner} away: {line}"));
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

    let (mut sent, mut lost) = (0, 0);
    for stream in streams {
        let (one_sent, one_lost) = stream.end()?;
        (sent, lost) = (sent + one_sent, lost + one_lost);
    }
    outcome.check(lost == 0 && sent > 0, format!("UDP: {lost} of {sent} lost"));
    Ok(outcome)
}
