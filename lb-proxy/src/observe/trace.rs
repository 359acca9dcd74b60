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

use http::StatusCode;
use lb_common::{
    id::ProxyId,
    telemetry::{
        sampling::Ratio,
        span::{TARGET, context_of, continue_from, rename},
        trace_context::{TraceContext, TraceId},
    },
};
use lb_http::{
    h1::encode,
    message::{Method, Name, Request},
};
use lb_routing::origin::Origin;
use tracing::{Span, field::Empty, info_span};

use super::facts::Facts;
use crate::{
    downstream::Client,
    local::Local,
    table::{Pick, Route},
};

/// A request that is recorded. Its spans end when it is dropped.
#[derive(Debug)]
pub struct Trace {
    /// Under way; ends before the request does.
    attempt: Option<AttemptSpan>,
    request: Span,
    context: TraceContext,
    /// As it came.
    state: String,
    /// It came as a part of a trace.
    has_parent: bool,
}

/// What a backend gets of a request's trace.
#[derive(Debug)]
pub enum Handed {
    AsItCame,
    Parent(String),
    New(String),
}

#[derive(Debug)]
struct AttemptSpan {
    span: Span,
    context: TraceContext,
    /// The head of one.
    has_response: bool,
}

/// Bytes of a text that a client chose.
const MAX_TEXT: usize = 1024;

// === impl Trace ===

impl Trace {
    /// Decides about a request as its client sent it, which came with `parent`. Says which trace it is
    /// of, and what backends get, unless it is recorded, when [`Trace::hand_on`] says it for each
    /// attempt.
    pub fn begin(
        ratio: Ratio,
        local: &Local,
        client: &Client,
        proxy: &ProxyId,
        request: &Request,
        origin: &Origin<'_>,
        parent: Option<TraceContext>,
    ) -> (Option<TraceId>, Option<Self>, Handed) {
        let is_recorded = match parent {
            Some(parent) => parent.is_sampled(),
            None => local.with_rng(|rng| ratio.draw(rng)),
        };
        if is_recorded && let Some(trace) = Self::start(parent, client, proxy, request, origin) {
            let handed = trace.hand_on();
            return (Some(trace.context.trace_id), Some(trace), handed);
        }
        match parent {
            Some(parent) => (Some(parent.trace_id), None, Handed::AsItCame),
            None => {
                let context = local.with_rng(TraceContext::unrecorded);
                (Some(context.trace_id), None, Handed::New(context.to_string()))
            }
        }
    }

    /// `None` if there is nobody to send spans to.
    fn start(
        parent: Option<TraceContext>,
        client: &Client,
        proxy: &ProxyId,
        request: &Request,
        origin: &Origin<'_>,
    ) -> Option<Self> {
        let (method, original) = method(request);
        let (host, port) = host(request.authority());
        let span = info_span!(
            target: TARGET,
            parent: None,
            "request",
            otel.name = method,
            otel.kind = "server",
            http.request.method = method,
            http.request.method_original = original.map(cut),
            url.scheme = origin.scheme.as_str(),
            url.path = text(request.path()).map(cut),
            url.query = request.query().and_then(text).map(cut),
            server.address = host.map(cut),
            server.port = port,
            client.address = %origin.address,
            network.peer.address = %client.peer.ip().to_canonical(),
            network.peer.port = i64::from(client.peer.port()),
            network.protocol.version = request.version.as_str(),
            user_agent.original = request.fields.get(Name::UserAgent).and_then(text).map(cut),
            lb.proxy = proxy.as_str(),
            lb.listener = client.presence.name.as_str(),
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
        // Several fields are one list.
        let states: Vec<_> = request.fields.all(Name::Tracestate).filter_map(text).collect();
        let state = states.join(",");
        if let Some(parent) = parent {
            continue_from(&span, parent, &state);
        }
        Some(Self {
            context: context_of(&span)?,
            request: span,
            attempt: None,
            state: if parent.is_some() { state } else { String::new() },
            has_parent: parent.is_some(),
        })
    }

    pub fn routed(&self, route: &Route, request: &Request) {
        let name = route.spec.name.as_str();
        let method = method(request).0;
        rename(&self.request, format!("{method} {name}"));
        self.request.record("lb.route", name);
    }

    /// The attempt with this number, from 1, begins.
    pub fn attempt(&mut self, pick: &Pick, number: u64, request: &Request) {
        let backend = pick.backend();
        let resends = number.saturating_sub(1);
        let method = method(request).0;
        let path = text(request.target()).map_or("", cut);
        let span = info_span!(
            target: TARGET,
            parent: None,
            "attempt",
            otel.name = method,
            otel.kind = "client",
            http.request.method = method,
            http.request.resend_count = (resends > 0).then_some(number_of(resends)),
            url.full = format!("http://{}{path}", backend.address),
            server.address = %backend.address.ip(),
            server.port = i64::from(backend.address.port()),
            lb.backend_set = pick.set().spec.name.as_str(),
            lb.backend = backend.name.as_str(),
            http.response.status_code = Empty,
            "error.type" = Empty,
            otel.status_code = Empty,
            otel.status_description = Empty,
        );
        continue_from(&span, self.context, &self.state);
        let attempt =
            context_of(&span).map(|context| AttemptSpan { span, context, has_response: false });
        self.attempt = attempt;
    }

    /// What the backend of the attempt under way gets.
    pub fn hand_on(&self) -> Handed {
        let context = self.attempt.as_ref().map_or(self.context, |attempt| attempt.context);
        match self.has_parent {
            true => Handed::Parent(context.to_string()),
            // What it came with is about no trace that anybody could tell.
            false => Handed::New(context.to_string()),
        }
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
    pub fn failed(&mut self, kind: &'static str, error: &dyn std::fmt::Display) {
        if let Some(attempt) = self.attempt.take() {
            attempt.span.record("error.type", kind);
            attempt.span.record("otel.status_code", "error");
            attempt.span.record("otel.status_description", tracing::field::display(error));
        }
    }

    /// All is known of the request.
    pub fn end(mut self, facts: &Facts) {
        let Facts { status, reason, bytes_out, .. } = *facts;
        if let Some(attempt) = self.attempt.take()
            && (!attempt.has_response || is_broken(reason))
        {
            attempt.span.record("error.type", reason.unwrap_or("client_gone"));
            attempt.span.record("otel.status_code", "error");
        }
        let span = &self.request;
        if let Some(pick) = &facts.attempts.pick {
            span.record("lb.backend_set", pick.set().spec.name.as_str());
            span.record("lb.backend", pick.backend().name.as_str());
        }
        span.record("lb.attempts", number_of(facts.attempts.count));
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

impl Handed {
    pub fn as_context(&self) -> encode::TraceContext<'_> {
        match self {
            Self::AsItCame => encode::TraceContext::AsItCame,
            Self::Parent(parent) => encode::TraceContext::Parent(parent.as_bytes()),
            Self::New(parent) => encode::TraceContext::New(parent.as_bytes()),
        }
    }
}

/// Which trace a request came as a part of: what exactly one valid `traceparent` says.
pub fn came_with(request: &Request) -> Option<TraceContext> {
    let mut parents = request.fields.all(Name::Traceparent);
    let only = parents.next()?;
    if parents.next().is_some() {
        return None;
    }
    TraceContext::parse(only)
}

/// Whether a response that had begun did not come to its end, other than by the client's doing.
fn is_broken(reason: Option<&str>) -> bool {
    const BROKEN: [&str; 5] = [
        "http_response_incomplete",
        "drain_timeout",
        "idle_timeout",
        "stream_idle_timeout",
        "http_protocol_error",
    ];
    reason.is_some_and(|reason| BROKEN.contains(&reason))
}

/// One of the methods that everybody knows, and what it really is if it is none of them.
fn method(request: &Request) -> (&'static str, Option<&str>) {
    let known = match request.method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Patch => "PATCH",
        Method::Options => "OPTIONS",
        Method::Connect => "CONNECT",
        Method::Trace => "TRACE",
        Method::Other => return ("_OTHER", text(request.method_text())),
    };
    (known, None)
}

/// What the client takes the server for.
fn host(authority: &[u8]) -> (Option<&str>, Option<i64>) {
    let Some(host) = text(authority).filter(|host| !host.is_empty()) else { return (None, None) };
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (Some(name), port.parse().ok()),
        _ => (Some(host), None),
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
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
    use crate::fixture;

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
            assert_eq!(host(value.as_bytes()), expected, "{value}");
        }
    }

    #[test]
    fn names_of_spans_are_few_whatever_clients_send() {
        let odd = fixture::request("BREW / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(method(&odd), ("_OTHER", Some("BREW")));
        let known = fixture::request("PATCH / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(method(&known), ("PATCH", None));
        assert_eq!(cut(&"ü".repeat(MAX_TEXT)).len(), MAX_TEXT);
    }
}
