//! A request's part of a trace: a server span for the request, and under it a client span for each
//! attempt, in the words of OpenTelemetry's semantic conventions for HTTP.
//!
//! Whether a request is recorded is decided before anything is made for it: as the one before
//! decided, and for requests that come without a trace by drawing. What is not recorded passes on
//! what it came with, or is told to be a trace that is not recorded, so that all who come after
//! agree.
//!
//! # Invariants
//!
//! - A backend's parent is the attempt that reached it, and never the client's span, if the request
//!   is recorded.
//! - A `tracestate` goes on as it came, and only with the `traceparent` that it came with.
//! - Texts that clients choose are cut: what waits for the collector is bounded.

use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Uri, Version,
    header::{HOST, USER_AGENT},
};
use lb_common::telemetry::{
    sampling::Ratio,
    span::{TARGET, context_of, continue_from, rename},
    trace_context::{TRACEPARENT, TRACESTATE, TraceContext},
};
use tracing::{Span, field::Empty, info_span};

use crate::{backend_set::Pick, client::Client, error::AttemptError, table::Route, worker::Worker};

/// A request that is recorded. Its spans end when it is dropped.
#[derive(Debug)]
pub struct Trace {
    /// Under way; ends before the request does.
    attempt: Option<Attempt>,
    request: Span,
    context: TraceContext,
    /// As it came.
    state: String,
    method: Method,
    path: String,
}

#[derive(Debug)]
struct Attempt {
    span: Span,
    context: TraceContext,
    /// The head of one.
    has_response: bool,
}

/// Bytes of a text that a client chose.
const MAX_TEXT: usize = 1024;

// === impl Trace ===

impl Trace {
    /// Decides about a request as its client sent it. Its headers say then what backends are to
    /// get, unless it is recorded, when each attempt has a [`Trace::traceparent`] of its own.
    pub fn begin<B>(
        ratio: Ratio,
        worker: &Worker,
        client: &Client,
        request: &mut http::Request<B>,
    ) -> (TraceContext, Option<Self>) {
        let parent = TraceContext::of(request.headers());
        if parent.is_none() {
            // It is about no trace that anybody could tell.
            request.headers_mut().remove(TRACESTATE);
        }
        let is_recorded = match parent {
            Some(parent) => parent.is_sampled(),
            None => worker.with_rng(|rng| ratio.draw(rng)),
        };
        if is_recorded && let Some(trace) = Self::start(parent, worker, client, request) {
            return (trace.context, Some(trace));
        }
        let context = parent.unwrap_or_else(|| {
            let context = worker.with_rng(TraceContext::unrecorded);
            request.headers_mut().insert(TRACEPARENT, context.to_header());
            context
        });
        (context, None)
    }

    /// `None` if there is nobody to send spans to.
    fn start<B>(
        parent: Option<TraceContext>,
        worker: &Worker,
        client: &Client,
        request: &http::Request<B>,
    ) -> Option<Self> {
        let headers = request.headers();
        let (method, original) = method(request.method());
        let uri = request.uri();
        let (host, port) = host(headers, uri);
        let peer = client.peer.ip().to_canonical();
        let span = info_span!(
            target: TARGET,
            parent: None,
            "request",
            otel.name = method,
            otel.kind = "server",
            http.request.method = method,
            http.request.method_original = original.map(cut),
            url.scheme = "http",
            url.path = cut(uri.path()),
            url.query = uri.query().map(cut),
            server.address = host.map(cut),
            server.port = port,
            client.address = %peer,
            client.port = i64::from(client.peer.port()),
            network.protocol.version = version(request.version()),
            user_agent.original = text(headers.get(USER_AGENT)).map(cut),
            lb.proxy = worker.recorder.proxy.as_str(),
            lb.listener = client.listener.as_str(),
            lb.route = Empty,
            lb.backend_set = Empty,
            lb.backend = Empty,
            lb.attempts = Empty,
            lb.reason = Empty,
            http.response.status_code = Empty,
            http.response.body.size = Empty,
            "error.type" = Empty,
            otel.status_code = Empty,
            otel.status_description = Empty,
        );
        let mut states = headers.get_all(TRACESTATE).iter().filter_map(|state| text(Some(state)));
        let state = match (states.next(), states.next()) {
            (None, _) => String::new(),
            (Some(only), None) => only.to_owned(),
            // Several headers are one list.
            (Some(first), Some(second)) => {
                [first, second].into_iter().chain(states).collect::<Vec<_>>().join(",")
            }
        };
        if let Some(parent) = parent {
            continue_from(&span, parent, &state);
        }
        Some(Self {
            context: context_of(&span)?,
            request: span,
            attempt: None,
            state,
            method: request.method().clone(),
            path: cut(uri.path_and_query().map_or("", |path| path.as_str())).to_owned(),
        })
    }

    pub fn routed(&self, route: &Route) {
        let name = route.spec.name.as_str();
        let method = method(&self.method).0;
        rename(&self.request, format!("{method} {name}"));
        self.request.record("lb.route", name);
    }

    /// The attempt with this number, from 1, begins.
    pub fn attempt(&mut self, pick: &Pick, number: u64) {
        let backend = pick.backend();
        let resends = number.saturating_sub(1);
        let method = method(&self.method).0;
        let span = info_span!(
            target: TARGET,
            parent: None,
            "attempt",
            otel.name = method,
            otel.kind = "client",
            http.request.method = method,
            http.request.resend_count = (resends > 0).then_some(number_of(resends)),
            url.full = format!("http://{}{}", backend.address, self.path),
            server.address = %backend.address.ip(),
            server.port = i64::from(backend.address.port()),
            lb.backend_set = pick.set.spec.name.as_str(),
            lb.backend = backend.name.as_str(),
            http.response.status_code = Empty,
            "error.type" = Empty,
            otel.status_code = Empty,
            otel.status_description = Empty,
        );
        continue_from(&span, self.context, &self.state);
        let attempt =
            context_of(&span).map(|context| Attempt { span, context, has_response: false });
        self.attempt = attempt;
    }

    /// What the backend of the attempt under way gets.
    pub fn traceparent(&self) -> HeaderValue {
        self.attempt.as_ref().map_or(self.context, |attempt| attempt.context).to_header()
    }

    /// The attempt has got the head of a response that is not the request's.
    pub fn dismissed(&mut self, status: StatusCode) {
        self.answered(status);
        self.attempt = None;
    }

    /// The response's head is there. If it is the backend's, the attempt goes on to its end.
    pub fn answered(&mut self, status: StatusCode) {
        let Some(attempt) = self.attempt.as_mut().filter(|attempt| !attempt.has_response) else {
            return;
        };
        attempt.has_response = true;
        attempt.span.record("http.response.status_code", i64::from(status.as_u16()));
        // A request that its backend refuses has failed in the eyes of who sent it.
        if status.is_client_error() || status.is_server_error() {
            attempt.span.record("error.type", status.as_str());
            attempt.span.record("otel.status_code", "error");
        }
    }

    /// The attempt got no response.
    pub fn failed(&mut self, error: &AttemptError) {
        if let Some(attempt) = self.attempt.take() {
            attempt.span.record("error.type", error.kind());
            attempt.span.record("otel.status_code", "error");
            attempt.span.record("otel.status_description", tracing::field::display(error));
        }
    }

    /// All is known of the request.
    pub fn end(mut self, end: &End<'_>) {
        let End { status, reason, pick, attempts, bytes_out } = *end;
        if let Some(attempt) = self.attempt.take()
            && (!attempt.has_response || is_broken(reason))
        {
            attempt.span.record("error.type", reason.unwrap_or("client_gone"));
            attempt.span.record("otel.status_code", "error");
        }
        let span = &self.request;
        if let Some(pick) = pick {
            span.record("lb.backend_set", pick.set.spec.name.as_str());
            span.record("lb.backend", pick.backend().name.as_str());
        }
        span.record("lb.attempts", number_of(attempts));
        span.record("http.response.body.size", number_of(bytes_out));
        if let Some(status) = status {
            span.record("http.response.status_code", i64::from(status.as_u16()));
        }
        if let Some(reason) = reason {
            span.record("lb.reason", reason);
        }
        let server_error = status.filter(StatusCode::is_server_error);
        if server_error.is_some() || is_broken(reason) {
            let status = server_error.as_ref().map_or("", StatusCode::as_str);
            span.record("error.type", reason.unwrap_or(status));
            span.record("otel.status_code", "error");
        }
    }
}

/// What is known of a request at its end.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    pub status: Option<StatusCode>,
    /// Why the response is not what a backend sent, or not all of it.
    pub reason: Option<&'static str>,
    /// Of the last attempt.
    pub pick: Option<&'a Pick>,
    pub attempts: u64,
    pub bytes_out: u64,
}

/// Whether a response that had begun did not come to its end, other than by the client's doing.
fn is_broken(reason: Option<&str>) -> bool {
    matches!(reason, Some("http_response_incomplete" | "drain_timeout" | "idle_timeout"))
}

/// One of the methods that everybody knows, and what it really is if it is none of them.
fn method(method: &Method) -> (&'static str, Option<&str>) {
    let known = match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => return ("_OTHER", Some(method.as_str())),
    };
    (known, None)
}

fn version(version: Version) -> &'static str {
    if version == Version::HTTP_10 { "1.0" } else { "1.1" }
}

/// What the client takes the server for.
fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> (Option<&'a str>, Option<i64>) {
    let authority = uri.authority().map(|authority| authority.as_str());
    let Some(host) = authority.or_else(|| text(headers.get(HOST))) else { return (None, None) };
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (Some(name), port.parse().ok()),
        _ => (Some(host), None),
    }
}

fn text(value: Option<&HeaderValue>) -> Option<&str> {
    value?.to_str().ok()
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

/// As traces have numbers.
fn number_of(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_told_from_its_port() {
        #[rustfmt::skip]
        let cases = [
            ("app.test",      (Some("app.test"), None)),
            ("app.test:8080", (Some("app.test"), Some(8080))),
            ("[::1]",         (Some("[::1]"), None)),
            ("[::1]:80",      (Some("[::1]"), Some(80))),
            ("app.test:x",    (Some("app.test"), None)),
        ];
        for (value, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static(value));
            assert_eq!(host(&headers, &Uri::from_static("/")), expected, "{value}");
        }
    }

    #[test]
    fn names_of_spans_are_few_whatever_clients_send() {
        let odd = Method::from_bytes(b"BREW").expect("a method");
        assert_eq!(method(&odd), ("_OTHER", Some("BREW")));
        assert_eq!(method(&Method::PATCH), ("PATCH", None));
        assert_eq!(cut(&"ü".repeat(MAX_TEXT)).len(), MAX_TEXT);
    }
}
