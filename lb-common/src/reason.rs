//! Why a packet went where it went: one for every outcome, counted in `REASONS`.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident => $text:literal,)*) => {
        /// Why a packet went where it went.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[doc = $doc])* $name,)* }

        impl Reason {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in status, metrics and documentation.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What it means, in a sentence.
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc,)*).trim_ascii(),)* }
            }
        }
    };
}

reasons! {
    /// Neither IP nor ARP for IPv4.
    NotIp => "not-ip",
    /// Cut off, or with lengths that contradict each other; left to the kernel.
    Malformed => "malformed",
    /// The destination is not a VIP.
    NotVip => "not-vip",
    /// Arrived on a link or VLAN that the agent does not serve.
    NotOurLink => "not-our-link",
    /// Addressed to another machine's MAC.
    NotOurMac => "not-our-mac",
    /// ARP request for a VIP, answered.
    ArpAnswered => "arp-answered",
    /// Neighbour solicitation for a VIP, answered.
    NdpAnswered => "ndp-answered",
    /// ARP request or neighbour solicitation for a VIP that another node owns.
    NotOwner => "not-owner",
    /// ARP request or neighbour solicitation for a spread VIP by a client whom another node answers.
    NotOwnShare => "not-own-share",
    /// ARP request or neighbour solicitation for a VIP that is not announced in this segment.
    NotAnnounced => "not-announced",
    /// A node says by ARP or NDP that it has a VIP.
    PeerAnnounced => "peer-announced",
    /// Somebody who is no node says by ARP or NDP that it has a VIP; dropped, unless it asks for something.
    ForeignClaim => "foreign-claim",
    /// Echo request to a VIP, answered.
    EchoAnswered => "echo-answered",
    /// Echo request to a VIP that is configured to stay silent now.
    EchoSilent => "echo-silent",
    /// Echo request above the limit of replies.
    EchoLimited => "echo-limited",
    /// Another node's probe, answered.
    ProbeAnswered => "probe-answered",
    /// Fragment to a VIP, left to the kernel.
    Fragment => "fragment",
    /// IPv6 extension header in a packet to a VIP, left to the kernel.
    ExtensionHeader => "extension-header",
    /// ICMP error to a VIP, left to the kernel.
    IcmpError => "icmp-error",
    /// A protocol to a VIP that is not balanced, left to the kernel.
    OtherProtocol => "other-protocol",
    /// A VIP, but no service has this port; dropped.
    NoSuchPort => "no-such-port",
    /// A packet of a node or pod of its own, left to the kernel.
    PeerOwnTraffic => "peer-own-traffic",
    /// Known flow, forwarded to the backend's node.
    FlowForwarded => "flow-forwarded",
    /// Known connection, delivered to a pod of this node.
    ConnDelivered => "conn-delivered",
    /// Known connection that was left to the kernel, and still is.
    ConnKernel => "conn-kernel",
    /// New flow, forwarded to the picked backend's node.
    NewForwarded => "new-forwarded",
    /// New flow, delivered to the picked pod of this node.
    NewDelivered => "new-delivered",
    /// New flow from a peer, delivered to a pod of this node.
    PeerDelivered => "peer-delivered",
    /// New flow from a peer, but no candidate of the row is ready on this node: left to the kernel.
    PeerNoCandidate => "peer-no-candidate",
    /// Middle of an unknown connection: forwarded to the next node of the row.
    Walked => "walked",
    /// Middle of an unknown connection that no node of the row knows: delivered to this node's candidate, which resets it.
    WalkEnded => "walk-ended",
    /// Middle of an unknown connection, and this node has no candidate: left to the kernel.
    WalkKernel => "walk-kernel",
    /// The service is left to the kernel.
    ServiceKernel => "service-kernel",
    /// The service has no ready endpoint: left to the kernel.
    NoEndpoints => "no-endpoints",
    /// No candidate of the row is ready: left to the kernel.
    NoReadyCandidate => "no-ready-candidate",
    /// The picked backend's node cannot be reached in this segment, or cannot answer as the VIP: left to the kernel.
    NotCapable => "not-capable",
    /// The client has another connection, to another VIP, with the same pod and the same ports: left to the kernel.
    ReverseTaken => "reverse-taken",
    /// TTL or hop limit used up: left to the kernel, which tells the sender.
    TtlExceeded => "ttl-exceeded",
    /// The packet could not be rewritten; dropped.
    RewriteFailed => "rewrite-failed",
    /// Leaves the node, but not from a pod that serves a VIP.
    ReplyNotLocalPort => "reply-not-local-port",
    /// Leaves a serving pod, but not as part of a connection to a VIP.
    ReplyUnknown => "reply-unknown",
    /// Reply of a pod, sent as the VIP.
    ReplyRestored => "reply-restored",
}

impl Reason {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places_and_names_are_unique() {
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            assert!(Reason::ALL[..i].iter().all(|other| other.name() != reason.name()));
            assert!(reason.explanation().ends_with('.'), "{}", reason.explanation());
        }
    }
}
