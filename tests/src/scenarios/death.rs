//! A node that dies.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use lb_agent::output::PeerStatus;

use super::{Outcome, traffic};
use crate::lab::{self, Lab, WEB, WEB_V6, frontend};

/// Until what is established with the node is given up, and a little more.
const GIVEN_UP: Duration = Duration::from_secs(6);

/// Its switch port drops everything, with the link up.
pub fn owner_dies(lab: &mut Lab) -> Result<Outcome> {
    dies(lab, Lab::set_cable)
}

/// Its link goes down.
pub fn owner_loses_its_link(lab: &mut Lab) -> Result<Outcome> {
    dies(lab, Lab::set_port)
}

fn dies(lab: &mut Lab, death: impl Fn(&Lab, &str, bool) -> Result<()>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let dead = lab.owner(WEB)?;
    let mut connections = traffic::connections(lab, 120)?;
    let streams = traffic::streams_elsewhere(lab, &dead, &traffic::pairs(lab))?;
    thread::sleep(Duration::from_millis(300));

    let begin = Instant::now();
    death(lab, &dead, false)?;
    let survivors: Vec<String> =
        lab.nodes.iter().map(|node| node.name.clone()).filter(|name| *name != dead).collect();
    for name in &survivors {
        lab.node_mut(name)?.wait("another owner", |status| {
            status
                .vips
                .get(&WEB.to_string())
                .and_then(|vip| vip.owner.as_deref())
                .is_some_and(|owner| owner != dead)
        })?;
    }
    let known = begin.elapsed();
    for name in &survivors {
        let table = lab.node(name)?.ask_status()?;
        let line = table.lines().find(|line| line.starts_with(&dead)).unwrap_or_default();
        outcome.check(
            line.contains("silent on eth0"),
            format!("{name}: {}", line.split_whitespace().take(6).collect::<Vec<_>>().join(" ")),
        );
    }
    thread::sleep(Duration::from_millis(500));
    let mut gaps = Vec::new();
    let (mut sent, mut lost) = (0, 0);
    for stream in streams {
        let ended = stream.end_with_gap()?;
        (sent, lost) = (sent + ended.sent, lost + ended.lost);
        gaps.push(ended.gap);
    }
    let longest = gaps.into_iter().max().unwrap_or_default();
    outcome.check(
        lost > 0 && lost < sent / 2,
        format!(
            "{dead} is dead; after {} ms both others say so; UDP to pods elsewhere: {lost} of {sent} lost, {} ms long",
            known.as_millis(),
            longest.as_millis()
        ),
    );
    let (mut alive, mut gone): (Vec<_>, Vec<_>) =
        connections.drain(..).partition(|connection| lab.node_of(&connection.pod) != dead);
    let (lost, line) = traffic::ask(&mut alive, "alive");
    outcome.check(lost.is_empty() && !gone.is_empty(), format!("TCP to pods elsewhere: {line}"));
    let mut fresh = Vec::new();
    for client in [0, 1, 2] {
        for vip in [WEB, WEB_V6] {
            fresh.extend(lab.clients()[client].connect_many(frontend(vip), 10)?);
        }
    }
    let wrong = fresh.iter().filter(|connection| lab.node_of(&connection.pod) == dead).count();
    outcome.check(wrong == 0, format!("{} new connections, {wrong} to pods of {dead}", fresh.len()));
    thread::sleep(GIVEN_UP);
    let count = gone.len();
    let given_up = lab::lost(gone.iter_mut(), "are you there");
    let reset = given_up.iter().filter(|(_, why)| why.to_string().contains("reset by peer")).count();
    outcome.check(
        reset == count,
        format!("once it has been dead for 5 s, {reset} of {count} connections to its pods are reset"),
    );

    death(lab, &dead, true)?;
    lab.wait_all("the node to be back", |status| status.nodes.values().all(PeerStatus::is_present))?;
    alive.extend(fresh);
    let (lost, line) = traffic::ask(&mut alive, "back");
    outcome.check(lost.is_empty(), format!("{dead} is back: {line}"));
    Ok(outcome)
}
