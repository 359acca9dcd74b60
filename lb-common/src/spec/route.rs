//! Which requests and connections, and what is done with them.

use std::{collections::BTreeSet, num::NonZeroU8, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::listener::{Listener, Protocol, Scheme};
use crate::{
    id::{BackendSetName, ListenerName, RouteName},
    network::Networks,
};

/// Which requests, and what to do with them.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub name: RouteName,
    /// All http, or all tcp. Empty: every http listener.
    pub listeners: BTreeSet<ListenerName>,
    pub matches: RouteMatch,
    pub action: Action,
    /// Protocols that a request may switch to, in lower case, ordered, each once.
    pub upgrade: Vec<String>,
    /// Of a request's body. `None` is no limit; 0 is no body at all.
    pub max_request_bytes: Option<u64>,
    /// From the request's last byte to the response's head, all attempts included.
    pub timeout: Duration,
    /// Silence within a response. `None` is no limit.
    pub stream_idle_timeout: Option<Duration>,
    /// Silence in both directions of a connection that has switched protocols.
    pub tunnel_idle_timeout: Duration,
    /// Whether requests get a `Via`.
    pub via: bool,
    pub retry: RetryPolicy,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteMatch {
    pub host: HostMatch,
    pub path: PathMatch,
    pub method: Option<Method>,
    /// Ordered by name, each once. `None` takes any value.
    pub headers: Vec<(HeaderName, Option<HeaderValue>)>,
    /// The server that a TLS client asks for. This and the next are for tcp, those above for http.
    pub sni: HostMatch,
    /// A protocol that it offers.
    pub alpn: Option<String>,
    /// Where the client is. Empty: anywhere.
    pub from: Networks,
    /// Where it is not.
    pub not_from: Networks,
}

/// Hosts are lower case and without a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostMatch {
    #[default]
    Any,
    /// `*.example.com`, kept as `.example.com`.
    Wildcard(String),
    Exact(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PathMatch {
    #[default]
    Any,
    /// Whole segments, or any text if it ends in a slash.
    Prefix(String),
    Exact(String),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// At least one, and at least one with a weight above zero.
    Forward(Vec<WeightedBackendSet>),
    Redirect(Redirect),
    Answer(Answer),
}

#[derive(Clone, Debug, PartialEq)]
pub struct WeightedBackendSet {
    pub backend_set: BackendSetName,
    pub weight: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    pub status: StatusCode,
    pub scheme: Option<Scheme>,
    pub host: Option<String>,
    pub path: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: StatusCode,
    pub body: String,
    pub headers: HeaderMap,
}

/// When a failed attempt may be followed by another one.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// In all, the first included.
    pub attempts: NonZeroU8,
    pub on: RetryOn,
    pub per_try_timeout: Option<Duration>,
    pub backoff: Duration,
    pub budget_percent: u32,
    pub max_body_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    pub connect_failure: bool,
    pub reset: bool,
    pub timeout: bool,
    pub gateway_error: bool,
    pub any_5xx: bool,
    pub statuses: BTreeSet<u16>,
}

// === impl ===

impl RouteMatch {
    /// Whether it matters what a TLS client says first.
    pub fn asks_for_hello(&self) -> bool {
        self.sni != HostMatch::Any || self.alpn.is_some()
    }
}

impl Route {
    /// Whether what comes to that listener may go here.
    pub fn serves(&self, listener: &Listener) -> bool {
        let is_for_all = self.listeners.is_empty() && listener.protocol == Protocol::Http;
        is_for_all || self.listeners.contains(&listener.name)
    }

    /// The backend sets that it forwards to; none if it answers by itself.
    pub fn backend_sets(&self) -> &[WeightedBackendSet] {
        match &self.action {
            Action::Forward(sets) => sets,
            Action::Redirect(_) | Action::Answer(_) => &[],
        }
    }
}
