//! Forwarding a TCP connection: pick a backend, connect, and copy both ways until both have ended.

use std::{rc::Rc, sync::Arc, time::Instant};

use lb_common::{clock, id::BackendSetName};
use lb_prelude::client_hello::ClientHello;
use lb_routing::{
    backend::InFlight,
    balance::{PickContext, hash},
    hash_key::hash_of_address,
    outlier::Failure,
};

use super::linger::linger;
use crate::{
    downstream::{Client, Downstream},
    local::Local,
    metrics::{Sharded, TcpMetrics},
    net::{outbox::Outbox, stream::Stream},
    observe::record::ConnectionRecord,
    proxy::{
        Context,
        error::AttemptError,
        tunnel::{Side, Tunnel, TunnelEnd},
    },
    table::{Pick, Route, Service, Taker, Target},
    upstream::connect::{ConnectError, connect},
};

/// Backends that are tried before the client is given up. Nothing was sent to those that failed.
const ATTEMPTS: usize = 3;

/// `hello` is what the client said first to whoever answers it, if that matters.
#[expect(clippy::manual_async_fn, reason = "an async function's arguments are in its future twice")]
pub fn serve(
    cx: Rc<Context>,
    mut down: Downstream,
    hello: Option<Box<ClientHello>>,
) -> impl Future<Output = ()> {
    async move {
        let local = &cx.local;
        let mut record = ConnectionRecord::begin(&cx.recorder, local, &down.client);
        record.asked_for(hello.as_ref().and_then(|hello| hello.server_name.as_deref()));
        let Some(way) = Way::find(local, &down.client, hello) else {
            local.metrics().tcp_unrouted.increment();
            record.unrouted();
            return;
        };
        record.forwarded(way.route.as_ref(), &way.set);
        let opened = Box::pin(open(local, &down, &way, &mut record)).await;
        let Some((mut backend, pick, in_flight)) = opened else {
            record.given_up();
            tracing::debug!(peer = %down.client.peer, "no backend took the connection");
            return;
        };
        let view = local.view();
        let Some((listener, _)) = view.listener_of(&down.client.presence) else { return };
        let idle = listener.spec.idle_timeout;
        drop(view);
        let before = down.input.len();
        let mut to_backend = Outbox::with(std::mem::take(&mut down.input).into_bytes());
        let mut moved = way.moved(local.index);
        let mut tunnel = Tunnel {
            client: Side::new(&mut down.stream, &mut down.outbox).after(before),
            backend: Side::new(&mut backend, &mut to_backend),
        };
        let timer = &down.client.timer;
        let end = tunnel.run(local, timer, idle, |from, to| {
            moved(from, to);
            record.moved(from, to);
        });
        match end.await {
            TunnelEnd::Both => record.ended(None),
            TunnelEnd::Broken(error) => {
                tracing::debug!(peer = %down.client.peer, %error, "connection ended");
                record.ended(Some("connection_terminated"));
                drop((record, backend, pick, in_flight));
                Box::pin(linger(local, down)).await;
            }
            TunnelEnd::Idle => {
                local.metrics().limits.idle_timeout.increment();
                record.ended(Some("idle_timeout"));
            }
        }
    }
}

/// Where a connection goes, and what is counted of it.
struct Way {
    set: BackendSetName,
    /// What took it, unless that is its listener itself.
    route: Option<Arc<Route>>,
    counted: CountedTcp,
}

/// Counts a connection for as long as it is open.
struct CountedTcp {
    metrics: Sharded<TcpMetrics>,
    worker: usize,
    started: Instant,
}

impl Way {
    fn find(local: &Local, client: &Client, hello: Option<Box<ClientHello>>) -> Option<Self> {
        let view = local.view();
        let (listener, _) = view.listener_of(&client.presence)?;
        let Service::Tcp(tcp) = &listener.service else { return None };
        let (set, route) = match tcp.taker(&hello.unwrap_or_default(), client.address.ip())? {
            Taker::BackendSet(set) => (set, None),
            Taker::Route(route) => {
                let Target::Forward(split) = &route.target else { return None };
                let slot = local.with_rng(|rng| split.choose(rng));
                (view.set(slot)?.spec.name.clone(), Some(route))
            }
        };
        let metrics = tcp.metrics_of(&set)?.clone();
        metrics.of(local.index).opened.increment();
        let counted = CountedTcp { metrics, worker: local.index, started: clock::now() };
        Some(Self { set, route, counted })
    }

    /// Counts bytes, given how many there were so far.
    fn moved(&self, worker: usize) -> impl FnMut(u64, u64) {
        let metrics = self.counted.metrics.clone();
        let route = self.route.as_ref().map(|route| route.metrics.clone());
        let mut before = (0, 0);
        move |from, to| {
            let (received, sent) = (from - before.0, to - before.1);
            before = (from, to);
            let metrics = metrics.of(worker);
            metrics.received_bytes.add(received);
            metrics.sent_bytes.add(sent);
            if let Some(route) = &route {
                route.of(worker).received_bytes.add(received);
                route.of(worker).sent_bytes.add(sent);
            }
        }
    }
}

impl Drop for CountedTcp {
    fn drop(&mut self) {
        let metrics = self.metrics.of(self.worker);
        metrics.closed.increment();
        metrics.duration.record(clock::now() - self.started);
    }
}

async fn open(
    local: &Rc<Local>,
    down: &Downstream,
    way: &Way,
    record: &mut ConnectionRecord,
) -> Option<(Stream, Pick, InFlight)> {
    let client = &down.client;
    let mut tried = Vec::with_capacity(ATTEMPTS);
    for _ in 0..ATTEMPTS {
        // The backends may have changed meanwhile.
        let view = local.view();
        let slot = view.slot_of_set(&way.set)?;
        let set = view.set(slot)?;
        let hash = set.hash_key().map_or(0, |(_, function)| {
            hash_of_address(client.address.ip(), |bytes| hash::hash(function, bytes))
        });
        let started = clock::now();
        let now = local.millis(started);
        let pick = local.with_rng(|rng| {
            Pick::from(&view, slot, &mut PickContext::new(now, rng, &tried, hash))
        })?;
        let backend = pick.backend();
        tried.push(backend.live.id);
        let metrics = pick.metrics(local.index);
        metrics.attempts.increment();
        metrics.connects.increment();
        record.attempt(&pick, started);
        // From here on, so that a backend that is slow to accept is not taken for an idle one.
        let in_flight = InFlight::start(&backend.live);
        let limit = set.spec.connect_timeout;
        let header = down.proxy_header(&set.spec);
        let until = started + limit;
        match connect(local, &pick, &header, started, until, &client.timer).await {
            Ok(stream) => {
                let now = clock::now();
                pick.record_attempt(local.index, now - started);
                local.record_success(&pick);
                record.connected(now);
                return Some((stream, pick, in_flight));
            }
            Err(error) => {
                if !matches!(error, ConnectError::Local(_)) {
                    local.record_failure(&pick, Failure::Connect);
                }
                record.failed(AttemptError::from(error).reason());
            }
        }
    }
    None
}
