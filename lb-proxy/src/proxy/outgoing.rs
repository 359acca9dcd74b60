//! A request on its way to one backend: its head, and its body as far as that has come. An
//! [`Upload`](super::upload::Upload) is what all attempts of a request share, this is one attempt's.

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
};
use crate::{
    local::Local,
    net::{
        outbox::{ENOUGH, Outbox},
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
    /// How much of the body that is kept has been sent.
    sent: usize,
    /// When all of a request with a body was sent.
    pub completed: Option<Instant>,
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
            sent: 0,
            completed: None,
        }
    }

    /// Memory that it holds.
    pub fn capacity(&self) -> usize {
        self.out.capacity()
    }

    /// Whether something of it went to the backend.
    pub fn has_begun(&self) -> bool {
        self.out.written() > 0
    }

    /// It will not go on.
    pub fn break_off(&mut self) {
        self.state = State::Broken;
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
        while matches!(self.state, State::Waiting | State::Blocked) {
            if ENOUGH < self.out.len() && !self.flush(to, silences, cx) {
                return Ok(());
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
                if self.flush(to, silences, cx) && self.state != State::Broken {
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
                        if self.flush(to, silences, cx) && self.state != State::Broken {
                            self.state = State::Waiting;
                        }
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns whether nothing waits for the backend any more.
    fn flush(&mut self, to: &mut Stream, silences: &mut Silences, cx: &mut Context<'_>) -> bool {
        let before = self.out.written();
        let flushed = self.out.poll_flush(to, cx);
        if self.out.written() != before {
            silences.backend.broken();
        }
        match flushed {
            Poll::Ready(result) => {
                self.went(result);
                true
            }
            Poll::Pending => {
                self.state = State::Blocked;
                false
            }
        }
    }

    fn went(&mut self, written: io::Result<()>) {
        if written.is_err() {
            self.state = State::Broken;
            drop(self.out.take());
        }
    }
}
