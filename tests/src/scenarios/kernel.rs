//! What the data path leaves to the kernel.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use lb_common::Reason;

use super::Outcome;
use crate::lab::{Client, EMPTY, KERNEL, Lab, REMOTE, frontend};

pub fn empty(lab: &mut Lab) -> Result<Outcome> {
    // Without endpoints nobody answers ARP for it.
    let mac = lab.nodes[0].mac.clone();
    let client = lab.clients()[0].clone();
    client.pin(EMPTY, &mac)?;
    let result = left(lab, EMPTY, &[Reason::NoEndpoints], |outcome, client| {
        let refused = client.connect(frontend(EMPTY)).err().context("the connection was accepted")?;
        let is_refused = refused.chain().any(|cause| {
            cause
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        });
        outcome.check(is_refused, format!("{:#}", refused.root_cause()));
        Ok(())
    });
    client.unpin(EMPTY)?;
    result
}

pub fn annotation(lab: &mut Lab) -> Result<Outcome> {
    left(lab, KERNEL, &[Reason::ServiceKernel, Reason::ConnKernel], |outcome, client| {
        served(outcome, client, KERNEL)
    })
}

pub fn off_segment(lab: &mut Lab) -> Result<Outcome> {
    left(lab, REMOTE, &[Reason::NotCapable, Reason::ServiceKernel, Reason::ConnKernel], |outcome, client| {
        served(outcome, client, REMOTE)
    })
}

/// The kernel serves in its own way: it hides the client behind the node.
fn served(outcome: &mut Outcome, client: &Client, vip: IpAddr) -> Result<()> {
    let connection = client.connect(frontend(vip))?;
    let answer = client.exchange(frontend(vip), "hello")?;
    for (protocol, pod, seen) in
        [("TCP", &connection.pod, connection.seen), ("UDP", &answer.pod, answer.seen)]
    {
        outcome.check(seen != client.v4, format!("{protocol} is served by {pod}, which sees {seen}"));
    }
    Ok(())
}

/// What XDP has counted as left to the kernel against what the kernel has got.
fn left(
    lab: &Lab,
    vip: IpAddr,
    reasons: &[Reason],
    use_it: impl FnOnce(&mut Outcome, &Client) -> Result<()>,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let counted = || -> Result<u64> {
        let counts = lab.reasons()?;
        Ok(reasons.iter().map(|reason| counts[reason]).sum())
    };
    let before = (counted()?, lab.kernel_packets(vip)?);
    use_it(&mut outcome, &lab.clients()[0])?;
    let begin = Instant::now();
    // The last packets of a connection come when it is closed.
    let (left, got) = loop {
        let now = (counted()? - before.0, lab.kernel_packets(vip)? - before.1);
        if now.0 == now.1 && now.0 > 0 || begin.elapsed() > Duration::from_secs(2) {
            break now;
        }
        thread::sleep(Duration::from_millis(10));
    };
    let names: Vec<&str> = reasons.iter().map(|reason| reason.name()).collect();
    outcome.check(
        left == got && left > 0,
        format!("XDP left {left} packets ({}), the kernel got {got}", names.join(", ")),
    );
    let status = lab.nodes[0].status()?;
    let service =
        status.services.get(&format!("{}/TCP", frontend(vip))).context("the service has a status")?;
    let why = service
        .reason
        .clone()
        .or_else(|| service.endpoints.values().find_map(|endpoint| endpoint.kernel.clone()));
    outcome.check(why.is_some(), format!("status: {}", why.as_deref().unwrap_or("no reason")));
    Ok(outcome)
}
