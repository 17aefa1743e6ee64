//! A line of `FLOWS`: finding a flow, and the place for a new one.

use crate::{
    hash::HashKey,
    layout::{FLOW_SLOTS, FlowLine, FlowSlot, ServiceId},
    meta::Meta,
};

/// Hash of a flow as it arrives: addresses, ports, protocol, both MACs and the link. A flow that arrives from another sender or
/// on another link is another flow, so a hit says by itself that the packet is from a client and for this node.
#[inline(always)]
pub fn flow_hash(meta: &Meta, key: &HashKey) -> FlowHash {
    let [s0, s1, s2, s3] = meta.source.words;
    let [d0, d1, d2, d3] = meta.destination.words;
    let [a, b, c] = meta.source_mac.words.map(u32::from);
    let [d, e, f] = meta.destination_mac.words.map(u32::from);
    let protocol_and_vlan = meta.protocol | (meta.vlan as u32) << 16;
    let macs = [a | b << 16, c | d << 16, e | f << 16];
    let raw = key.hash([
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
        meta.ports(),
        protocol_and_vlan,
        macs[0],
        macs[1],
        macs[2],
        meta.ifindex,
    ]);
    FlowHash { raw }
}

/// Where a flow stands in `FLOWS`, and how it is told from others there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowHash {
    raw: u64,
}

impl FlowHash {
    /// The flow's line among `lines`, which is a power of two.
    #[inline(always)]
    pub const fn line(self, lines: u32) -> u32 {
        self.raw as u32 & lines.wrapping_sub(1)
    }

    /// [`FlowSlot::tag`].
    #[inline(always)]
    pub const fn tag(self) -> u32 {
        (self.raw >> 32) as u32
    }
}

/// The flow's slot in its line.
#[inline(always)]
pub fn find(line: &FlowLine, tag: u32, service: ServiceId) -> Option<FlowSlot> {
    let mut i = 0;
    while i < FLOW_SLOTS {
        let slot = line.slots[i];
        if slot.tag == tag && slot.service == service {
            return Some(slot);
        }
        i += 1;
    }
    None
}

/// The place for a flow: its own, else a free one, else the one that has been silent longest at `time` (a tick).
#[inline(always)]
pub fn place(line: &FlowLine, tag: u32, service: ServiceId, time: u16) -> usize {
    let mut best = 0;
    let mut best_score = 0;
    let mut i = 0;
    while i < FLOW_SLOTS {
        let slot = line.slots[i];
        let score = if slot.tag == tag && slot.service == service {
            0x2_0000
        } else if slot.service.raw == 0 {
            0x1_0000
        } else {
            time.wrapping_sub(slot.time) as u32
        };
        if score > best_score {
            best = i;
            best_score = score;
        }
        i += 1;
    }
    best
}
