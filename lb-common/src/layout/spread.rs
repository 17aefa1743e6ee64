//! What is kept of VIPs that are spread over nodes.

use super::{Addr, Mac, SHARES};

/// Key of `SPREAD`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SpreadKey {
    /// The VIP.
    pub vip: Addr,
    /// The segment.
    pub segment: u32,
}

/// `SPREAD`: the shares of a VIP's clients ([`crate::spread::share_of`]) that this node answers in a segment, a bit for each.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Spread {
    /// Share `s` is bit `s % 64` of word `s / 64`.
    pub words: [u64; (SHARES / 64) as usize],
}

/// Key of `CLIENTS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ClientKey {
    /// The client.
    pub client: Addr,
    /// The VIP that it has asked for, one with [`super::vip_flags::SPREAD`].
    pub vip: Addr,
}

/// `CLIENTS`: who has asked for the MAC of a VIP, whichever node has answered: whom to tell when that becomes another.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Client {
    /// The client's MAC.
    pub mac: Mac,
    /// The segment.
    pub segment: u16,
    /// The interface by which its request arrived: the NIC below a VLAN, the port of a bond.
    pub ifindex: u32,
    /// Tick of its last request.
    pub time: u32,
}
