//! A TLS handshake over a socket, flight by flight. Who waits for it bounds the time, and looks at what
//! it holds between two steps.

use std::{
    io,
    rc::Rc,
    task::{Context, Poll, ready},
};

use lb_tls::{
    handshake::{Agreed, Handshake, Progress},
    session::SessionError,
};

use super::{
    hot::Hot,
    stream::Stream,
    tls::{Scratch, Tls},
};

/// One that is under way.
pub struct Shaking {
    stream: Stream,
    handshake: Handshake,
    /// What came and was not used yet.
    input: Vec<u8>,
    output: Vec<u8>,
    /// How much of it is written.
    sent: usize,
    is_done: bool,
    /// Once the other side was told, it is over.
    failed: Option<rustls::Error>,
}

/// Why there was no handshake.
#[derive(Debug, thiserror::Error)]
pub enum ShakeError {
    #[error("it went away before it was done")]
    Gone,
    #[error("it sent too much before it was done")]
    TooMuch,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Of what is read at once.
const AT_ONCE: usize = 16 * 1024;
/// Of what has come and is no whole flight; a hello of 16 KiB in records of one byte each has less.
const MOST: usize = 128 * 1024;
/// Of what rustls itself holds meanwhile; an estimate.
const STATE: usize = 8 * 1024;

impl Shaking {
    /// The other side begins, or has begun: `input` has come already.
    pub fn answering(stream: Stream, handshake: Handshake, input: Vec<u8>) -> Self {
        let mut shaking = Self::new(stream, handshake);
        shaking.input = input;
        if !shaking.input.is_empty() {
            shaking.advance();
        }
        shaking
    }

    /// This side begins.
    ///
    /// # Errors
    /// If it has nothing to begin with.
    pub fn beginning(stream: Stream, handshake: Handshake) -> Result<Self, rustls::Error> {
        let mut shaking = Self::new(stream, handshake);
        shaking.handshake.advance(&mut shaking.input, &mut shaking.output)?;
        Ok(shaking)
    }

    fn new(stream: Stream, handshake: Handshake) -> Self {
        let (input, output) = (Vec::new(), Vec::new());
        Self { stream, handshake, input, output, sent: 0, is_done: false, failed: None }
    }

    /// Memory that it holds, in bytes.
    pub fn capacity(&self) -> usize {
        self.input.capacity() + self.output.capacity() + STATE
    }

    /// Bytes that have come and are no whole flight.
    pub fn waiting(&self) -> usize {
        if self.is_done { 0 } else { self.input.len() }
    }

    /// Says what is to be said, and reads what comes. Returns whether that was all.
    pub fn poll_step(&mut self, hot: &Hot, cx: &mut Context<'_>) -> Poll<Result<bool, ShakeError>> {
        // Each flight goes out as one.
        while self.sent < self.output.len() {
            match ready!(self.stream.poll_write(cx, &self.output[self.sent..]))? {
                0 => return Poll::Ready(Err(ShakeError::Gone)),
                written => self.sent += written,
            }
        }
        self.output.clear();
        self.sent = 0;
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error.into()));
        }
        if self.is_done {
            return Poll::Ready(Ok(true));
        }
        let filled = ready!(hot.poll_fill(AT_ONCE, &mut self.stream, cx))?;
        if filled.is_empty() {
            return Poll::Ready(Err(ShakeError::Gone));
        }
        hot.with(filled, |bytes| self.input.extend_from_slice(bytes));
        self.advance();
        let has_too_much = MOST < self.waiting();
        Poll::Ready(if has_too_much { Err(ShakeError::TooMuch) } else { Ok(false) })
    }

    /// Goes on with what has come.
    fn advance(&mut self) {
        match self.handshake.advance(&mut self.input, &mut self.output) {
            Ok(progress) => self.is_done = progress == Progress::Done,
            Err(error) => self.failed = Some(error),
        }
    }

    /// What was agreed on, with the connection as it goes on.
    ///
    /// # Errors
    /// If it is not done.
    pub fn finish(self, scratch: &Rc<Scratch>) -> Result<(Tls, Agreed), ShakeError> {
        let (agreed, session) = self.handshake.finish()?;
        let Stream::Tcp(socket) = self.stream else { return Err(ShakeError::Gone) };
        Ok((Tls::new(socket, session, Rc::clone(scratch), &self.input), agreed))
    }
}
