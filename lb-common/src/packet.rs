//! Access to a frame, and the headers as they stand on the wire.
//!
//! Headers are `packed(2)`: an Ethernet frame starts at an even address, so loads of two bytes are what the machine can do
//! without knowing more. Multi-byte fields are in network order; what is read from them is converted by the reader.

use crate::{
    checksum::Sum,
    layout::{Addr, Mac, Plain, Port},
    meta::Meta,
};

/// A frame that can be read, whole headers at a time.
pub trait Packet {
    /// Bytes of the frame; more than can be loaded where the frame is in several buffers.
    fn length(&self) -> usize;

    /// The header at an offset; `None` if the frame's first buffer ends before it does.
    fn load<T: Plain>(&self, offset: usize) -> Option<T>;
}

/// A frame whose bytes can be replaced in place.
pub trait PacketMut: Packet {
    /// Writes a header at an offset; `None` if the frame's first buffer ends before it does, and then nothing is written.
    fn store<T: Plain>(&mut self, offset: usize, value: T) -> Option<()>;

    /// Cuts or lengthens the frame; the bytes gained have no defined value.
    fn resize(&mut self, length: usize) -> Option<()>;
}

macro_rules! wire {
    ($(#[$doc:meta])* $name:ident: $size:literal { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[repr(C, packed(2))]
        #[derive(Clone, Copy, Debug)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
        const _: () = assert!(size_of::<$name>() == $size);
        // SAFETY: `repr(C)` integers without padding (the size is that of the fields), valid for every bit pattern.
        unsafe impl Plain for $name {}
    };
}

wire! {
    /// Ethernet header (IEEE 802.3 3.1).
    Ethernet: 14 {
        /// Destination.
        destination: Mac,
        /// Source.
        source: Mac,
        /// Type of what follows.
        ethertype: u16,
    }
}

wire! {
    /// VLAN tag (IEEE 802.1Q 9.6), the part behind the Ethernet type.
    VlanTag: 4 {
        /// Priority, drop eligibility and VLAN id.
        control: u16,
        /// Type of what follows.
        ethertype: u16,
    }
}

wire! {
    /// ARP for IPv4 over Ethernet (RFC 826).
    Arp: 28 {
        /// 1: Ethernet.
        hardware: u16,
        /// 0x0800: IPv4.
        protocol: u16,
        /// Lengths of the two kinds of address: 6 and 4.
        lengths: u16,
        /// 1 request, 2 reply.
        operation: u16,
        /// Sender.
        sender_mac: Mac,
        /// Sender.
        sender: u32,
        /// Target.
        target_mac: Mac,
        /// Target.
        target: u32,
    }
}

wire! {
    /// IPv4 header without options (RFC 791 3.1).
    Ipv4: 20 {
        /// Version, header length in words, and type of service.
        version_and_tos: u16,
        /// Bytes of header and payload.
        total_length: u16,
        /// Identification.
        identification: u16,
        /// Flags and offset of a fragment.
        fragment: u16,
        /// Time to live, then protocol.
        ttl_and_protocol: [u8; 2],
        /// Header checksum.
        checksum: u16,
        /// Source.
        source: u32,
        /// Destination.
        destination: u32,
    }
}

wire! {
    /// IPv6 header (RFC 8200 3).
    Ipv6: 40 {
        /// Version, traffic class, flow label.
        version_and_flow: u32,
        /// Bytes behind this header.
        payload_length: u16,
        /// Next header, then hop limit.
        next_and_hop_limit: [u8; 2],
        /// Source.
        source: [u32; 4],
        /// Destination.
        destination: [u32; 4],
    }
}

wire! {
    /// TCP header without options (RFC 9293 3.1).
    Tcp: 20 {
        /// Source port.
        source: Port,
        /// Destination port.
        destination: Port,
        /// Sequence number.
        sequence: u32,
        /// Acknowledgment number.
        acknowledgment: u32,
        /// Data offset, then flags.
        offset_and_flags: [u8; 2],
        /// Window.
        window: u16,
        /// Checksum.
        checksum: u16,
        /// Urgent pointer.
        urgent: u16,
    }
}

wire! {
    /// UDP header (RFC 768).
    Udp: 8 {
        /// Source port.
        source: Port,
        /// Destination port.
        destination: Port,
        /// Bytes of header and data.
        length: u16,
        /// Checksum, 0 for none (IPv4 only).
        checksum: u16,
    }
}

wire! {
    /// ICMP and ICMPv6 header, with identifier and sequence number where the type has them (RFC 792, RFC 4443).
    Icmp: 8 {
        /// Type, then code.
        type_and_code: [u8; 2],
        /// Checksum.
        checksum: u16,
        /// Depends on the type.
        rest: u32,
    }
}

wire! {
    /// Body of neighbour solicitation and advertisement behind the ICMPv6 header (RFC 4861 4.3, 4.4).
    NeighbourTarget: 16 {
        /// The address asked for, or told of.
        target: [u32; 4],
    }
}

wire! {
    /// Link-layer address option (RFC 4861 4.6.1).
    LinkLayerOption: 8 {
        /// 1 source, 2 target, then length in units of 8 bytes: 1.
        type_and_length: [u8; 2],
        /// The address.
        mac: Mac,
    }
}

wire! {
    /// A probe and its answer, the whole of a UDP datagram's data: is the node there, and is its agent?
    Probe: 16 {
        /// [`PROBE_MAGIC`].
        magic: u32,
        /// [`probe_kind`], then in an answer [`probe_lease`].
        kind_and_lease: [u8; 2],
        /// Zero.
        pad: u16,
        /// The asker's number for the probe, as it came: whoever has not seen the probe cannot answer it.
        nonce: u64,
    }
}

/// `MgPr`, as it stands on the wire.
pub const PROBE_MAGIC: u32 = u32::from_ne_bytes(*b"MgPr");

/// First byte of [`Probe::kind_and_lease`].
pub mod probe_kind {
    /// Asks.
    pub const REQUEST: u8 = 1;
    /// Answers.
    pub const ANSWER: u8 = 2;
}

/// Second byte of [`Probe::kind_and_lease`]: zero in a request.
pub mod probe_lease {
    /// The agent is there.
    pub const HELD: u8 = 1;
    /// The agent has not renewed its promise: the node forwards, but nobody looks after it.
    pub const LAPSED: u8 = 2;
}

/// Ethernet types.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// VLAN tag (IEEE 802.1Q, that of a customer).
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
}

/// IP protocol numbers.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
}

/// TCP flags.
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset the connection.
    pub const RST: u8 = 4;
    /// The acknowledgment number is valid.
    pub const ACK: u8 = 16;
}

/// Types of ICMP and ICMPv6 messages.
pub mod icmp_type {
    /// ICMP echo reply.
    pub const V4_ECHO_REPLY: u8 = 0;
    /// ICMP destination unreachable.
    pub const V4_UNREACHABLE: u8 = 3;
    /// ICMP echo request.
    pub const V4_ECHO_REQUEST: u8 = 8;
    /// ICMP time exceeded.
    pub const V4_TIME_EXCEEDED: u8 = 11;
    /// ICMP parameter problem.
    pub const V4_PARAMETER_PROBLEM: u8 = 12;
    /// ICMPv6 messages from here on are not errors.
    pub const V6_FIRST_INFORMATIONAL: u8 = 128;
    /// ICMPv6 echo request.
    pub const V6_ECHO_REQUEST: u8 = 128;
    /// ICMPv6 echo reply.
    pub const V6_ECHO_REPLY: u8 = 129;
    /// Neighbour solicitation.
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement.
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
}

/// TTL and hop limit of packets that are made here.
pub const INITIAL_TTL: u8 = 64;

/// A frame rewritten by storing bytes: XDP, and tests. (`tc` has helpers that also know about offloaded checksums.)
#[derive(Debug)]
pub struct InPlace<P>(pub P);

impl<P: PacketMut> InPlace<P> {
    /// Replaces an address and a port, at the given places of the two headers, and mends both checksums.
    #[inline(always)]
    pub(crate) fn translate(
        &mut self,
        meta: &Meta,
        side: Side,
        from: &Addr,
        to: &Addr,
        port: Port,
    ) -> Option<()> {
        let (l3, l4) = (meta.l3 as usize, meta.l4 as usize);
        let ports_at = l4 + side.port_offset();
        let old_port: Port = self.0.load(ports_at)?;
        let addresses = if meta.v6 {
            Sum::ZERO.subtract_words(from.words).add_words(to.words)
        } else {
            Sum::ZERO.subtract(from.words[3]).add(to.words[3])
        };

        if meta.v6 {
            self.0.store(l3 + side.v6_offset(), *to)?;
        } else {
            let checksum: u16 = self.0.load(l3 + 10)?;
            self.0.store(l3 + 10, addresses.update(checksum))?;
            self.0.store(l3 + side.v4_offset(), to.words[3])?;
        }

        let transport = addresses.subtract(old_port.wire as u32).add(port.wire as u32);
        if meta.is_tcp() {
            let checksum: u16 = self.0.load(l4 + 16)?;
            self.0.store(l4 + 16, transport.update(checksum))?;
        } else {
            let checksum: u16 = self.0.load(l4 + 6)?;
            if checksum != 0 {
                self.0.store(l4 + 6, nonzero(transport.update(checksum)))?;
            }
        }
        self.0.store(ports_at, port)
    }

    /// Sets TTL or hop limit; the first mends the header checksum.
    #[inline(always)]
    pub(crate) fn set_ttl(&mut self, meta: &Meta, ttl: u8) -> Option<()> {
        let l3 = meta.l3 as usize;
        if meta.v6 {
            let [next, _]: [u8; 2] = self.0.load::<Pair>(l3 + 6)?.0;
            return self.0.store(l3 + 6, Pair([next, ttl]));
        }
        let [old, protocol] = self.0.load::<Pair>(l3 + 8)?.0;
        let checksum: u16 = self.0.load(l3 + 10)?;
        let change = Sum::ZERO
            .subtract(u16::from_ne_bytes([old, protocol]) as u32)
            .add(u16::from_ne_bytes([ttl, protocol]) as u32);
        self.0.store(l3 + 8, Pair([ttl, protocol]))?;
        self.0.store(l3 + 10, change.update(checksum))
    }

    /// Exchanges the two IP addresses, which leaves every checksum as it is.
    #[inline(always)]
    pub(crate) fn swap_addresses(&mut self, meta: &Meta) -> Option<()> {
        let l3 = meta.l3 as usize;
        if meta.v6 {
            self.0.store(l3 + 8, meta.destination)?;
            self.0.store(l3 + 24, meta.source)
        } else {
            self.0.store(l3 + 12, meta.destination.words[3])?;
            self.0.store(l3 + 16, meta.source.words[3])
        }
    }

    /// Sets the two MACs.
    #[inline(always)]
    pub(crate) fn set_macs(&mut self, destination: Mac, source: Mac) -> Option<()> {
        self.0.store(0, destination)?;
        self.0.store(6, source)
    }
}

/// UDP sends 0xffff for a checksum of 0, which would mean "none" (RFC 768).
#[inline(always)]
pub(crate) const fn nonzero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Which of the two ends of a packet is translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Source address and port.
    Source,
    /// Destination address and port.
    Destination,
}

impl Side {
    /// Offset of the port in the TCP and the UDP header.
    #[inline(always)]
    pub const fn port_offset(self) -> usize {
        match self {
            Self::Source => 0,
            Self::Destination => 2,
        }
    }

    /// Offset of the address in the IPv4 header.
    #[inline(always)]
    pub const fn v4_offset(self) -> usize {
        match self {
            Self::Source => 12,
            Self::Destination => 16,
        }
    }

    /// Offset of the address in the IPv6 header.
    #[inline(always)]
    pub const fn v6_offset(self) -> usize {
        match self {
            Self::Source => 8,
            Self::Destination => 24,
        }
    }
}

/// Two bytes loaded together: a single byte at a variable offset does not verify (LLVM turns `p + 1 > end` into `p >= end`,
/// from which the verifier learns nothing).
#[repr(C, align(2))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair(pub [u8; 2]);

// SAFETY: two bytes.
unsafe impl Plain for Pair {}
// SAFETY: an integer.
unsafe impl Plain for u16 {}

/// A frame in user space: tests, the simulation, captures.
impl Packet for &[u8] {
    fn length(&self) -> usize {
        self.len()
    }

    fn load<T: Plain>(&self, offset: usize) -> Option<T> {
        T::from_bytes(self.get(offset..offset.checked_add(size_of::<T>())?)?)
    }
}

/// A frame in a buffer of fixed capacity, for tests and tools in user space.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    bytes: [u8; Self::CAPACITY],
    length: usize,
}

impl Frame {
    /// The longest frame it holds.
    pub const CAPACITY: usize = 2048;

    /// A copy of the bytes; `None` if there are more than [`Self::CAPACITY`].
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut frame = Self { bytes: [0; Self::CAPACITY], length: bytes.len() };
        frame.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(frame)
    }

    /// The frame's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl core::fmt::Debug for Frame {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.bytes()).finish()
    }
}

impl Packet for Frame {
    fn length(&self) -> usize {
        self.length
    }

    fn load<T: Plain>(&self, offset: usize) -> Option<T> {
        self.bytes().load(offset)
    }
}

impl PacketMut for Frame {
    fn store<T: Plain>(&mut self, offset: usize, value: T) -> Option<()> {
        let end = offset.checked_add(size_of::<T>())?;
        self.bytes[..self.length].get_mut(offset..end)?.copy_from_slice(value.as_bytes());
        Some(())
    }

    fn resize(&mut self, length: usize) -> Option<()> {
        if length > Self::CAPACITY {
            return None;
        }
        if let Some(gained) = self.bytes.get_mut(self.length..length) {
            gained.fill(0);
        }
        self.length = length;
        Some(())
    }
}
