//! The keyed hash of both worlds.
//!
//! Multilinear hashing over 32-bit words (Lemire and Kaser, "Strongly universal string hashing is fast", 2014): the sum of
//! `key[i] × word[i]` modulo 2⁶⁴, one independent multiplication a word, then the finaliser of MurmurHash3, because the low
//! bits of the sum depend on few bits of the words. With a secret key nobody can prepare flows that share a line of `FLOWS`.

/// The key: one multiplier a word, and a constant.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HashKey {
    /// The constant term, then the multipliers.
    pub terms: [u64; MAX_WORDS + 1],
}

/// The most words that can be hashed.
pub const MAX_WORDS: usize = 15;

impl HashKey {
    /// Stretches 256 bits of seed to a key (SplitMix64 over the seed's words in turn).
    pub fn expand(seed: [u64; 4]) -> Self {
        let mut state = 0_u64;
        let mut terms = [0; MAX_WORDS + 1];
        for (i, term) in terms.iter_mut().enumerate() {
            state = mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ seed[i % 4]);
            *term = state;
        }
        Self { terms }
    }

    /// The hash of up to [`MAX_WORDS`] words; more are not looked at.
    #[inline(always)]
    pub fn hash<const N: usize>(&self, words: [u32; N]) -> u64 {
        const { assert!(N <= MAX_WORDS) };
        let mut sum = self.terms[0];
        let mut i = 0;
        while i < N {
            sum = sum.wrapping_add(self.terms[i + 1].wrapping_mul(words[i] as u64));
            i += 1;
        }
        mix(sum)
    }
}

/// Spreads every bit of the input over all of the output (MurmurHash3's 64-bit finaliser; a bijection).
#[inline(always)]
pub const fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes of different versions must agree on rows: these values are frozen with [`crate::layout::ALGORITHM_VERSION`].
    #[test]
    fn is_frozen() {
        let key = HashKey::expand([1, 2, 3, 4]);
        assert_eq!(key.hash([]), FROZEN[0]);
        assert_eq!(key.hash([1, 2, 3]), FROZEN[1]);
        assert_eq!(HashKey::expand([0; 4]).hash([0xffff_ffff; 15]), FROZEN[2]);
    }

    const FROZEN: [u64; 3] = [0x3a3c_7f8a_d167_625a, 0xace4_b4e8_e566_6d29, 0x2303_91b0_b9e3_40d1];

    #[test]
    fn every_word_and_the_key_count() {
        let words = [7; 15];
        let hash = |seed, words: [u32; 15]| HashKey::expand(seed).hash(words);
        for i in 0..15 {
            let mut other = words;
            other[i] ^= 1;
            assert_ne!(hash([0; 4], words), hash([0; 4], other), "word {i}");
        }
        for i in 0..4 {
            let mut seed = [0; 4];
            seed[i] = 1;
            assert_ne!(hash([0; 4], words), hash(seed, words), "seed {i}");
        }
    }

    /// Consecutive ports of one client, the most regular input there is, must fill buckets as chance would.
    #[test]
    fn consecutive_ports_spread_evenly() {
        let key = HashKey::expand([9, 8, 7, 6]);
        let mut buckets = [0_u32; 64];
        for port in 0..64_000_u32 {
            buckets[(key.hash([1, 2, 3, port]) % 64) as usize] += 1;
        }
        let chi_squared: f64 = buckets.iter().map(|&n| (f64::from(n) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi_squared < 120.0, "chi² of 63 degrees of freedom: {chi_squared}");
    }
}
