//! Idle connections, kept by each worker for itself: no lock, and no request changes its thread.

use std::{
    cell::RefCell,
    collections::HashMap,
    task::{Context, Waker},
};

use lb_common::spec::PoolLimits;

use super::Connection;
use lb_routing::backend::{Live, Millis};

#[derive(Debug, Default)]
pub struct Pool(RefCell<HashMap<u64, Vec<Idle>>>);

#[derive(Debug)]
struct Idle {
    connection: Connection,
    until: Millis,
}

impl Pool {
    /// The connection that was used last, if one is alive: the older ones may then grow too old.
    pub fn take(&self, live: &Live, now: Millis, cx: &mut Context<'_>) -> Option<Connection> {
        let mut idle = self.0.borrow_mut();
        let connections = idle.get_mut(&live.id)?;
        while let Some(mut candidate) = connections.pop() {
            if now < candidate.until && candidate.connection.is_idle(cx) {
                return Some(candidate.connection);
            }
        }
        None
    }

    /// Keeps a connection, unless there are enough. Returns whether it does.
    pub fn put(
        &self,
        live: &Live,
        connection: Connection,
        limits: &PoolLimits,
        now: Millis,
    ) -> bool {
        let mut idle = self.0.borrow_mut();
        let connections = idle.entry(live.id).or_default();
        let has_room = connections.len() < limits.max_idle;
        if has_room {
            let lifetime = u64::try_from(limits.idle_timeout.as_millis()).unwrap_or(u64::MAX);
            connections.push(Idle { connection, until: now.saturating_add(lifetime) });
        }
        has_room
    }

    /// Connections to a backend that idle.
    pub fn idle(&self, live: &Live) -> usize {
        self.0.borrow().get(&live.id).map_or(0, Vec::len)
    }

    /// Closes what is too old, what its backend closed, and what leads to a backend that is gone.
    pub fn sweep(&self, now: Millis, is_known: impl Fn(u64) -> bool) {
        let mut cx = Context::from_waker(Waker::noop());
        self.0.borrow_mut().retain(|id, connections| {
            connections.retain_mut(|idle| now < idle.until && idle.connection.is_idle(&mut cx));
            is_known(*id) && !connections.is_empty()
        });
    }
}
