//! Spans that are exported, and where they are in their traces.
//!
//! They are spans of [`tracing`] with the target [`TARGET`], which log lines do not mention. Without
//! an exporter they are disabled, and then all of this does nothing. A span is not made the child of
//! another one by tracing's own means, because its parent would not end before it does; parents
//! are [`TraceContext`]s, wherever they come from.

use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::trace_context::TraceContext;

/// Of the spans that are exported, and of nothing else.
pub const TARGET: &str = "lb::trace";

/// Makes `span`, of which nobody has asked the context yet, a child of `parent`. `state` is the
/// `tracestate` that came with it; one that is not valid is left out.
pub fn continue_from(span: &Span, parent: TraceContext, state: &str) {
    let state = if state.is_empty() { None } else { state.parse::<TraceState>().ok() };
    let parent = SpanContext::new(
        TraceId::from(parent.trace_id.to_u128()),
        SpanId::from(parent.span_id),
        TraceFlags::new(parent.flags()),
        true,
        state.unwrap_or_default(),
    );
    // An error says that the span is disabled, or that its context was asked for.
    let _ = span.set_parent(Context::new().with_remote_span_context(parent));
}

/// Gives `span` another name, when more is known than at its beginning.
pub fn rename(span: &Span, name: String) {
    if !span.is_disabled() {
        span.context().span().update_name(name);
    }
}

/// Where `span` is; `None` if it is not recorded. From then on its parent is fixed.
pub fn context_of(span: &Span) -> Option<TraceContext> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let span = context.span();
    let context = span.span_context();
    let trace_id = u128::from_be_bytes(context.trace_id().to_bytes());
    let span_id = u64::from_be_bytes(context.span_id().to_bytes());
    TraceContext::new(trace_id, span_id, context.trace_flags().to_u8())
        .filter(|context| context.is_sampled())
}
