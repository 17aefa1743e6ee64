//! The Internet checksum (RFC 1071), kept right by what changes (RFC 1624).

/// A one's complement sum of 16-bit words, taken four bytes at a time: 2¹⁶ is 1 in this arithmetic, so wider words add up to
/// the same after folding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    accumulated: u64,
}

impl Sum {
    /// Nothing added yet.
    pub const ZERO: Self = Self { accumulated: 0 };

    /// Adds a word as it stands on the wire.
    #[inline(always)]
    #[must_use]
    pub const fn add(self, word: u32) -> Self {
        Self { accumulated: self.accumulated + word as u64 }
    }

    /// Takes away a word as it stood on the wire.
    #[inline(always)]
    #[must_use]
    pub const fn subtract(self, word: u32) -> Self {
        self.add(!word)
    }

    /// Adds the four words of an address.
    #[inline(always)]
    #[must_use]
    pub const fn add_words(self, words: [u32; 4]) -> Self {
        self.add(words[0]).add(words[1]).add(words[2]).add(words[3])
    }

    /// Takes away the four words of an address.
    #[inline(always)]
    #[must_use]
    pub const fn subtract_words(self, words: [u32; 4]) -> Self {
        self.subtract(words[0]).subtract(words[1]).subtract(words[2]).subtract(words[3])
    }

    /// The sum in 16 bits.
    #[inline(always)]
    const fn fold(self) -> u16 {
        let mut sum = self.accumulated;
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }

    /// The checksum field of what was added, as it stands on the wire.
    #[inline(always)]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }

    /// A checksum field after this change: `!(!old + change)` (RFC 1624 equation 3).
    #[inline(always)]
    pub const fn update(self, checksum: u16) -> u16 {
        self.add(!checksum as u32).checksum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full(words: &[u16]) -> u16 {
        let mut sum = 0_u32;
        for word in words {
            sum += u32::from(*word);
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn update_equals_recomputation(
            mut words in proptest::collection::vec(any::<u16>(), 12),
            new in any::<[u32; 4]>(),
            at in 0_usize..2,
        ) {
            // A packet of zeros alone has two representations of zero; the wire never has it, for a protocol number is added.
            words[11] |= 1;
            let before = full(&words);
            let at = at * 2;
            let old: [u32; 4] =
                core::array::from_fn(|i| u32::from(words[at + 2 * i]) | u32::from(words[at + 2 * i + 1]) << 16);
            for (i, word) in new.iter().enumerate() {
                words[at + 2 * i] = *word as u16;
                words[at + 2 * i + 1] = (*word >> 16) as u16;
            }
            prop_assert_eq!(Sum::ZERO.subtract_words(old).add_words(new).update(before), full(&words));
        }
    }

    #[test]
    fn wide_words_add_up_to_the_same() {
        // RFC 1071 section 3's example, in this machine's order.
        let words = [0x0001_u16, 0xf203, 0xf4f5, 0xf6f7].map(u16::to_be);
        let wide = Sum::ZERO
            .add(u32::from(words[0]) | u32::from(words[1]) << 16)
            .add(u32::from(words[2]) | u32::from(words[3]) << 16);
        assert_eq!(wide.checksum(), full(&words));
        assert_eq!(!wide.checksum(), 0xddf2_u16.to_be());
    }
}
