//! Bytes on their way out. As a rule they are written at once; what the socket does not take waits
//! here, and whoever fills it stops meanwhile.

use std::{
    io::{self, IoSlice},
    task::{Context, Poll, ready},
};

use super::stream::Stream;

#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// How many of them are written.
    sent: usize,
    /// All that was ever written.
    written: u64,
}

/// More than this waits, and nothing more is read for this side.
pub const ENOUGH: usize = 16 * 1024;
/// Up to this, copying bytes behind those that wait is cheaper than handing the kernel a list.
const COPY: usize = 16 * 1024;

impl Outbox {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn written(&self) -> u64 {
        self.written
    }

    /// Memory that it holds, in bytes.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// To append to.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// These bytes wait.
    pub fn with(bytes: Vec<u8>) -> Self {
        Self { bytes, sent: 0, written: 0 }
    }

    /// Gives its memory back; what waits is lost.
    pub fn take(&mut self) -> Vec<u8> {
        self.sent = 0;
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        bytes
    }

    /// Writes all that waits.
    pub fn poll_flush(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            let written = ready!(stream.poll_write(cx, &self.bytes[self.sent..]))?;
            self.advance(written)?;
        }
        self.bytes.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Puts `payload` and then `tail` behind what waits. If that is much, it is written at once as
    /// far as the socket takes it; if not, it waits for [`poll_flush`](Self::poll_flush), so that
    /// small pieces go out together.
    pub fn send(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        payload: &[u8],
        tail: &[u8],
    ) -> io::Result<()> {
        if COPY < payload.len() {
            let slices = [&self.bytes[self.sent..], payload, tail].map(IoSlice::new);
            let first = usize::from(self.is_empty());
            let last = if tail.is_empty() { 2 } else { 3 };
            let waiting = self.len();
            if let Poll::Ready(written) = match &slices[first..last] {
                // The cheaper system call, and the common case.
                [only] => stream.poll_write(cx, only),
                several => stream.poll_write_vectored(cx, several),
            } {
                let written = written?;
                self.advance(written.min(waiting))?;
                let of_payload = written.saturating_sub(waiting).min(payload.len());
                let of_tail = written.saturating_sub(waiting + payload.len());
                self.written += (of_payload + of_tail) as u64;
                if self.is_empty() {
                    self.clear();
                }
                self.bytes.extend_from_slice(&payload[of_payload..]);
                self.bytes.extend_from_slice(&tail[of_tail..]);
            } else {
                self.bytes.extend_from_slice(payload);
                self.bytes.extend_from_slice(tail);
            }
        } else {
            self.bytes.extend_from_slice(payload);
            self.bytes.extend_from_slice(tail);
        }
        Ok(())
    }

    /// Writes `payload` at once, as far as the socket takes it and nothing waits before it. The rest
    /// waits.
    pub fn pass(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        payload: &[u8],
    ) -> io::Result<()> {
        let mut passed = 0;
        if self.is_empty()
            && !payload.is_empty()
            && let Poll::Ready(written) = stream.poll_write(cx, payload)
        {
            passed = written?;
            self.written += passed as u64;
        }
        self.bytes.extend_from_slice(&payload[passed..]);
        Ok(())
    }

    /// So many bytes were written past it.
    pub fn went_past(&mut self, bytes: usize) {
        self.written += bytes as u64;
    }

    fn advance(&mut self, written: usize) -> io::Result<()> {
        if written == 0 && !self.is_empty() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.sent += written;
        self.written += written as u64;
        Ok(())
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
    }
}
