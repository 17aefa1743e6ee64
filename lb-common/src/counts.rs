//! What the counting maps hold: part of [`crate::layout`], in a file of its own for its length.

/// `REASONS[reason]`, per CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReasonCount {
    /// Packets.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
}

/// `SERVICE_STATS[id.index()]` and `BACKEND_STATS[index]`, per CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Packets from clients.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Flows that were picked.
    pub new_flows: u64,
    /// SYNs delivered to a pod of this node.
    pub delivered: u64,
    /// First replies of pods, sent as the VIP.
    pub answered: u64,
    /// Handshakes completed by the client.
    pub completed: u64,
}

/// `VIP_STATS[vip.stats]`, per CPU: ARP requests and neighbour solicitations for a VIP, in segments in which it is announced.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VipStats {
    /// Asked while this node was to answer.
    pub requests: u64,
    /// Answered.
    pub answers: u64,
    /// Left to the node that owns the VIP.
    pub left: u64,
}
