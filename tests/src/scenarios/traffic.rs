//! Connections that stay open, and datagrams that keep coming.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::lab::{Client, Connection, Lab, WEB, WEB_V6, frontend, lost};

/// A client, and a VIP that it uses.
pub type Pair<'a> = (&'a Client, IpAddr);

/// All clients, each with both VIPs.
pub fn pairs(lab: &Lab) -> Vec<Pair<'_>> {
    lab.clients().iter().flat_map(|client| [WEB, WEB_V6].map(|vip| (client, vip))).collect()
}

/// Connections of all clients to both VIPs.
pub fn connections(lab: &Lab, count: usize) -> Result<Vec<Connection>> {
    open(&pairs(lab), count)
}

/// So many connections, spread over the pairs.
pub(super) fn open(pairs: &[Pair<'_>], count: usize) -> Result<Vec<Connection>> {
    let mut all = Vec::new();
    for (number, (client, vip)) in pairs.iter().enumerate() {
        let share = (count + number) / pairs.len();
        all.extend(client.connect_many(frontend(*vip), share)?);
    }
    Ok(all)
}

/// Client and VIP of a connection.
pub type Ends = (SocketAddr, SocketAddr);

/// The ends of a connection.
pub fn ends(connection: &Connection) -> Ends {
    (connection.client, connection.vip)
}

/// Asks all connections; the ends of those that are lost, and a line that says so.
pub fn ask(connections: &mut [Connection], text: &str) -> (BTreeSet<Ends>, String) {
    let count = connections.len();
    let lost = lost(connections.iter_mut(), text);
    let mut line = format!("{} of {count} lost", lost.len());
    if !lost.is_empty() {
        let first: Vec<String> = lost
            .iter()
            .take(2)
            .map(|(connection, why)| {
                format!("{} to {} at {}: {why}", connection.client, connection.vip, connection.pod)
            })
            .collect();
        line = format!("{line} ({}{})", first.join("; "), if lost.len() > 2 { "; …" } else { "" });
    }
    (lost.iter().map(|(connection, _)| ends(connection)).collect(), line)
}

/// A socket whose datagrams go to a pod that is not on the node.
pub fn udp_elsewhere(lab: &Lab, node: &str, (client, vip): Pair<'_>) -> Result<UdpSocket> {
    loop {
        let socket = client.udp(frontend(vip))?;
        socket.send(b"who")?;
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer)?;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if lab.node_of(text.split(' ').next().unwrap_or_default()) != node {
            return Ok(socket);
        }
    }
}

/// A stream of each pair, to pods that are not on the node.
pub fn streams_elsewhere(lab: &Lab, node: &str, pairs: &[Pair<'_>]) -> Result<Vec<Stream>> {
    pairs.iter().map(|pair| Stream::over(udp_elsewhere(lab, node, *pair)?)).collect()
}

/// A datagram every millisecond, each with a number, until it is told to end.
pub struct Stream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: JoinHandle<io::Result<Vec<Instant>>>,
    receiver: JoinHandle<Answers>,
}

/// What a stream has heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Numbers of the datagrams that were answered.
    pub numbers: BTreeSet<u64>,
    /// Who has answered.
    pub pods: BTreeSet<String>,
}

/// Ends streams: how many datagrams were sent, and how many were not answered.
pub fn end_all(streams: Vec<Stream>) -> Result<(u64, u64)> {
    streams.into_iter().try_fold((0, 0), |(sent, lost), stream| {
        let (one_sent, one_lost) = stream.end()?;
        Ok((sent + one_sent, lost + one_lost))
    })
}

/// What came of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Datagrams.
    pub sent: u64,
    /// Those without an answer.
    pub lost: u64,
    /// From the first that was lost to the last.
    pub gap: Duration,
}

/// What an answer may take when everything has been sent.
const LAST: Duration = Duration::from_secs(1);

impl Stream {
    /// Begins; its answers are counted from the first.
    pub fn begin(client: &Client, vip: SocketAddr) -> Result<Self> {
        Self::over(client.udp(vip)?)
    }

    /// The same, over a socket that is there already.
    pub fn over(socket: UdpSocket) -> Result<Self> {
        socket.set_read_timeout(Some(LAST))?;
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let sender = thread::spawn({
            let (socket, stop, sent) = (socket.try_clone()?, Arc::clone(&stop), Arc::clone(&sent));
            move || {
                let mut times = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let number = times.len().to_string();
                    times.push(Instant::now());
                    sent.store(times.len() as u64, Ordering::SeqCst);
                    // The kernel may say that nobody took an earlier one: that one is lost, and will be counted.
                    let _ = socket.send(number.as_bytes());
                    thread::sleep(Duration::from_millis(1));
                }
                Ok(times)
            }
        });
        let receiver = thread::spawn({
            let stop = Arc::clone(&stop);
            move || receive(&socket, &stop)
        });
        Ok(Self { stop, sent, sender, receiver })
    }

    /// The number of the first datagram that is sent from now on.
    pub fn next(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Ends: how many were sent, and how many were not answered.
    pub fn end(self) -> Result<(u64, u64)> {
        let Ended { sent, lost, .. } = self.end_with_gap()?;
        Ok((sent, lost))
    }

    /// The same, and for how long datagrams were lost.
    pub fn end_with_gap(self) -> Result<Ended> {
        let (times, Answers { numbers, .. }) = self.end_with_answers()?;
        let lost: Vec<Instant> =
            (0..).zip(&times).filter(|(number, _)| !numbers.contains(number)).map(|(_, at)| *at).collect();
        let gap = lost.first().zip(lost.last()).map(|(first, last)| *last - *first).unwrap_or_default();
        Ok(Ended { sent: times.len() as u64, lost: lost.len() as u64, gap })
    }

    /// The same: when each was sent, and what was heard.
    pub fn end_with_answers(self) -> Result<(Vec<Instant>, Answers)> {
        self.stop.store(true, Ordering::Relaxed);
        let panicked = |_| anyhow::anyhow!("a thread of a stream has panicked");
        let times = self.sender.join().map_err(panicked)??;
        Ok((times, self.receiver.join().map_err(panicked)?))
    }
}

/// Until nothing has come for a while after the end.
fn receive(socket: &UdpSocket, stop: &AtomicBool) -> Answers {
    let mut answers = Answers::default();
    let mut buffer = [0; 256];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&buffer[..length]);
                let number = text.trim_end().rsplit(' ').next().and_then(|number| number.parse::<u64>().ok());
                let pod = text.split(' ').next().filter(|pod| !answers.pods.contains(*pod));
                answers.numbers.extend(number);
                answers.pods.extend(pod.map(str::to_owned));
            }
            Err(_) if stop.load(Ordering::Relaxed) => return answers,
            Err(_) => {}
        }
    }
}
