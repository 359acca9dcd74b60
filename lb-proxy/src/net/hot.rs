//! The buffer that a thread reads into: one for all of its connections, so that an idle connection
//! needs none, and what is read is still in the core's cache when it is looked at.
//!
//! # Invariant
//!
//! What was read is there until the next read of the thread. Whoever looks at it later has a
//! [`Filled`] that is out of date, which is found out and never gets to see another's bytes.

use std::{
    cell::RefCell,
    io,
    task::{Context, Poll, ready},
};

use super::stream::Stream;

#[derive(Debug)]
pub struct Hot(RefCell<Buffer>);

#[derive(Debug)]
struct Buffer {
    bytes: Box<[u8]>,
    /// Reads so far.
    generation: u64,
}

/// What one read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    generation: u64,
    start: usize,
    end: usize,
}

impl Hot {
    pub fn new(size: usize) -> Self {
        Self(RefCell::new(Buffer { bytes: vec![0; size].into(), generation: 0 }))
    }

    /// Reads. Finds nothing at the end of the stream only.
    pub fn poll_fill(&self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<Filled>> {
        let mut buffer = self.0.borrow_mut();
        let end = ready!(stream.poll_read(cx, &mut buffer.bytes))?;
        buffer.generation += 1;
        Poll::Ready(Ok(Filled { generation: buffer.generation, start: 0, end }))
    }

    /// Shows what a read found. Nothing may be read meanwhile.
    ///
    /// # Panics
    /// If something was read since.
    pub fn with<T>(&self, filled: Filled, look: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut buffer = self.0.borrow_mut();
        assert_eq!(buffer.generation, filled.generation, "the bytes are another's by now");
        look(&mut buffer.bytes[filled.start..filled.end])
    }
}

impl Filled {
    pub fn len(self) -> usize {
        self.end - self.start
    }

    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Without its first bytes.
    pub fn after(self, bytes: usize) -> Self {
        Self { start: (self.start + bytes).min(self.end), ..self }
    }
}
