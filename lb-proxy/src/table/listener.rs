//! A listener, compiled, and what outlives its versions.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use lb_common::{
    id::{BackendSetName, ListenerName},
    spec,
};
use lb_routing::route::Routes;

use super::route::Route;

#[derive(Debug)]
pub struct Listener {
    pub spec: Arc<spec::Listener>,
    pub service: Service,
    pub presence: Arc<Presence>,
    /// What it is made of, to see whether it changed.
    pub(super) routes: Vec<Arc<Route>>,
}

/// What is done with what a listener accepts.
#[derive(Debug)]
pub enum Service {
    Http(Box<Routes<Arc<Route>>>),
    Tcp(BackendSetName),
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
pub struct Counted {
    presence: Arc<Presence>,
    client: Option<IpAddr>,
}

/// Why a connection is one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMany {
    OfListener,
    OfClient,
}

impl Presence {
    pub fn new(name: ListenerName, slot: u32) -> Self {
        let (connections, by_client) = (AtomicU32::new(0), Mutex::default());
        Self { name, slot, connections, by_client }
    }

    /// Counts a connection of this client, if there is room for it.
    ///
    /// # Errors
    /// If there is none.
    pub fn admit(
        self: &Arc<Self>,
        spec: &spec::Listener,
        peer: IpAddr,
    ) -> Result<Counted, TooMany> {
        let presence = Arc::clone(self);
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        // Counted from here on: whoever is refused takes it back by dropping this.
        let mut counted = Counted { presence, client: None };
        if spec.max_connections.is_some_and(|most| most.get() <= before) {
            return Err(TooMany::OfListener);
        }
        if let Some(most) = spec.max_connections_per_client {
            let mut clients = self.by_client.lock().unwrap_or_else(PoisonError::into_inner);
            let of_client = clients.entry(peer).or_default();
            if most.get() <= *of_client {
                return Err(TooMany::OfClient);
            }
            *of_client += 1;
            counted.client = Some(peer);
        }
        Ok(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.presence.connections.fetch_sub(1, Ordering::Relaxed);
        if let Some(client) = self.client {
            let clients = &self.presence.by_client;
            let mut clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = clients.get_mut(&client) {
                *count -= 1;
                if *count == 0 {
                    clients.remove(&client);
                }
            }
        }
    }
}
