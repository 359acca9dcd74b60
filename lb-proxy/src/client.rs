//! A client's connection as its worker knows it: who it is, whether it is busy, and how it ends.
//!
//! Deadlines of silent clients are looked at by the worker's sweep instead of by a timer each, so
//! they cost a request nothing and pass up to a sweep late.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use http::HeaderValue;
use lb_common::id::ListenerName;
use lb_routing::backend::Millis;

use crate::{interim::Interim, io_meter::Meter, table, timer::LazyTimer};

#[derive(Debug)]
pub struct Client {
    pub peer: SocketAddr,
    /// The peer's address as a header has it.
    pub forwarded_for: HeaderValue,
    pub listener: ListenerName,
    pub meter: Rc<Meter>,
    pub interim: Arc<Interim>,
    /// For whatever its requests wait for; it has one at a time.
    pub timer: LazyTimer,
    /// What its listener last was: it may be gone from the table before the connection is.
    pub last_known: RefCell<Arc<table::Listener>>,
    idle_timeout: Millis,
    header_timeout: Millis,
    busy: Cell<bool>,
    /// When it last became idle, and what it had sent by then.
    idle_since: Cell<Millis>,
    idle_read: Cell<u64>,
    /// When the next request's head was seen to have begun.
    begun_at: Cell<Option<Millis>>,
    end: Cell<End>,
    waker: RefCell<Option<Waker>>,
}

/// How a connection is to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    #[default]
    NotYet,
    /// After the request that it is busy with.
    Gracefully,
    AtOnce,
}

/// A client is busy as long as this lives: from a request's head to its response's end.
#[derive(Debug)]
pub struct Busy(Rc<Client>, Rc<Cell<Millis>>);

// === impl Client ===

impl Client {
    pub fn new(peer: SocketAddr, listener: Arc<table::Listener>, now: Millis) -> Self {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let forwarded_for = HeaderValue::from_str(&peer.ip().to_canonical().to_string())
            .expect("an IP address is a header value");
        Self {
            peer,
            forwarded_for,
            listener: listener.spec.name.clone(),
            meter: Rc::default(),
            interim: Arc::default(),
            timer: LazyTimer::default(),
            idle_timeout: millis(listener.spec.idle_timeout),
            header_timeout: millis(listener.spec.header_timeout),
            last_known: RefCell::new(listener),
            busy: Cell::new(false),
            idle_since: Cell::new(now),
            idle_read: Cell::new(0),
            begun_at: Cell::new(None),
            end: Cell::default(),
            waker: RefCell::default(),
        }
    }

    /// `clock` is the worker's coarse one.
    pub fn busy(self: &Rc<Self>, clock: &Rc<Cell<Millis>>) -> Busy {
        self.busy.set(true);
        Busy(Rc::clone(self), Rc::clone(clock))
    }

    /// Ends the connection; never takes back an earlier and harder end.
    pub fn end(&self, how: End) {
        if self.end.get() == End::NotYet || how == End::AtOnce {
            self.end.set(how);
            if let Some(waker) = &*self.waker.borrow() {
                waker.wake_by_ref();
            }
        }
    }

    /// How it is to end, for its task, which is woken when that changes.
    pub fn poll_end(&self, cx: &Context<'_>) -> End {
        let mut waker = self.waker.borrow_mut();
        if waker.is_none() {
            // A connection's task is one and the same for its life, and so is its waker.
            *waker = Some(cx.waker().clone());
        }
        self.end.get()
    }

    /// Ends the connection if it has been silent for too long.
    pub fn end_if_silent(&self, now: Millis) {
        if self.busy.get() {
            return;
        }
        if self.meter.read.get() != self.idle_read.get() {
            let begun_at = self.begun_at.get().unwrap_or(now);
            self.begun_at.set(Some(begun_at));
            if now.saturating_sub(begun_at) >= self.header_timeout {
                self.end(End::AtOnce);
            }
        } else if now.saturating_sub(self.idle_since.get()) >= self.idle_timeout {
            self.end(End::Gracefully);
        }
    }

    /// For what has no requests: silent is who moves no bytes.
    pub fn end_if_still(&self, now: Millis) {
        let moved = self.meter.read.get() + self.meter.written.get();
        if self.idle_read.replace(moved) != moved {
            self.idle_since.set(now);
        } else if now.saturating_sub(self.idle_since.get()) >= self.idle_timeout {
            self.end(End::AtOnce);
        }
    }
}

// === impl Busy ===

impl Drop for Busy {
    fn drop(&mut self) {
        let Self(client, clock) = self;
        client.busy.set(false);
        client.idle_since.set(clock.get());
        client.idle_read.set(client.meter.read.get());
        client.begun_at.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn client() -> Client {
        let text = "[[listeners]]
            name = 'web'
            address = '127.0.0.1:1'
            idle_timeout = '60s'
            header_timeout = '10s'";
        let state = fixture::desired(text);
        let spec = Arc::clone(&state.listeners["web"]);
        let listener = table::Listener { spec, service: table::Service::Http(Box::default()) };
        Client::new(([127, 0, 0, 1], 1).into(), Arc::new(listener), 0)
    }

    /// How the connection is to end after a sweep at that second.
    fn sweep(client: &Client, seconds: u64) -> End {
        client.end_if_silent(seconds * 1_000);
        client.end.get()
    }

    #[test]
    fn a_silent_client_may_idle_and_then_ends_gracefully() {
        let client = client();
        assert_eq!(sweep(&client, 59), End::NotYet);
        assert_eq!(sweep(&client, 60), End::Gracefully);
    }

    #[test]
    fn the_time_for_a_head_counts_from_its_beginning_however_long_the_client_idled() {
        let client = client();
        client.meter.read.set(10);
        assert_eq!(sweep(&client, 30), End::NotYet);
        assert_eq!(sweep(&client, 39), End::NotYet);
        assert_eq!(sweep(&client, 40), End::AtOnce);
    }

    #[test]
    fn a_busy_client_is_left_alone_and_begins_anew_after() {
        let client = Rc::new(client());
        let clock = Rc::new(Cell::new(100_000));
        client.meter.read.set(10);
        let busy = client.busy(&clock);
        assert_eq!(sweep(&client, 99), End::NotYet);
        drop(busy);
        assert_eq!(sweep(&client, 159), End::NotYet);
        assert_eq!(sweep(&client, 160), End::Gracefully);
    }
}
