//! Traffic to pods that are not on a node, which has to live through that node's death.

use std::{ops::Range, thread, time::Duration};

use anyhow::{Result, ensure};

use super::traffic::{self, Answers, Pair, Stream};
use crate::lab::{Connection, Lab};

/// Opened at first; those to pods of the node are closed again.
const CONNECTIONS: usize = 120;

/// Datagrams that each stream sends at least when nothing may be lost.
const ENOUGH: u64 = 100;

/// TCP connections and UDP flows of clients to pods on other nodes than one.
pub struct Elsewhere {
    connections: Vec<Connection>,
    flows: Vec<Flow>,
}

/// A stream, and which of its datagrams have to be answered.
struct Flow {
    stream: Stream,
    counted: Vec<Range<u64>>,
}

impl Elsewhere {
    /// Begins; what is lost of the streams does not count before [`Elsewhere::settle`].
    pub fn begin(lab: &Lab, node: &str, pairs: &[Pair<'_>]) -> Result<Self> {
        let mut connections = traffic::open(pairs, CONNECTIONS)?;
        connections.retain(|connection| lab.node_of(&connection.pod) != node);
        for (client, vip) in pairs {
            let is_its = |connection: &Connection| {
                connection.vip.ip() == *vip && connection.client.ip() == client.address(&connection.vip)
            };
            ensure!(connections.iter().any(is_its), "{} has none to {vip} but to {node}", client.name);
        }
        let streams = traffic::streams_elsewhere(lab, node, pairs)?;
        let flows = streams.into_iter().map(|stream| Flow { stream, counted: Vec::new() }).collect();
        Ok(Self { connections, flows })
    }

    /// From now on nothing may be lost.
    pub fn settle(&mut self) {
        for Flow { stream, counted } in &mut self.flows {
            counted.push(stream.next()..u64::MAX);
        }
    }

    /// From now on datagrams may be lost, until [`Elsewhere::settle`].
    pub fn disturb(&mut self) {
        self.wait_for_datagrams();
        for Flow { stream, counted } in &mut self.flows {
            counted.last_mut().into_iter().for_each(|last| last.end = stream.next());
        }
    }

    /// Until enough have been sent since nothing may be lost.
    fn wait_for_datagrams(&self) {
        for Flow { stream, counted } in &self.flows {
            while counted.last().is_some_and(|last| stream.next() < last.start + ENOUGH) {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Each connection has to answer, from the pod that it was opened to.
    pub fn ask(&mut self, text: &str) -> Result<()> {
        let (lost, line) = traffic::ask(&mut self.connections, text);
        ensure!(lost.is_empty(), "{text}: of the connections to pods elsewhere {line}");
        Ok(())
    }

    /// Ends the streams: each was answered by one pod, and whenever nothing was to be lost nothing was.
    pub fn end(self) -> Result<()> {
        self.wait_for_datagrams();
        for Flow { stream, counted } in self.flows {
            let (times, Answers { numbers, pods }) = stream.end_with_answers()?;
            ensure!(pods.len() == 1, "a flow is answered by {pods:?}");
            for Range { start, end } in counted {
                let end = end.min(times.len() as u64);
                let lost: Vec<u64> = (start..end).filter(|number| !numbers.contains(number)).collect();
                let edges = (lost.first(), lost.last());
                ensure!(lost.is_empty(), "{} of datagrams {start} to {end} lost: {edges:?}", lost.len());
            }
        }
        Ok(())
    }
}
