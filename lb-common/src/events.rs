//! What the data path tells user space of: records of the ring buffer.

use crate::address::{Addr, Mac};

/// `EVENTS`: somebody says by ARP or NDP that it has a VIP.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClaimEvent {
    /// When it was heard, in nanoseconds of `CLOCK_BOOTTIME`.
    pub time: u64,
    /// The VIP.
    pub address: Addr,
    /// The NIC on which it was heard.
    pub ifindex: u32,
    /// The segment in which it was heard.
    pub segment: u16,
    /// [`event_kind`].
    pub kind: u8,
    /// 1 if it is the answer to a question of this node's, 0 if it is said to all.
    pub is_answer: u8,
    /// Index of the node that says it, [`crate::layout::NO_NODE`] if it is none.
    pub node: u16,
    /// Whose MAC sent it.
    pub mac: Mac,
}

/// Values of [`ClaimEvent::kind`]. Each has a budget of its own, in `EVENT_BUDGET[kind]`.
pub mod event_kind {
    /// A node says that it has a VIP.
    pub const PEER_CLAIM: u8 = 0;
    /// Somebody who is no node says that it has a VIP.
    pub const FOREIGN_CLAIM: u8 = 1;
    /// How many there are.
    pub const COUNT: usize = 2;
}

/// Events of a kind for each CPU and tick: what is above is not told.
pub const EVENT_LIMIT: u32 = 128;
