//! One request: route it, pick a backend, attempt, maybe attempt again, respond.
//!
//! ```text
//!   accept -> route -> pick -> attempt -> respond
//!                       ^        |
//!                       +--------+  the policy says retry and the budget pays
//! ```
//!
//! # Invariants
//!
//! - Route and policy come from one table; every further attempt re-reads the backends.
//! - Nothing here waits for the control plane, and nothing here writes the table.
//! - At most one attempt of a request is in flight, and a guard accounts for it until its body ends.

use std::{
    mem,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, Version,
    header::{CONNECTION, EXPECT},
};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use lb_common::clock;
use lb_routing::{
    admit::admit,
    balance::{PickContext, hash},
    hash_key::hash_of,
    refusal::Refusal,
    route::Subject,
};

use crate::{
    attempt::{Attempt, Deadlines, Received},
    backend_set::{BackendSet, Pick},
    body::{BackendBody, Content, ResponseBody, Source},
    client::Client,
    error::{AttemptError, ProxyError},
    headers,
    record::Record,
    reply,
    retry::{self, Decision, Outcome},
    table::{Route, Service, Target},
    worker::Worker,
};

/// Attempts remembered for not being picked again; beyond it, the oldest are forgotten.
const REMEMBERED: usize = 8;

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// What is read of a body that is of no use, so that its client gets to read the answer.
const UNUSED_BYTES: usize = 64 * 1024;
const UNUSED_TIME: Duration = Duration::from_secs(1);

/// Answers one request. Whatever happens, there is a response.
pub async fn handle(
    worker: Rc<Worker>,
    client: Rc<Client>,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let started = clock::now();
    let busy = client.busy(&worker.coarse);
    let mut record = Record::begin(&worker, &client, &mut request, started);
    let route = match admit(&mut request) {
        Ok(()) => find(&worker, &client, &request),
        Err(refusal) => Err(refusal.into()),
    };
    let mut response = match &route {
        Ok(route) => {
            record.routed(route);
            follow(&worker, &client, route, request, &mut record, started).await
        }
        Err(error) => own(refuse(&worker, &mut record, error), request, &client).await,
    };
    let now = clock::now();
    match &route {
        Ok(route) => route.metrics.of(worker.index).record(response.status(), now - started),
        Err(_) => worker.metrics().unrouted.increment(),
    }
    client.answers(route.as_ref().ok().map(|route| &route.metrics), worker.index);
    if worker.is_closing(&client) {
        response.headers_mut().insert(CONNECTION, CLOSE);
    }
    record.responded(&mut response, now);
    response.map(|content| ResponseBody::new(content, record, busy))
}

/// Does with the request what its route says.
async fn follow(
    worker: &Rc<Worker>,
    client: &Client,
    route: &Arc<Route>,
    request: Request<Incoming>,
    record: &mut Record,
    now: Instant,
) -> Response<Content> {
    match &route.target {
        Target::Forward(split) => {
            let set = worker.with_rng(|rng| Arc::clone(split.choose(rng)));
            let has_body = !request.body().is_end_stream();
            match forward(worker, client, route, set, request, record, now).await {
                Ok(response) => response.map(Content::from),
                Err(error) => {
                    let mut response = refuse(worker, record, &error);
                    if has_body {
                        // Nobody reads the rest of it, so the connection is of no more use.
                        response.headers_mut().insert(CONNECTION, CLOSE);
                    }
                    response.map(Content::from)
                }
            }
        }
        Target::Redirect(to) => {
            let response = reply::redirect(to, &request);
            let response = response.unwrap_or_else(|error| refuse(worker, record, &error));
            own(response, request, client).await
        }
        Target::Answer { answer, body } => own(reply::answer(answer, body), request, client).await,
    }
}

/// The proxy's own answer, counted and recorded.
fn refuse(worker: &Worker, record: &mut Record, error: &ProxyError) -> Response<Bytes> {
    worker.metrics().refused(error.kind());
    record.refused(error);
    reply::refuse(error)
}

/// An answer that needs nothing of the request's body. A client that is still sending it would be
/// cut off and might not see the answer, so some of it is read first.
async fn own(
    response: Response<Bytes>,
    request: Request<Incoming>,
    client: &Client,
) -> Response<Content> {
    let mut response = response.map(Content::from);
    if request.body().is_end_stream() {
        return response;
    }
    let expects_a_go_ahead = request.headers().contains_key(EXPECT);
    let mut body = request.into_body();
    let read = async {
        let mut left = UNUSED_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let read = frame.data_ref().map_or(0, Bytes::len);
            client.body_bytes.set(client.body_bytes.get() + read as u64);
            left = left.checked_sub(read)?;
        }
        Some(())
    };
    let is_read = !expects_a_go_ahead
        && matches!(tokio::time::timeout(UNUSED_TIME, read).await, Ok(Some(())));
    if !is_read {
        response.headers_mut().insert(CONNECTION, CLOSE);
    }
    response
}

fn find<B>(
    worker: &Worker,
    client: &Client,
    request: &Request<B>,
) -> Result<Arc<Route>, ProxyError> {
    let route = match &worker.listener_of(client).service {
        Service::Http(routes) => routes.find(&Subject::of(request)).cloned(),
        Service::Tcp(_) => None,
    };
    route.ok_or(ProxyError::Refused(Refusal::NoRoute))
}

async fn forward(
    worker: &Rc<Worker>,
    client: &Client,
    route: &Arc<Route>,
    mut set: Arc<BackendSet>,
    request: Request<Incoming>,
    record: &mut Record,
    mut now: Instant,
) -> Result<Response<BackendBody>, ProxyError> {
    record.forwarded(&set);
    let policy = &route.spec.retry;
    let deadline = now + route.spec.timeout;
    let hash = set.hash_key().map_or(0, |(key, function)| {
        hash_of(key, client.peer.ip(), &request, |bytes| hash::hash(function, bytes))
    });
    let (mut head, body) = request.into_parts();
    let source = (!body.is_end_stream())
        .then(|| Source::new(body, policy.max_body_bytes, Rc::clone(&client.body_bytes)));
    let source = source.as_ref();
    headers::to_backend(&mut head.headers, &client.forwarded_for, source.is_some());
    let client_version = mem::replace(&mut head.version, Version::HTTP_11);
    route.budget.deposit(worker.millis(now));
    let metrics = route.metrics.of(worker.index);

    let mut tried = Tried::default();
    let mut number = 1;
    loop {
        let pick = pick(worker, &set, hash, &mut tried, now)
            .ok_or_else(|| Refusal::NoBackend(set.spec.name.clone()))?;
        record.attempt(&pick, now);
        let (head, per_try) = (&head, policy.per_try_timeout);
        let deadlines = Deadlines { request: deadline, per_try };
        let attempt =
            Attempt { worker, client, pick: &pick, head, source, client_version, now, deadlines };
        let result = attempt.run(record).await;

        let outcome = match &result {
            Ok((response, _)) => Some(Outcome::Status(response.status().as_u16())),
            Err(error) => error.outcome(),
        };
        let Some(outcome) = outcome else { return deliver(pick, result) };
        let replayable = source.is_none_or(|source| source.is_replayable());
        let seen = retry::Attempt { method: &head.method, outcome, number, replayable };
        let Decision::Retry { paid } = retry::decide(policy, &seen) else {
            return deliver(pick, result);
        };
        now = clock::now();
        let elsewhere =
            !paid && worker.with_rng(|rng| set.has_other(&tried.context(worker, hash, now, rng)));
        let wait = worker
            .with_rng(|rng| retry::wait_before(policy, u32::from(number) - 1, rng, elsewhere));
        if deadline <= now + wait {
            return deliver(pick, result);
        }
        if paid && !route.budget.try_withdraw() {
            metrics.budget_exhausted.increment();
            return deliver(pick, result);
        }
        metrics.retries.increment();
        record.retried(&result);
        match result {
            // A connection that still reads the body would take it from the next attempt.
            Ok((response, exchange)) if exchange.is_request_complete() => {
                worker.discard(BackendBody::new(response.into_body(), exchange));
            }
            other => drop(other),
        }
        if wait > Duration::ZERO {
            tokio::time::sleep(wait).await;
            now = clock::now();
        }
        // The backends may have changed meanwhile; the route and its policy stay.
        set = worker.table().backend_sets.get(&set.spec.name).cloned().unwrap_or(set);
        number += 1;
    }
}

/// Prefers a backend that this request has not tried, but rather tries one again than none.
fn pick(
    worker: &Worker,
    set: &Arc<BackendSet>,
    hash: u64,
    tried: &mut Tried,
    now: Instant,
) -> Option<Pick> {
    let first = worker.with_rng(|rng| set.pick(&mut tried.context(worker, hash, now, rng)));
    let pick = match first {
        None if tried.len > 0 => {
            *tried = Tried::default();
            worker.with_rng(|rng| set.pick(&mut tried.context(worker, hash, now, rng)))
        }
        pick => pick,
    }?;
    tried.push(pick.backend().live.id);
    Some(pick)
}

fn deliver(
    pick: Pick,
    result: Result<Received, AttemptError>,
) -> Result<Response<BackendBody>, ProxyError> {
    let (mut response, mut exchange) = result
        .map_err(|source| ProxyError::Attempt { backend: pick.backend().name.clone(), source })?;
    exchange.deliver();
    headers::to_client(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    Ok(response.map(|body| BackendBody::new(body, exchange)))
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
        worker: &Worker,
        hash: u64,
        now: Instant,
        rng: &'a mut fastrand::Rng,
    ) -> PickContext<'a> {
        let tried = &self.ids[..self.len.min(REMEMBERED)];
        PickContext { now: worker.millis(now), rng, tried, hash }
    }
}
