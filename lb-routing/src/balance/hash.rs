//! Hashes that all proxies of a fleet agree on: fixed functions and fixed seeds.
//!
//! What is computed here decides which backend a key belongs to. Changing any of it moves nearly
//! all keys, and a fleet of two versions disagrees until the last proxy is replaced; a test pins
//! the values. None of this keeps out a client that chooses its keys: the seeds are public.

use lb_common::{id::BackendName, spec::HashFunction};
use xxhash_rust::xxh3;

/// Keeps a backend's name from hashing like a key of the same text.
const NAME_SEED: u64 = 0x6c62_2d62_6163_6b64;

/// The hash of a key.
///
/// crc32 is there for keys that something else hashes, too. It is linear and has 32 bits: keys
/// that differ in one character differ by a constant, whatever the rest of them is. [`spread`]
/// undoes the pattern, but collisions remain.
pub fn hash(function: HashFunction, key: &[u8]) -> u64 {
    match function {
        HashFunction::Xxh3 => xxh3::xxh3_64(key),
        HashFunction::Crc32 => spread(u64::from(crc32fast::hash(key))),
    }
}

/// The hash of what a backend is called, which outlives its address.
pub fn name(name: &BackendName) -> u64 {
    xxh3::xxh3_64_with_seed(name.as_str().as_bytes(), NAME_SEED)
}

/// Each bit of the result depends on each bit of `x`, and different `x` stay different.
///
/// The finaliser of splitmix64. Source: S. Vigna, <https://prng.di.unimi.it/splitmix64.c>.
pub fn spread(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// `hash` scaled to `0..n` by a multiplication, which is cheaper than a remainder and goes by the
/// high bits. Source: D. Lemire, "Fast Random Integer Generation in an Interval", 2019.
pub fn scale(hash: u64, n: usize) -> usize {
    ((u128::from(hash) * n as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_what_every_proxy_of_the_fleet_computes() {
        assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926, "the check value of CRC-32");
        assert_eq!(spread(0), 0xe220_a839_7b1d_cdaf, "splitmix64's first output for seed 0");
        let text = BackendName::new("10.0.0.1:80").expect("an address is a name");
        let actual = [
            hash(HashFunction::Xxh3, b""),
            hash(HashFunction::Xxh3, b"/users/42"),
            hash(HashFunction::Crc32, b"/users/42"),
            name(&text),
        ];
        assert_eq!(
            actual.map(|h| format!("{h:016x}")),
            ["2d06800538d394c2", "a7d8d2c93539d950", "c29b93b0c08ae406", "d1b26b6aee09e727"]
        );
        assert_ne!(name(&text), hash(HashFunction::Xxh3, b"10.0.0.1:80"));
    }

    /// The fullest of 64 buckets, in hundredths of a bucket's share.
    fn fullest(hashes: impl Iterator<Item = u64>) -> usize {
        let mut buckets = [0; 64];
        let mut count = 0;
        for hash in hashes {
            buckets[scale(hash, 64)] += 1;
            count += 1;
        }
        buckets.into_iter().max().expect("64 buckets") * 6_400 / count
    }

    #[test]
    fn keys_that_differ_in_one_character_spread() {
        for function in [HashFunction::Xxh3, HashFunction::Crc32] {
            let keys = (b'!'..=b'~').flat_map(|a| (b'!'..=b'~').map(move |b| [b'/', a, b, b'/']));
            let fullest = fullest(keys.map(|key| hash(function, &key)));
            assert!(fullest < 135, "{function:?}: {fullest}%, of 138 keys a bucket");
        }
    }

    #[test]
    fn one_flipped_bit_flips_half_the_bits() {
        let mut rng = fastrand::Rng::with_seed(1);
        for bit in 0..64 {
            let flipped: u32 = (0..1_000)
                .map(|_| rng.u64(..))
                .map(|x| (spread(x) ^ spread(x ^ (1 << bit))).count_ones())
                .sum();
            assert!((31_000..33_000).contains(&flipped), "bit {bit}: {flipped} of 64,000");
        }
    }
}
