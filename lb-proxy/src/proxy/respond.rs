//! Writing the proxy's own answers.

use std::{
    future::poll_fn,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use http::StatusCode;
use lb_common::clock;
use lb_http::{
    h1::encode,
    message::{Method, Request, ResponseBody, Version},
};

use super::{Next, reply::Reply};
use crate::{downstream::Downstream, local::Local};

/// Why an answer was not written to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    ClientGone,
    /// It takes nothing.
    ClientSlow,
}

/// Writes an answer that needs nothing of the request's body. If that has not come yet, the connection
/// ends with the answer, after its client had time to read it.
///
/// # Errors
/// If the client does not take it.
pub async fn reply(
    local: &Local,
    down: &mut Downstream,
    request: &Request,
    reply: Reply,
    added: &Added<'_>,
    keeps_alive: bool,
    write_timeout: Duration,
) -> Result<Next, Unread> {
    let is_read = skip_body(local, down);
    let keeps_alive = keeps_alive && is_read;
    let (version, method) = (request.version, request.method);
    let head = Head { version, method, added, keeps_alive };
    write(local, down, &reply, &head);
    flush(local, down, write_timeout).await?;
    Ok(match (keeps_alive, is_read) {
        (true, _) => Next::KeepAlive,
        (false, true) if down.input.is_empty() => Next::Close,
        (false, _) => Next::Linger,
    })
}

/// Refuses what is no request, or comes on a connection that is one too many: it is the last on its
/// connection. Of `request` there is what was understood before.
pub async fn refuse(
    local: &Local,
    down: &mut Downstream,
    request: &Request,
    reply: Reply,
    timeout: Duration,
) -> Next {
    let (version, method) = (request.version, request.method);
    let added = &Added::default();
    write(local, down, &reply, &Head { version, method, added, keeps_alive: false });
    match flush(local, down, timeout).await {
        Ok(()) => Next::Linger,
        Err(_) => Next::Close,
    }
}

/// What a response says besides what it is about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Added<'a> {
    pub explain: Option<&'a str>,
    pub hsts: Option<&'a [u8]>,
}

struct Head<'a> {
    version: Version,
    method: Method,
    added: &'a Added<'a>,
    keeps_alive: bool,
}

fn write(local: &Local, down: &mut Downstream, reply: &Reply, head: &Head<'_>) {
    let length = match reply.status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => None,
        _ => Some(reply.body.len()),
    };
    let fields = reply.fields.iter().map(|(name, value)| (&name[..], &value[..]));
    let status = (reply.status.as_u16(), reply.status.canonical_reason().unwrap_or_default());
    local.with_date(|date| {
        let to = encode::ToClient {
            body: ResponseBody::None,
            version: head.version,
            keeps_alive: head.keeps_alive,
            date,
            explain: head.added.explain.map(str::as_bytes),
            hsts: head.added.hsts,
        };
        encode::own(down.outbox.bytes(), status, fields, length, &to);
    });
    if head.method != Method::Head && length.is_some() {
        down.outbox.bytes().extend_from_slice(&reply.body);
    }
}

/// Skips what has come of the request's body. Returns whether that was all of it.
fn skip_body(local: &Local, down: &mut Downstream) -> bool {
    if !down.body.is_end() {
        let mut input = std::mem::take(&mut down.input);
        let decoded = down.body.decode(&mut input);
        down.input = input;
        if let Ok(decoded) = decoded {
            down.consume(local, decoded.consumed);
        }
    }
    down.body.is_end()
}

/// Writes what waits, if the client takes it.
async fn flush(local: &Local, down: &mut Downstream, timeout: Duration) -> Result<(), Unread> {
    let mut silent_since = None;
    let flushed = poll_fn(|cx| poll_flush(down, timeout, &mut silent_since, cx)).await;
    if flushed == Err(Unread::ClientSlow) {
        local.metrics().limits.write_timeout.increment();
    }
    flushed
}

fn poll_flush(
    down: &mut Downstream,
    timeout: Duration,
    silent_since: &mut Option<std::time::Instant>,
    cx: &mut TaskContext<'_>,
) -> Poll<Result<(), Unread>> {
    let before = down.outbox.written();
    if let Poll::Ready(result) = down.outbox.poll_flush(&mut down.stream, cx) {
        return Poll::Ready(result.map_err(|_| Unread::ClientGone));
    }
    if down.outbox.written() != before {
        *silent_since = None;
    }
    let since = *silent_since.get_or_insert_with(clock::now);
    down.client.timer.poll_expired(since + timeout, cx).map(|()| Err(Unread::ClientSlow))
}
