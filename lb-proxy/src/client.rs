//! A client's connection as its worker knows it: who it is, whether it is busy, and how it ends.
//!
//! Deadlines of silent clients are looked at by the worker's sweep instead of by a timer each, so
//! they cost a request nothing and pass up to a sweep late.

use std::{
    cell::{Cell, OnceCell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use http::HeaderValue;
use lb_common::id::ListenerName;
use lb_routing::backend::Millis;

use crate::{
    interim::Interim,
    io_meter::Meter,
    metrics::{Limits, RouteMetrics, Sharded},
    table,
    timer::LazyTimer,
};

#[derive(Debug)]
pub struct Client {
    pub peer: SocketAddr,
    /// The peer's address as a header has it.
    pub forwarded_for: HeaderValue,
    pub listener: ListenerName,
    pub meter: Rc<Meter>,
    /// What all of its lines in the access log have in common, once there is one.
    pub log_part: OnceCell<Box<[u8]>>,
    /// What was read of all of its requests' bodies.
    pub body_bytes: Rc<Cell<u64>>,
    pub interim: Arc<Interim>,
    /// For whatever its requests wait for; it has one at a time.
    pub timer: LazyTimer,
    /// What its listener last was: it may be gone from the table before the connection is.
    pub last_known: RefCell<Arc<table::Listener>>,
    idle_timeout: Millis,
    header_timeout: Millis,
    busy: Cell<bool>,
    /// Its latest request has no response's head yet.
    waits: Cell<bool>,
    /// Of the route of its latest answer.
    route: RefCell<Option<Arc<Sharded<RouteMetrics>>>>,
    /// What it had sent and been sent when that was last counted.
    counted_read: Cell<u64>,
    counted_written: Cell<u64>,
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
            log_part: OnceCell::new(),
            body_bytes: Rc::default(),
            interim: Arc::default(),
            timer: LazyTimer::default(),
            idle_timeout: millis(listener.spec.idle_timeout),
            header_timeout: millis(listener.spec.header_timeout),
            last_known: RefCell::new(listener),
            busy: Cell::new(false),
            waits: Cell::new(false),
            route: RefCell::default(),
            counted_read: Cell::new(0),
            counted_written: Cell::new(0),
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
        self.waits.set(true);
        Busy(Rc::clone(self), Rc::clone(clock))
    }

    /// A request is about to be answered: what was written so far belongs to the one before, and
    /// so does what was read until that one's end.
    pub fn answers(&self, route: Option<&Arc<Sharded<RouteMetrics>>>, worker: usize) {
        self.waits.set(false);
        self.count_written(worker);
        self.count_read(self.idle_read.get(), worker);
        let is_other = match (&*self.route.borrow(), route) {
            (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
            (None, None) => false,
            (Some(_), None) | (None, Some(_)) => true,
        };
        if is_other {
            *self.route.borrow_mut() = route.cloned();
        }
        self.count_read(self.meter.read.get(), worker);
    }

    /// Counts its bytes so far, unless they are of a request whose route is not known yet.
    pub fn count_bytes(&self, worker: usize) {
        if !self.waits.get() {
            self.count_read(self.meter.read.get(), worker);
        }
        self.count_written(worker);
    }

    /// Counts what is not counted yet of the first `read` bytes.
    fn count_read(&self, read: u64, worker: usize) {
        let read = read.max(self.counted_read.get());
        let more = read - self.counted_read.replace(read);
        if let Some(route) = &*self.route.borrow() {
            route.of(worker).received_bytes.add(more);
        }
    }

    fn count_written(&self, worker: usize) {
        let written = self.meter.written.get();
        let more = written - self.counted_written.replace(written);
        if let Some(route) = &*self.route.borrow() {
            route.of(worker).sent_bytes.add(more);
        }
    }

    /// Ends the connection; never takes back an earlier and harder end. Returns whether that is
    /// news.
    pub fn end(&self, how: End) -> bool {
        let is_news = self.end.get() != how;
        if self.end.get() == End::NotYet || how == End::AtOnce {
            self.end.set(how);
            if let Some(waker) = &*self.waker.borrow() {
                waker.wake_by_ref();
            }
            return is_news;
        }
        false
    }

    /// Whether it was ended without waiting for anything.
    pub fn is_cut(&self) -> bool {
        self.end.get() == End::AtOnce
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

    /// Ends the connection if it has been silent for too long. Counts when it begins to.
    pub fn end_if_silent(&self, now: Millis, limits: &Limits) {
        if self.busy.get() {
            return;
        }
        if self.meter.read.get() != self.idle_read.get() {
            let begun_at = self.begun_at.get().unwrap_or(now);
            self.begun_at.set(Some(begun_at));
            if now.saturating_sub(begun_at) >= self.header_timeout && self.end(End::AtOnce) {
                limits.header_timeout.increment();
            }
        } else if now.saturating_sub(self.idle_since.get()) >= self.idle_timeout
            && self.end(End::Gracefully)
        {
            limits.idle_timeout.increment();
        }
    }

    /// For what has no requests: silent is who moves no bytes.
    pub fn end_if_still(&self, now: Millis, limits: &Limits) {
        let moved = self.meter.read.get() + self.meter.written.get();
        if self.idle_read.replace(moved) != moved {
            self.idle_since.set(now);
        } else if now.saturating_sub(self.idle_since.get()) >= self.idle_timeout
            && self.end(End::AtOnce)
        {
            limits.idle_timeout.increment();
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
        client.end_if_silent(seconds * 1_000, &Limits::default());
        client.end.get()
    }

    #[test]
    fn bytes_are_of_the_route_that_they_are_for() {
        let (client, coarse) = (Rc::new(client()), Rc::default());
        let (first, second) = (Arc::new(Sharded::new(1)), Arc::new(Sharded::new(1)));
        let moved = |read, written| {
            client.meter.read.set(client.meter.read.get() + read);
            client.meter.written.set(client.meter.written.get() + written);
        };
        let counted = || {
            let of = |route: &Arc<Sharded<RouteMetrics>>| {
                (route.sum(|shard| &shard.received_bytes), route.sum(|shard| &shard.sent_bytes))
            };
            (of(&first), of(&second))
        };
        moved(100, 0);
        let busy = client.busy(&coarse);
        client.answers(Some(&first), 0);
        moved(0, 1_000);
        client.count_bytes(0);
        assert_eq!(counted(), ((100, 1_000), (0, 0)));
        moved(0, 500);
        drop(busy);
        moved(10, 0);
        let busy = client.busy(&coarse);
        client.count_bytes(0);
        assert_eq!(counted(), ((100, 1_500), (0, 0)), "it is not known yet who gets the 10");
        client.answers(Some(&second), 0);
        moved(20, 1);
        drop(busy);
        moved(7, 0);
        let _busy = client.busy(&coarse);
        client.answers(None, 0);
        moved(7, 7);
        client.count_bytes(0);
        assert_eq!(counted(), ((100, 1_500), (30, 1)), "what no route took is nobody's");
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
