//! A client's connection that speaks HTTP/1: one request after the other.
//!
//! Between requests it holds nothing but its socket and who it is from. What a request needs is
//! allocated when one begins.

use std::{
    future::poll_fn,
    num::NonZeroU32,
    rc::Rc,
    task::{Context as TaskContext, Poll, ready},
    time::Instant,
};

use lb_common::{clock, spec};
use lb_http::{
    h1::{BodyDecoder, HeadParser, Limits, RequestError},
    message::Request,
};
use lb_routing::{millis, refusal::Refusal};

use super::linger::linger;
use crate::{
    connections::{End, Waits},
    downstream::Downstream,
    local::Local,
    proxy::{
        Context, Next,
        error::{ClientError, ProxyError},
        reply, request, respond,
    },
};

/// Serves until the connection ends.
#[expect(clippy::manual_async_fn, reason = "an async function's arguments are in its future twice")]
pub fn serve(cx: Rc<Context>, mut down: Downstream) -> impl Future<Output = ()> {
    async move {
        let mut served = 0;
        loop {
            if down.input.is_empty() && !wait(&cx.local, &mut down).await {
                return close(&mut down).await;
            }
            // In a box of its own, so that a connection that waits is small.
            match Box::pin(turn(&cx, &mut down, &mut served)).await {
                Next::KeepAlive if down.ended.is_none() || !down.input.is_empty() => {}
                Next::KeepAlive | Next::Close => return close(&mut down).await,
                Next::Linger => return Box::pin(linger(&cx.local, down)).await,
            }
        }
    }
}

/// With TLS, an end is said to be one. It borrows the connection, which would be in the future twice.
async fn close(down: &mut Downstream) {
    if !(down.stream.is_bare() || down.is_body_open) {
        // Who is gone need not be told.
        let _ = poll_fn(|cx| Poll::Ready(down.stream.poll_end(cx))).await;
    }
}

/// Waits for the first bytes of a request. Returns whether some have come.
async fn wait(local: &Local, down: &mut Downstream) -> bool {
    let view = local.view();
    let Some((listener, _)) = view.listener_of(&down.client.presence) else { return false };
    let timeout = millis::of(listener.spec.idle_timeout);
    if down.client.is_outdated(listener) {
        local.connections.end(down.client.id, End::Gracefully);
    }
    local.connections.wait(down.client.id, Waits::Request, local.coarse(), timeout);
    drop(view);
    let is_readable = poll_fn(|cx| {
        // A client that just sends a request gets an answer, whatever else is to become of it.
        if down.stream.poll_readable(cx).is_ready() {
            return Poll::Ready(true);
        }
        match local.connections.poll_end(down.client.id, cx) {
            End::NotYet => Poll::Pending,
            // Closing it now would reset what its client has just sent. The runtime does not know of that
            // yet, and reading would find nothing: it says so soon, because it was asked above.
            End::Gracefully if down.stream.has_bytes() => Poll::Pending,
            End::Gracefully => Poll::Ready(false),
            End::AtOnce => Poll::Ready(false),
        }
    })
    .await;
    local.connections.busy(down.client.id);
    is_readable
}

/// One request and its response.
async fn turn(cx: &Context, down: &mut Downstream, served: &mut u32) -> Next {
    let local = &cx.local;
    let view = local.view();
    let Some((listener, _)) = view.listener_of(&down.client.presence) else { return Next::Close };
    let spec = std::sync::Arc::clone(&listener.spec);
    drop(view);
    if down.client.has_expired() {
        return Next::Close;
    }
    let mut reading = Reading::new(local.request(), &spec);
    let read = poll_fn(|cx| reading.poll(local, down, &spec, cx)).await;
    let request = &reading.request;
    let error = match read {
        Read::Request => {
            *served = served.saturating_add(1);
            let most = spec.max_requests_per_connection.map_or(u32::MAX, NonZeroU32::get);
            let limits = &local.metrics().limits;
            if *served == most {
                limits.max_requests_per_connection.increment();
            }
            let is_ending = local.connections.end_of(down.client.id) != End::NotYet;
            let keeps_alive = *served < most && !is_ending;
            down.begin(local);
            down.body = BodyDecoder::of_request(request.body);
            let next = request::handle(cx, down, request, clock::now(), keeps_alive).await;
            down.rest(local);
            local.recycle_request(reading.request);
            return next;
        }
        Read::Nothing => return Next::KeepAlive,
        Read::End => {
            if reading.parser.has_begun() {
                local.metrics().unrouted.increment();
            }
            return Next::Close;
        }
        Read::Refused(error) => ProxyError::Refusal(Refusal::Request(error)),
        Read::Late => ProxyError::Client(ClientError::SlowHead),
        Read::NoRoom => ProxyError::NoRoom,
    };
    count(local, &error);
    cx.recorder.malformed(&down.client, error.status(), error.reason());
    let reply = reply::refuse(&error);
    let refusing = respond::refuse(local, down, request, reply, spec.write_timeout);
    let next = Box::pin(refusing).await;
    local.recycle_request(reading.request);
    next
}

fn count(local: &Local, error: &ProxyError) {
    let metrics = local.metrics();
    metrics.unrouted.increment();
    metrics.refused(error.kind());
    let limits = &metrics.limits;
    match error {
        ProxyError::Refusal(Refusal::Request(RequestError::TargetTooLong)) => {
            limits.max_target_bytes.increment();
        }
        ProxyError::Refusal(Refusal::Request(
            RequestError::HeadTooLong | RequestError::TooManyFields,
        )) => limits.max_header_bytes.increment(),
        ProxyError::Client(ClientError::SlowHead) => limits.header_timeout.increment(),
        ProxyError::NoRoom => limits.max_buffer_bytes.increment(),
        ProxyError::Refusal(_)
        | ProxyError::Client(_)
        | ProxyError::Attempt { .. }
        | ProxyError::TooManyConnections => {}
    }
}

/// A head on its way in.
struct Reading {
    request: Request,
    parser: HeadParser,
    limits: Limits,
    /// When its first bytes were seen.
    begun: Option<Instant>,
}

enum Read {
    Request,
    /// Nothing had come after all.
    Nothing,
    End,
    Refused(RequestError),
    Late,
    NoRoom,
}

impl Reading {
    fn new(request: Request, spec: &spec::Listener) -> Self {
        let limits = Limits {
            head: spec.max_header_bytes as usize,
            fields: spec.max_header_fields as usize,
            target: spec.max_target_bytes as usize,
        };
        Self { request, parser: HeadParser::default(), limits, begun: None }
    }

    fn poll(
        &mut self,
        local: &Local,
        down: &mut Downstream,
        spec: &spec::Listener,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Read> {
        if !down.input.is_empty() && !self.parser.has_begun() {
            match self.read(&down.input) {
                Ok(None) => {}
                Ok(Some(length)) => {
                    down.consume(local, length);
                    return Poll::Ready(Read::Request);
                }
                Err(error) => return Poll::Ready(Read::Refused(error)),
            }
        }
        match self.poll_more(local, down, cx) {
            Poll::Ready(read) => Poll::Ready(read),
            Poll::Pending if down.input.is_empty() && !down.stream.is_amid() => {
                Poll::Ready(Read::Nothing)
            }
            Poll::Pending => {
                down.hold(self.request.fields.capacity());
                if local.is_full() {
                    return Poll::Ready(Read::NoRoom);
                }
                let begun = *self.begun.get_or_insert_with(clock::now);
                let deadline = begun + spec.header_timeout;
                down.client.timer.poll_expired(deadline, cx).map(|()| Read::Late)
            }
        }
    }

    /// Reads on until the head is there.
    fn poll_more(
        &mut self,
        local: &Local,
        down: &mut Downstream,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Read> {
        loop {
            if down.ended.is_some() {
                return Poll::Ready(Read::End);
            }
            if down.input.is_empty() {
                // As a rule a head comes in one piece, and is read where it is.
                let filled = match ready!(local.poll_fill(&mut down.stream, cx)) {
                    Ok(filled) if !filled.is_empty() => filled,
                    Ok(_) | Err(_) => return Poll::Ready(Read::End),
                };
                let read = local.hot.with(filled, |bytes| self.read(bytes));
                let used = read.map_or(0, |length| length.unwrap_or(0));
                down.used += used as u64;
                let rest = filled.after(used);
                if !rest.is_empty() {
                    local.keep(rest, &mut down.input);
                }
                match read {
                    Ok(None) => {}
                    Ok(Some(_)) => return Poll::Ready(Read::Request),
                    Err(error) => return Poll::Ready(Read::Refused(error)),
                }
            } else {
                match ready!(down.poll_more(local, cx)) {
                    Ok(0) | Err(_) => return Poll::Ready(Read::End),
                    Ok(_) => {}
                }
                match self.read(&down.input) {
                    Ok(None) => {}
                    Ok(Some(length)) => {
                        down.consume(local, length);
                        return Poll::Ready(Read::Request);
                    }
                    Err(error) => return Poll::Ready(Read::Refused(error)),
                }
            }
        }
    }

    fn read(&mut self, input: &[u8]) -> Result<Option<usize>, RequestError> {
        self.request.read(&mut self.parser, input, &self.limits)
    }
}
