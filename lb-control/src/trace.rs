//! The trace of a change: who asked for it, its way to the store, and how it reached each proxy.
//!
//! ```text
//!   lb.v1.Fleet/Apply             continues the caller's trace, if it is in one
//!   ├─ store commit
//!   └─ publish
//!      ├─ apply p1                from its being sent to the proxy's answer
//!      └─ apply p2
//! ```
//!
//! The core hands on the place in the trace that a change came with, and knows nothing of spans.
//! Without a collector no span of these is enabled, and nothing of it costs more than a branch.

use lb_common::{
    id::ProxyId,
    snapshot::{SnapshotId, Version},
    telemetry::{
        sampling::Ratio,
        span::{TARGET, context_of, continue_from},
        trace_context::{TRACESTATE, TraceContext},
    },
};
use tonic::{Code, Request, Status};
use tracing::{Span, field::Empty, info_span};

use crate::store::StoreError;

/// A call that changes something.
#[derive(Debug)]
pub struct Call(Span);

/// An update on its way to a proxy, until the proxy has answered.
#[derive(Debug)]
pub struct Delivery {
    version: Version,
    span: Span,
}

// === impl Call ===

impl Call {
    /// It is recorded if its caller records it; if that cannot be known, so many are recorded, and
    /// none if there is nobody to send spans to.
    pub fn begin<T>(ratio: Option<Ratio>, method: &'static str, request: &Request<T>) -> Self {
        let Some(ratio) = ratio else { return Self(Span::none()) };
        let headers = request.metadata().as_ref();
        let caller = TraceContext::of(headers);
        let is_recorded = match caller {
            Some(caller) => caller.is_sampled(),
            None => ratio.draw(&mut fastrand::Rng::new()),
        };
        if !is_recorded {
            return Self(Span::none());
        }
        let span = info_span!(
            target: TARGET,
            parent: None,
            "call",
            otel.name = format!("lb.v1.Fleet/{method}"),
            otel.kind = "server",
            rpc.system = "grpc",
            rpc.service = "lb.v1.Fleet",
            rpc.method = method,
            rpc.grpc.status_code = Empty,
            client.address = request.remote_addr().map(|peer| tracing::field::display(peer.ip())),
            "error.type" = Empty,
            "error.message" = Empty,
            otel.status_code = Empty,
        );
        if let Some(caller) = caller {
            let state = headers.get(TRACESTATE).and_then(|state| state.to_str().ok());
            continue_from(&span, caller, state.unwrap_or_default());
        }
        Self(span)
    }

    /// For what is done because of it.
    pub fn context(&self) -> Option<TraceContext> {
        context_of(&self.0)
    }

    pub fn end<T>(self, result: Result<T, Status>) -> Result<T, Status> {
        let code = result.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.0.record("rpc.grpc.status_code", i64::from(i32::from(code)));
        if let Err(status) = &result {
            self.0.record("error.type", tracing::field::debug(code));
            self.0.record("error.message", status.message());
            // What is wrong with a request is no error of who serves it.
            if matches!(code, Code::Unavailable | Code::Internal | Code::DataLoss) {
                self.0.record("otel.status_code", "error");
            }
        }
        result
    }
}

/// Ends when it is dropped.
pub fn commit(cause: Option<TraceContext>) -> Span {
    child_of(cause, || {
        info_span!(
            target: TARGET,
            parent: None,
            "store commit",
            otel.status_description = Empty,
        )
    })
}

pub fn failed(span: &Span, error: &StoreError) {
    // It makes the status an error.
    span.record("otel.status_description", tracing::field::display(error));
}

/// Ends when it is dropped.
pub fn publish(cause: Option<TraceContext>, id: SnapshotId, revision: u64) -> Span {
    child_of(cause, || {
        info_span!(
            target: TARGET,
            parent: None,
            "publish",
            lb.epoch = number(id.version.epoch),
            lb.version = number(id.version.version),
            lb.revision = number(revision),
        )
    })
}

// === impl Delivery ===

impl Delivery {
    pub fn begin(cause: TraceContext, proxy: &ProxyId, version: Version, full: bool) -> Self {
        let span = child_of(Some(cause), || {
            info_span!(
                target: TARGET,
                parent: None,
                "apply",
                otel.name = format!("apply {proxy}"),
                otel.kind = "client",
                lb.proxy = %proxy,
                lb.epoch = number(version.epoch),
                lb.version = number(version.version),
                lb.update = if full { "full" } else { "delta" },
                otel.status_code = "error",
                otel.status_description = "the proxy did not answer",
            )
        });
        Self { version, span }
    }

    pub fn is_of(&self, snapshot: SnapshotId) -> bool {
        self.version == snapshot.version
    }

    pub fn applied(self) {
        self.span.record("otel.status_code", "ok");
    }

    pub fn rejected(self, reason: &str) {
        self.span.record("otel.status_description", reason);
    }
}

fn child_of(cause: Option<TraceContext>, span: impl FnOnce() -> Span) -> Span {
    let Some(cause) = cause else { return Span::none() };
    let span = span();
    continue_from(&span, cause, "");
    span
}

/// As traces have numbers.
fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
