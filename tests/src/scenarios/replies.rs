//! The way back.

use anyhow::{Context, Result};

use super::Outcome;
use crate::lab::{Lab, WEB, frontend};

const BYTES: u64 = 8 << 20;

pub fn direct(lab: &mut Lab) -> Result<Outcome> {
    let owner = lab.owner(WEB)?;
    let connections = lab.clients()[0].connect_many(frontend(WEB), 30)?;
    let elsewhere = connections.into_iter().find(|connection| lab.node_of(&connection.pod) != owner);
    let mut connection =
        elsewhere.context("none of 30 connections has its pod on another node than the owner")?;
    let node = lab.node_of(&connection.pod).to_owned();
    let before = (lab.sent_bytes(&node)?, lab.sent_bytes(&owner)?);
    connection.download(BYTES)?;
    let sent = (lab.sent_bytes(&node)? - before.0, lab.sent_bytes(&owner)? - before.1);
    let mut outcome = Outcome::default();
    outcome.check(sent.0 >= BYTES, format!("{node}, where {} is, sent {} KiB", connection.pod, sent.0 >> 10));
    outcome.check(
        sent.1 < BYTES / 10,
        format!("{owner}, the owner, sent {} KiB: requests and ACKs", sent.1 >> 10),
    );
    Ok(outcome)
}
