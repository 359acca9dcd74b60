//! One request: route it, pick a backend, attempt, maybe attempt again, respond.
//!
//! ```text
//!   read head -> route -> pick -> attempt -> deliver
//!                 |        ^        |
//!                 |        +--------+  the policy says retry and the budget pays
//!                 +-> answer by itself
//! ```
//!
//! [`super::forward`] picks and attempts, [`super::attempt`] is one attempt, [`super::exchange`] moves
//! its bytes, [`super::deliver`] passes on what it brought.
//!
//! # Invariant
//!
//! Nothing here waits for the control plane, and nothing here writes the table.

use std::{rc::Rc, sync::Arc, time::Instant};

use lb_common::{clock, spec::Scheme};
use lb_http::message::{Method, Request};
use lb_routing::{
    admit::admit, origin::Origin, redirect::TO_HTTPS, refusal::Refusal, route::Subject,
};

use super::{
    Context, Next,
    error::{ClientError, ProxyError},
    forward::Forward,
    reply::{self, Reply},
    respond::{self, Added, Unread},
};
use crate::{
    downstream::Downstream,
    local::Local,
    metrics::RouteMetrics,
    observe::record::Record,
    table::{Listener, Route, Service, Target, View},
};

/// Answers one request. `keeps_alive` says whether its connection may serve another one.
pub async fn handle(
    cx: &Context,
    down: &mut Downstream,
    request: &Request,
    started: Instant,
    keeps_alive: bool,
) -> Next {
    let local = &cx.local;
    let view = local.view();
    let Some((listener, _)) = view.listener_of(&down.client.presence) else {
        return Next::Close;
    };
    let origin = down.client.origin_of(request, &listener.spec);
    let mut record =
        Record::begin(&cx.recorder, local, &view, &down.client, request, origin, started);
    let wanted = record.request.connection.keeps_alive(record.request.version);
    let keeps_alive = keeps_alive && wanted;
    // Before anything else is done with it: a CA asks for nothing else, and must not be sent elsewhere.
    if let Some(challenges) = &view.challenges
        && let Some(answer) = challenges.http_01(record.request)
    {
        local.metrics().http_01.increment();
        let own = Own { local, listener, metrics: None, keeps_alive };
        record.reason("acme_challenge");
        let next = Box::pin(own.reply(down, &mut record, reply::text(answer), false)).await;
        down.count_nothing();
        return next;
    }
    let (route, result) = match find(listener, record.request, &origin) {
        Ok(None) => (None, to_https(local, listener, down, &mut record, keeps_alive).await),
        Ok(Some(route)) => {
            record.routed(route);
            let under_way = UnderWay(route.metrics.of(local.index));
            let next = follow(cx, &view, listener, route, down, &mut record, keeps_alive).await;
            under_way.ends();
            (Some(route), next)
        }
        Err(refusal) => (None, Err(refusal.into())),
    };
    let next = match result {
        Ok(next) => next,
        Err(error) => {
            let metrics = route.map(|route| route.metrics.of(local.index));
            let own = Own { local, listener, metrics, keeps_alive };
            Box::pin(own.refuse(down, &mut record, &error)).await
        }
    };
    match route {
        Some(route) => down.count(route.metrics.of(local.index)),
        None => down.count_nothing(),
    }
    next
}

/// Counts a request that is cut off together with its connection.
struct UnderWay<'a>(&'a RouteMetrics);

impl UnderWay<'_> {
    fn ends(self) {
        std::mem::forget(self);
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.aborted.increment();
    }
}

/// Answers that are the proxy's own.
struct Own<'a> {
    local: &'a Local,
    listener: &'a Listener,
    /// Of the route, if one took the request.
    metrics: Option<&'a RouteMetrics>,
    keeps_alive: bool,
}

impl Own<'_> {
    async fn refuse(
        &self,
        down: &mut Downstream,
        record: &mut Record<'_>,
        error: &ProxyError,
    ) -> Next {
        let worker = self.local.metrics();
        worker.refused(error.kind());
        record.reason(error.reason());
        match error.client() {
            Some(ClientError::Gone) => {
                self.metrics.map_or(&worker.unrouted, |metrics| &metrics.aborted).increment();
                return Next::Close;
            }
            Some(ClientError::Slow) => worker.limits.body_timeout.increment(),
            Some(ClientError::TooLarge(_)) => worker.limits.max_request_bytes.increment(),
            Some(ClientError::Truncated | ClientError::Malformed(_) | ClientError::SlowHead)
            | None => {}
        }
        if self.metrics.is_none() {
            worker.unrouted.increment();
        }
        let is_last = error.ends_connection();
        self.reply(down, record, reply::refuse(error), is_last).await
    }

    async fn reply(
        &self,
        down: &mut Downstream,
        record: &mut Record<'_>,
        reply: Reply,
        is_last: bool,
    ) -> Next {
        let local = self.local;
        let now = clock::now();
        if let Some(metrics) = self.metrics {
            metrics.record(reply.status, now - record.started);
        }
        let explain = record.responded(reply.status, now);
        if record.request.method != Method::Head {
            record.answered(reply.body.len());
        }
        let keeps_alive = self.keeps_alive && !is_last && !down.client.is_closing(local);
        let timeout = self.listener.spec.write_timeout;
        let hsts = self.listener.hsts(&record.origin);
        let added = Added { explain: explain.as_deref(), hsts };
        let request = record.request;
        match respond::reply(local, down, request, reply, &added, keeps_alive, timeout).await {
            Ok(next) => {
                record.ended();
                // What a client sends on, not knowing that it was refused, must not reset the answer.
                if is_last { Next::Linger } else { next }
            }
            Err(unread) => {
                if let (Unread::ClientGone, Some(metrics)) = (unread, self.metrics) {
                    metrics.aborted.increment();
                }
                record.reason(match unread {
                    Unread::ClientGone => "client_gone",
                    Unread::ClientSlow => "write_timeout",
                });
                Next::Close
            }
        }
    }
}

/// Its route; none if it is to come with TLS first.
fn find<'a>(
    listener: &'a Listener,
    request: &Request,
    origin: &Origin<'_>,
) -> Result<Option<&'a Arc<Route>>, Refusal> {
    admit(request)?;
    if listener.spec.redirect_to_https && origin.scheme == Scheme::Http {
        return Ok(None);
    }
    let Service::Http(routes) = &listener.service else { return Err(Refusal::NoRoute) };
    let mut scratch = Vec::new();
    let normalization = listener.spec.path_normalization;
    let subject = Subject::of(request, origin.address, normalization, &mut scratch);
    routes.find(&subject).map(Some).ok_or(Refusal::NoRoute)
}

async fn to_https(
    local: &Local,
    listener: &Listener,
    down: &mut Downstream,
    record: &mut Record<'_>,
    keeps_alive: bool,
) -> Result<Next, ProxyError> {
    let reply = reply::redirect(&TO_HTTPS, record.request, &record.origin)?;
    let own = Own { local, listener, metrics: None, keeps_alive };
    Ok(Box::pin(own.reply(down, record, reply, false)).await)
}

/// Does with the request what its route says.
async fn follow(
    cx: &Context,
    view: &View,
    listener: &Listener,
    route: &Arc<Route>,
    down: &mut Downstream,
    record: &mut Record<'_>,
    keeps_alive: bool,
) -> Result<Next, ProxyError> {
    let local = &cx.local;
    let reply = match &route.target {
        _ if record.request.max_forwards == Some(0) => reply::options(),
        Target::Forward(split) => {
            let set = local.with_rng(|rng| split.choose(rng));
            let forward = Forward { local, route, listener, keeps_alive };
            return forward.run(Rc::clone(view), set, down, record).await;
        }
        Target::Redirect(to) => reply::redirect(to, record.request, &record.origin)?,
        Target::Answer(answer) => reply::answer(&answer.spec, &answer.body),
    };
    let metrics = Some(route.metrics.of(local.index));
    let own = Own { local, listener, metrics, keeps_alive };
    Ok(Box::pin(own.reply(down, record, reply, false)).await)
}
