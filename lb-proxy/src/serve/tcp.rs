//! Forwarding a TCP connection: pick a backend, connect, and copy both ways until both have ended.

use std::rc::Rc;

use lb_common::clock;
use lb_routing::{
    backend::InFlight,
    balance::{PickContext, hash},
    hash_key::hash_of_address,
    outlier::Failure,
};

use super::linger::linger;
use crate::{
    downstream::Downstream,
    local::Local,
    net::{outbox::Outbox, stream::Stream},
    observe::record::ConnectionRecord,
    proxy::{
        Context,
        error::AttemptError,
        tunnel::{End, Side, Tunnel},
    },
    table::{Pick, Service},
    upstream::connect::{ConnectError, connect},
};

/// Backends that are tried before the client is given up. Nothing was sent to those that failed.
const ATTEMPTS: usize = 3;

#[expect(clippy::manual_async_fn, reason = "an async function's arguments are in its future twice")]
pub fn serve(cx: Rc<Context>, mut down: Downstream) -> impl Future<Output = ()> {
    async move {
        let local = &cx.local;
        let mut record = ConnectionRecord::begin(&cx.recorder, local, &down.client);
        let Some((mut backend, pick, in_flight)) = open(local, &down, &mut record).await else {
            record.given_up();
            tracing::debug!(peer = %down.client.peer, "no backend took the connection");
            return;
        };
        let view = local.view();
        let Some((listener, _)) = view.listener_of(&down.client.presence) else { return };
        let idle = listener.spec.idle_timeout;
        drop(view);
        let mut to_backend = Outbox::default();
        let mut tunnel = Tunnel {
            client: Side::new(&mut down.stream, &mut down.outbox),
            backend: Side::new(&mut backend, &mut to_backend),
        };
        let timer = &down.client.timer;
        match tunnel.run(local, timer, idle, |from, to| record.moved(from, to)).await {
            End::Both => record.ended(None),
            End::Broken(error) => {
                tracing::debug!(peer = %down.client.peer, %error, "connection ended");
                record.ended(Some("connection_terminated"));
                drop((record, backend, pick, in_flight));
                Box::pin(linger(local, down)).await;
            }
            End::Idle => {
                local.metrics().limits.idle_timeout.increment();
                record.ended(Some("idle_timeout"));
            }
        }
    }
}

async fn open(
    local: &Rc<Local>,
    down: &Downstream,
    record: &mut ConnectionRecord,
) -> Option<(Stream, Pick, InFlight)> {
    let client = &down.client;
    let mut tried = Vec::with_capacity(ATTEMPTS);
    for _ in 0..ATTEMPTS {
        let view = local.view();
        let (listener, _) = view.listener_of(&client.presence)?;
        let Service::Tcp(name) = &listener.service else { return None };
        record.forwarded(name);
        let slot = view.slot_of_set(name)?;
        let set = view.set(slot)?;
        let hash = set.hash_key().map_or(0, |(_, function)| {
            hash_of_address(client.peer.ip(), |bytes| hash::hash(function, bytes))
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
        match connect(local, &pick, started, started + limit, &client.timer).await {
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
