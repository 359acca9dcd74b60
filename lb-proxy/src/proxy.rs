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
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, HOST, LOCATION},
    request::Parts,
};
use hyper::body::{Body, Incoming};
use lb_common::{
    clock,
    spec::{Redirect, Scheme},
};

use crate::{
    backend::InFlight,
    backend_set::{BackendSet, Pick},
    balance::{PickContext, hash},
    body::{BackendBody, RequestBody, ResponseBody, Source},
    client::Client,
    error::{AttemptError, ProxyError},
    hash_key::hash_of,
    headers, interim,
    outlier::Failure,
    retry::{self, Decision, Outcome},
    route::Subject,
    table::{Listener, Route, Target},
    upstream::{Connection, Exchange, ExchangeError},
    worker::Worker,
};

/// Attempts remembered for not being picked again; beyond it, the oldest are forgotten.
const REMEMBERED: usize = 8;

/// Answers one request. Whatever happens, there is a response.
pub async fn handle(
    worker: Rc<Worker>,
    client: Rc<Client>,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let started = clock::now();
    let busy = client.busy(&worker.coarse);
    let mut route = None;
    let result = match headers::admit(&mut request).and_then(|()| find(&worker, &client, &request))
    {
        Ok(found) => follow(&worker, &client, route.insert(found), request, started).await,
        Err(error) => Err(error),
    };
    let mut response = match result {
        Ok(Reply::Backend(response)) => response.map(|body| ResponseBody::backend(body, busy)),
        Ok(Reply::Own(response)) => response.map(|body| ResponseBody::full(body, busy)),
        Err(error) => refuse(&error).map(|body| ResponseBody::full(body, busy)),
    };
    match &route {
        Some(route) => {
            let metrics = route.metrics.of(worker.index);
            metrics.record(response.status(), clock::now() - started);
        }
        None => worker.metrics().unrouted.increment(),
    }
    if worker.is_closing(&client) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

enum Reply {
    Backend(Response<BackendBody>),
    Own(Response<Bytes>),
}

fn find<B>(
    worker: &Worker,
    client: &Client,
    request: &Request<B>,
) -> Result<Arc<Route>, ProxyError> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let subject = Subject {
        host: host.unwrap_or_default(),
        path: request.uri().path(),
        method: request.method(),
        headers: request.headers(),
    };
    match &*worker.listener_of(client) {
        Listener::Http(routes) => routes.find(&subject).cloned().ok_or(ProxyError::NoRoute),
        Listener::Tcp(_) => Err(ProxyError::NoRoute),
    }
}

async fn follow(
    worker: &Rc<Worker>,
    client: &Client,
    route: &Arc<Route>,
    request: Request<Incoming>,
    started: Instant,
) -> Result<Reply, ProxyError> {
    match &route.target {
        Target::Forward(split) => {
            let set = worker.with_rng(|rng| Arc::clone(split.choose(rng)));
            let response = forward(worker, client, route, set, request, started).await?;
            Ok(Reply::Backend(response))
        }
        Target::Redirect(to) => Ok(Reply::Own(redirect(to, &request))),
        Target::Answer { answer, body } => {
            let mut response = Response::new(body.clone());
            *response.status_mut() = answer.status;
            *response.headers_mut() = Target::answer_headers(answer);
            Ok(Reply::Own(response))
        }
    }
}

async fn forward(
    worker: &Rc<Worker>,
    client: &Client,
    route: &Arc<Route>,
    mut set: Arc<BackendSet>,
    request: Request<Incoming>,
    started: Instant,
) -> Result<Response<BackendBody>, ProxyError> {
    let policy = &route.spec.retry;
    let deadline = started + route.spec.timeout;
    let hash = set.hash_key().map_or(0, |(key, function)| {
        hash_of(key, client.peer.ip(), &request, |bytes| hash::hash(function, bytes))
    });
    let (mut head, body) = request.into_parts();
    let source = (!body.is_end_stream()).then(|| Source::new(body, policy.max_body_bytes));
    headers::to_backend(&mut head.headers, &client.forwarded_for, source.is_some());
    let client_version = std::mem::replace(&mut head.version, Version::HTTP_11);
    route.budget.deposit(worker.millis(started));

    let mut head = Some(head);
    let mut tried = Tried::default();
    let mut now = started;
    for number in 1..=u8::MAX {
        let pick = pick(worker, &set, hash, &mut tried, now)
            .ok_or_else(|| ProxyError::NoBackend(set.spec.name.clone()))?;
        let source = source.as_ref();
        let attempt = Attempt { route, source, client_version, started: now, deadline };
        let last = policy.attempts.get() <= number;
        let (method, result) = attempt.run(worker, client, &pick, &mut head, last).await;

        let outcome = match &result {
            Ok((response, _)) => Outcome::Status(response.status().as_u16()),
            Err(AttemptError::ClientGone) => return deliver(pick, result),
            Err(_) if deadline <= clock::now() => return deliver(pick, result),
            Err(error) => match error.outcome() {
                Some(outcome) => outcome,
                None => return deliver(pick, result),
            },
        };
        let seen = retry::Attempt {
            method: &method,
            outcome,
            number,
            replayable: source.is_none_or(|source| source.is_replayable()),
        };
        let Decision::Retry { paid } = retry::decide(policy, &seen) else {
            return deliver(pick, result);
        };
        let metrics = route.metrics.of(worker.index);
        if paid && !route.budget.try_withdraw() {
            metrics.budget_exhausted.increment();
            return deliver(pick, result);
        }
        metrics.retries.increment();
        if let Ok((response, exchange)) = result {
            worker.discard(BackendBody::new(response.into_body(), exchange));
        }

        now = clock::now();
        // The backends may have changed meanwhile; the route and its policy stay.
        set = worker.table().backend_sets.get(&set.spec.name).cloned().unwrap_or(set);
        let other = worker.with_rng(|rng| set.has_other(&tried.context(worker, hash, now, rng)));
        let elsewhere = !paid && other;
        let wait = worker
            .with_rng(|rng| retry::wait_before(policy, u32::from(number) - 1, rng, elsewhere));
        if wait > Duration::ZERO {
            tokio::time::sleep(wait.min(deadline.saturating_duration_since(now))).await;
            now = clock::now();
        }
    }
    unreachable!("the policy's attempts end before the numbers do")
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

type Received = (Response<Incoming>, Exchange);

struct Attempt<'a> {
    route: &'a Route,
    source: Option<&'a Rc<Source>>,
    client_version: Version,
    started: Instant,
    /// Of the request.
    deadline: Instant,
}

impl Attempt<'_> {
    /// Tries one backend, and tells outlier ejection what came of it. Takes the head if this is
    /// the last attempt, and otherwise leaves it for the next one.
    async fn run(
        &self,
        worker: &Rc<Worker>,
        client: &Client,
        pick: &Pick,
        head: &mut Option<Parts>,
        last: bool,
    ) -> (Method, Result<Received, AttemptError>) {
        let parts = if last { head.take() } else { head.clone() };
        let parts = parts.expect("only the last attempt takes the head");
        let method = parts.method.clone();
        let body = match self.source {
            Some(source) => RequestBody::Replay { source: Rc::clone(source), next: 0 },
            None => RequestBody::Empty,
        };
        pick.metrics(worker.index).attempts.increment();
        let mut request = Request::from_parts(parts, body);
        interim::pass_on(&mut request, self.client_version, &client.interim);
        let result = self.send(worker, client, pick, request).await;
        match &result {
            Ok((response, _)) if response.status().is_server_error() => {
                worker.record_failure(pick, Failure::Status);
            }
            Ok(_) => worker.record_success(pick),
            Err(error) => {
                if let Some(failure) = error.failure() {
                    worker.record_failure(pick, failure);
                }
            }
        }
        (method, result)
    }

    async fn send(
        &self,
        worker: &Rc<Worker>,
        client: &Client,
        pick: &Pick,
        mut request: Request<RequestBody>,
    ) -> Result<Received, AttemptError> {
        let backend = pick.backend();
        let in_flight = InFlight::start(&backend.live);
        let per_try = self.route.spec.retry.per_try_timeout;
        let deadline =
            per_try.map_or(self.deadline, |limit| self.deadline.min(self.started + limit));
        let timer = &client.timer;
        if !request.headers().contains_key(HOST) {
            // HTTP/1.0 needs none, HTTP/1.1 does.
            let host = HeaderValue::from_str(&backend.address.to_string());
            request.headers_mut().insert(HOST, host.expect("an address is a header value"));
        }
        // Ends: each round takes one connection out of the pool, and a new one is the last.
        loop {
            let mut connection = match worker.pooled(backend, self.started).await {
                Some(connection) => connection,
                None => {
                    pick.metrics(worker.index).connects.increment();
                    let timeout = pick.set.spec.connect_timeout;
                    Connection::open(backend.address, timeout, self.started, deadline, timer)
                        .await?
                }
            };
            match connection.exchange(request, self.started, deadline, timer).await {
                Ok(response) => {
                    let (worker, source) = (Rc::clone(worker), self.source.cloned());
                    let pick = pick.clone();
                    let mut exchange = Exchange { connection, worker, pick, in_flight, source };
                    exchange.head_received();
                    return Ok((response, exchange));
                }
                Err(ExchangeError::Unsent(unsent)) if connection.is_reused() => request = *unsent,
                Err(ExchangeError::Unsent(_)) => {
                    return Err(AttemptError::Closed { reused: false });
                }
                Err(ExchangeError::Failed(_))
                    if self.source.is_some_and(|source| source.is_failed()) =>
                {
                    return Err(AttemptError::ClientGone);
                }
                Err(ExchangeError::Failed(error)) => return Err(error),
            }
        }
    }
}

fn deliver(
    pick: Pick,
    result: Result<Received, AttemptError>,
) -> Result<Response<BackendBody>, ProxyError> {
    let (mut response, exchange) = result
        .map_err(|source| ProxyError::Attempt { backend: pick.backend().name.clone(), source })?;
    headers::to_client(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    Ok(response.map(|body| BackendBody::new(body, exchange)))
}

/// An answer of our own, with its reason.
fn refuse(error: &ProxyError) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(format!("{error}\n")));
    *response.status_mut() = error.status();
    let headers = response.headers_mut();
    headers.insert("proxy-status", error.proxy_status());
    headers
        .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn redirect<B>(to: &Redirect, request: &Request<B>) -> Response<Bytes> {
    let scheme = match to.scheme {
        Some(Scheme::Https) => "https",
        Some(Scheme::Http) | None => "http",
    };
    let given = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let host = match (&to.host, to.scheme) {
        (Some(host), _) => host,
        // Another scheme has another port.
        (None, Some(_)) => without_port(given),
        (None, None) => given,
    };
    let path = to.path.as_deref().unwrap_or(request.uri().path());
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = to.status;
    match HeaderValue::from_str(&format!("{scheme}://{host}{path}{query}")) {
        Ok(location) => {
            response.headers_mut().insert(LOCATION, location);
        }
        Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    response
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    }
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
