//! Who says on the LAN that it has an address: all announcements that a machine there hears.

use std::{
    io::{self, ErrorKind},
    net::IpAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use anyhow::{Result, anyhow};
use lb_common::{layout::Mac, meta::Kind, parse::parse};

use super::client::Client;

/// An announcement.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    /// When.
    pub at: Instant,
    /// Of this address.
    pub address: IpAddr,
    /// Whose it is.
    pub mac: Mac,
}

/// Hears all that is announced to all on the LAN, until it is told to end.
pub struct Listener {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Vec<Heard>>>,
}

impl Listener {
    /// At the place of a client.
    pub fn begin(client: &Client) -> Result<Self> {
        let socket = client.namespace.run(|| Ok(socket()?))?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || listen(&socket, &stop)
        });
        Ok(Self { stop, thread })
    }

    /// Ends; what was heard, in its order.
    pub fn end(self) -> Result<Vec<Heard>> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().map_err(|_| anyhow!("the listener has panicked"))??)
    }
}

/// Room for thousands of frames that come at once.
const BUFFER: libc::c_int = 16 << 20;

fn socket() -> io::Result<OwnedFd> {
    let protocol = i32::from((libc::ETH_P_ALL as u16).to_be());
    // SAFETY: the call takes numbers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set(&socket, libc::SO_RCVBUFFORCE, &BUFFER)?;
    set(&socket, libc::SO_RCVTIMEO, &libc::timeval { tv_sec: 0, tv_usec: 50_000 })?;
    Ok(socket)
}

fn set<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value outlives the call, and its length is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(value).cast(),
            length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn listen(socket: &OwnedFd, stop: &AtomicBool) -> io::Result<Vec<Heard>> {
    let mut heard = Vec::new();
    let mut buffer = [0_u8; 2048];
    loop {
        // SAFETY: the buffer outlives the call, and its length is given.
        let length = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        match usize::try_from(length) {
            Ok(length) => heard.extend(announcement(&buffer[..length])),
            Err(_) => {
                let error = io::Error::last_os_error();
                match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::Interrupted if stop.load(Ordering::Relaxed) => {
                        return Ok(heard);
                    }
                    ErrorKind::WouldBlock | ErrorKind::Interrupted => {}
                    _ => return Err(error),
                }
            }
        }
    }
}

/// An ARP request of an address for itself, or an unsolicited advertisement to all.
fn announcement(frame: &[u8]) -> Option<Heard> {
    let meta = parse(&frame, 0);
    let is_one = match meta.kind {
        Kind::ArpRequest => meta.source == meta.destination,
        Kind::NeighbourAdvertisement => meta.destination_mac.is_group(),
        _ => false,
    };
    is_one.then(|| Heard { at: Instant::now(), address: meta.source.to_ip(), mac: meta.source_mac })
}
