//! What reading a body finds, whatever its coding.

use std::ops::Range;

/// What was found in bytes of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Where the body's own bytes are now, without any framing.
    pub payload: Range<usize>,
    /// How many bytes belong to the body and its framing. What comes after is of the next message.
    pub consumed: usize,
    /// The body is complete.
    pub is_end: bool,
}

/// Why a body cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("{0}")]
    Malformed(&'static str),
    #[error("the body ends early")]
    Truncated,
}
