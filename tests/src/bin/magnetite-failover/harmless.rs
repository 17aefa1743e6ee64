//! What must cost nothing: agents that are killed, stopped or replaced, drains, and a node that is silent for a moment.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb_agent::output::PeerStatus;
use magnetite_tests::{
    lab::{Lab, Node, WEB, WEB_V6, frontend},
    scenarios::{
        planned::has_moved,
        traffic::{self, Stream},
    },
};

/// Longer than a page of metrics is kept.
const METRICS_ARE_NEW: Duration = Duration::from_secs(20);

/// What happens to the owner.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// Its agent is killed, and starts again after this time.
    Killed(Duration),
    /// Its agent is stopped in the middle of whatever it does, and goes on after this time.
    Stopped(Duration),
    /// Another agent takes the place of its own.
    Upgraded,
    /// It leaves on purpose.
    Drained,
    /// Nothing is heard of it for this time: a verdict that it is dead would be wrong.
    Silent(Duration),
}

/// What events have cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Losses {
    /// Packets that clients have sent.
    pub sent: u64,
    /// Of them those that were not answered.
    pub packets: u64,
    /// Connections that were open.
    pub opened: u64,
    /// Of them those that were reset.
    pub connections: u64,
}

impl Event {
    pub fn name(self) -> String {
        match self {
            Self::Killed(away) => format!("agent killed for {} s", away.as_secs()),
            Self::Stopped(away) => format!("agent stopped for {} s", away.as_secs()),
            Self::Upgraded => "agent upgrade".to_owned(),
            Self::Drained => "planned drain".to_owned(),
            Self::Silent(away) => format!("node silent for {} ms", away.as_millis()),
        }
    }

    /// Whether the packets that are lost count, or only connections.
    pub fn counts_packets(self) -> bool {
        match self {
            Self::Killed(_) | Self::Stopped(_) | Self::Upgraded | Self::Drained => true,
            Self::Silent(_) => false,
        }
    }

    /// Whether it needs a lab in which nothing has happened yet: a node that was drained is quiet for a while.
    pub fn needs_fresh_lab(self) -> bool {
        matches!(self, Self::Drained)
    }

    /// Lets it happen to the owner, under traffic of three clients.
    pub fn run(self, lab: &mut Lab, losses: &mut Losses) -> Result<()> {
        let owner = lab.owner(WEB)?;
        let mut connections = traffic::connections(lab, 60)?;
        let streams = [(0, WEB), (1, WEB_V6), (2, WEB)];
        let streams: Result<Vec<Stream>> = streams
            .iter()
            .map(|(client, vip)| Stream::begin(&lab.clients()[*client], frontend(*vip)))
            .collect();
        let streams = streams?;
        thread::sleep(Duration::from_millis(200));
        self.happen(lab, &owner)?;
        let (sent, packets) = traffic::end_all(streams)?;
        let (reset, _) = traffic::ask(&mut connections, "afterwards");
        losses.sent += sent;
        losses.packets += packets;
        losses.opened += connections.len() as u64;
        losses.connections += reset.len() as u64;
        Ok(())
    }

    fn happen(self, lab: &mut Lab, owner: &str) -> Result<()> {
        match self {
            Self::Killed(away) => {
                lab.node_mut(owner)?.kill()?;
                thread::sleep(away);
                lab.node_mut(owner)?.start()?;
            }
            Self::Stopped(away) => {
                lab.node(owner)?.freeze(true)?;
                thread::sleep(away);
                lab.node(owner)?.freeze(false)?;
            }
            Self::Upgraded => {
                lab.node_mut(owner)?.stop()?;
                lab.node_mut(owner)?.start()?;
            }
            Self::Drained => {
                let drained = lab.node(owner)?.drain(&[])?.wait().context("lb-agent drain")?;
                ensure!(drained.success(), "lb-agent drain has failed");
                lab.wait_all("another owner", |status| has_moved(status, owner))?;
            }
            Self::Silent(away) => {
                let before = accusations(lab)?;
                lab.set_cable(owner, false)?;
                thread::sleep(away);
                lab.set_cable(owner, true)?;
                let begin = Instant::now();
                while accusations(lab)? <= before {
                    let in_vain = begin.elapsed() > METRICS_ARE_NEW;
                    ensure!(!in_vain, "nobody held {owner} to be dead: nothing was shown");
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
        lab.wait_all("all nodes to be there", |status| {
            status.nodes.values().all(PeerStatus::is_present)
                && status.links.values().all(|link| link.mode != "none")
        })?;
        // What comes late counts as well.
        thread::sleep(Duration::from_secs(1));
        Ok(())
    }
}

/// Verdicts of all agents that a node is silent.
fn accusations(lab: &Lab) -> Result<f64> {
    let of_node = |node: &Node| -> Result<f64> {
        let metrics = node.metrics()?;
        let is_it = |series: &&String| series.starts_with("magnetite_liveness_accusations");
        let (_, value) = metrics.iter().find(|(series, _)| is_it(series)).context("no such metric")?;
        Ok(*value)
    };
    lab.nodes.iter().map(of_node).sum()
}
