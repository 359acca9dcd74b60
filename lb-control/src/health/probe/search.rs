//! Whether a text is in what comes, in whatever pieces that comes.

use memchr::memmem;

/// It is looked for in the first bytes alone, so many.
pub const LOOKED_AT: usize = 64 * 1024;

/// So much of what came is shown.
const SHOWN: usize = 60;

#[derive(Debug)]
pub struct Search<'a> {
    text: &'a str,
    seen: Vec<u8>,
    is_found: bool,
}

impl<'a> Search<'a> {
    /// An empty text is found at once.
    pub fn new(text: &'a str) -> Self {
        Self { text, seen: Vec::new(), is_found: text.is_empty() }
    }

    pub fn is_found(&self) -> bool {
        self.is_found
    }

    /// Whether it cannot be found any more.
    pub fn is_over(&self) -> bool {
        !self.is_found && self.seen.len() == LOOKED_AT
    }

    pub fn add(&mut self, bytes: &[u8]) {
        if self.is_found {
            return;
        }
        // It may have begun in what came before.
        let from = self.seen.len().saturating_sub(self.text.len() - 1);
        let room = LOOKED_AT - self.seen.len();
        self.seen.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.is_found = memmem::find(&self.seen[from..], self.text.as_bytes()).is_some();
    }

    /// That it is not there, and what is.
    pub fn missing(&self) -> String {
        let text = self.text;
        if self.seen.is_empty() {
            return format!("expected {text:?}, got nothing");
        }
        let shown = &self.seen[..self.seen.len().min(SHOWN)];
        let more = if shown.len() < self.seen.len() { ".." } else { "" };
        format!("expected {text:?}, got {:?}{more}", String::from_utf8_lossy(shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(text: &str, pieces: &[&[u8]]) -> bool {
        let mut search = Search::new(text);
        pieces.iter().for_each(|piece| search.add(piece));
        search.is_found()
    }

    #[test]
    fn a_text_is_found_in_whatever_pieces_it_comes() {
        assert!(search("", &[]));
        assert!(search("ready", &[b"it is ready now"]));
        assert!(search("ready", &[b"it is re", b"a", b"dy"]));
        assert!(search("aab", &[b"aaa", b"ab"]));
        assert!(!search("ready", &[b"it is re", b"-", b"ady"]));
        assert!(!search("ready", &[b"", b"read"]));
    }

    #[test]
    fn what_comes_after_the_first_64_kib_is_not_looked_at() {
        let before = vec![b'.'; LOOKED_AT - 5];
        assert!(search("ready", &[&before, b"ready"]));
        let mut late = Search::new("ready");
        late.add(&before);
        assert!(!late.is_over());
        late.add(b".ready");
        assert!(late.is_over() && !late.is_found());
    }

    #[test]
    fn what_came_instead_is_shown_in_part() {
        let mut search = Search::new("+PONG");
        assert_eq!(search.missing(), "expected \"+PONG\", got nothing");
        search.add(b"-NOAUTH\r\n");
        assert_eq!(search.missing(), "expected \"+PONG\", got \"-NOAUTH\\r\\n\"");
        search.add(&[b'x'; 100]);
        assert!(search.missing().ends_with("xxx\".."), "{}", search.missing());
    }
}
