//! A connection's bytes through TLS, once its handshake is done.
//!
//! What comes is read into one buffer of the thread's and opened into the one that its reader has; what
//! goes is sealed into another one and written from there. So a connection that idles holds its keys
//! and nothing else. Only a record that has come in part, and what the socket did not take, wait with
//! the connection.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use lb_tls::{
    fault::Fault,
    record::{self, MOST_PLAIN, MOST_RECORD, OVERHEAD, RecordError},
    session::{Opened, Session, SessionError},
};

use super::{block::Block, socket::Socket};

#[derive(Debug)]
pub struct Tls {
    pub socket: Socket,
    session: Session,
    scratch: Rc<Scratch>,
    /// Sealed: records that nobody has opened yet, the last one in part.
    input: Vec<u8>,
    /// Opened, and not read yet.
    ready: Block,
    /// Sealed, and not written yet.
    output: Vec<u8>,
    /// How much of `output` is written.
    written: usize,
    /// So much of what is written next is in `output` already.
    sealed: usize,
    /// The other side has said that nothing more comes.
    has_ended: bool,
    /// Once all of `output` is written, the other side is told that nothing more comes.
    is_ending: bool,
    /// What went before is not all.
    is_cut: bool,
    /// Found when nobody read.
    failed: Option<io::Error>,
}

/// A thread's buffers.
#[derive(Debug, Default)]
pub struct Scratch(RefCell<Buffers>);

/// They take no memory before they are used.
#[derive(Debug, Default)]
struct Buffers {
    input: Vec<u8>,
    output: Vec<u8>,
    /// Where small pieces become one record.
    gathered: Vec<u8>,
}

/// Of what is read at once, sealed.
const INPUT: usize = 128 * 1024;
/// Of what is written at once, sealed: what fits into it is not divided.
const OUTPUT: usize = 136 * 1024;

impl Buffers {
    fn prepare(&mut self) {
        if self.input.is_empty() {
            self.input.resize(INPUT, 0);
            self.output.resize(OUTPUT, 0);
            self.gathered.reserve(MOST_PLAIN);
        }
    }
}

impl Tls {
    /// `input` has come behind the handshake.
    pub fn new(socket: Socket, session: Session, scratch: Rc<Scratch>, input: &[u8]) -> Self {
        Self {
            socket,
            session,
            scratch,
            input: input.to_vec(),
            ready: Block::default(),
            output: Vec::new(),
            written: 0,
            sealed: 0,
            has_ended: false,
            is_ending: false,
            is_cut: false,
            failed: None,
        }
    }

    /// Memory that it holds in buffers, in bytes.
    pub fn capacity(&self) -> usize {
        self.input.capacity() + self.ready.capacity() + self.output.capacity()
    }

    /// Whether something has come that a read would find without asking the socket.
    pub fn has_ready(&self) -> bool {
        let length = record::length(&self.input);
        self.has_ended
            || self.failed.is_some()
            || !self.ready.is_empty()
            || !matches!(length, Ok(length) if length.is_none_or(|length| self.input.len() < length))
    }

    /// Whether something has come that nobody has got yet.
    pub fn is_amid(&self) -> bool {
        !(self.input.is_empty() && self.ready.is_empty())
    }

    /// Returns how many bytes came; none at the end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        if !self.output.is_empty() {
            // What is said between the two ends waits for no writer. If it fails, so does reading.
            let _ = self.poll_flush(cx)?;
        }
        if !self.ready.is_empty() {
            return Poll::Ready(Ok(self.take_ready(into)));
        }
        let scratch = Rc::clone(&self.scratch);
        let buffers = &mut *scratch.0.borrow_mut();
        buffers.prepare();
        loop {
            if self.has_ended {
                return Poll::Ready(Ok(0));
            }
            let kept = self.input.len();
            let is_whole =
                record::length(&self.input).map_err(broken)?.is_some_and(|length| length <= kept);
            let mut filled = kept;
            if !is_whole {
                // Not much more than its reader wants: what it does not take waits with the connection.
                let most = kept + (into.len() + OVERHEAD).max(MOST_RECORD);
                let most = most.min(buffers.input.len());
                let room = &mut buffers.input[kept..most];
                match ready!(self.socket.poll_read(cx, room))? {
                    0 => return Poll::Ready(self.ended_without_a_word()),
                    read => filled += read,
                }
            }
            buffers.input[..kept].copy_from_slice(&self.input);
            let opened = self.open(&buffers.input[..filled], into, cx)?;
            if opened > 0 {
                return Poll::Ready(Ok(opened));
            }
            if !self.ready.is_empty() {
                return Poll::Ready(Ok(self.take_ready(into)));
            }
        }
    }

    /// Opens what has room in `into`, and keeps the rest. Returns how much was opened.
    fn open(&mut self, sealed: &[u8], into: &mut [u8], cx: &mut Context<'_>) -> io::Result<usize> {
        let (mut rest, mut opened) = (sealed, 0);
        while let Some(length) = record::length(rest).map_err(broken)?
            && let Some((record, after)) = rest.split_at_checked(length)
            && !self.has_ended
            // What follows comes after it.
            && self.ready.is_empty()
        {
            let before = self.output.len();
            let room = &mut into[opened..];
            let result = if length <= room.len() {
                self.session.open(record, room, &mut self.output)
            } else if opened == 0 {
                // Its reader has less room than a record needs.
                let mut memory = vec![0; length];
                let result = self.session.open(record, &mut memory, &mut self.output);
                if let Ok(Opened::Data(length)) = result {
                    self.ready = Block::new(memory, 0..length);
                }
                result.map(|_| Opened::Nothing)
            } else {
                break;
            };
            if self.output.len() != before {
                let _ = self.poll_flush(cx)?;
            }
            match result.map_err(broken)? {
                Opened::Data(length) => opened += length,
                Opened::Nothing => {}
                Opened::End => self.has_ended = true,
            }
            rest = after;
        }
        if rest.is_empty() || self.has_ended {
            self.input = Vec::new();
        } else {
            self.input.clear();
            self.input.extend_from_slice(rest);
        }
        Ok(opened)
    }

    fn take_ready(&mut self, into: &mut [u8]) -> usize {
        let taken = self.ready.len().min(into.len());
        into[..taken].copy_from_slice(&self.ready[..taken]);
        self.ready.consume(taken);
        if self.ready.is_empty() {
            self.ready = Block::default();
        }
        taken
    }

    /// RFC 8446, section 6.1: without that word, an end may be anybody's doing.
    fn ended_without_a_word(&self) -> io::Result<usize> {
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "TLS ended without close_notify"))
    }

    /// Whether a read would find something that is for its reader, the end or an error.
    pub fn poll_said(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.ready.is_empty() {
            return Poll::Ready(());
        }
        if self.output.is_empty() && !self.has_ready() {
            // As a rule there is nothing, which is known without memory for it. What fails here fails
            // again when it is read.
            if ready!(self.socket.poll_readable(cx)).is_err() {
                return Poll::Ready(());
            }
        }
        let mut memory = vec![0; MOST_PLAIN];
        match ready!(self.poll_read(cx, &mut memory)) {
            Ok(0) => {}
            Ok(length) => self.ready = Block::new(memory, 0..length),
            Err(error) => self.failed = Some(error),
        }
        Poll::Ready(())
    }

    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    /// Ready once all that it says it has taken was written. What it has sealed and could not write it
    /// keeps, and expects to be given again, at the front, until it was.
    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        if self.sealed > 0 {
            return Poll::Ready(Ok(std::mem::take(&mut self.sealed)));
        }
        let scratch = Rc::clone(&self.scratch);
        let buffers = &mut *scratch.0.borrow_mut();
        buffers.prepare();
        let (taken, filled) = self.seal(slices, buffers)?;
        let sealed = &buffers.output[..filled];
        let written = match self.socket.poll_write(cx, sealed) {
            Poll::Ready(written) => written?,
            Poll::Pending => 0,
        };
        if written < filled {
            self.output.extend_from_slice(&sealed[written..]);
            self.sealed = taken;
            ready!(self.poll_flush(cx))?;
            self.sealed = 0;
        }
        Poll::Ready(Ok(taken))
    }

    /// Seals as much of them as has room. Small pieces share a record. Returns how much that was, and
    /// how much it takes.
    fn seal(
        &mut self,
        slices: &[IoSlice<'_>],
        buffers: &mut Buffers,
    ) -> io::Result<(usize, usize)> {
        let Buffers { output, gathered, .. } = buffers;
        gathered.clear();
        let (mut taken, mut filled) = (0, 0);
        for (i, slice) in slices.iter().enumerate() {
            let is_last = slices[i + 1..].iter().all(|slice| slice.is_empty());
            let mut rest = &slice[..];
            while !rest.is_empty() {
                let gathers = !gathered.is_empty() || (rest.len() < MOST_PLAIN && !is_last);
                if !gathers {
                    // What is left of whole records goes together with what follows.
                    let whole =
                        if is_last { rest.len() } else { rest.len() - rest.len() % MOST_PLAIN };
                    let (used, more) =
                        self.session.seal(&rest[..whole], &mut output[filled..]).map_err(broken)?;
                    if used == 0 {
                        return Ok((taken, filled));
                    }
                    taken += used;
                    filled += more;
                    rest = &rest[used..];
                    continue;
                }
                let (fits, after) = rest.split_at(rest.len().min(MOST_PLAIN - gathered.len()));
                gathered.extend_from_slice(fits);
                rest = after;
                if gathered.len() == MOST_PLAIN || (is_last && rest.is_empty()) {
                    let (used, more) =
                        self.session.seal(gathered, &mut output[filled..]).map_err(broken)?;
                    taken += used;
                    filled += more;
                    if used < gathered.len() {
                        return Ok((taken, filled));
                    }
                    gathered.clear();
                }
            }
        }
        Ok((taken, filled))
    }

    /// Writes what is sealed already.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.output.len() {
            match ready!(self.socket.poll_write(cx, &self.output[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        if !self.output.is_empty() {
            self.output = Vec::new();
            self.written = 0;
            if self.is_ending {
                self.socket.end_writing()?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the other side that nothing more comes. Whoever reads it meanwhile need not ask again.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_ending {
            self.is_ending = true;
            if !self.is_cut {
                self.session.close(&mut self.output);
            }
            if self.output.is_empty() {
                return Poll::Ready(self.socket.end_writing());
            }
        }
        self.poll_flush(cx)
    }

    /// What comes to an end now is not all that there was to be, so the end is not to look like one.
    pub fn cut(&mut self) {
        self.is_cut = true;
    }

    /// Whether it is open and nothing has come for its reader. What is between the two ends, tickets for
    /// one, is taken.
    pub fn is_silent(&mut self) -> bool {
        let nobody = &mut Context::from_waker(Waker::noop());
        self.poll_said(nobody).is_pending() && !self.is_amid()
    }
}

/// What was wrong with the server, if that is what the error is about.
pub fn fault(error: &io::Error) -> Option<Fault> {
    let inner = error.get_ref()?;
    match inner.downcast_ref::<SessionError>() {
        Some(error) => Some(error.of_server()),
        None => Some(SessionError::from(*inner.downcast_ref::<RecordError>()?).of_server()),
    }
}

/// A fault of the other side's, or of what is between.
fn broken(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests;
