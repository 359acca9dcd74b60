//! A listener, compiled, and what outlives its versions.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use http::HeaderValue;
use lb_common::{
    id::ListenerName,
    spec::{self, Protocol, Scheme},
};
use lb_routing::{origin::Origin, route::Routes};

use super::{route::Route, tcp::Tcp, tls::ListenerTls};
use crate::connections::Terms;

#[derive(Debug)]
pub struct Listener {
    pub spec: Arc<spec::Listener>,
    pub service: Service,
    pub presence: Arc<Presence>,
    /// What it lets clients in by.
    pub terms: Terms,
    /// What clients are offered before they may speak.
    pub tls: Option<Arc<ListenerTls>>,
    /// What it is made of, to see whether it changed.
    pub(super) routes: Vec<Arc<Route>>,
}

/// What is done with what a listener accepts.
#[derive(Debug)]
pub enum Service {
    Http(Box<Routes<Arc<Route>>>),
    Tcp(Box<Tcp>),
}

/// What stays of a listener whatever its settings are: its place in the table, and its connections.
#[derive(Debug)]
pub struct Presence {
    pub name: ListenerName,
    /// Where tables have it.
    pub slot: u32,
    connections: AtomicU32,
    /// Only used where they are limited. A mutex, because workers share it; it is held for one
    /// look-up. Its hash is keyed, because clients choose their addresses.
    by_client: Mutex<HashMap<IpAddr, u32>>,
}

/// Counts a connection of a listener for as long as it lives.
#[derive(Debug)]
pub struct CountedConnection(Arc<Presence>);

/// Counts a connection of a client at a listener for as long as it lives.
#[derive(Debug)]
pub struct CountedClient {
    presence: Arc<Presence>,
    client: IpAddr,
}

impl Listener {
    /// The terms of a version of it that is spelled and made like this: the same, unless it lets in by
    /// something else.
    pub(super) fn next_terms(&self, spec: &spec::Listener, tls: Option<&ListenerTls>) -> Terms {
        let old = &self.spec;
        let asks_alike = match (&old.tls, &spec.tls) {
            (Some(old), Some(new)) => {
                old.min_version == new.min_version && old.client_auth == new.client_auth
            }
            (old, new) => old.is_none() && new.is_none(),
        };
        let ca = |tls: Option<&ListenerTls>| tls.and_then(|tls| tls.ca.clone());
        let is_http = |spec: &spec::Listener| spec.protocol == Protocol::Http;
        let is_alike = asks_alike
            && ca(self.tls.as_deref()) == ca(tls)
            && is_http(old) == is_http(spec)
            && old.proxy_protocol == spec.proxy_protocol
            && (spec.proxy_protocol.is_none() || old.trusted_proxies == spec.trusted_proxies);
        if is_alike { self.terms } else { Terms(self.terms.0.wrapping_add(1)) }
    }

    /// Whether it matters what its TLS clients say first.
    pub fn goes_by_hello(&self) -> bool {
        matches!(&self.service, Service::Tcp(tcp) if tcp.asks_for_hello())
    }

    /// The policy for who came from there.
    pub fn hsts(&self, origin: &Origin<'_>) -> Option<&[u8]> {
        let hsts = self.spec.hsts.as_ref().filter(|_| origin.scheme == Scheme::Https);
        hsts.map(HeaderValue::as_bytes)
    }
}

impl Presence {
    pub fn new(name: ListenerName, slot: u32) -> Self {
        let (connections, by_client) = (AtomicU32::new(0), Mutex::default());
        Self { name, slot, connections, by_client }
    }

    /// Counts a connection, and says if it is one too many. It may be let in all the same, if another
    /// one makes room.
    pub fn count(self: &Arc<Self>, most: Option<NonZeroU32>) -> (CountedConnection, bool) {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        (CountedConnection(Arc::clone(self)), most.is_some_and(|most| most.get() <= before))
    }

    /// The same for a connection of this client.
    pub fn count_client(
        self: &Arc<Self>,
        most: NonZeroU32,
        client: IpAddr,
    ) -> (CountedClient, bool) {
        let mut clients = self.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        let of_client = clients.entry(client).or_default();
        let is_one_too_many = most.get() <= *of_client;
        *of_client += 1;
        (CountedClient { presence: Arc::clone(self), client }, is_one_too_many)
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for CountedClient {
    fn drop(&mut self) {
        let clients = &self.presence.by_client;
        let mut clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}
