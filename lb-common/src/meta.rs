//! What the decision needs to know of a packet.

use crate::layout::{Addr, ConnKey, LinkKey, LocalPortKey, Mac, Port, ReverseKey, ServiceKey};

/// A parsed packet: everything [`crate::decide()`] reads, in plain integers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// IP source; the sender of an ARP request.
    pub source: Addr,
    /// IP destination; the target of an ARP request or neighbour solicitation.
    pub destination: Addr,
    /// Ethernet source.
    pub source_mac: Mac,
    /// Ethernet destination.
    pub destination_mac: Mac,
    /// Source port of TCP and UDP, else 0.
    pub source_port: Port,
    /// Destination port of TCP and UDP, else 0.
    pub destination_port: Port,
    /// The NIC on which the packet arrived, or by which it leaves.
    pub ifindex: u32,
    /// Bytes of the frame.
    pub length: u32,
    /// VLAN id, 0 for none.
    pub vlan: u16,
    /// Offset of the ARP or IP header.
    pub l3: u8,
    /// Offset of the header behind IP.
    pub l4: u8,
    /// IP protocol number, 0 if there is no IP.
    pub protocol: u8,
    /// TCP flags, else 0.
    pub tcp_flags: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// What the packet is.
    pub kind: Kind,
    /// Whether the packet is IPv6.
    pub v6: bool,
    /// Zero.
    pub pad: [u8; 3],
}

const _: () = assert!(size_of::<Meta>() == 68);

/// What a packet is, as far as the decision tells packets apart.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Neither IP nor an ARP request: none of our business.
    Other,
    /// Cut off, or its lengths contradict each other. The addresses are zero if they could not be read.
    Malformed,
    /// ARP request for an IPv4 address.
    ArpRequest,
    /// Neighbour solicitation that a node must answer (RFC 4861 7.1.1).
    NeighbourSolicitation,
    /// ICMP or ICMPv6 echo request.
    EchoRequest,
    /// ICMP or ICMPv6 error.
    IcmpError,
    /// Fragment of an IP packet, the first included.
    Fragment,
    /// IPv6 with an extension header before the transport.
    ExtensionHeader,
    /// IP with a protocol that is not balanced.
    OtherProtocol,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Meta {
    /// Where the packet arrived.
    #[inline(always)]
    pub fn link_key(&self) -> LinkKey {
        LinkKey { ifindex: self.ifindex, vlan: self.vlan as u32 }
    }

    /// The service that the packet is for.
    #[inline(always)]
    pub fn service_key(&self) -> ServiceKey {
        ServiceKey { address: self.destination, port: self.destination_port, protocol: self.protocol, pad: 0 }
    }

    /// The connection of a packet from a client.
    #[inline(always)]
    pub fn conn_key(&self) -> ConnKey {
        ConnKey {
            client: self.source,
            vip: self.destination,
            client_port: self.source_port,
            vip_port: self.destination_port,
            protocol: self.protocol as u32,
        }
    }

    /// The connection of a packet from a pod.
    #[inline(always)]
    pub fn reverse_key(&self) -> ReverseKey {
        ReverseKey {
            pod: self.source,
            client: self.destination,
            pod_port: self.source_port,
            client_port: self.destination_port,
            protocol: self.protocol as u32,
        }
    }

    /// The endpoint that sent the packet.
    #[inline(always)]
    pub fn local_port_key(&self) -> LocalPortKey {
        LocalPortKey { address: self.source, port: self.source_port, protocol: self.protocol, pad: 0 }
    }

    /// Both ports in one word, as they stand on the wire.
    #[inline(always)]
    pub fn ports(&self) -> u32 {
        self.source_port.wire as u32 | (self.destination_port.wire as u32) << 16
    }
}
