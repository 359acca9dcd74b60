//! One request: route it, pick a backend, attempt, maybe attempt again, respond.
//!
//! ```text
//!   read head -> route -> pick -> attempt -> respond
//!                          ^        |
//!                          +--------+  the policy says retry and the budget pays
//! ```
//!
//! # Invariants
//!
//! - Route and policy come from one table; every further attempt re-reads the backends.
//! - Nothing here waits for the control plane, and nothing here writes the table.
//! - At most one attempt of a request is in flight, and a guard accounts for it until its body ends.

use std::{
    borrow::Cow,
    future::poll_fn,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::StatusCode;
use lb_common::{clock, spec::PathNormalization};
use lb_http::{
    h1::encode,
    message::{Method, Request, ResponseBody, Version},
};
use lb_routing::{
    admit::admit,
    balance::{PickContext, hash},
    hash_key::hash_of,
    outlier::Failure,
    path::normalize,
    refusal::Refusal,
    route::Subject,
};

use super::{
    Context, Next,
    attempt::Attempt,
    error::{AttemptError, ClientError, ProxyError},
    exchange::{Broken, Deadlines, Exchange, Sides},
    reply::{self, Reply},
    respond,
    tunnel::{self, Side, Tunnel},
    upload::Upload,
};
use crate::{
    downstream::Downstream,
    local::Local,
    metrics::RouteMetrics,
    net::outbox::Outbox,
    observe::record::Record,
    policy::retry::{self, Decision, Outcome},
    table::{Listener, Pick, Route, Service, Target, View},
};

/// Attempts remembered for not being picked again; beyond it, the oldest are forgotten.
const REMEMBERED: usize = 8;

/// A client that has ended its side still gets what is under way, as long as that comes within this.
/// Most that do so are gone altogether, which cannot be told from outside.
const HALF_CLOSED: Duration = Duration::from_secs(2);

/// Answers one request. `keeps_alive` says whether its connection may serve another one.
pub async fn handle(
    cx: &Context,
    down: &mut Downstream,
    request: Request,
    started: Instant,
    keeps_alive: bool,
) -> Next {
    let local = &cx.local;
    let view = local.view();
    let mut record = Record::begin(&cx.recorder, local, &down.client, request, started);
    let Some((listener, _)) = view.listener_of(&down.client.presence) else {
        return Next::Close;
    };
    let wanted = record.request.connection.keeps_alive(record.request.version);
    let keeps_alive = keeps_alive && wanted;
    let (route, result) = match find(listener, &record.request) {
        Ok(route) => {
            record.routed(&route);
            let next = follow(cx, &view, listener, &route, down, &mut record, keeps_alive).await;
            (Some(route), next)
        }
        Err(refusal) => (None, Err(refusal.into())),
    };
    let next = match result {
        Ok(next) => next,
        Err(error) => {
            let metrics = route.as_ref().map(|route| route.metrics.of(local.index));
            let own = Own { local, listener, metrics, keeps_alive };
            own.refuse(down, &mut record, &error).await
        }
    };
    match route {
        Some(route) => down.count(route.metrics.of(local.index)),
        None => down.count_nothing(),
    }
    next
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
    async fn refuse(&self, down: &mut Downstream, record: &mut Record, error: &ProxyError) -> Next {
        let worker = self.local.metrics();
        worker.refused(error.kind());
        record.reason(error.reason());
        match error.client() {
            Some(ClientError::Gone) => return Next::Close,
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
        record: &mut Record,
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
        let keeps_alive = self.keeps_alive && !is_last && !local.is_closing(&down.client.presence);
        let timeout = self.listener.spec.write_timeout;
        let request = &record.request;
        let next = respond::reply(local, down, request, reply, explain, keeps_alive, timeout).await;
        record.ended();
        next
    }
}

fn find(listener: &Listener, request: &Request) -> Result<Arc<Route>, Refusal> {
    admit(request)?;
    let Service::Http(routes) = &listener.service else { return Err(Refusal::NoRoute) };
    let mut scratch = Vec::new();
    let subject = Subject::of(request, listener.spec.path_normalization, &mut scratch);
    routes.find(&subject).cloned().ok_or(Refusal::NoRoute)
}

/// Does with the request what its route says.
async fn follow(
    cx: &Context,
    view: &View,
    listener: &Listener,
    route: &Arc<Route>,
    down: &mut Downstream,
    record: &mut Record,
    keeps_alive: bool,
) -> Result<Next, ProxyError> {
    let local = &cx.local;
    let reply = match &route.target {
        _ if record.request.max_forwards == Some(0) => reply::options(),
        Target::Forward(split) => {
            let set = local.with_rng(|rng| split.choose(rng));
            let forward = Forward { cx, route, listener, keeps_alive };
            return forward.run(Rc::clone(view), set, down, record).await;
        }
        Target::Redirect(to) => reply::redirect(to, &record.request)?,
        Target::Answer { answer, body } => reply::answer(answer, body),
    };
    let metrics = Some(route.metrics.of(local.index));
    Ok(Own { local, listener, metrics, keeps_alive }.reply(down, record, reply, false).await)
}

/// What a request that is forwarded goes by.
struct Forward<'a> {
    cx: &'a Context,
    route: &'a Arc<Route>,
    listener: &'a Listener,
    keeps_alive: bool,
}

impl Forward<'_> {
    async fn run(
        &self,
        mut view: View,
        mut slot: u32,
        down: &mut Downstream,
        record: &mut Record,
    ) -> Result<Next, ProxyError> {
        let (local, route) = (&self.cx.local, self.route);
        let spec = &route.spec;
        let policy = &spec.retry;
        let mut now = record.started;
        let set = view.set(slot).ok_or(Refusal::NoRoute)?;
        record.forwarded(&set.spec.name);
        let hash = set.hash_key().map_or(0, |(key, function)| {
            let by = |bytes: &[u8]| hash::hash(function, bytes);
            hash_of(key, down.client.peer.ip(), &record.request, by)
        });
        let name = set.spec.name.clone();
        let mut upload =
            Upload::new(&record.request, policy.max_body_bytes, spec.max_request_bytes, now)?;
        let deadlines = Deadlines {
            response: spec.timeout,
            per_try: policy.per_try_timeout,
            body: self.listener.spec.body_timeout,
            stream_idle: spec.stream_idle_timeout,
            write: self.listener.spec.write_timeout,
            half_closed: HALF_CLOSED,
        };
        let target = self.target(&record.request).into_owned();
        let asks_for_upgrade = may_upgrade(&record.request, &spec.upgrade);
        route.budget.deposit(local.millis(now));
        let metrics = route.metrics.of(local.index);

        let mut tried = Tried::default();
        let mut number = 1;
        loop {
            let pick = pick(local, &view, slot, hash, &mut tried, now)
                .ok_or_else(|| Refusal::NoBackend(name.clone()))?;
            record.attempt(&pick, now);
            let attempt =
                Attempt { pick: &pick, target: &target, via: spec.via, asks_for_upgrade, now };
            let mut sides = Sides { local, down, upload: &mut upload, deadlines: &deadlines };
            let result = attempt.run(&mut sides, record).await;

            let outcome = match &result {
                Ok(exchange) => Some(Outcome::Status(exchange.response.status)),
                Err(error) => error.outcome(),
            };
            let replayable = upload.is_replayable();
            let method = record.request.method;
            let decision = outcome.map_or(Decision::Deliver, |outcome| {
                retry::decide(policy, &retry::Attempt { method, outcome, number, replayable })
            });
            let wait = match decision {
                Decision::Deliver => None,
                Decision::Retry { paid } => {
                    now = clock::now();
                    let elsewhere = !paid
                        && local.with_rng(|rng| {
                            let cx = tried.context(local, hash, now, rng);
                            view.set(slot).is_some_and(|set| set.has_other(&cx))
                        });
                    let n = u32::from(number) - 1;
                    let wait = local.with_rng(|rng| retry::wait_before(policy, n, rng, elsewhere));
                    let is_late = upload
                        .completed()
                        .is_some_and(|completed| completed + spec.timeout <= now + wait);
                    let is_paid = || !paid || route.budget.try_withdraw();
                    match is_late {
                        true => None,
                        false if is_paid() => Some(wait),
                        false => {
                            metrics.budget_exhausted.increment();
                            None
                        }
                    }
                }
            };
            let Some(wait) = wait else {
                let sides = Sides { local, down, upload: &mut upload, deadlines: &deadlines };
                return self.deliver(&pick, result, sides, record).await;
            };
            metrics.retries.increment();
            match result {
                Ok(exchange) => {
                    record.dismissed(status_of(&exchange));
                    exchange.dismiss(local);
                }
                Err(error) => record.failed(error.kind(), &error, true),
            }
            if wait > Duration::ZERO {
                tokio::time::sleep(wait).await;
                now = clock::now();
            }
            // The backends may have changed meanwhile; the route and its policy stay.
            let current = local.view();
            if let Some(current_slot) = current.slot_of_set(&name) {
                (view, slot) = (current, current_slot);
            }
            number += 1;
        }
    }

    /// As backends get it.
    fn target<'r>(&self, request: &'r Request) -> Cow<'r, [u8]> {
        let mut normal = Vec::new();
        if self.listener.spec.path_normalization == PathNormalization::Forward
            && let Some(path) = normalize(request.path(), &mut normal)
        {
            let query = &request.target()[request.path().len()..];
            return Cow::Owned([path, query].concat());
        }
        Cow::Borrowed(request.target())
    }

    /// Passes on what an attempt has brought.
    async fn deliver(
        &self,
        pick: &Pick,
        result: Result<Exchange, AttemptError>,
        mut sides: Sides<'_>,
        record: &mut Record,
    ) -> Result<Next, ProxyError> {
        let local = sides.local;
        let mut exchange = match result {
            Ok(exchange) => exchange,
            Err(source) => {
                record.failed(source.reason(), &source, false);
                record.moved(sides.upload.received, 0);
                let backend = pick.backend().name.clone();
                return Err(ProxyError::Attempt { backend, source });
            }
        };
        let metrics = self.route.metrics.of(local.index);
        let (status, now) = (status_of(&exchange), clock::now());
        let version = record.request.version;
        let body = match exchange.response.body {
            // An HTTP/1.0 client knows of no chunks: its body ends with its connection.
            ResponseBody::Chunked | ResponseBody::UntilClose if version == Version::Http10 => {
                ResponseBody::UntilClose
            }
            ResponseBody::UntilClose => ResponseBody::Chunked,
            body => body,
        };
        let mut keeps_alive = self.keeps_alive
            && body != ResponseBody::UntilClose
            && exchange.is_request_sent()
            && !local.is_closing(&sides.down.client.presence);
        metrics.record(status, now - record.started);
        let explain = record.responded(status, now);
        local.with_date(|date| {
            let explain = explain.as_deref().map(str::as_bytes);
            let to = encode::ToClient { body, version, keeps_alive, date, explain };
            exchange.begin(&mut sides, &to);
        });
        if exchange.response.status == 101 {
            return Ok(self.tunnel(exchange, sides, record).await);
        }
        let result = poll_fn(|cx| exchange.poll_response(&mut sides, metrics, cx)).await;
        record.moved(sides.upload.received, exchange.delivered);
        let is_failure = exchange.response.status >= 500;
        if let Err(broken) = result {
            return Ok(self.broken(broken, body, pick, is_failure, record, local));
        }
        record.ended();
        if !is_failure {
            local.record_success(pick);
        }
        keeps_alive &= exchange.is_request_sent();
        let is_sending = !exchange.is_request_sent() || !sides.down.input.is_empty();
        exchange.finish(local);
        Ok(match (keeps_alive, is_sending) {
            (true, _) => Next::KeepAlive,
            (false, true) => Next::Linger,
            (false, false) => Next::Close,
        })
    }

    /// Says why a response broke off, and whose fault that is.
    fn broken(
        &self,
        broken: Broken,
        body: ResponseBody,
        pick: &Pick,
        is_failure: bool,
        record: &mut Record,
        local: &Local,
    ) -> Next {
        let limits = &local.metrics().limits;
        let (reason, failure) = match broken {
            Broken::ClientGone => ("client_gone", None),
            Broken::ClientSlow => {
                limits.write_timeout.increment();
                ("write_timeout", None)
            }
            Broken::BackendSilent => {
                limits.stream_idle_timeout.increment();
                ("stream_idle_timeout", Some(Failure::Timeout))
            }
            Broken::BackendClosed => ("http_response_incomplete", Some(Failure::Reset)),
            Broken::Malformed => ("http_protocol_error", Some(Failure::Reset)),
        };
        record.reason(reason);
        match failure {
            Some(failure) => local.record_failure(pick, failure),
            // The backend did its part: that its client did not wait for the end is not its doing.
            None if !is_failure => local.record_success(pick),
            None => {}
        }
        match body {
            // Its end would look like the body's.
            ResponseBody::UntilClose => Next::Reset,
            _ => Next::Close,
        }
    }

    /// Carries what follows a 101.
    async fn tunnel(&self, exchange: Exchange, sides: Sides<'_>, record: &mut Record) -> Next {
        let (local, down) = (sides.local, sides.down);
        let worker = local.metrics();
        let (lease, early) = exchange.into_tunnel(local);
        let (mut stream, pick, _in_flight) = lease.into_parts();
        local.record_success(&pick);
        worker.tunnels_opened.increment();
        let metrics = self.route.metrics.of(local.index);
        down.count(metrics);
        down.outbox.bytes().extend_from_slice(&early);
        let mut to_backend = Outbox::with(std::mem::take(&mut down.input));
        let mut tunnel = Tunnel {
            client: Side::new(&mut down.stream, &mut down.outbox),
            backend: Side::new(&mut stream, &mut to_backend),
        };
        let mut counted = (0, 0);
        let idle = self.route.spec.tunnel_idle_timeout;
        let _open = OpenTunnel(worker);
        let end = tunnel
            .run(local, &down.client.timer, idle, |from, to| {
                metrics.received_bytes.add(from - counted.0);
                metrics.sent_bytes.add(to - counted.1);
                counted = (from, to);
                record.moved(from, to);
            })
            .await;
        // It is all counted.
        down.count_nothing();
        match end {
            tunnel::End::Both => record.ended(),
            tunnel::End::Broken(_) => record.reason("connection_terminated"),
            tunnel::End::Idle => {
                worker.limits.tunnel_idle_timeout.increment();
                record.reason("tunnel_idle_timeout");
            }
        }
        Next::Close
    }
}

/// Counts a tunnel for as long as it lives.
struct OpenTunnel<'a>(&'a crate::metrics::WorkerMetrics);

impl Drop for OpenTunnel<'_> {
    fn drop(&mut self) {
        self.0.tunnels_closed.increment();
    }
}

/// Whether a request's wish to switch protocols is passed on: its route allows it, and there is no
/// body that would have to come first.
fn may_upgrade(request: &Request, allowed: &[String]) -> bool {
    request.upgrade().is_some_and(|wanted| {
        let is_allowed =
            allowed.iter().any(|protocol| wanted.eq_ignore_ascii_case(protocol.as_bytes()));
        is_allowed && !request.has_body()
    })
}

/// Statuses of responses that were read are proper ones.
fn status_of(exchange: &Exchange) -> StatusCode {
    StatusCode::from_u16(exchange.response.status).unwrap_or(StatusCode::BAD_GATEWAY)
}

/// Prefers a backend that this request has not tried, but rather tries one again than none.
fn pick(
    local: &Local,
    view: &View,
    slot: u32,
    hash: u64,
    tried: &mut Tried,
    now: Instant,
) -> Option<Pick> {
    let first =
        local.with_rng(|rng| Pick::from(view, slot, &mut tried.context(local, hash, now, rng)));
    let pick = match first {
        None if tried.len > 0 => {
            *tried = Tried::default();
            local.with_rng(|rng| Pick::from(view, slot, &mut tried.context(local, hash, now, rng)))
        }
        pick => pick,
    }?;
    tried.push(pick.backend().live.id);
    Some(pick)
}

/// The backends that a request has tried.
#[derive(Default)]
struct Tried {
    ids: [u64; REMEMBERED],
    len: usize,
}

impl Tried {
    fn push(&mut self, id: u64) {
        self.ids[self.len % REMEMBERED] = id;
        self.len += 1;
    }

    fn context<'a>(
        &'a self,
        local: &Local,
        hash: u64,
        now: Instant,
        rng: &'a mut fastrand::Rng,
    ) -> PickContext<'a> {
        let tried = &self.ids[..self.len.min(REMEMBERED)];
        PickContext { now: local.millis(now), rng, tried, hash }
    }
}
