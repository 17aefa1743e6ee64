//! Sends what [`Announcements`] has to say, as frames of our own making.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Instant,
};

use lb_common::layout::{Addr, Mac};
use lb_core::announce::{Announcements, Place, frame};

/// Announces what this node owns.
pub(super) struct Announcer {
    socket: OwnedFd,
    announcements: Announcements,
    macs: BTreeMap<u32, Mac>,
    sent: u64,
}

impl Announcer {
    /// # Errors
    /// The kernel's: CAP_NET_RAW is needed.
    pub(super) fn new() -> io::Result<Self> {
        // Protocol 0: nothing is received.
        // SAFETY: the call takes numbers.
        let fd = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { socket, announcements: Announcements::default(), macs: BTreeMap::new(), sent: 0 })
    }

    /// Sets what this node owns, and by which MAC it is reached on each link.
    pub(super) fn set(&mut self, owned: &BTreeSet<Place>, macs: BTreeMap<u32, Mac>) {
        self.macs = macs;
        self.announcements.set(owned);
    }

    /// Says everything again.
    pub(super) fn repeat_all(&mut self) {
        self.announcements.repeat_all();
    }

    /// Says what is due.
    pub(super) fn run(&mut self, now: Instant) {
        while let Some((address, ifindex)) = self.announcements.poll_transmit(now) {
            if let Err(error) = self.say(address, ifindex) {
                tracing::warn!(vip = super::address(address.to_ip()), ifindex, %error, "not announced; it is tried again");
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.announcements.poll_timeout()
    }

    /// Frames that were sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    fn say(&mut self, address: Addr, ifindex: u32) -> io::Result<()> {
        let Some(mac) = self.macs.get(&ifindex) else { return Ok(()) };
        let frame = frame(address.to_ip(), *mac);
        // SAFETY: an all-zero address is a value.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = ifindex as i32;
        // SAFETY: frame and address outlive the call, and their lengths are given.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        self.sent += 1;
        Ok(())
    }
}
