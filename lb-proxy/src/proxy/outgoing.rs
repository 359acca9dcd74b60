//! A request on its way to one backend: its head, and its body as far as that has come. An
//! [`Upload`] is what all attempts of a request share, this is one attempt's.

use std::{
    io,
    task::{Context, Poll},
    time::Instant,
};

use lb_common::clock;
use lb_http::{
    h1::encode,
    message::{Fields, Name, Request, RequestBody},
};

use super::{
    error::ClientError,
    sides::{Sides, Silences, send},
    upload::Upload,
};
use crate::{
    local::Local,
    net::{
        outbox::{ENOUGH, Outbox},
        pipe::{Bypass, Failed, Moved},
        stream::Stream,
    },
};

#[derive(Debug)]
pub struct Outgoing {
    out: Outbox,
    body: RequestBody,
    /// The request's fields, if its `Connection` may name trailers.
    nominating: Option<Box<Fields>>,
    pub state: State,
    /// It may be sent again after a backend has got something of it.
    may_repeat: bool,
    /// How much of the body that is kept has been sent.
    sent: usize,
    /// Where the body goes if it is long and not kept.
    bypass: Bypass,
    /// When all of a request with a body was sent.
    pub completed: Option<Instant>,
    /// The backend was slower than its client.
    pub was_blocked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// More is to come from the client.
    Waiting,
    /// The backend takes no more at the moment.
    Blocked,
    Done,
    /// The backend takes no more at all. It may have answered all the same.
    Broken,
}

impl Outgoing {
    /// `head` is the request's, as it goes out.
    pub fn new(request: &Request, head: Vec<u8>) -> Self {
        let may_nominate =
            request.body == RequestBody::Chunked && request.fields.get(Name::Connection).is_some();
        Self {
            out: Outbox::with(head),
            body: request.body,
            nominating: may_nominate.then(|| Box::new(request.fields.clone())),
            state: State::Waiting,
            may_repeat: request.method.is_idempotent(),
            sent: 0,
            bypass: Bypass::default(),
            completed: None,
            was_blocked: false,
        }
    }

    /// Memory that it holds.
    pub fn capacity(&self) -> usize {
        self.out.capacity() + self.bypass.capacity()
    }

    /// Whether something of it went to the backend.
    pub fn has_begun(&self) -> bool {
        self.out.written() > 0
    }

    /// It will not go on.
    pub fn break_off(&mut self) {
        self.state = State::Broken;
    }

    /// What is kept of its body is going to be forgotten. If not all of that is sent, no more can be.
    pub fn forgets(&mut self, upload: &Upload) {
        if self.sent < upload.kept().len() {
            self.break_off();
        }
        self.sent = 0;
    }

    pub fn recycle(&mut self, local: &Local) {
        local.recycle_buffer(self.out.take());
    }

    /// Moves it to the backend, as far as both sides let it.
    ///
    /// # Errors
    /// If no more of the body comes.
    pub fn advance(
        &mut self,
        to: &mut Stream,
        sides: &mut Sides<'_>,
        silences: &mut Silences,
        cx: &mut Context<'_>,
    ) -> Result<(), ClientError> {
        let before = self.out.written();
        let advanced = self.send(to, sides, silences, cx);
        if self.out.written() != before {
            silences.backend.broken();
        }
        if !self.may_repeat && self.has_begun() && self.sent == sides.upload.kept().len() {
            self.forgets(sides.upload);
            sides.upload.forget(sides.local);
        }
        advanced
    }

    fn send(
        &mut self,
        to: &mut Stream,
        sides: &mut Sides<'_>,
        silences: &mut Silences,
        cx: &mut Context<'_>,
    ) -> Result<(), ClientError> {
        while matches!(self.state, State::Waiting | State::Blocked) {
            if ENOUGH < self.out.len() && !self.flush(to, cx) {
                return Ok(());
            }
            if self.may_bypass(to, sides) {
                match self.poll_bypass(to, sides, silences, cx)? {
                    Poll::Ready(()) => continue,
                    Poll::Pending => return Ok(()),
                }
            }
            let is_chunked = self.body == RequestBody::Chunked;
            let Sides { local, down, upload, .. } = sides;
            let kept = upload.kept();
            if self.sent < kept.len() {
                let result = send(&mut self.out, to, cx, &kept[self.sent..], is_chunked);
                self.sent = kept.len();
                self.went(result);
            } else if upload.completed().is_some() {
                if is_chunked {
                    let trailers = down.body.trailers();
                    match &self.nominating {
                        Some(head) => encode::last_chunk_after(self.out.bytes(), head, trailers),
                        None => encode::last_chunk(self.out.bytes(), trailers),
                    }
                    // It is not to be written twice.
                    self.body = RequestBody::None;
                }
                if self.flush(to, cx) && self.state != State::Broken {
                    self.state = State::Done;
                    // Without a body, that is when the attempt began.
                    self.completed = (sides.upload.received > 0).then(clock::now);
                }
                return Ok(());
            } else {
                let out = &mut self.out;
                let next = upload.poll_next(down, local, cx, |cx, payload| {
                    send(out, to, cx, payload, is_chunked)
                });
                match next {
                    Poll::Ready(result) => {
                        self.sent = sides.upload.kept().len();
                        silences.client.broken();
                        self.went(result?);
                    }
                    Poll::Pending => {
                        if self.flush(to, cx) && self.state != State::Broken {
                            self.state = State::Waiting;
                        }
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the body goes on past this process.
    fn may_bypass(&mut self, to: &Stream, sides: &Sides<'_>) -> bool {
        let Sides { local, down, upload, .. } = sides;
        let is_bare = to.is_bare() && down.stream.is_bare();
        let is_long = down.body.left().is_some_and(|left| Bypass::WORTH_IT <= left);
        if is_long
            && is_bare
            && !upload.is_replayable()
            && down.input.is_empty()
            && !local.is_full()
        {
            self.bypass.open(&local.pipes);
        }
        self.bypass.is_open()
    }

    /// One step on that way.
    fn poll_bypass(
        &mut self,
        to: &mut Stream,
        sides: &mut Sides<'_>,
        silences: &mut Silences,
        cx: &mut Context<'_>,
    ) -> Result<Poll<()>, ClientError> {
        if !self.flush(to, cx) {
            return Ok(Poll::Pending);
        }
        if self.state == State::Broken {
            return Ok(Poll::Ready(()));
        }
        let Sides { local, down, upload, .. } = sides;
        // What was read meanwhile, to see whether the client is there, comes before the rest.
        let left = down.body.left().filter(|_| down.input.is_empty()).unwrap_or(0);
        let (bypass, from) = (&mut self.bypass, &mut down.stream);
        let Some(moved) = bypass.poll_move(&local.pipes, from, to, left, cx) else {
            return Ok(Poll::Ready(()));
        };
        match moved {
            Poll::Ready(Ok(Moved::In(bytes))) => {
                upload.went_past(down, bytes);
                silences.client.broken();
            }
            Poll::Ready(Ok(Moved::Out(bytes))) => self.out.went_past(bytes),
            Poll::Ready(Ok(Moved::End)) => {
                down.ended = Some(clock::now());
                return Err(ClientError::Truncated);
            }
            Poll::Ready(Err(Failed::From(_))) => return Err(ClientError::Gone),
            Poll::Ready(Err(Failed::To(error))) => self.went(Err(error)),
            Poll::Pending => {
                if self.bypass.is_empty() {
                    self.state = State::Waiting;
                } else {
                    self.block();
                }
                return Ok(Poll::Pending);
            }
        }
        Ok(Poll::Ready(()))
    }

    /// Returns whether nothing waits for the backend any more.
    fn flush(&mut self, to: &mut Stream, cx: &mut Context<'_>) -> bool {
        match self.out.poll_flush(to, cx) {
            Poll::Ready(result) => {
                self.went(result);
                true
            }
            Poll::Pending => {
                self.block();
                false
            }
        }
    }

    fn block(&mut self) {
        self.state = State::Blocked;
        self.was_blocked = true;
    }

    fn went(&mut self, written: io::Result<()>) {
        if written.is_err() {
            self.state = State::Broken;
            drop(self.out.take());
        }
    }
}
