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
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

use http::StatusCode;
use lb_http::{
    h1::{HeadParser, Limits, ResponseError, encode},
    message::{Method, Request, Response, ResponseBody, Version},
};
use lb_tls::fault::Fault;

use super::{
    download::{Broken, Download},
    error::{AttemptError, ClientError},
    outgoing::{Outgoing, State},
    sides::{Sides, Silences},
};
use crate::{
    local::Local,
    metrics::RouteMetrics,
    net::{
        hot::Filled,
        lookout::{Lookout, Waited},
        outbox::ENOUGH,
        tls,
    },
    upstream::{connect::ConnectError, lease::Lease},
};

/// What is done at one backend. Dropping it closes the backend's connection.
#[derive(Debug)]
pub struct Exchange {
    pub lease: Lease,
    pub response: Response,
    method: Method,
    version: Version,
    asks_for_upgrade: bool,
    outgoing: Outgoing,
    parser: HeadParser,
    /// A head that has come in part.
    head: Vec<u8>,
    /// What the last read found besides a head.
    rest: Option<Filled>,
    received: u64,
    /// The response came before all of the request was sent, or instead of a word to send it: what the
    /// backend takes what is sent for cannot be known.
    is_early: bool,
    /// Once the response's head was there.
    download: Option<Download>,
    /// The backend was said to have done its part.
    is_credited: bool,
    silences: Silences,
    /// For the client, while it is not read.
    lookout: Lookout,
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

/// So many may come for one request (RFC 9110, section 15.2, sets no limit).
const MOST_INTERIMS: u8 = 16;
const HEAD_LIMITS: Limits = Limits { head: 64 * 1024, fields: 100, target: 16 * 1024 };
/// Of a response that is not passed on.
const DISMISSED_BYTES: u64 = 64 * 1024;
const DISMISSED_TIME: Duration = Duration::from_secs(1);

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
            asks_for_upgrade,
            outgoing: Outgoing::new(request, head),
            parser: HeadParser::default(),
            head: Vec::new(),
            rest: None,
            received: 0,
            is_early: false,
            download: None,
            is_credited: false,
            silences: Silences::default(),
            lookout: Lookout::default(),
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
        self.outgoing.state == State::Done
    }

    /// Sends the request and waits for the response's head.
    pub fn poll_head(
        &mut self,
        sides: &mut Sides<'_>,
        started: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), HeadError>> {
        let failed = |error: ClientError| HeadError::Failed(error.into());
        if !self.outgoing.has_begun() {
            // Nobody was asked: on a connection that was used, it belongs to what is over.
            let is_said = self.lease.stream.poll_said(cx).is_ready();
            if is_said && self.lease.is_reused {
                return Poll::Ready(Err(HeadError::Unsent));
            }
            self.is_early = is_said;
            self.advance(sides, cx).map_err(failed)?;
        }
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
        self.advance(sides, cx).map_err(failed)?;
        if let Poll::Ready(flushed) = sides.down.outbox.poll_flush(&mut sides.down.stream, cx) {
            flushed.map_err(|_| failed(ClientError::Gone))?;
        }
        if self.outgoing.state != State::Waiting {
            sides.watch(cx).map_err(failed)?;
        }
        let held = sides.upload.capacity() + self.outgoing.capacity() + self.head.capacity();
        sides.down.hold(held + self.lease.stream.capacity());
        let (deadline, error) = self.head_deadline(sides, started);
        let waited = ready!(self.poll_wait(sides, Some(deadline), cx));
        Poll::Ready(Err(HeadError::Failed(match waited {
            Waited::Expired => error,
            Waited::Gone => ClientError::Gone.into(),
        })))
    }

    /// When the wait for the head is over, and what that will have been.
    fn head_deadline(&mut self, sides: &Sides<'_>, started: Instant) -> (Instant, AttemptError) {
        let limits = sides.deadlines;
        let per_try = limits.per_try.map_or(limits.response, |limit| limit.min(limits.response));
        match (self.outgoing.state, sides.upload.completed()) {
            // Who of the two is silent here is the backend.
            (State::Waiting, _) if sides.upload.waits_for_backend() => {
                (self.silences.backend.until(per_try), AttemptError::Timeout(per_try))
            }
            (State::Waiting, _) => {
                (self.silences.client.until(limits.body), ClientError::Slow.into())
            }
            (State::Blocked, _) => {
                (self.silences.backend.until(per_try), AttemptError::NotTaken(per_try))
            }
            (State::Broken, None) => (
                self.silences.backend.until(limits.response),
                AttemptError::Timeout(limits.response),
            ),
            (State::Done | State::Broken, completed) => {
                let sent = self.outgoing.completed.unwrap_or(started).max(started);
                let completed = completed.unwrap_or(started);
                // While the backend took the body more slowly than it came, it was not silent.
                let since = if self.outgoing.was_blocked { sent.max(completed) } else { completed };
                let mut deadline = since + limits.response;
                if let Some(limit) = limits.per_try {
                    deadline = deadline.min(sent + limit);
                }
                let mut error = AttemptError::Timeout(deadline.saturating_duration_since(started));
                if let Some(gone) = sides.gone_at()
                    && gone < deadline
                {
                    (deadline, error) = (gone, ClientError::Gone.into());
                }
                (deadline, error)
            }
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
            None => match ready!(sides.local.poll_fill(&mut self.lease.stream, cx)) {
                Ok(filled) if !filled.is_empty() => filled,
                Ok(_) => return Poll::Ready(Err(self.closed())),
                Err(error) => return Poll::Ready(Err(self.broken(&error))),
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
            self.is_early |= self.outgoing.state != State::Done || sides.upload.expects_continue;
            return Ok(true);
        }
        *sides.interims = sides.interims.saturating_add(1);
        if MOST_INTERIMS < *sides.interims {
            return Err("too many interim responses");
        }
        // 100 is for who asked for it, once, and has not gone on by itself.
        let is_wanted = self.response.status != 100 || sides.upload.waits_for_backend();
        if self.response.status == 100 {
            sides.upload.expects_continue = false;
        }
        // HTTP/1.0 knows none. A client that does not read what came before gets none either.
        if is_wanted && self.version >= Version::Http11 && sides.down.outbox.len() < ENOUGH {
            let to = encode::ToClient {
                body: ResponseBody::None,
                version: self.version,
                keeps_alive: true,
                date: b"",
                explain: None,
                hsts: None,
            };
            encode::response(sides.down.outbox.bytes(), &self.response, &to);
        }
        self.response.clear();
        Ok(false)
    }

    /// The connection ended before the response's head.
    fn closed(&self) -> HeadError {
        match (self.lease.is_reused && self.received == 0, self.outgoing.has_begun()) {
            (true, false) => HeadError::Unsent,
            (true, true) => HeadError::Stale,
            (false, _) => HeadError::Failed(AttemptError::Closed),
        }
    }

    /// The same, if it was no proper end.
    fn broken(&self, error: &io::Error) -> HeadError {
        match (self.closed(), tls::fault(error)) {
            (HeadError::Failed(AttemptError::Closed), Some(fault)) => {
                // A client of TLS 1.3 is done with its handshake before its certificate is looked at. One
                // that is refused for that was not listened to.
                let is_unheard = self.received == 0 && matches!(fault, Fault::Refused(_));
                HeadError::Failed(match is_unheard {
                    true => AttemptError::Connect(ConnectError::Tls(fault.into())),
                    false => AttemptError::Tls(fault.into()),
                })
            }
            (closed, _) => closed,
        }
    }

    fn advance(&mut self, sides: &mut Sides<'_>, cx: &mut Context<'_>) -> Result<(), ClientError> {
        self.outgoing.advance(&mut self.lease.stream, sides, &mut self.silences, cx)
    }

    /// The response is to be the answer, framed for the client as `to` says.
    pub fn begin(&mut self, sides: &mut Sides<'_>, to: &encode::ToClient<'_>) {
        self.outgoing.forgets(sides.upload);
        sides.upload.forget(sides.local);
        if sides.upload.waits_for_backend() {
            // A client that is answered instead of being told to go on has nothing more to send.
            self.outgoing.break_off();
        }
        encode::response(sides.down.outbox.bytes(), &self.response, to);
        self.download = Some(Download::new(&self.response, to.body, self.rest.take()));
    }

    /// Of the response's body, to the client.
    pub fn delivered(&self) -> u64 {
        self.download.as_ref().map_or(0, |download| download.delivered)
    }

    /// Moves the response to the client, and the rest of the request to the backend meanwhile. Ready
    /// when all of the response was written.
    pub fn poll_response(
        &mut self,
        sides: &mut Sides<'_>,
        metrics: &RouteMetrics,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        let Some(download) = &mut self.download else { return Poll::Ready(Ok(())) };
        let before = sides.down.outbox.written();
        let (from, silence) = (&mut self.lease.stream, &mut self.silences.backend);
        let result = download.poll(from, &self.response.fields, sides, silence, cx);
        if sides.down.outbox.written() != before {
            self.silences.client.broken();
        }
        if let Poll::Ready(result) = result {
            return Poll::Ready(result);
        }
        let waits_for_client = download.waits_for_client(sides.down);
        let held = download.capacity() + self.outgoing.capacity() + self.lease.stream.capacity();
        if self.advance(sides, cx).is_err() {
            // It may still read what it asked for.
            self.outgoing.break_off();
        }
        if self.outgoing.state != State::Waiting && sides.watch(cx).is_err() {
            return Poll::Ready(Err(Broken::ClientGone));
        }
        sides.down.count(metrics);
        sides.down.hold(held);
        let limits = sides.deadlines;
        let is_sending = self.outgoing.state == State::Waiting;
        let (mut deadline, mut broken) = match (waits_for_client, is_sending) {
            (true, _) => (Some(self.silences.client.until(limits.write)), Broken::ClientSlow),
            (false, true) => (Some(self.silences.client.until(limits.body)), Broken::ClientSilent),
            (false, false) => {
                let deadline = limits.stream_idle.map(|limit| self.silences.backend.until(limit));
                (deadline, Broken::BackendSilent)
            }
        };
        if let Some(gone) = sides.gone_at()
            && !waits_for_client
        {
            // Whatever is to come, its client will not have waited for it.
            self.credit(sides.local);
            // It may read on, as long as there is something to read.
            let gone = self.silences.backend.until(sides.deadlines.half_closed).max(gone);
            if deadline.is_none_or(|deadline| gone < deadline) {
                (deadline, broken) = (Some(gone), Broken::ClientGone);
            }
        }
        let waited = ready!(self.poll_wait(sides, deadline, cx));
        Poll::Ready(Err(match waited {
            Waited::Expired => broken,
            Waited::Gone => Broken::ClientGone,
        }))
    }

    /// Waits until the deadline, or until the client is found to be gone.
    fn poll_wait(
        &mut self,
        sides: &mut Sides<'_>,
        deadline: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<Waited> {
        let down = &mut *sides.down;
        if down.is_unread() {
            let client = Rc::clone(&down.client);
            return self.lookout.poll(&client.timer, deadline, cx, || down.look());
        }
        self.lookout.rest();
        match deadline {
            Some(deadline) => {
                down.client.timer.poll_expired(deadline, cx).map(|()| Waited::Expired)
            }
            None => Poll::Pending,
        }
    }

    /// The response has ended. Its connection serves on, if nothing speaks against it.
    pub fn finish(mut self: Box<Self>, local: &Rc<Local>) {
        let is_clean = self.download.is_some_and(|download| download.is_clean())
            && self.outgoing.state == State::Done
            && !self.is_early
            && self.response.keeps_alive();
        local.recycle_response(self.response);
        self.outgoing.recycle(local);
        if is_clean {
            self.lease.give_back(local);
        }
    }

    /// Another attempt follows. What is left of the response is read, so that its connection can be
    /// used again, unless that is long or takes long.
    pub fn dismiss(mut self: Box<Self>, local: &Rc<Local>) {
        if self.is_early || !self.response.keeps_alive() {
            return;
        }
        let mut download = Download::new(&self.response, ResponseBody::None, self.rest.take());
        // What has come with the head is there only now; often that is all.
        let stream = &mut self.lease.stream;
        let skipped = download.poll_skip(stream, local, &mut Context::from_waker(Waker::noop()));
        let is_over = matches!(skipped, Poll::Ready(Ok(true) | Err(_)));
        if is_over {
            self.download = Some(download);
            return self.finish(local);
        }
        let local = Rc::clone(local);
        tokio::task::spawn_local(async move {
            let skip = async {
                while download.skipped < DISMISSED_BYTES {
                    let stream = &mut self.lease.stream;
                    match poll_fn(|cx| download.poll_skip(stream, &local, cx)).await {
                        Ok(false) => {}
                        Ok(true) | Err(_) => break,
                    }
                }
            };
            // What is longer or slower than that is cut off by dropping it.
            let _ = tokio::time::timeout(DISMISSED_TIME, skip).await;
            self.download = Some(download);
            self.finish(&local);
        });
    }

    /// What follows a 101 is no HTTP. Returns the backend's connection, and what has come of it.
    pub fn into_tunnel(self: Box<Self>, local: &Local) -> (Lease, Vec<u8>) {
        let rest = self.download.and_then(Download::into_rest);
        let early = match rest {
            Some(rest) => local.hot.with(rest, |bytes| bytes.to_vec()),
            None => Vec::new(),
        };
        local.recycle_response(self.response);
        (self.lease, early)
    }
}
