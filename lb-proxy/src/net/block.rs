//! A piece of memory with bytes in a part of it: what is used of them in front costs no copy.

use std::ops::{Deref, DerefMut, Range};

/// Derefs to its bytes.
#[derive(Debug, Default)]
pub struct Block {
    memory: Vec<u8>,
    start: usize,
    end: usize,
}

impl Block {
    /// `memory` with its bytes in this range of it.
    pub fn new(memory: Vec<u8>, range: Range<usize>) -> Self {
        debug_assert!(range.start <= range.end && range.end <= memory.len());
        Self { memory, start: range.start, end: range.end }
    }

    /// Memory that it holds, in bytes.
    pub fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    /// Puts these behind its bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        let end = self.end + bytes.len();
        match self.memory.get_mut(self.end..end) {
            Some(room) => room.copy_from_slice(bytes),
            None => {
                // What is used is not kept, or this would grow for as long as something is left.
                self.memory.truncate(self.end);
                self.memory.drain(..self.start);
                self.memory.extend_from_slice(bytes);
                self.start = 0;
                self.end = self.memory.len();
                return;
            }
        }
        self.end = end;
    }

    /// The first bytes are used.
    pub fn consume(&mut self, bytes: usize) {
        self.start = (self.start + bytes).min(self.end);
    }

    /// All but this range of its bytes is used.
    pub fn narrow(&mut self, range: Range<usize>) {
        self.end = (self.start + range.end).min(self.end);
        self.consume(range.start);
    }

    /// Its bytes alone.
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.memory.truncate(self.end);
        self.memory.drain(..self.start);
        self.memory
    }

    /// Its memory, whatever is in it.
    pub fn into_memory(self) -> Vec<u8> {
        self.memory
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_bytes_are_those_that_came_and_are_not_used() {
        let mut block = Block::new(b"xxabcdexx".to_vec(), 2..7);
        assert_eq!(&*block, b"abcde");
        block.consume(1);
        block.extend(b"f");
        assert_eq!((&*block, block.memory.len()), (&b"bcdef"[..], 9), "where there was room");
        block.extend(b"ghi");
        assert_eq!(&*block, b"bcdefghi");
        block.narrow(1..4);
        assert_eq!(&*block, b"cde");
        block[0] = b'C';
        assert_eq!(block.into_bytes(), b"Cde");
    }

    #[test]
    fn it_does_not_grow_while_as_much_is_used_as_comes() {
        let mut block = Block::default();
        block.extend(b"ab");
        for _ in 0..1_000 {
            block.extend(b"cdef");
            block.consume(4);
        }
        assert_eq!(&*block, b"ef");
        assert!(block.capacity() < 100, "{}", block.capacity());
    }

    #[test]
    fn using_more_than_there_is_uses_all() {
        let mut block = Block::new(vec![0; 4], 0..3);
        block.consume(9);
        assert!(block.is_empty());
        block.extend(b"ab");
        assert_eq!(&*block, b"ab");
    }
}
