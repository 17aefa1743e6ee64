//! Sends what [`Announcements`] has to say, as frames of our own making.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use lb_common::layout::{Addr, Mac};
use lb_core::{
    announce::{Announcements, Place, Recipient, Takeover},
    frames,
};

use super::raw::RawSocket;

/// Announces what this node owns.
pub(super) struct Announcer {
    socket: RawSocket,
    announcements: Announcements,
    /// By link: its own interface index, so that the kernel tags what goes out by a VLAN device.
    macs: BTreeMap<u32, Mac>,
    /// By VIP.
    sent: BTreeMap<Addr, u64>,
    taken_over: Option<TakenOver>,
}

/// VIPs that this node has taken over together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenOver {
    /// So many, each on each link.
    pub places: usize,
    /// From the verdict, or the plan, that gave them to this node until the last of them was announced.
    pub after: Duration,
}

impl Announcer {
    /// # Errors
    /// The kernel's: CAP_NET_RAW is needed.
    pub(super) fn new() -> io::Result<Self> {
        let socket = RawSocket::new()?;
        Ok(Self {
            socket,
            announcements: Announcements::default(),
            macs: BTreeMap::new(),
            sent: BTreeMap::new(),
            taken_over: None,
        })
    }

    /// Sets what this node owns since now, and by which MAC it is reached on each link.
    pub(super) fn set(&mut self, owned: &BTreeSet<Place>, macs: BTreeMap<u32, Mac>, now: Instant) {
        self.macs = macs;
        self.announcements.set(owned, now);
    }

    /// Somebody has died.
    pub(super) fn forget_lost(&mut self) {
        self.announcements.forget_lost();
    }

    /// Says everything again.
    pub(super) fn repeat_all(&mut self, now: Instant) {
        self.announcements.repeat_all(now);
    }

    /// Tells single clients.
    pub(super) fn tell(&mut self, words: Vec<(Place, Recipient)>, now: Instant) {
        self.announcements.tell(words, now);
    }

    /// Stops telling clients that this node does not have any more.
    pub(super) fn retain_told(&mut self, is_ours: impl Fn(&Place, &Recipient) -> bool) {
        self.announcements.retain_told(is_ours);
    }

    /// Says something again soon.
    pub(super) fn repeat(&mut self, place: Place, now: Instant) {
        self.announcements.repeat(place, now);
    }

    /// Asks on a link whether anybody has the address; in IPv6 from this address, and without one as who has none yet.
    pub(super) fn ask(&self, address: Addr, device: u32, source: Option<Ipv6Addr>) {
        let Some(mac) = self.macs.get(&device) else { return };
        if let Err(error) = self.socket.send(device, &frames::question(address.to_ip(), *mac, source)) {
            tracing::warn!(vip = super::address(address.to_ip()), device, %error, "not asked for");
        }
    }

    /// Says what is due.
    pub(super) fn run(&mut self, now: Instant) {
        while let Some(((address, device), to)) = self.announcements.poll_transmit(now) {
            if let Err(error) = self.say(address, device, to) {
                tracing::warn!(vip = super::address(address.to_ip()), device, %error, "not announced; it is tried again");
            }
        }
        if let Some(Takeover { places, since }) = self.announcements.poll_takeover() {
            let after = since.elapsed();
            tracing::info!(vips = places, ms = after.as_millis() as u64, "taken over and announced");
            self.taken_over = Some(TakenOver { places, after });
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.announcements.poll_timeout()
    }

    /// What was taken over last.
    pub(super) fn taken_over(&self) -> Option<TakenOver> {
        self.taken_over
    }

    /// Frames that were sent for VIPs that are there now.
    pub(super) fn sent(&self) -> &BTreeMap<Addr, u64> {
        &self.sent
    }

    /// Forgets VIPs that are none any more.
    pub(super) fn retain(&mut self, is_vip: impl Fn(&Addr) -> bool) {
        self.sent.retain(|address, _| is_vip(address));
    }

    fn say(&mut self, address: Addr, device: u32, to: Option<Recipient>) -> io::Result<()> {
        let Some(mac) = self.macs.get(&device) else { return Ok(()) };
        self.socket.send(device, &frames::announcement(address.to_ip(), *mac, to))?;
        *self.sent.entry(address).or_default() += 1;
        Ok(())
    }
}
