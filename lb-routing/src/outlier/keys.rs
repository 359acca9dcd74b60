//! Which keys a row of failures belongs to, for sets in which a key belongs to a backend.

use std::sync::atomic::{AtomicU64, Ordering};

/// What consistent hashing goes by, told apart from others well enough: two keys are taken for one
/// once in 64 times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key(u8);

/// The keys of one backend's row.
#[derive(Debug, Default)]
pub struct Keys(AtomicU64);

/// More than this need not be told apart.
pub const MOST: u32 = 16;

// === impl Key ===

impl Key {
    /// Of a key's hash, in which any bits may be alike: crc32 has no high ones.
    pub fn of(hash: u64) -> Self {
        // A multiplication carries all bits into the highest. Source: Knuth, "The Art of Computer
        // Programming", volume 3, section 6.4.
        Self((hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58) as u8)
    }
}

// === impl Keys ===

impl Keys {
    /// Returns how many there are with this one. The first of a row forgets those of the row before.
    pub fn insert(&self, key: Key, is_first: bool) -> u32 {
        let bit = 1 << key.0;
        if is_first {
            self.0.store(bit, Ordering::Relaxed);
            return 1;
        }
        (self.0.fetch_or(bit, Ordering::Relaxed) | bit).count_ones()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_counts_once_in_a_row() {
        let keys = Keys::default();
        let [a, b] = [1, 2].map(Key::of);
        assert_ne!(a, b);
        assert_eq!(keys.insert(a, true), 1);
        assert_eq!([a, b, a, b].map(|key| keys.insert(key, false)), [1, 2, 2, 2]);
        assert_eq!(keys.insert(b, true), 1, "another row");
    }

    #[test]
    fn hashes_of_32_bits_and_of_64_make_keys_that_differ() {
        for shift in [0, 32] {
            let keys = Keys::default();
            let last = (1..=1_000).map(|i| keys.insert(Key::of(i << shift), i == 1)).last();
            assert_eq!(last, Some(64), "shifted by {shift}");
        }
    }
}
