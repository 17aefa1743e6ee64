//! Pods: a namespace behind a node's bridge, and a server in it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::oneshot,
};

use super::namespace::Namespace;

/// Port of all pods.
pub const POD_PORT: u16 = 8080;
/// For whoever is asked by a pod: less than clients have for pods.
const PATIENCE: Duration = Duration::from_secs(4);

/// A pod: it answers each line with its name, the address that it sees and the line.
pub struct Pod {
    /// Its name.
    pub name: String,
    /// The number of its node.
    pub node: usize,
    /// Its address.
    pub v4: Ipv4Addr,
    /// Its address.
    pub v6: Ipv6Addr,
    namespace: Namespace,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<()>>,
}

impl Pod {
    /// Starts the server.
    pub fn start(name: &str, node: usize, v4: Ipv4Addr, v6: Ipv6Addr, namespace: Namespace) -> Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let server = thread::Builder::new().name(name.to_owned()).spawn({
            let (name, namespace) = (name.to_owned(), namespace.clone());
            move || {
                let run = || -> Result<_> {
                    namespace.enter()?;
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    let sockets = runtime.block_on(bind())?;
                    Ok((runtime, sockets))
                };
                match run() {
                    Ok((runtime, (listener, socket))) => {
                        let _ = ready.send(Ok(()));
                        runtime.block_on(async {
                            tokio::select! {
                                _ = stopped => {}
                                () = serve_tcp(&name, listener) => {}
                                () = serve_udp(&name, socket) => {}
                            }
                        });
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            }
        })?;
        is_ready.recv().context("the pod's thread has ended")??;
        Ok(Self { name: name.to_owned(), node, v4, v6, namespace, stop: Some(stop), server: Some(server) })
    }

    /// Sets the MTU of its link.
    pub fn set_mtu(&self, mtu: u32) -> Result<()> {
        self.namespace.ip(&format!("link set eth0 mtu {mtu}"))
    }

    /// Its address of the family.
    pub fn address(&self, is_v6: bool) -> IpAddr {
        if is_v6 { self.v6.into() } else { self.v4.into() }
    }

    /// Ends the server and its connections, and the namespace.
    pub fn end(&mut self) -> Result<()> {
        self.stop_server();
        self.namespace.remove()
    }

    fn stop_server(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It has ended by itself.
            let _ = stop.send(());
        }
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.stop_server();
    }
}

/// Serves as a pod of this name, in the place where it is called, until it is dropped.
///
/// # Errors
/// The ports of pods are taken.
pub async fn serve(name: &str) -> Result<()> {
    let (listener, socket) = bind().await?;
    tokio::join!(serve_tcp(name, listener), serve_udp(name, socket));
    Ok(())
}

async fn bind() -> Result<(TcpListener, UdpSocket)> {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, POD_PORT));
    Ok((TcpListener::bind(any).await?, UdpSocket::bind(any).await?))
}

async fn serve_tcp(name: &str, listener: TcpListener) {
    while let Ok((stream, client)) = listener.accept().await {
        let name = name.to_owned();
        tokio::spawn(async move {
            // A client that goes is no matter.
            let _ = converse(&name, stream, client).await;
        });
    }
}

/// `get N` is answered with N bytes, `ask A` with what whoever is at A answers, a request of HTTP as such, every other line with a line.
async fn converse(name: &str, stream: TcpStream, client: SocketAddr) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some(bytes) = line.strip_prefix("get ").and_then(|number| number.parse::<usize>().ok()) {
            let block = vec![b'.'; 65_536];
            let mut left = bytes;
            while left > 0 {
                let part = left.min(block.len());
                write.write_all(&block[..part]).await?;
                left -= part;
            }
        } else if let Some(other) = line.strip_prefix("ask ") {
            let answer = ask(other).await.unwrap_or_else(|error| format!("{error:#}\n"));
            write.write_all(answer.as_bytes()).await?;
        } else if line.starts_with("GET ") {
            let body = answer(name, client, &line);
            // A connection per request: curl's users see who answers next time.
            let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            write.write_all(format!("{head}{body}").as_bytes()).await?;
            return Ok(());
        } else {
            write.write_all(answer(name, client, &line).as_bytes()).await?;
        }
    }
    Ok(())
}

/// One line of whoever is there.
async fn ask(other: &str) -> Result<String> {
    let mut stream = tokio::time::timeout(PATIENCE, TcpStream::connect(other)).await??;
    stream.write_all(b"hello\n").await?;
    let mut line = String::new();
    tokio::time::timeout(PATIENCE, BufReader::new(stream).read_line(&mut line)).await??;
    Ok(line)
}

async fn serve_udp(name: &str, socket: UdpSocket) {
    let mut buffer = vec![0; 2048];
    while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
        let line = String::from_utf8_lossy(&buffer[..length]).trim().to_owned();
        // Full: the client counts it as lost, as it is.
        let _ = socket.send_to(answer(name, client, &line).as_bytes(), client).await;
    }
}

fn answer(name: &str, client: SocketAddr, line: &str) -> String {
    format!("{name} {} {line}\n", client.ip().to_canonical())
}
