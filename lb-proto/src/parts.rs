//! Updates that are cut into parts on their way. What one stream holds of a snapshot is a part then, however
//! large that is and however many streams there are; and nobody waits behind one large message.

use std::collections::VecDeque;

use prost::bytes::BytesMut;
use v1::update::Content;

use crate::{MAX_MESSAGE_BYTES, v1};

/// Of a part, in bytes.
const PART: usize = 32 * 1024;

/// The update in parts: the last one says what they are of.
pub fn cut(mut update: v1::Update) -> VecDeque<v1::Update> {
    let mut parts = VecDeque::new();
    if let Some(Content::Full(rest) | Content::Delta(rest)) = &mut update.content {
        while rest.len() > PART {
            let part = Some(Content::Part(rest.split_to(PART)));
            parts.push_back(v1::Update { content: part, ..v1::Update::default() });
        }
    }
    parts.push_back(update);
    parts
}

/// What came of an update.
#[derive(Debug, Default)]
pub struct Assembly(BytesMut);

/// More came than any update has.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an update is larger than {MAX_MESSAGE_BYTES} bytes")]
pub struct TooLarge;

// === impl Assembly ===

impl Assembly {
    /// Takes the next part, and returns the update once it is whole.
    ///
    /// # Errors
    /// If it would be too large.
    pub fn take(&mut self, mut update: v1::Update) -> Result<Option<v1::Update>, TooLarge> {
        let is_part = matches!(update.content, Some(Content::Part(_)));
        let Some(Content::Full(bytes) | Content::Delta(bytes) | Content::Part(bytes)) =
            &mut update.content
        else {
            return Ok(Some(update));
        };
        if self.0.len() + bytes.len() > MAX_MESSAGE_BYTES {
            return Err(TooLarge);
        }
        // What comes alone is not copied.
        if is_part || !self.0.is_empty() {
            self.0.extend_from_slice(bytes);
        }
        if is_part {
            return Ok(None);
        }
        if !self.0.is_empty() {
            *bytes = std::mem::take(&mut self.0).freeze();
        }
        Ok(Some(update))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(bytes: usize) -> v1::Update {
        let bytes: Vec<u8> = (0..bytes).map(|i| (i / 1000) as u8).collect();
        let content = Some(Content::Full(bytes.into()));
        v1::Update { revision: 7, content, ..v1::Update::default() }
    }

    fn put_together(parts: impl IntoIterator<Item = v1::Update>) -> Vec<v1::Update> {
        let mut assembly = Assembly::default();
        let taken = parts.into_iter().map(|part| assembly.take(part).expect("it is not too large"));
        taken.flatten().collect()
    }

    #[test]
    fn what_is_cut_is_put_together_again() {
        for bytes in [0, 1, PART, PART + 1, 10 * PART + 5] {
            let parts = cut(full(bytes));
            assert_eq!(parts.len(), bytes.div_ceil(PART).max(1), "{bytes}");
            assert_eq!(put_together(parts), [full(bytes)], "{bytes}");
        }
    }

    #[test]
    fn one_update_follows_another() {
        let delta = v1::Update { content: Some(Content::Delta("d".into())), ..<_>::default() };
        let nothing = v1::Update { content: None, ..<_>::default() };
        let all = [full(3 * PART), delta, nothing, full(2 * PART)];
        assert_eq!(put_together(all.iter().cloned().flat_map(cut)), all);
    }

    #[test]
    fn nobody_makes_us_hold_more_than_an_update_has() {
        let mut assembly = Assembly::default();
        let part = v1::Update {
            content: Some(Content::Part(vec![0; MAX_MESSAGE_BYTES / 4].into())),
            ..v1::Update::default()
        };
        for _ in 0..4 {
            assert_eq!(assembly.take(part.clone()), Ok(None));
        }
        assert_eq!(assembly.take(full(1)), Err(TooLarge));
    }
}
