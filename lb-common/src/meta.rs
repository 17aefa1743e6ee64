//! What the decision needs to know of a packet.

use crate::layout::{
    Addr, BackendRef, ClientKey, ConnKey, LinkKey, LocalPortKey, Mac, Port, Reverse, ReverseKey, ServiceId,
    ServiceKey,
};

/// A parsed packet: everything [`crate::decide()`] reads, in plain integers.
///
/// It begins as a [`ConnKey`] or [`ReverseKey`] does, according to who sent the packet, so that no key is copied.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// IP source; the sender of ARP; the target of a neighbour advertisement: the address that is told of.
    pub source: Addr,
    /// IP destination; the target of ARP or of a neighbour solicitation: the address that is asked for.
    pub destination: Addr,
    /// Source port of TCP and UDP, else 0.
    pub source_port: Port,
    /// Destination port of TCP and UDP, else 0.
    pub destination_port: Port,
    /// IP protocol number, 0 if there is no IP.
    pub protocol: u32,
    /// Ethernet source.
    pub source_mac: Mac,
    /// Ethernet destination.
    pub destination_mac: Mac,
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
    /// TCP flags, else 0.
    pub tcp_flags: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// What the packet is.
    pub kind: Kind,
    /// Whether the packet is IPv6.
    pub v6: bool,
}

const _: () = assert!(size_of::<Meta>() == 68);
const _: () = {
    use core::mem::offset_of;
    assert!(
        offset_of!(Meta, source) == offset_of!(ConnKey, client)
            && offset_of!(Meta, source) == offset_of!(ReverseKey, pod)
    );
    assert!(offset_of!(Meta, destination) == offset_of!(ConnKey, vip));
    assert!(offset_of!(Meta, source) == offset_of!(ClientKey, client));
    assert!(offset_of!(Meta, destination) == offset_of!(ClientKey, vip));
    assert!(offset_of!(Meta, destination) == offset_of!(ReverseKey, client));
    assert!(offset_of!(Meta, source_port) == offset_of!(ConnKey, client_port));
    assert!(offset_of!(Meta, source_port) == offset_of!(ReverseKey, pod_port));
    assert!(offset_of!(Meta, destination_port) == offset_of!(ConnKey, vip_port));
    assert!(offset_of!(Meta, destination_port) == offset_of!(ReverseKey, client_port));
    assert!(offset_of!(Meta, protocol) == offset_of!(ConnKey, protocol));
    assert!(offset_of!(Meta, protocol) == offset_of!(ReverseKey, protocol));
};

/// What a packet is, as far as the decision tells packets apart.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Neither IP nor ARP for IPv4: none of our business.
    Other,
    /// Cut off, or its lengths contradict each other. The addresses are zero if they could not be read.
    Malformed,
    /// ARP request for an IPv4 address.
    ArpRequest,
    /// ARP reply: somebody has an IPv4 address.
    ArpReply,
    /// Neighbour solicitation that a node must answer (RFC 4861 7.1.1).
    NeighbourSolicitation,
    /// Neighbour advertisement (RFC 4861 7.1.2): somebody has an IPv6 address.
    NeighbourAdvertisement,
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
    /// Of no packet yet.
    pub const EMPTY: Self = Self {
        source: Addr::UNSPECIFIED,
        destination: Addr::UNSPECIFIED,
        source_port: Port { wire: 0 },
        destination_port: Port { wire: 0 },
        protocol: 0,
        source_mac: Mac { words: [0; 3] },
        destination_mac: Mac { words: [0; 3] },
        ifindex: 0,
        length: 0,
        vlan: 0,
        l3: 14,
        l4: 14,
        tcp_flags: 0,
        ttl: 0,
        kind: Kind::Other,
        v6: false,
    };

    /// Where the packet arrived.
    #[inline(always)]
    pub fn link_key(&self) -> LinkKey {
        LinkKey { ifindex: self.ifindex, vlan: self.vlan as u32 }
    }

    /// The service that the packet is for.
    #[inline(always)]
    pub fn service_key(&self) -> ServiceKey {
        ServiceKey {
            address: self.destination,
            port: self.destination_port,
            protocol: self.protocol as u8,
            pad: 0,
        }
    }

    /// The connection of a packet from a client.
    #[inline(always)]
    pub fn conn_key(&self) -> &ConnKey {
        // SAFETY: `Meta` begins with the fields of a `ConnKey`, as asserted above; both are `repr(C)`.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }

    /// The connection of a packet from a pod.
    #[inline(always)]
    pub fn reverse_key(&self) -> &ReverseKey {
        // SAFETY: `Meta` begins with the fields of a `ReverseKey`, as asserted above; both are `repr(C)`.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }

    /// The sender of a request for a VIP's MAC.
    #[inline(always)]
    pub fn client_key(&self) -> &ClientKey {
        // SAFETY: `Meta` begins with the fields of a `ClientKey`, as asserted above; both are `repr(C)`.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }

    /// Whether the packet is TCP that can be balanced.
    #[inline(always)]
    pub fn is_tcp(&self) -> bool {
        matches!(self.kind, Kind::Tcp)
    }

    /// Whether the packet is UDP that can be balanced.
    #[inline(always)]
    pub fn is_udp(&self) -> bool {
        matches!(self.kind, Kind::Udp)
    }

    /// The key under which a pod's replies to this client's packet are found.
    #[inline(always)]
    pub fn reverse_key_of(&self, pod: Addr, pod_port: Port) -> ReverseKey {
        ReverseKey {
            pod,
            client: self.source,
            pod_port,
            client_port: self.source_port,
            protocol: self.protocol,
        }
    }

    /// What is to become of a pod's replies to this client's packet.
    #[inline(always)]
    pub fn reverse_of(&self, service: ServiceId, backend: BackendRef, tick: u32) -> Reverse {
        Reverse {
            vip: self.destination,
            service,
            backend,
            time: tick,
            vip_port: self.destination_port,
            phase: 0,
            pad: 0,
        }
    }

    /// The key under which the client's side of this pod's reply is found.
    #[inline(always)]
    pub fn conn_key_of_reply(&self, vip: Addr, vip_port: Port) -> ConnKey {
        ConnKey {
            client: self.destination,
            vip,
            client_port: self.destination_port,
            vip_port,
            protocol: self.protocol,
        }
    }

    /// The endpoint that sent the packet.
    #[inline(always)]
    pub fn local_port_key(&self) -> LocalPortKey {
        LocalPortKey { address: self.source, port: self.source_port, protocol: self.protocol as u8, pad: 0 }
    }

    /// Both ports in one word, as they stand on the wire.
    #[inline(always)]
    pub fn ports(&self) -> u32 {
        self.source_port.wire as u32 | (self.destination_port.wire as u32) << 16
    }
}
