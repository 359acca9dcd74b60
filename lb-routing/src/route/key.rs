//! The two texts that routes are found by, as a [`super::trie::Trie`] reads them.

/// A text that is looked up. It is read from one end to the other.
pub trait Key {
    fn len(&self) -> usize;

    /// Whether it goes on with `label` after its first `length` bytes.
    fn goes_on_with(&self, length: usize, label: &[u8]) -> bool;

    /// What follows its first `length` bytes.
    fn after(&self, length: usize) -> Option<u8>;

    /// Whether a route for all keys that begin as this one, up to `length`, takes it.
    fn is_taken_at(&self, length: usize) -> bool;
}

/// Prefixes take whole segments, or any text if they end in a slash.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a>(pub &'a [u8]);

/// Read from its end, because routes are for suffixes of it.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a>(&'a [u8]);

// === impl Path ===

impl Key for Path<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn goes_on_with(&self, length: usize, label: &[u8]) -> bool {
        self.0.get(length..).is_some_and(|rest| rest.starts_with(label))
    }

    fn after(&self, length: usize) -> Option<u8> {
        self.0.get(length).copied()
    }

    fn is_taken_at(&self, length: usize) -> bool {
        let ends_in_slash = length == 0 || self.0.get(length - 1) == Some(&b'/');
        ends_in_slash || self.0.get(length).is_none_or(|c| *c == b'/')
    }
}

// === impl Host ===

impl<'a> Host<'a> {
    /// Of an authority: without its port. A dot at its end does not count.
    pub fn of(authority: &'a [u8]) -> Self {
        let end = match authority {
            [b'[', ..] => memchr::memchr(b']', authority).map_or(authority.len(), |end| end + 1),
            _ => memchr::memchr(b':', authority).unwrap_or(authority.len()),
        };
        let host = &authority[..end];
        Self(host.strip_suffix(b".").unwrap_or(host))
    }

    /// As it is written, in lower case.
    pub fn to_lower(self) -> String {
        String::from_utf8_lossy(self.0).to_ascii_lowercase()
    }

    fn before_end(self, at: usize) -> Option<u8> {
        let at = self.0.len().checked_sub(at + 1)?;
        self.0.get(at).map(u8::to_ascii_lowercase)
    }
}

impl Key for Host<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn goes_on_with(&self, length: usize, label: &[u8]) -> bool {
        label.iter().zip(length..).all(|(c, at)| self.before_end(at) == Some(*c))
    }

    fn after(&self, length: usize) -> Option<u8> {
        self.before_end(length)
    }

    /// A wildcard's suffix begins with its dot, and stands for at least one more character.
    fn is_taken_at(&self, length: usize) -> bool {
        length == 0 || length < self.0.len()
    }
}
