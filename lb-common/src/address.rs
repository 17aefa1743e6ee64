//! Addresses and ports as they stand on the wire and in maps.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv6 address, or an IPv4 address in its v4-mapped form; network order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Addr {
    /// Four words as they stand on the wire.
    pub words: [u32; 4],
}

impl Addr {
    /// `::`, the unspecified address.
    pub const UNSPECIFIED: Self = Self { words: [0; 4] };

    /// The v4-mapped form of an IPv4 address given as it stands on the wire.
    #[inline(always)]
    pub const fn from_v4_wire(word: u32) -> Self {
        Self { words: [0, 0, 0xffff_u32.to_be(), word] }
    }

    /// Whether this is an IPv4 address in its v4-mapped form.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == 0xffff_u32.to_be()
    }

    /// Whether this is `::`.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.words[0] | self.words[1] | self.words[2] | self.words[3] == 0
    }

    /// The address as a number, for printing and ordering in user space.
    pub fn to_ip(self) -> IpAddr {
        let mut octets = [0; 16];
        for (octets, word) in octets.chunks_exact_mut(4).zip(self.words) {
            octets.copy_from_slice(&word.to_ne_bytes());
        }
        Ipv6Addr::from(octets).to_canonical()
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(address: Ipv4Addr) -> Self {
        Self::from_v4_wire(u32::from_ne_bytes(address.octets()))
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(address: Ipv6Addr) -> Self {
        let o = address.octets();
        let word = |i: usize| u32::from_ne_bytes([o[i], o[i + 1], o[i + 2], o[i + 3]]);
        Self { words: [word(0), word(4), word(8), word(12)] }
    }
}

impl From<IpAddr> for Addr {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

/// An Ethernet address, as three words of its six bytes as they stand on the wire.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Mac {
    /// The six bytes, two by two.
    pub words: [u16; 3],
}

impl Mac {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self { words: [0xffff; 3] };

    /// Whether the group bit is set: broadcast and multicast (IEEE 802.3 3.2.3).
    #[inline(always)]
    pub const fn is_group(&self) -> bool {
        self.words[0] & 1 == 1
    }

    /// The six bytes.
    pub fn octets(self) -> [u8; 6] {
        let [[a, b], [c, d], [e, f]] = self.words.map(u16::to_ne_bytes);
        [a, b, c, d, e, f]
    }
}

impl From<[u8; 6]> for Mac {
    fn from(o: [u8; 6]) -> Self {
        Self { words: [[o[0], o[1]], [o[2], o[3]], [o[4], o[5]]].map(u16::from_ne_bytes) }
    }
}

/// A port in network order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Port {
    /// The number as it stands on the wire.
    pub wire: u16,
}

impl Port {
    /// A port by its number.
    #[inline(always)]
    pub const fn new(number: u16) -> Self {
        Self { wire: number.to_be() }
    }

    /// The port's number.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        u16::from_be(self.wire)
    }
}
