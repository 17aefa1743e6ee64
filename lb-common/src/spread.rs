//! VIPs that all nodes answer for, each for a share of the clients.
//!
//! A client belongs to a share, by its address and the VIP alone. Shares come in blocks, which the nodes divide evenly among
//! themselves; the clients of a network have consecutive addresses, and those fill blocks without a gap. So a few dozen of them
//! are divided more evenly than chance would.

use crate::{
    hash::mix,
    layout::{Addr, SHARES, Spread},
};

/// Shares that consecutive addresses fill, a power of two.
pub const BLOCK: u32 = 64;

/// The share of a client among those of a VIP: below [`SHARES`]. Nodes must agree on it: it is frozen with
/// [`crate::layout::ALGORITHM_VERSION`]. What asks without an address (RFC 5227 2.1.1, RFC 4862 5.4.2) has a share too.
#[inline(always)]
pub fn share_of(vip: &Addr, client: &Addr) -> u32 {
    let [v0, v1, v2, v3] = vip.words;
    let [c0, c1, c2, c3] = client.words;
    let number = u32::from_be(c3);
    let mut hash = mix(pair(v0, v1));
    hash = mix(hash ^ pair(v2, v3));
    hash = mix(hash ^ pair(c0, c1));
    hash = mix(hash ^ pair(c2, number / BLOCK));
    let block = hash as u32 % (SHARES / BLOCK);
    let turn = (hash >> 32) as u32;
    block * BLOCK + (number ^ turn) % BLOCK
}

#[inline(always)]
const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

impl Spread {
    /// Whether a share is among them.
    #[inline(always)]
    pub fn has(&self, share: u32) -> bool {
        let word = self.words.get((share / 64) as usize).copied().unwrap_or(0);
        word >> (share % 64) & 1 == 1
    }

    /// Adds a share; one that does not exist is left out.
    pub fn add(&mut self, share: u32) {
        if let Some(word) = self.words.get_mut((share / 64) as usize) {
            *word |= 1 << (share % 64);
        }
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);

    fn share(client: [u8; 4]) -> u32 {
        share_of(&VIP.into(), &Ipv4Addr::from(client).into())
    }

    #[test]
    fn is_frozen() {
        assert_eq!([share([192, 0, 2, 1]), share([0; 4]), share([10, 9, 8, 7])], FROZEN);
        let vip = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x200);
        let client = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x101);
        assert_eq!(share_of(&vip.into(), &client.into()), FROZEN_V6);
    }

    const FROZEN: [u32; 3] = [672, 180, 102];
    const FROZEN_V6: u32 = 508;

    #[test]
    fn consecutive_addresses_fill_a_block_and_networks_fill_all_blocks() {
        let mut all = Spread::default();
        for third in 0..=255 {
            for quarter in 0..4_u8 {
                let mut block = Spread::default();
                (0..64).for_each(|last| block.add(share([10, 1, third, quarter * 64 + last])));
                assert_eq!(block.count(), 64);
                assert_eq!(block.words.iter().filter(|word| **word != 0).count(), 1);
                all.words.iter_mut().zip(block.words).for_each(|(all, word)| *all |= word);
            }
        }
        assert_eq!(all.count(), SHARES);
    }

    /// Of one client not all VIPs are with the same node.
    #[test]
    fn the_vip_counts() {
        let mut shares = Spread::default();
        for last in 0..=255 {
            shares.add(share_of(&Ipv4Addr::new(192, 0, 2, last).into(), &Ipv4Addr::new(10, 0, 0, 1).into()));
        }
        // 256 of 1,024 by chance.
        assert!((200..=256).contains(&shares.count()), "{}", shares.count());
    }

    #[test]
    fn a_share_that_does_not_exist_is_nobodys() {
        let mut shares = Spread::default();
        shares.add(SHARES);
        assert_eq!(shares, Spread::default());
        shares.add(SHARES - 1);
        assert!(shares.has(SHARES - 1) && !shares.has(SHARES) && !shares.has(0));
    }
}
