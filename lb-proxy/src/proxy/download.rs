//! A response's body on its way to the client, the counterpart of an [`Upload`](super::upload::Upload).
//!
//! A long body of known length goes past this process, through a pipe: that halves what it costs. All
//! others go through the thread's buffer.

use std::{
    io,
    task::{Context, Poll, ready},
};

use lb_http::{
    h1::{BodyDecoder, BodyError, encode},
    message::{Fields, Response, ResponseBody},
};

use super::sides::{Sides, Silence, send};
use crate::{
    downstream::Downstream,
    local::Local,
    net::{
        hot::Filled,
        outbox::ENOUGH,
        pipe::{Bypass, Failed, Moved},
        stream::Stream,
    },
};

#[derive(Debug)]
pub struct Download {
    decoder: BodyDecoder,
    /// To the client.
    framing: ResponseBody,
    /// What the last read found, and nobody has looked at yet.
    rest: Option<Filled>,
    /// Where it goes if it is long.
    bypass: Bypass,
    /// To the client.
    pub delivered: u64,
    /// To nobody.
    pub skipped: u64,
    /// All of it has come.
    is_received: bool,
    /// Bytes came that belong to no response.
    has_extra: bool,
}

/// Why a response that had begun did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    ClientGone,
    /// It takes nothing.
    ClientSlow,
    /// It does not go on with its request, for which the backend may be waiting.
    ClientSilent,
    BackendClosed,
    BackendSilent,
    Malformed,
}

impl Download {
    /// What follows a response's head, and is framed for the client like this. `rest` has come with
    /// the head.
    pub fn new(response: &Response, framing: ResponseBody, rest: Option<Filled>) -> Self {
        let decoder = BodyDecoder::of_response(response.body);
        let is_received = decoder.is_end();
        // A HEAD's answer has no chunks.
        let framing = if is_received { ResponseBody::None } else { framing };
        Self {
            decoder,
            framing,
            rest,
            bypass: Bypass::default(),
            delivered: 0,
            skipped: 0,
            is_received,
            has_extra: false,
        }
    }

    /// Whether all of it has come, and nothing besides.
    pub fn is_clean(&self) -> bool {
        self.is_received && !self.has_extra && self.rest.is_none()
    }

    /// Whether the client is to take something before more of it is read.
    pub fn waits_for_client(&self, down: &Downstream) -> bool {
        !(down.outbox.is_empty() && self.bypass.is_empty())
    }

    /// Memory that it holds.
    pub fn capacity(&self) -> usize {
        self.decoder.buffered() + self.bypass.capacity()
    }

    /// Moves it to the client. Ready when all of it was written. `head` has the response's fields;
    /// `silence` is told when something comes.
    pub fn poll(
        &mut self,
        from: &mut Stream,
        head: &Fields,
        sides: &mut Sides<'_>,
        silence: &mut Silence,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        let gone = |_| Broken::ClientGone;
        loop {
            let Downstream { outbox, stream, .. } = &mut *sides.down;
            // What was read already is there now, and not after waiting.
            if self.is_received || (self.rest.is_none() && ENOUGH < outbox.len()) {
                ready!(outbox.poll_flush(stream, cx)).map_err(gone)?;
            }
            if self.is_received {
                return Poll::Ready(Ok(()));
            }
            if self.may_bypass(sides.local, from, stream) {
                ready!(self.poll_bypass(from, sides, silence, cx))?;
                continue;
            }
            let filled = match self.rest.take() {
                Some(rest) => rest,
                None => match sides.local.poll_fill(from, cx) {
                    Poll::Ready(Ok(filled)) => filled,
                    Poll::Ready(Err(_)) => return broke_off(sides, Broken::BackendClosed, cx),
                    Poll::Pending => {
                        if let Poll::Ready(flushed) = outbox.poll_flush(stream, cx) {
                            flushed.map_err(gone)?;
                        }
                        return Poll::Pending;
                    }
                },
            };
            silence.broken();
            if filled.is_empty() {
                if self.decoder.end().is_err() {
                    return broke_off(sides, Broken::BackendClosed, cx);
                }
                if self.framing == ResponseBody::Chunked {
                    encode::last_chunk(outbox.bytes(), None);
                }
                self.is_received = true;
                continue;
            }
            match self.pass_on(filled, head, sides, cx) {
                Ok(passed) => passed.map_err(gone)?,
                Err(_) => return broke_off(sides, Broken::Malformed, cx),
            }
        }
    }

    fn pass_on(
        &mut self,
        filled: Filled,
        head: &Fields,
        sides: &mut Sides<'_>,
        cx: &mut Context<'_>,
    ) -> Result<io::Result<()>, BodyError> {
        let Self { decoder, framing, .. } = self;
        let Downstream { outbox, stream, .. } = &mut *sides.down;
        let (is_end, extra, delivered, passed) = sides.local.hot.with(filled, |bytes| {
            let decoded = decoder.decode(bytes)?;
            let payload = &bytes[decoded.payload];
            let is_chunked = *framing == ResponseBody::Chunked;
            let passed = send(outbox, stream, cx, payload, is_chunked);
            if decoded.is_end && is_chunked {
                encode::last_chunk_after(outbox.bytes(), head, decoder.trailers());
            }
            Ok((decoded.is_end, decoded.consumed < bytes.len(), payload.len(), passed))
        })?;
        self.is_received = is_end;
        self.has_extra |= extra;
        self.delivered += delivered as u64;
        Ok(passed)
    }

    /// Whether it goes on past this process.
    fn may_bypass(&mut self, local: &Local, from: &Stream, to: &Stream) -> bool {
        let is_bare = from.is_bare() && to.is_bare();
        let is_long = self.decoder.left().is_some_and(|left| Bypass::WORTH_IT <= left);
        if is_long && is_bare && self.rest.is_none() && !local.is_full() {
            self.bypass.open(&local.pipes);
        }
        self.bypass.is_open()
    }

    /// One step on that way.
    fn poll_bypass(
        &mut self,
        from: &mut Stream,
        sides: &mut Sides<'_>,
        silence: &mut Silence,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        let Downstream { outbox, stream, .. } = &mut *sides.down;
        ready!(outbox.poll_flush(stream, cx)).map_err(|_| Broken::ClientGone)?;
        let (left, pipes) = (self.decoder.left().unwrap_or(0), &sides.local.pipes);
        let Some(moved) = self.bypass.poll_move(pipes, from, stream, left, cx) else {
            return Poll::Ready(Ok(()));
        };
        match ready!(moved) {
            Ok(Moved::In(bytes)) => {
                self.decoder.skip(bytes as u64);
                silence.broken();
            }
            Ok(Moved::Out(bytes)) => {
                outbox.went_past(bytes);
                self.delivered += bytes as u64;
                self.is_received = self.decoder.is_end() && self.bypass.is_empty();
            }
            Ok(Moved::End) | Err(Failed::From(_)) => {
                return Poll::Ready(Err(Broken::BackendClosed));
            }
            Err(Failed::To(_)) => return Poll::Ready(Err(Broken::ClientGone)),
        }
        Poll::Ready(Ok(()))
    }

    /// Reads on what nobody is to get. Returns whether that is all.
    ///
    /// # Errors
    /// If the backend breaks it off.
    pub fn poll_skip(
        &mut self,
        from: &mut Stream,
        local: &Local,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, Broken>> {
        if self.is_received {
            return Poll::Ready(Ok(true));
        }
        let filled = match self.rest.take() {
            Some(rest) => rest,
            None => match ready!(local.poll_fill(from, cx)) {
                Ok(filled) if !filled.is_empty() => filled,
                Ok(_) | Err(_) => return Poll::Ready(Err(Broken::BackendClosed)),
            },
        };
        let decoder = &mut self.decoder;
        let decoded = local.hot.with(filled, |bytes| decoder.decode(bytes));
        let decoded = decoded.map_err(|_| Broken::Malformed)?;
        self.is_received = decoded.is_end;
        self.has_extra |= decoded.consumed < filled.len();
        self.skipped += decoded.consumed as u64;
        Poll::Ready(Ok(self.is_received))
    }

    /// What has come, if it is not looked at as a body.
    pub fn into_rest(self) -> Option<Filled> {
        self.rest
    }
}

/// The response breaks off. What came of it is written first, if the client takes it at once.
fn broke_off(sides: &mut Sides<'_>, how: Broken, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
    let Downstream { outbox, stream, .. } = &mut *sides.down;
    // What the client does not take it would not get to see anyway.
    let _ = outbox.poll_flush(stream, cx);
    Poll::Ready(Err(how))
}
