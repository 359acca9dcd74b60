//! Bytes of which each knows its place, so that what is lost, doubled or moved on the way is seen.

/// Repeats after a prime number of bytes, which is no multiple of anybody's buffer.
const PERIOD: usize = 65_521;

/// An endless stream of bytes.
#[derive(Clone, Debug)]
pub struct Pattern(Vec<u8>);

// === impl Pattern ===

impl Default for Pattern {
    fn default() -> Self {
        let mut random = fastrand::Rng::with_seed(1);
        let once: Vec<u8> = (0..PERIOD).map(|_| random.u8(..)).collect();
        Self([&once[..], &once[..]].concat())
    }
}

impl Pattern {
    /// So many bytes of it from this place on, or as many as can be had at once.
    pub fn from(&self, place: u64, length: u64) -> &[u8] {
        let start = (place % PERIOD as u64) as usize;
        let length = usize::try_from(length).unwrap_or(PERIOD).min(PERIOD);
        &self.0[start..start + length]
    }

    /// Whether these bytes are those from this place on.
    pub fn is_at(&self, place: u64, bytes: &[u8]) -> bool {
        let mut place = place;
        bytes.chunks(PERIOD).all(|bytes| {
            let expected = self.from(place, bytes.len() as u64);
            place += bytes.len() as u64;
            bytes == expected
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_or_moved_is_seen() {
        let pattern = Pattern::default();
        let bytes: Vec<u8> =
            (0..4).flat_map(|i| pattern.from(i * 60_000, 60_000).to_vec()).collect();
        assert!(pattern.is_at(0, &bytes));
        assert!(pattern.is_at(70_000, &bytes[70_000..]));
        for moved in [1, 4_096, 16_384, 65_536, 131_072] {
            assert!(!pattern.is_at(0, &bytes[moved..]), "{moved} bytes lost");
        }
        let mut changed = bytes.clone();
        changed[123_456] ^= 1;
        assert!(!pattern.is_at(0, &changed));
    }
}
