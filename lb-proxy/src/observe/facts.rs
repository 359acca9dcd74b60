//! What is known of a request, or of a TCP connection, as far as it has come.

use std::{
    fmt,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::StatusCode;
use lb_common::{id::BackendSetName, snapshot, telemetry::trace_context::TraceId};

use crate::{
    downstream::Client,
    table::{Pick, Route},
};

/// Of one request and its response.
#[derive(Debug)]
pub struct Facts {
    pub client: Rc<Client>,
    /// Who is the client, if somebody trusted has passed it on.
    pub passed_on_for: Option<IpAddr>,
    /// When its head was there.
    pub started: Instant,
    /// Which snapshot decided.
    pub version: snapshot::Version,
    pub trace_id: Option<TraceId>,
    pub route: Option<Arc<Route>>,
    pub attempts: Attempts,
    pub status: Option<StatusCode>,
    /// When the response's head was there.
    pub responded: Option<Instant>,
    /// Why the response is not what a backend sent, or not all of it.
    pub reason: Option<&'static str>,
    /// Of the request's body, or from the client through the tunnel that came of it.
    pub bytes_in: u64,
    /// The other way.
    pub bytes_out: u64,
}

/// Of one TCP connection.
#[derive(Debug)]
pub struct ConnectionFacts {
    pub client: Rc<Client>,
    /// That the client wants, if it says so and that matters.
    pub server_name: Option<Box<str>>,
    /// That took it.
    pub route: Option<Arc<Route>>,
    pub started: Instant,
    pub attempts: Attempts,
    pub reason: Option<&'static str>,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// What was tried.
#[derive(Debug, Default)]
pub struct Attempts {
    pub set: Option<BackendSetName>,
    /// Of the last attempt.
    pub pick: Option<Pick>,
    pub count: u64,
    /// Those that another one followed.
    pub tried: Vec<Tried>,
    pub started: Option<Instant>,
    /// How long the last attempt took to connect, unless it found a connection.
    pub connect: Option<Duration>,
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

impl Facts {
    pub fn new(client: &Rc<Client>, started: Instant, version: snapshot::Version) -> Self {
        Self {
            client: Rc::clone(client),
            passed_on_for: None,
            started,
            version,
            trace_id: None,
            route: None,
            attempts: Attempts::default(),
            status: None,
            responded: None,
            reason: None,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// From the last attempt's start to the response's head.
    pub fn upstream(&self) -> Option<Duration> {
        Some(self.responded?.duration_since(self.attempts.started?))
    }
}

impl Attempts {
    pub fn begin(&mut self, pick: &Pick, now: Instant) {
        self.pick = Some(pick.clone());
        self.count += 1;
        self.started = Some(now);
        self.connect = None;
    }

    /// The attempt has a new connection.
    pub fn connected(&mut self, now: Instant) {
        self.connect = self.started.map(|started| now.duration_since(started));
    }

    /// The attempt ended like this, and another one follows.
    pub fn followed(&mut self, why: Why) {
        if let Some(pick) = &self.pick
            && self.tried.len() < MAX_TRIED
        {
            self.tried.push(Tried { pick: pick.clone(), why });
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
