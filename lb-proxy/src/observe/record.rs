//! A request from its head to its response's end, for those who tell about it.
//!
//! A [`Record`] has the request's head and, if somebody wants to know, the facts about it. The way of
//! a request tells it what happened with one verb each; its drop is the request's end, however that
//! comes. If nobody wants to know, each verb is one branch, and nothing is allocated.

use std::{rc::Rc, sync::Arc, time::Instant};

use http::StatusCode;
use lb_common::{
    clock,
    id::{BackendSetName, ProxyId},
    telemetry::sampling::Ratio,
};
use lb_http::{h1::encode, message::Request};
use lb_routing::origin::Origin;

use super::{
    access_log::{Choice, Mode, WorkerLog},
    explain::{self, Token},
    facts::{ConnectionFacts, Facts, Why},
    trace::{self, Handed, Trace},
};
use crate::{
    connections::End,
    downstream::Client,
    local::Local,
    table::{Pick, Route, View},
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

/// One request's record.
#[derive(Debug)]
pub struct Record<'a> {
    pub request: &'a Request,
    pub origin: Origin<'a>,
    /// When its head was there.
    pub started: Instant,
    local: Rc<Local>,
    /// `None` if nobody wants to know.
    told: Option<Box<Told>>,
}

/// What is told of a request, and to whom.
#[derive(Debug)]
struct Told {
    recorder: Rc<Recorder>,
    facts: Facts,
    trace: Option<Trace>,
    handed: Handed,
    choice: Choice,
    is_explained: bool,
    has_ended: bool,
}

/// One TCP connection's record, or nothing.
#[derive(Debug)]
pub struct ConnectionRecord(Option<Box<ToldOfConnection>>);

#[derive(Debug)]
struct ToldOfConnection {
    recorder: Rc<Recorder>,
    local: Rc<Local>,
    facts: ConnectionFacts,
    choice: Choice,
    has_ended: bool,
}

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

    /// What a client sent was no request, and this was the answer.
    pub fn malformed(&self, client: &Client, status: StatusCode, reason: &'static str) {
        if self.log.mode() != Mode::Off {
            self.log.malformed(&self.proxy, client, status, reason, clock::now());
        }
    }
}

// === impl Record ===

impl<'a> Record<'a> {
    /// Begins with a request as the client sent it; `view` decides about it.
    pub fn begin(
        recorder: &Rc<Recorder>,
        local: &Rc<Local>,
        view: &View,
        client: &Rc<Client>,
        request: &'a Request,
        origin: Origin<'a>,
        started: Instant,
    ) -> Self {
        let told = match recorder.is_off {
            true => None,
            false => {
                Told::begin(recorder, local, view, client, request, &origin, started).map(Box::new)
            }
        };
        Self { request, origin, started, local: Rc::clone(local), told }
    }

    pub fn routed(&mut self, route: &Arc<Route>) {
        if let Some(told) = &mut self.told {
            if let Some(trace) = &told.trace {
                trace.routed(route, self.request);
            }
            told.facts.route = Some(Arc::clone(route));
        }
    }

    /// It is to go to a backend of this set.
    pub fn forwarded(&mut self, set: &BackendSetName) {
        if let Some(told) = &mut self.told {
            told.facts.attempts.set = Some(set.clone());
        }
    }

    pub fn attempt(&mut self, pick: &Pick, now: Instant) {
        if let Some(told) = &mut self.told {
            told.facts.attempts.begin(pick, now);
            if let Some(trace) = &mut told.trace {
                trace.attempt(pick, told.facts.attempts.count, self.request);
                told.handed = trace.hand_on();
            }
        }
    }

    /// Where in its trace a backend is to take the request for.
    pub fn trace_context(&self) -> encode::TraceContext<'_> {
        self.told.as_ref().map_or(encode::TraceContext::AsItCame, |told| told.handed.as_context())
    }

    /// The attempt has a new connection.
    pub fn connected(&mut self) {
        if let Some(told) = &mut self.told {
            told.facts.attempts.connected(clock::now());
        }
    }

    /// The attempt got this answer, and another one follows.
    pub fn dismissed(&mut self, status: StatusCode) {
        if let Some(told) = &mut self.told {
            if let Some(trace) = &mut told.trace {
                trace.dismissed(status);
            }
            told.facts.attempts.followed(Why::Status(status));
        }
    }

    /// The attempt failed. Another one may follow.
    pub fn failed(&mut self, kind: &'static str, error: &dyn std::fmt::Display, is_followed: bool) {
        if let Some(told) = &mut self.told {
            if let Some(trace) = &mut told.trace {
                trace.failed(kind, error);
            }
            if is_followed {
                told.facts.attempts.followed(Why::Error(kind));
            }
        }
    }

    /// The response is not what a backend sent, or not all of it.
    pub fn reason(&mut self, reason: &'static str) {
        if let Some(told) = &mut self.told {
            told.facts.reason = Some(reason);
        }
    }

    /// The response's head is there. Returns what was asked to be explained.
    pub fn responded(&mut self, status: StatusCode, now: Instant) -> Option<String> {
        let told = self.told.as_mut()?;
        told.facts.status = Some(status);
        told.facts.responded = Some(now);
        if let Some(trace) = &mut told.trace {
            trace.answered(status);
        }
        told.is_explained.then(|| explain::text(&told.recorder.proxy, &told.facts))
    }

    /// What bodies had, or what a tunnel has carried.
    pub fn moved(&mut self, bytes_in: u64, bytes_out: u64) {
        if let Some(told) = &mut self.told {
            told.facts.bytes_in = bytes_in;
            told.facts.bytes_out = bytes_out;
        }
    }

    /// What an answer of the proxy's own had.
    pub fn answered(&mut self, bytes_out: usize) {
        if let Some(told) = &mut self.told {
            told.facts.bytes_out = bytes_out as u64;
        }
    }

    /// All of the response was written.
    pub fn ended(&mut self) {
        if let Some(told) = &mut self.told {
            told.has_ended = true;
        }
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        if let Some(told) = self.told.take() {
            told.end(self.request, &self.local);
        }
    }
}

// === impl Told ===

impl Told {
    fn begin(
        recorder: &Rc<Recorder>,
        local: &Rc<Local>,
        view: &View,
        client: &Rc<Client>,
        request: &Request,
        origin: &Origin<'_>,
        started: Instant,
    ) -> Option<Self> {
        let came = trace::came_with(request);
        let (trace_id, trace, handed) = match recorder.traces {
            Some(ratio) => {
                Trace::begin(ratio, local, client, &recorder.proxy, request, origin, came)
            }
            None => (came.map(|context| context.trace_id), None, Handed::AsItCame),
        };
        let is_explained = recorder.token.as_ref().is_some_and(|token| token.is_in(request));
        let choice = recorder.log.mode().choose(|| local.with_rng(|rng| rng.u32(..)));
        let is_silent = choice == Choice::Never && !is_explained && trace.is_none();
        if is_silent && matches!(handed, Handed::AsItCame) {
            return None;
        }
        let version = view.snapshot.id.version;
        let mut facts = Facts::new(client, started, version);
        facts.trace_id = trace_id;
        facts.passed_on_for = origin.is_passed_on.then_some(origin.address);
        let recorder = Rc::clone(recorder);
        Some(Self { recorder, facts, trace, handed, choice, is_explained, has_ended: false })
    }

    fn end(mut self, request: &Request, local: &Local) {
        let facts = &mut self.facts;
        if facts.reason.is_none() && !(facts.status.is_some() && self.has_ended) {
            facts.reason = Some(why_cut(local, &facts.client));
        }
        if let Some(trace) = self.trace.take() {
            trace.end(facts);
        }
        let failed = facts.status.is_some_and(|status| status.is_server_error());
        if is_wanted(self.choice, failed || facts.reason.is_some()) {
            self.recorder.log.request(&self.recorder.proxy, request, facts, clock::now());
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
fn why_cut(local: &Local, client: &Client) -> &'static str {
    match (local.connections.end_of(client.id) == End::AtOnce, local.is_draining.get()) {
        (false, _) => "client_gone",
        (true, true) => "drain_timeout",
        (true, false) => "idle_timeout",
    }
}

// === impl ConnectionRecord ===

impl ConnectionRecord {
    pub fn begin(recorder: &Rc<Recorder>, local: &Rc<Local>, client: &Rc<Client>) -> Self {
        let choice = recorder.log.mode().choose(|| local.with_rng(|rng| rng.u32(..)));
        if choice == Choice::Never {
            return Self(None);
        }
        let facts = ConnectionFacts {
            client: Rc::clone(client),
            server_name: None,
            route: None,
            started: clock::now(),
            attempts: Default::default(),
            reason: None,
            bytes_in: 0,
            bytes_out: 0,
        };
        let (recorder, local) = (Rc::clone(recorder), Rc::clone(local));
        Self(Some(Box::new(ToldOfConnection { recorder, local, facts, choice, has_ended: false })))
    }

    /// The client wants this server.
    pub fn asked_for(&mut self, server_name: Option<&str>) {
        if let Some(told) = &mut self.0 {
            told.facts.server_name = server_name.map(Box::from);
        }
    }

    /// It is to go to a backend of this set, if a route says so by that route.
    pub fn forwarded(&mut self, route: Option<&Arc<Route>>, set: &BackendSetName) {
        if let Some(told) = &mut self.0 {
            told.facts.route = route.cloned();
            told.facts.attempts.set = Some(set.clone());
        }
    }

    pub fn attempt(&mut self, pick: &Pick, now: Instant) {
        if let Some(told) = &mut self.0 {
            told.facts.attempts.begin(pick, now);
        }
    }

    pub fn connected(&mut self, now: Instant) {
        if let Some(told) = &mut self.0 {
            told.facts.attempts.connected(now);
            told.facts.reason = None;
        }
    }

    /// The attempt failed.
    pub fn failed(&mut self, kind: &'static str) {
        if let Some(told) = &mut self.0 {
            told.facts.reason = Some(kind);
            told.facts.attempts.followed(Why::Error(kind));
        }
    }

    /// No route took it.
    pub fn unrouted(&mut self) {
        self.ended(Some("destination_not_found"));
    }

    /// No backend took it.
    pub fn given_up(&mut self) {
        let Some(told) = &mut self.0 else { return };
        told.has_ended = true;
        // The last attempt is told of as such, and not as one that another one followed.
        let attempts = &mut told.facts.attempts;
        if attempts.count > 0 && attempts.tried.len() as u64 == attempts.count {
            attempts.tried.pop();
        }
        told.facts.reason.get_or_insert("destination_unavailable");
    }

    /// So much has gone through it, from the client and to it.
    pub fn moved(&mut self, bytes_in: u64, bytes_out: u64) {
        if let Some(told) = &mut self.0 {
            (told.facts.bytes_in, told.facts.bytes_out) = (bytes_in, bytes_out);
        }
    }

    /// Both sides have ended, or it broke off for this reason.
    pub fn ended(&mut self, reason: Option<&'static str>) {
        if let Some(told) = &mut self.0 {
            told.has_ended = true;
            told.facts.reason = reason;
        }
    }
}

impl Drop for ConnectionRecord {
    fn drop(&mut self) {
        let Some(told) = &mut self.0 else { return };
        let facts = &mut told.facts;
        if !told.has_ended {
            facts.reason = Some(why_cut(&told.local, &facts.client));
        }
        if is_wanted(told.choice, facts.reason.is_some()) {
            told.recorder.log.connection(&told.recorder.proxy, facts, clock::now());
        }
    }
}
