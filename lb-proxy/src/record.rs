//! What is remembered of one request until its response has ended, for those who tell about it:
//! the access log, `x-lb-explain` and traces.
//!
//! A [`Record`] goes with the request and then with its response's body; the body's drop is its end,
//! however that comes. The way of a request tells it what happened with one verb each. If nobody
//! wants to know, a record is nothing: each verb is one branch, and nothing is allocated.

use std::{
    fmt,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, Version, header::HOST};
use hyper::body::Frame;
use lb_common::{
    clock,
    id::{BackendSetName, ProxyId},
    snapshot,
    telemetry::{
        sampling::Ratio,
        trace_context::{TRACEPARENT, TraceContext, TraceId},
    },
};

use crate::{
    access_log::{Choice, Mode, WorkerLog},
    backend_set::{BackendSet, Pick},
    client::Client,
    error::{AttemptError, ProxyError},
    explain::{self, Token, X_LB_EXPLAIN},
    table::Route,
    trace::{self, Trace},
    worker::Worker,
};

/// Who a worker's records are for.
#[derive(Debug)]
pub struct Recorder {
    pub proxy: ProxyId,
    pub log: Rc<WorkerLog>,
    token: Option<Token>,
    /// How many of the requests that come without a trace begin one.
    traces: Option<Ratio>,
    is_off: bool,
}

/// One request's record, or nothing.
#[derive(Debug, Default)]
pub struct Record(Option<Box<Request>>);

/// A request, its attempts and its response, as far as they have come.
#[derive(Debug)]
pub struct Request {
    pub worker: Rc<Worker>,
    pub client: Rc<Client>,
    /// When its head was there.
    pub started: Instant,
    pub method: Method,
    /// As the client sent it.
    pub uri: Uri,
    pub host: Option<HeaderValue>,
    pub version: Version,
    pub trace_id: Option<TraceId>,
    trace: Option<Trace>,
    pub route: Option<Arc<Route>>,
    set: Option<Arc<BackendSet>>,
    /// Of the last attempt.
    pub pick: Option<Pick>,
    pub attempts: u64,
    pub tried: Vec<Tried>,
    attempt_started: Option<Instant>,
    /// How long the last attempt took to connect, unless it found a connection.
    pub connect: Option<Duration>,
    pub status: Option<StatusCode>,
    /// When the response's head was there.
    pub responded: Option<Instant>,
    /// Why the response is not what a backend sent, or not all of it.
    pub reason: Option<&'static str>,
    /// Of the response's body.
    pub bytes_out: u64,
    /// What the client had sent of bodies before this request.
    received_before: u64,
    choice: Choice,
    is_explained: bool,
    has_ended: bool,
}

/// One TCP connection's record, or nothing.
#[derive(Debug)]
pub struct ConnectionRecord(Option<Box<Connection>>);

/// A TCP connection.
#[derive(Debug)]
pub struct Connection {
    pub worker: Rc<Worker>,
    pub client: Rc<Client>,
    pub started: Instant,
    pub set: Option<BackendSetName>,
    /// Of the last attempt.
    pub pick: Option<Pick>,
    pub attempts: u64,
    pub tried: Vec<Tried>,
    attempt_started: Option<Instant>,
    pub connect: Option<Duration>,
    pub reason: Option<&'static str>,
    choice: Choice,
    has_ended: bool,
}

/// An attempt that another one followed.
#[derive(Debug)]
pub struct Tried {
    pub pick: Pick,
    pub why: Why,
}

/// Why an attempt was not the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The backend's.
    Status(StatusCode),
    /// An error type of `Proxy-Status`.
    Error(&'static str),
}

/// Attempts that are remembered one by one.
const MAX_TRIED: usize = 16;

// === impl Recorder ===

impl Recorder {
    pub fn new(
        proxy: ProxyId,
        log: WorkerLog,
        token: Option<Token>,
        traces: Option<Ratio>,
    ) -> Self {
        let is_off = log.mode() == Mode::Off && token.is_none() && traces.is_none();
        Self { proxy, log: Rc::new(log), token, traces, is_off }
    }

    /// What a client sent was no request, or its head was too large, and hyper has answered.
    pub fn malformed(&self, client: &Client, is_too_large: bool) {
        if self.log.mode() != Mode::Off {
            let status = match is_too_large {
                true => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                false => StatusCode::BAD_REQUEST,
            };
            self.log.malformed(&self.proxy, client, status, clock::now());
        }
    }
}

// === impl Record ===

impl Record {
    /// Begins with a request as the client sent it.
    pub fn begin<B>(
        worker: &Rc<Worker>,
        client: &Rc<Client>,
        request: &mut http::Request<B>,
        started: Instant,
    ) -> Self {
        let recorder = &worker.recorder;
        if recorder.is_off {
            return Self(None);
        }
        let (context, trace) = match recorder.traces {
            Some(ratio) => {
                let (context, trace) = Trace::begin(ratio, worker, client, request);
                (Some(context), trace)
            }
            None => (None, None),
        };
        let headers = request.headers();
        let is_explained = recorder.token.as_ref().is_some_and(|token| token.is_in(headers));
        let choice = recorder.log.mode().choose(|| worker.with_rng(|rng| rng.u32(..)));
        if choice == Choice::Never && !is_explained && trace.is_none() {
            return Self(None);
        }
        Self(Some(Box::new(Request {
            worker: Rc::clone(worker),
            client: Rc::clone(client),
            started,
            method: request.method().clone(),
            uri: request.uri().clone(),
            host: headers.get(HOST).cloned(),
            version: request.version(),
            trace_id: context.or_else(|| TraceContext::of(headers)).map(|context| context.trace_id),
            trace,
            route: None,
            set: None,
            pick: None,
            attempts: 0,
            tried: Vec::new(),
            attempt_started: None,
            connect: None,
            status: None,
            responded: None,
            reason: None,
            bytes_out: 0,
            received_before: client.body_bytes.get(),
            choice,
            is_explained,
            has_ended: false,
        })))
    }

    pub fn routed(&mut self, route: &Arc<Route>) {
        if let Some(request) = &mut self.0 {
            if let Some(trace) = &request.trace {
                trace.routed(route);
            }
            request.route = Some(Arc::clone(route));
        }
    }

    /// It is to go to a backend of this set.
    pub fn forwarded(&mut self, set: &Arc<BackendSet>) {
        if let Some(request) = &mut self.0 {
            request.set = Some(Arc::clone(set));
        }
    }

    pub fn attempt(&mut self, pick: &Pick, now: Instant) {
        if let Some(request) = &mut self.0 {
            request.pick = Some(pick.clone());
            request.attempts += 1;
            request.attempt_started = Some(now);
            request.connect = None;
            if let Some(trace) = &mut request.trace {
                trace.attempt(pick, request.attempts);
            }
        }
    }

    /// Puts into a request to a backend, as this attempt sends it, where it is in its trace.
    pub fn hand_on(&self, headers: &mut HeaderMap) {
        if let Some(trace) = self.0.as_ref().and_then(|request| request.trace.as_ref()) {
            headers.insert(TRACEPARENT, trace.traceparent());
        }
    }

    /// The attempt has a new connection.
    pub fn connected(&mut self) {
        if let Some(request) = &mut self.0 {
            let started = request.attempt_started;
            request.connect = started.map(|started| clock::now().duration_since(started));
        }
    }

    /// The attempt ended like this, and another one follows.
    pub fn retried<T>(&mut self, result: &Result<(Response<T>, impl Sized), AttemptError>) {
        let Some(request) = &mut self.0 else { return };
        if let Some(trace) = &mut request.trace {
            match result {
                Ok((response, _)) => trace.dismissed(response.status()),
                Err(error) => trace.failed(error),
            }
        }
        if let Some(pick) = &request.pick
            && request.tried.len() < MAX_TRIED
        {
            let why = match result {
                Ok((response, _)) => Why::Status(response.status()),
                Err(error) => Why::Error(error.kind()),
            };
            request.tried.push(Tried { pick: pick.clone(), why });
        }
    }

    /// The proxy answers by itself.
    pub fn refused(&mut self, error: &ProxyError) {
        if let Some(request) = &mut self.0 {
            request.reason = Some(error.reason());
            if let (Some(trace), ProxyError::Attempt { source, .. }) = (&mut request.trace, error) {
                trace.failed(source);
            }
        }
    }

    /// The response's head is there. It says what was asked to be explained.
    pub fn responded<T>(&mut self, response: &mut Response<T>, now: Instant) {
        let Some(request) = &mut self.0 else { return };
        request.status = Some(response.status());
        request.responded = Some(now);
        if let Some(trace) = &mut request.trace {
            trace.answered(response.status());
        }
        if request.is_explained {
            response.headers_mut().insert(X_LB_EXPLAIN, explain::header(request));
        }
    }

    /// What became of the response's body at a look at it.
    pub fn frame(&mut self, frame: &Option<Result<Frame<Bytes>, hyper::Error>>) {
        let Some(request) = &mut self.0 else { return };
        match frame {
            Some(Ok(frame)) => match frame.data_ref() {
                Some(bytes) => request.bytes_out += bytes.len() as u64,
                // Trailers are the last.
                None => request.has_ended = true,
            },
            Some(Err(_)) => request.reason = Some("http_response_incomplete"),
            None => request.has_ended = true,
        }
    }

    /// The response's body is at its end.
    pub fn ended(&mut self) {
        if let Some(request) = &mut self.0 {
            request.has_ended = true;
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(request) = &mut self.0 {
            request.end();
        }
    }
}

// === impl Request ===

impl Request {
    pub fn backend_set(&self) -> Option<&BackendSetName> {
        self.set.as_ref().map(|set| &set.spec.name)
    }

    /// From the last attempt's start to the response's head.
    pub fn upstream(&self) -> Option<Duration> {
        Some(self.responded?.duration_since(self.attempt_started?))
    }

    /// What the client has sent of its body.
    pub fn bytes_in(&self) -> u64 {
        self.client.body_bytes.get() - self.received_before
    }

    /// Which snapshot decided.
    pub fn table_version(&self) -> snapshot::Version {
        self.worker.table().snapshot.id.version
    }

    fn end(&mut self) {
        let no_body =
            matches!(self.status, Some(StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED));
        let is_whole = self.has_ended || no_body || self.method == Method::HEAD;
        if self.reason.is_none() && !(self.status.is_some() && is_whole) {
            self.reason = Some(why_cut(&self.worker, &self.client));
        }
        if let Some(trace) = self.trace.take() {
            trace.end(&trace::End {
                status: self.status,
                reason: self.reason,
                pick: self.pick.as_ref(),
                attempts: self.attempts,
                bytes_out: self.bytes_out,
            });
        }
        let failed = self.status.is_some_and(|status| status.is_server_error());
        if is_wanted(self.choice, failed || self.reason.is_some()) {
            self.worker.recorder.log.request(self, clock::now());
        }
    }
}

fn is_wanted(choice: Choice, is_error: bool) -> bool {
    match choice {
        Choice::Never => false,
        Choice::IfError => is_error,
        Choice::Always => true,
    }
}

/// Who ended it before its end.
fn why_cut(worker: &Worker, client: &Client) -> &'static str {
    match (client.is_cut(), worker.is_draining()) {
        (false, _) => "client_gone",
        (true, true) => "drain_timeout",
        (true, false) => "idle_timeout",
    }
}

// === impl ConnectionRecord ===

impl ConnectionRecord {
    pub fn begin(worker: &Rc<Worker>, client: &Rc<Client>) -> Self {
        let choice = worker.recorder.log.mode().choose(|| worker.with_rng(|rng| rng.u32(..)));
        if choice == Choice::Never {
            return Self(None);
        }
        Self(Some(Box::new(Connection {
            client: Rc::clone(client),
            worker: Rc::clone(worker),
            started: clock::now(),
            set: None,
            pick: None,
            attempts: 0,
            tried: Vec::new(),
            attempt_started: None,
            connect: None,
            reason: None,
            choice,
            has_ended: false,
        })))
    }

    /// It is to go to a backend of this set.
    pub fn forwarded(&mut self, set: &BackendSetName) {
        if let Some(connection) = &mut self.0 {
            connection.set = Some(set.clone());
        }
    }

    pub fn attempt(&mut self, pick: &Pick, now: Instant) {
        if let Some(connection) = &mut self.0 {
            connection.pick = Some(pick.clone());
            connection.attempts += 1;
            connection.attempt_started = Some(now);
        }
    }

    pub fn connected(&mut self) {
        if let Some(connection) = &mut self.0 {
            let started = connection.attempt_started;
            connection.connect = started.map(|started| clock::now().duration_since(started));
        }
    }

    /// The attempt failed.
    pub fn failed(&mut self, kind: &'static str) {
        let Some(connection) = &mut self.0 else { return };
        connection.reason = Some(kind);
        if let Some(pick) = connection.pick.clone() {
            connection.tried.push(Tried { pick, why: Why::Error(kind) });
        }
    }

    /// No backend took it.
    pub fn given_up(&mut self) {
        let Some(connection) = &mut self.0 else { return };
        connection.has_ended = true;
        // The last attempt is told of as such, and not as one that another one followed.
        if connection.attempts > 0 && connection.tried.len() as u64 == connection.attempts {
            connection.tried.pop();
        }
        connection.reason.get_or_insert("destination_unavailable");
    }

    /// Both sides have ended, or it broke off.
    pub fn ended<T, E>(&mut self, result: &Result<T, E>) {
        if let Some(connection) = &mut self.0 {
            connection.has_ended = true;
            connection.reason = result.is_err().then_some("connection_terminated");
        }
    }
}

impl Drop for ConnectionRecord {
    fn drop(&mut self) {
        let Some(connection) = &mut self.0 else { return };
        if !connection.has_ended {
            connection.reason = Some(why_cut(&connection.worker, &connection.client));
        }
        if is_wanted(connection.choice, connection.reason.is_some()) {
            connection.worker.recorder.log.connection(connection, clock::now());
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => f.write_str(status.as_str()),
            Self::Error(kind) => f.write_str(kind),
        }
    }
}
