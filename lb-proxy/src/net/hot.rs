//! The buffer that a thread reads into: one for all of its connections, so that an idle connection
//! needs none, and what is read is still in the core's cache when it is looked at.
//!
//! Who needs much of it for longer takes the buffer itself, and another one takes its place: that is
//! cheaper than copying.
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

use super::{block::Block, stream::Stream};

#[derive(Debug)]
pub struct Hot(RefCell<Buffer>);

#[derive(Debug)]
struct Buffer {
    memory: Vec<u8>,
    /// Of the same size, to take its place.
    spares: Vec<Vec<u8>>,
    /// How many spares there were at least since the last sweep.
    unused: usize,
    /// Reads so far.
    generation: u64,
}

/// So many buffers that were taken are used again, if that is soon.
const SPARES: usize = 64;
/// What fills one in so many of the buffer, or more, is not copied out of it.
const ONE_IN: usize = 4;

/// What one read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    generation: u64,
    start: usize,
    end: usize,
}

impl Hot {
    pub fn new(size: usize) -> Self {
        let memory = vec![0; size];
        Self(RefCell::new(Buffer { memory, spares: Vec::new(), unused: 0, generation: 0 }))
    }

    /// Reads, `most` bytes at most. Finds nothing at the end of the stream only.
    pub fn poll_fill(
        &self,
        most: usize,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Filled>> {
        let mut buffer = self.0.borrow_mut();
        let most = most.min(buffer.memory.len());
        let end = ready!(stream.poll_read(cx, &mut buffer.memory[..most]))?;
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
        look(&mut buffer.memory[filled.start..filled.end])
    }

    /// The buffer itself with what a read found, if that is much of it.
    ///
    /// # Panics
    /// If something was read since.
    pub fn take(&self, filled: Filled) -> Option<Block> {
        let buffer = &mut *self.0.borrow_mut();
        assert_eq!(buffer.generation, filled.generation, "the bytes are another's by now");
        let size = buffer.memory.len();
        if filled.len() < size / ONE_IN {
            return None;
        }
        // There is nothing to be found here any more.
        buffer.generation += 1;
        let next = buffer.spares.pop().unwrap_or_else(|| vec![0; size]);
        buffer.unused = buffer.unused.min(buffer.spares.len());
        let memory = std::mem::replace(&mut buffer.memory, next);
        Some(Block::new(memory, filled.start..filled.end))
    }

    /// Uses memory again that was taken here. Returns what was not.
    pub fn recycle(&self, memory: Vec<u8>) -> Option<Vec<u8>> {
        let buffer = &mut *self.0.borrow_mut();
        if memory.len() != buffer.memory.len() {
            return Some(memory);
        }
        if buffer.spares.len() < SPARES {
            buffer.spares.push(memory);
        }
        None
    }

    /// Gives back to the system what was not needed since the last call.
    pub fn sweep(&self) {
        let buffer = &mut *self.0.borrow_mut();
        buffer.spares.drain(..buffer.unused);
        buffer.unused = buffer.spares.len();
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
