//! Clients: connections and exchanges from a namespace.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::namespace::Namespace;

/// A client.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub namespace: Namespace,
    /// Its address.
    pub v4: IpAddr,
    /// Its address.
    pub v6: IpAddr,
}

/// After this, an answer is lost. A retransmitted SYN comes after one second, and after three.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a pod has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The pod.
    pub pod: String,
    /// The client's address, as the pod sees it.
    pub seen: IpAddr,
    /// What was asked.
    pub text: String,
}

impl Answer {
    fn parse(line: &str) -> Result<Self> {
        let mut words = line.trim_end().splitn(3, ' ');
        let mut word = || words.next().with_context(|| format!("{line:?} is no answer of a pod"));
        Ok(Self { pod: word()?.to_owned(), seen: word()?.parse()?, text: word()?.to_owned() })
    }
}

/// A TCP connection, and the pod at its other end.
pub struct Connection {
    stream: BufReader<TcpStream>,
    /// The client's end.
    pub client: SocketAddr,
    /// The VIP's end.
    pub vip: SocketAddr,
    /// Who answered first.
    pub pod: String,
    /// The client's address, as the pod sees it.
    pub seen: IpAddr,
}

impl Client {
    /// Its address of the VIP's family.
    pub fn address(&self, vip: &SocketAddr) -> IpAddr {
        if vip.is_ipv6() { self.v6 } else { self.v4 }
    }

    /// Opens a connection, and asks who is there.
    pub fn connect(&self, vip: SocketAddr) -> Result<Connection> {
        Ok(self.connect_many(vip, 1)?.remove(0))
    }

    /// Opens connections, one after the other.
    pub fn connect_many(&self, vip: SocketAddr, count: usize) -> Result<Vec<Connection>> {
        self.namespace.run(|| (0..count).map(|_| self.open(vip)).collect())
    }

    fn open(&self, vip: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect_timeout(&vip, PATIENCE)
            .with_context(|| format!("{} connects to {vip}", self.name))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let client = stream.local_addr()?;
        let mut connection =
            Connection { stream: BufReader::new(stream), client, vip, pod: String::new(), seen: client.ip() };
        let answer = connection.ask("hello")?;
        (connection.pod, connection.seen) = (answer.pod, answer.seen);
        Ok(connection)
    }

    /// One datagram, from a port of its own, and the answer.
    pub fn exchange(&self, vip: SocketAddr, text: &str) -> Result<Answer> {
        let socket = self.udp(vip)?;
        socket.send(text.as_bytes())?;
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer).with_context(|| format!("{} waits for {vip}", self.name))?;
        Answer::parse(&String::from_utf8_lossy(&buffer[..length]))
    }

    /// A socket to the VIP.
    pub fn udp(&self, vip: SocketAddr) -> Result<UdpSocket> {
        let socket = self.namespace.run(|| Ok(UdpSocket::bind(SocketAddr::new(self.address(&vip), 0))?))?;
        socket.connect(vip)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    }

    /// Forgets the MAC of an address.
    pub fn forget(&self, address: IpAddr) -> Result<()> {
        self.namespace.ip(&format!("neigh flush to {address}"))
    }

    /// Keeps a MAC for an address until [`Client::unpin`], as a client that has not heard of a change.
    pub fn pin(&self, address: IpAddr, mac: &str) -> Result<()> {
        self.namespace.ip(&format!("neigh replace {address} lladdr {mac} dev eth0 nud permanent"))
    }

    /// Forgets what was pinned.
    pub fn unpin(&self, address: IpAddr) -> Result<()> {
        self.namespace.ip(&format!("neigh del {address} dev eth0"))
    }

    /// Believes the MACs that it has on a link until it is told others: asks for none a second time.
    pub fn never_doubt(&self, link: &str) -> Result<()> {
        for family in ["ipv4", "ipv6"] {
            for (key, value) in [("delay_first_probe_time", "3600"), ("base_reachable_time_ms", "3600000")] {
                self.namespace.sysctl(&format!("net/{family}/neigh/{link}/{key}"), value)?;
            }
        }
        Ok(())
    }

    /// The MAC that the client has for an address.
    pub fn neighbour(&self, address: IpAddr) -> Result<Option<String>> {
        let entries = self.namespace.ip_json(&format!("neigh show {address}"))?;
        Ok(entries[0]["lladdr"].as_str().map(str::to_owned))
    }

    /// Echo requests of the system's `ping`: how many came back.
    pub fn ping(&self, address: IpAddr, count: u32) -> Result<u32> {
        let count = count.to_string();
        let address = address.to_string();
        let output =
            self.namespace.command("ping", &["-n", "-c", &count, "-i", "0.01", "-W", "1", &address])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let received = text.split(", ").find_map(|part| part.strip_suffix(" received")?.parse().ok());
        received.with_context(|| format!("ping said: {text}{}", String::from_utf8_lossy(&output.stderr)))
    }
}

impl Connection {
    /// A line, and the answer to it.
    pub fn ask(&mut self, text: &str) -> Result<Answer> {
        self.stream.get_mut().set_read_timeout(Some(PATIENCE))?;
        self.send(text)?;
        self.receive()
    }

    /// Asks for bytes, and counts them.
    pub fn download(&mut self, bytes: u64) -> Result<()> {
        self.send(&format!("get {bytes}"))?;
        let got = std::io::copy(&mut self.stream.by_ref().take(bytes), &mut std::io::sink())?;
        if got < bytes {
            bail!("{got} of {bytes} bytes");
        }
        Ok(())
    }

    fn send(&mut self, text: &str) -> Result<()> {
        Ok(self.stream.get_mut().write_all(format!("{text}\n").as_bytes())?)
    }

    fn receive(&mut self) -> Result<Answer> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("the connection to {} has been closed", self.pod);
        }
        Answer::parse(&line)
    }
}

/// Asks all connections at once. Those that do not answer, or answer from another pod, are lost: returns them, and why.
pub fn lost<'a>(
    connections: impl Iterator<Item = &'a mut Connection>,
    text: &str,
) -> Vec<(&'a Connection, String)> {
    let asked: Vec<(&mut Connection, Result<()>)> = connections
        .map(|connection| {
            let sent = connection.send(text);
            (connection, sent)
        })
        .collect();
    let mut lost = Vec::new();
    // All have been asked at the same time, so one wait is enough for all of them.
    let deadline = Instant::now() + PATIENCE;
    for (connection, sent) in asked {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        // It fails for a duration of zero only.
        let _ = connection.stream.get_mut().set_read_timeout(Some(left));
        match sent.and_then(|()| connection.receive()) {
            Ok(answer) if answer.pod == connection.pod && answer.text == text => {}
            Ok(answer) => lost.push((&*connection, format!("answered by {}: {}", answer.pod, answer.text))),
            Err(error) => lost.push((&*connection, format!("{error:#}"))),
        }
    }
    lost
}
