//! A proxy of TCP that cuts its connections when it is told to.

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::Result;

use crate::lab::Namespace;

/// A proxy, until the process ends.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    /// Listens on a machine, and passes on to another address as seen from there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(namespace: &Namespace, target: SocketAddr) -> Result<Self> {
        let listener = namespace.run(|| Ok(TcpListener::bind((target.ip(), 0))?))?;
        let address = listener.local_addr()?;
        let open = Arc::new(Mutex::new(Vec::new()));
        let (kept, namespace) = (Arc::clone(&open), namespace.clone());
        thread::spawn(move || {
            // Its connections are made there as well.
            if namespace.enter().is_ok() {
                for client in listener.incoming().flatten() {
                    // One that cannot be passed on ends.
                    let _ = pass_on(client, target, &kept);
                }
            }
        });
        Ok(Self { address, open })
    }

    /// Ends all connections there are.
    pub fn cut(&self) {
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // It has ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pass_on(client: TcpStream, target: SocketAddr, open: &Mutex<Vec<TcpStream>>) -> io::Result<()> {
    let server = TcpStream::connect(target)?;
    let ends = [client.try_clone()?, server.try_clone()?];
    open.lock().unwrap_or_else(PoisonError::into_inner).extend(ends);
    for (mut from, mut to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}
