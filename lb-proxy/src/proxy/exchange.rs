//! One request and its response through one connection to a backend, both ways at once: the client's
//! body flows on while the response comes, and neither side waits for the other to be done.
//!
//! # Invariants
//!
//! - Bytes are read when the side that they are for has taken what came before. What waits in between
//!   is what one read found.
//! - Every wait has a deadline, and every deadline somebody whose fault it is.

use std::{
    future::poll_fn,
    io,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use http::StatusCode;
use lb_common::clock;
use lb_http::{
    h1::{BodyDecoder, BodyError, HeadParser, Limits, ResponseError, encode},
    message::{Fields, Method, Name, Request, RequestBody, Response, ResponseBody, Version},
};

use super::{
    error::{AttemptError, ClientError},
    sides::{Sides, Silence},
};
use crate::{
    downstream::Downstream,
    local::Local,
    metrics::RouteMetrics,
    net::{hot::Filled, outbox::Outbox},
    upstream::lease::Lease,
};

/// What is done at one backend. Dropping it closes the backend's connection.
#[derive(Debug)]
pub struct Exchange {
    pub lease: Lease,
    pub response: Response,
    method: Method,
    version: Version,
    /// The client has asked to be told to go on with its body, and was not told yet.
    expects_continue: bool,
    asks_for_upgrade: bool,
    out: Outbox,
    request_body: RequestBody,
    /// The request's fields, if its `Connection` may name trailers.
    nominating: Option<Box<Fields>>,
    sending: Sending,
    /// How much of the body that is kept has been sent.
    sent: usize,
    /// When all of the request was sent to this backend.
    sent_all: Option<Instant>,
    parser: HeadParser,
    /// A head that has come in part.
    head: Vec<u8>,
    /// What the last read found besides.
    rest: Option<Filled>,
    received: u64,
    interims: u8,
    decoder: BodyDecoder,
    /// To the client.
    body: ResponseBody,
    /// All of the response has come.
    is_received: bool,
    /// Bytes came that belong to no response.
    has_extra: bool,
    /// Of the response's body, to the client.
    pub delivered: u64,
    /// The backend was said to have done its part.
    is_credited: bool,
    client: Silence,
    backend: Silence,
}

/// Why no response's head came.
#[derive(Debug)]
pub enum HeadError {
    /// The connection was closed before anything was written to it.
    Unsent,
    /// A connection that had idled was closed before a byte of the response: most likely the
    /// backend had closed it before it got the request.
    Stale,
    Failed(AttemptError),
}

/// Why a response that had begun did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    ClientGone,
    /// It takes nothing.
    ClientSlow,
    BackendClosed,
    BackendSilent,
    Malformed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    /// More is to come from the client.
    Waiting,
    /// The backend takes no more at the moment.
    Blocked,
    Done,
    /// The backend takes no more at all. It may have answered all the same.
    Broken,
}

/// So many may come before a response (RFC 9110, section 15.2, sets no limit).
const MOST_INTERIMS: u8 = 16;
const HEAD_LIMITS: Limits = Limits { head: 64 * 1024, fields: 100, target: 16 * 1024 };
/// Of a response that is not passed on.
const DISMISSED_BYTES: usize = 64 * 1024;
const DISMISSED_TIME: Duration = Duration::from_secs(1);
/// More than this waits for a side, and nothing more is read for it.
const ENOUGH: usize = 16 * 1024;

impl Exchange {
    /// `head` is the request's, as it goes out; it asks for an upgrade if `asks_for_upgrade`.
    pub fn new(
        local: &Local,
        lease: Lease,
        request: &Request,
        head: Vec<u8>,
        asks_for_upgrade: bool,
    ) -> Box<Self> {
        // It goes through many hands.
        Box::new(Self {
            lease,
            response: local.response(),
            method: request.method,
            version: request.version,
            expects_continue: request.expects_continue,
            asks_for_upgrade,
            out: Outbox::with(head),
            request_body: request.body,
            nominating: (request.body == RequestBody::Chunked
                && request.fields.get(Name::Connection).is_some())
            .then(|| Box::new(request.fields.clone())),
            sending: Sending::Waiting,
            sent: 0,
            sent_all: None,
            parser: HeadParser::default(),
            head: Vec::new(),
            rest: None,
            received: 0,
            interims: 0,
            decoder: BodyDecoder::Empty,
            body: ResponseBody::None,
            is_received: false,
            has_extra: false,
            delivered: 0,
            is_credited: false,
            client: Silence::default(),
            backend: Silence::default(),
        })
    }

    /// Statuses of responses that were read are proper ones.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.response.status).unwrap_or(StatusCode::BAD_GATEWAY)
    }

    /// The backend has done its part, unless it answered with a 5xx. Said of it once.
    pub fn credit(&mut self, local: &Local) {
        if !self.is_credited && self.response.status < 500 {
            self.is_credited = true;
            local.record_success(&self.lease.pick);
        }
    }

    /// Whether the backend has got all of the request.
    pub fn is_request_sent(&self) -> bool {
        self.sending == Sending::Done
    }

    /// Sends the request and waits for the response's head.
    pub fn poll_head(
        &mut self,
        sides: &mut Sides<'_>,
        started: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), HeadError>> {
        // The response first: if it says that the attempt has failed, what of the body has not gone
        // yet is for the next one.
        loop {
            match self.read_head(sides, cx) {
                Poll::Ready(Ok(true)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        self.poll_upload(sides, cx).map_err(|error| HeadError::Failed(error.into()))?;
        let gone = |_| HeadError::Failed(ClientError::Gone.into());
        if let Poll::Ready(flushed) = sides.down.outbox.poll_flush(&mut sides.down.stream, cx) {
            flushed.map_err(gone)?;
        }
        if self.sending != Sending::Waiting {
            sides.down.watch(sides.local, cx).map_err(gone)?;
        }
        sides.down.hold(sides.upload.capacity() + self.out.capacity() + self.head.capacity());
        let (deadline, error) = self.head_deadline(sides, started);
        sides.down.client.timer.poll_expired(deadline, cx).map(|()| Err(HeadError::Failed(error)))
    }

    /// When the wait for the head is over, and what that will have been.
    fn head_deadline(&mut self, sides: &Sides<'_>, started: Instant) -> (Instant, AttemptError) {
        let limits = sides.deadlines;
        match (self.sending, sides.upload.completed()) {
            (Sending::Waiting, _) => (self.client.until(limits.body), ClientError::Slow.into()),
            (Sending::Blocked, _) => {
                let limit =
                    limits.per_try.map_or(limits.response, |limit| limit.min(limits.response));
                (self.backend.until(limit), AttemptError::NotTaken(limit))
            }
            (Sending::Broken, None) => {
                (self.backend.until(limits.response), AttemptError::Timeout(limits.response))
            }
            (Sending::Done | Sending::Broken, completed) => {
                let mut deadline = completed.unwrap_or(started) + limits.response;
                if let Some(limit) = limits.per_try {
                    let since = self.sent_all.unwrap_or(started).max(started);
                    deadline = deadline.min(since + limit);
                }
                let mut error = AttemptError::Timeout(deadline.saturating_duration_since(started));
                if let Some(ended) = sides.down.ended
                    && ended + limits.half_closed < deadline
                {
                    deadline = ended + limits.half_closed;
                    error = ClientError::Gone.into();
                }
                (deadline, error)
            }
        }
    }

    /// Moves the client's body to the backend, as far as both sides let it.
    fn poll_upload(
        &mut self,
        sides: &mut Sides<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), ClientError> {
        while matches!(self.sending, Sending::Waiting | Sending::Blocked) {
            if ENOUGH < self.out.len() && !self.flush_upload(cx) {
                return Ok(());
            }
            let is_chunked = self.request_body == RequestBody::Chunked;
            let Self { out, lease, .. } = self;
            let Sides { local, down, upload, .. } = sides;
            let kept = upload.kept();
            if self.sent < kept.len() {
                let result = send(out, &mut lease.stream, cx, &kept[self.sent..], is_chunked);
                self.sent = kept.len();
                self.went(result);
            } else if upload.completed().is_some() {
                if is_chunked {
                    let trailers = down.body.trailers();
                    match &self.nominating {
                        Some(head) => encode::last_chunk_after(out.bytes(), head, trailers),
                        None => encode::last_chunk(out.bytes(), trailers),
                    }
                    // It is not to be written twice.
                    self.request_body = RequestBody::None;
                }
                if self.flush_upload(cx) && self.sending != Sending::Broken {
                    self.sending = Sending::Done;
                    // Without a body, that is when the attempt began.
                    self.sent_all = (sides.upload.received > 0).then(clock::now);
                }
                return Ok(());
            } else {
                let next = upload.poll_next(down, local, cx, |cx, payload| {
                    send(out, &mut lease.stream, cx, payload, is_chunked)
                });
                match next {
                    Poll::Ready(result) => {
                        self.sent = sides.upload.kept().len();
                        self.client.broken();
                        self.expects_continue = false;
                        self.went(result?);
                    }
                    Poll::Pending => {
                        if self.flush_upload(cx) && self.sending != Sending::Broken {
                            self.sending = Sending::Waiting;
                        }
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns whether nothing waits for the backend any more.
    fn flush_upload(&mut self, cx: &mut Context<'_>) -> bool {
        let before = self.out.written();
        let flushed = self.out.poll_flush(&mut self.lease.stream, cx);
        if self.out.written() != before {
            self.backend.broken();
        }
        match flushed {
            Poll::Ready(result) => {
                self.went(result);
                true
            }
            Poll::Pending => {
                self.sending = Sending::Blocked;
                false
            }
        }
    }

    fn went(&mut self, written: io::Result<()>) {
        if written.is_err() {
            self.sending = Sending::Broken;
            drop(self.out.take());
        }
    }

    /// Reads the next head: `true` if it is the response's, `false` if it is one before that.
    fn read_head(
        &mut self,
        sides: &mut Sides<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, HeadError>> {
        let filled = match self.rest.take() {
            Some(rest) => rest,
            None => match ready!(sides.local.hot.poll_fill(&mut self.lease.stream, cx)) {
                Ok(filled) if !filled.is_empty() => filled,
                Ok(_) | Err(_) => return Poll::Ready(Err(self.closed())),
            },
        };
        self.received += filled.len() as u64;
        let Self { response, parser, head, method, .. } = self;
        let (had, read) = sides.local.hot.with(filled, |bytes| {
            if head.is_empty() {
                let read = response.read(parser, bytes, &HEAD_LIMITS, *method);
                if matches!(read, Ok(None)) {
                    head.extend_from_slice(bytes);
                }
                (0, read)
            } else {
                let had = head.len();
                head.extend_from_slice(bytes);
                (had, response.read(parser, head, &HEAD_LIMITS, *method))
            }
        });
        let malformed = |what| HeadError::Failed(AttemptError::Malformed(what));
        match read {
            Ok(None) => Poll::Ready(Ok(false)),
            Ok(Some(length)) => {
                self.head = Vec::new();
                self.parser = HeadParser::default();
                self.rest = Some(filled.after(length - had)).filter(|rest| !rest.is_empty());
                self.received -= self.rest.map_or(0, Filled::len) as u64;
                Poll::Ready(self.understand(sides).map_err(malformed))
            }
            Err(ResponseError::Malformed(what)) => Poll::Ready(Err(malformed(what))),
            Err(ResponseError::TooLong) => Poll::Ready(Err(malformed("the head is too long"))),
            Err(ResponseError::TooManyFields) => {
                Poll::Ready(Err(malformed("the head has too many fields")))
            }
        }
    }

    /// Whether this head is the response's. What comes before that is passed on.
    fn understand(&mut self, sides: &mut Sides<'_>) -> Result<bool, &'static str> {
        if self.response.status == 101 && !self.asks_for_upgrade {
            return Err("101 to a request for no upgrade");
        }
        if !self.response.is_interim() {
            return Ok(true);
        }
        self.interims += 1;
        if MOST_INTERIMS < self.interims {
            return Err("too many interim responses");
        }
        // 100 is for who asked for it, once.
        let is_wanted = self.response.status != 100 || self.expects_continue;
        if self.response.status == 100 {
            self.expects_continue = false;
        }
        // HTTP/1.0 knows none. A client that does not read what came before gets none either.
        if is_wanted && self.version >= Version::Http11 && sides.down.outbox.len() < ENOUGH {
            let to = encode::ToClient {
                body: ResponseBody::None,
                version: self.version,
                keeps_alive: true,
                date: b"",
                explain: None,
            };
            encode::response(sides.down.outbox.bytes(), &self.response, &to);
        }
        self.response.clear();
        Ok(false)
    }

    /// The connection ended before the response's head.
    fn closed(&self) -> HeadError {
        match (self.lease.is_reused && self.received == 0, self.out.written()) {
            (true, 0) => HeadError::Unsent,
            (true, _) => HeadError::Stale,
            (false, _) => HeadError::Failed(AttemptError::Closed),
        }
    }

    /// The response is to be the answer, framed for the client as `to` says.
    pub fn begin(&mut self, sides: &mut Sides<'_>, to: &encode::ToClient<'_>) {
        sides.upload.forget(sides.local);
        self.body = to.body;
        self.decoder = BodyDecoder::of_response(self.response.body);
        encode::response(sides.down.outbox.bytes(), &self.response, to);
        self.is_received = self.decoder.is_end();
        // A HEAD's answer has no chunks.
        if self.is_received {
            self.body = ResponseBody::None;
        }
    }

    /// Moves the response to the client, and the rest of the request to the backend meanwhile. Ready
    /// when all of the response was written.
    pub fn poll_response(
        &mut self,
        sides: &mut Sides<'_>,
        metrics: &RouteMetrics,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        let before = sides.down.outbox.written();
        let result = self.move_response(sides, cx);
        if sides.down.outbox.written() != before {
            self.client.broken();
        }
        if let Poll::Ready(result) = result {
            return Poll::Ready(result);
        }
        match self.sending {
            Sending::Waiting | Sending::Blocked => {
                if self.poll_upload(sides, cx).is_err() {
                    // It may still read what it asked for.
                    self.sending = Sending::Broken;
                }
            }
            Sending::Done | Sending::Broken => {
                if sides.down.watch(sides.local, cx).is_err() {
                    return Poll::Ready(Err(Broken::ClientGone));
                }
            }
        }
        sides.down.count(metrics);
        sides.down.hold(self.out.capacity() + self.decoder.buffered());
        let (mut deadline, mut broken) = match sides.down.outbox.is_empty() {
            false => (Some(self.client.until(sides.deadlines.write)), Broken::ClientSlow),
            true => {
                let limit = sides.deadlines.stream_idle;
                (limit.map(|limit| self.backend.until(limit)), Broken::BackendSilent)
            }
        };
        if let Some(ended) = sides.down.ended
            && sides.down.outbox.is_empty()
        {
            // Whatever is to come, its client will not have waited for it.
            self.credit(sides.local);
            // It may read on, as long as there is something to read.
            let silent = self.backend.until(sides.deadlines.half_closed);
            let gone = silent.max(ended + sides.deadlines.half_closed);
            if deadline.is_none_or(|deadline| gone < deadline) {
                (deadline, broken) = (Some(gone), Broken::ClientGone);
            }
        }
        match deadline {
            Some(deadline) => {
                sides.down.client.timer.poll_expired(deadline, cx).map(|()| Err(broken))
            }
            None => Poll::Pending,
        }
    }

    fn move_response(
        &mut self,
        sides: &mut Sides<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        let gone = |_| Broken::ClientGone;
        loop {
            if self.is_received || ENOUGH < sides.down.outbox.len() {
                let Downstream { outbox, stream, .. } = &mut *sides.down;
                ready!(outbox.poll_flush(stream, cx)).map_err(gone)?;
            }
            if self.is_received {
                return Poll::Ready(Ok(()));
            }
            let filled = match self.rest.take() {
                Some(rest) => rest,
                None => match sides.local.hot.poll_fill(&mut self.lease.stream, cx) {
                    Poll::Ready(Ok(filled)) => filled,
                    Poll::Ready(Err(_)) => return broke_off(sides, Broken::BackendClosed, cx),
                    Poll::Pending => {
                        let Downstream { outbox, stream, .. } = &mut *sides.down;
                        if let Poll::Ready(flushed) = outbox.poll_flush(stream, cx) {
                            flushed.map_err(gone)?;
                        }
                        return Poll::Pending;
                    }
                },
            };
            self.backend.broken();
            if filled.is_empty() {
                if self.decoder.end().is_err() {
                    return broke_off(sides, Broken::BackendClosed, cx);
                }
                if self.body == ResponseBody::Chunked {
                    encode::last_chunk(sides.down.outbox.bytes(), None);
                }
                self.is_received = true;
                continue;
            }
            match self.pass_on(sides, filled, cx) {
                Ok(passed) => passed.map_err(gone)?,
                Err(_) => return broke_off(sides, Broken::Malformed, cx),
            }
        }
    }

    fn pass_on(
        &mut self,
        sides: &mut Sides<'_>,
        filled: Filled,
        cx: &mut Context<'_>,
    ) -> Result<io::Result<()>, BodyError> {
        let Self { decoder, body, response, .. } = self;
        let Downstream { outbox, stream, .. } = &mut *sides.down;
        let (is_end, extra, delivered, passed) = sides.local.hot.with(filled, |bytes| {
            let decoded = decoder.decode(bytes)?;
            let payload = &bytes[decoded.payload];
            let is_chunked = *body == ResponseBody::Chunked;
            let passed = send(outbox, stream, cx, payload, is_chunked);
            if decoded.is_end && is_chunked {
                encode::last_chunk_after(outbox.bytes(), &response.fields, decoder.trailers());
            }
            Ok((decoded.is_end, decoded.consumed < bytes.len(), payload.len(), passed))
        })?;
        self.is_received = is_end;
        self.has_extra |= extra;
        self.delivered += delivered as u64;
        Ok(passed)
    }

    /// The response has ended. Its connection serves on, if nothing speaks against it.
    pub fn finish(mut self: Box<Self>, local: &Rc<Local>) {
        let is_clean = self.is_received
            && !self.has_extra
            && self.rest.is_none()
            && self.sending == Sending::Done
            && self.response.keeps_alive();
        local.recycle_response(self.response);
        local.recycle_buffer(self.out.take());
        if is_clean {
            self.lease.give_back(local);
        }
    }

    /// Another attempt follows. What is left of the response is read, so that its connection can be
    /// used again, unless that is long or takes long.
    pub fn dismiss(mut self: Box<Self>, local: &Rc<Local>) {
        if self.sending != Sending::Done || !self.response.keeps_alive() {
            return;
        }
        self.decoder = BodyDecoder::of_response(self.response.body);
        self.is_received = self.decoder.is_end();
        if let Some(rest) = self.rest.take()
            && self.skip(local, rest).is_err()
        {
            return;
        }
        if self.is_received {
            return self.finish(local);
        }
        let local = Rc::clone(local);
        tokio::task::spawn_local(async move {
            let read = async {
                let mut left = DISMISSED_BYTES;
                while !self.is_received && left > 0 {
                    let filled =
                        poll_fn(|cx| local.hot.poll_fill(&mut self.lease.stream, cx)).await;
                    let Ok(filled) = filled else { return };
                    if filled.is_empty() || self.skip(&local, filled).is_err() {
                        return;
                    }
                    left = left.saturating_sub(filled.len());
                }
            };
            // What is longer or slower than that is cut off by dropping it.
            let _ = tokio::time::timeout(DISMISSED_TIME, read).await;
            self.finish(&local);
        });
    }

    fn skip(&mut self, local: &Local, filled: Filled) -> Result<(), BodyError> {
        let Self { decoder, .. } = self;
        let decoded = local.hot.with(filled, |bytes| decoder.decode(bytes))?;
        self.is_received = decoded.is_end;
        self.has_extra |= decoded.consumed < filled.len();
        Ok(())
    }

    /// What follows a 101 is no HTTP. Returns the backend's connection, and what has come of it.
    pub fn into_tunnel(self: Box<Self>, local: &Local) -> (Lease, Vec<u8>) {
        let early = match self.rest {
            Some(rest) => local.hot.with(rest, |bytes| bytes.to_vec()),
            None => Vec::new(),
        };
        local.recycle_response(self.response);
        (self.lease, early)
    }
}

/// The response breaks off. What came of it is written first, if the client takes it at once.
fn broke_off(sides: &mut Sides<'_>, how: Broken, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
    let Downstream { outbox, stream, .. } = &mut *sides.down;
    // What the client does not take it would not get to see anyway.
    let _ = outbox.poll_flush(stream, cx);
    Poll::Ready(Err(how))
}

/// Puts a piece of a body on its way.
fn send(
    out: &mut Outbox,
    stream: &mut crate::net::stream::Stream,
    cx: &mut Context<'_>,
    payload: &[u8],
    is_chunked: bool,
) -> io::Result<()> {
    match (is_chunked, payload.is_empty()) {
        (_, true) => Ok(()),
        (false, false) => out.send(stream, cx, payload, b""),
        (true, false) => {
            encode::chunk_begin(out.bytes(), payload.len());
            out.send(stream, cx, payload, encode::CRLF)
        }
    }
}
