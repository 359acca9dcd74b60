//! Forwarding a TCP connection: pick a backend, connect, and copy both ways until both have ended.

use std::{future::poll_fn, io, pin::pin, rc::Rc, sync::Arc, task::Poll};

use lb_common::{clock, spec::HashKey};
use lb_routing::{
    backend::InFlight,
    balance::{PickContext, hash},
    hash_key::hash_of,
    outlier::Failure,
};
use tokio::{io::copy_bidirectional, net::TcpStream, time};

use crate::{
    backend_set::Pick,
    client::{Client, End},
    io_meter::Metered,
    record::ConnectionRecord,
    table::Service,
    upstream,
    worker::Worker,
};

/// Backends that are tried before the client is given up. Nothing was sent to those that failed.
const ATTEMPTS: usize = 3;

pub async fn serve(worker: Rc<Worker>, client: Rc<Client>, stream: TcpStream) {
    let mut record = ConnectionRecord::begin(&worker, &client);
    let Some((pick, backend)) = connect(&worker, &client, &mut record).await else {
        record.given_up();
        tracing::debug!(peer = %client.peer, "no backend took the connection");
        return;
    };
    let _in_flight = InFlight::start(&pick.backend().live);
    let mut backend = backend;
    let mut stream = Metered::new(stream, Rc::clone(&client.meter));
    let mut copy = pin!(copy_bidirectional(&mut stream, &mut backend));
    let copied = poll_fn(|cx| match client.poll_end(cx) {
        End::AtOnce => Poll::Ready(None),
        // There is no request whose end could be awaited.
        End::Gracefully | End::NotYet => copy.as_mut().poll(cx).map(Some),
    });
    let Some(copied) = copied.await else { return };
    record.ended(&copied);
    if let Err(error) = copied {
        tracing::debug!(peer = %client.peer, %error, "connection ended");
    }
}

async fn connect(
    worker: &Rc<Worker>,
    client: &Client,
    record: &mut ConnectionRecord,
) -> Option<(Pick, TcpStream)> {
    let mut tried = Vec::with_capacity(ATTEMPTS);
    for _ in 0..ATTEMPTS {
        let set = match &worker.listener_of(client).service {
            Service::Tcp(set) => {
                record.forwarded(set);
                Arc::clone(worker.table().backend_sets.get(set)?)
            }
            Service::Http(_) => return None,
        };
        let hash = set.hash_key().map_or(0, |(_, function)| {
            let nothing = http::Request::new(());
            let by_address = HashKey::ClientAddress;
            hash_of(&by_address, client.peer.ip(), &nothing, |bytes| hash::hash(function, bytes))
        });
        let started = clock::now();
        let now = worker.millis(started);
        let pick =
            worker.with_rng(|rng| set.pick(&mut PickContext { now, rng, tried: &tried, hash }))?;
        let backend = pick.backend();
        tried.push(backend.live.id);
        pick.metrics(worker.index).attempts.increment();
        record.attempt(&pick, started);
        let connecting = TcpStream::connect(backend.address);
        let connected = match time::timeout(set.spec.connect_timeout, connecting).await {
            Ok(connected) => connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        match connected {
            Ok(stream) => {
                pick.record_attempt(worker.index, clock::now() - started);
                worker.record_success(&pick);
                record.connected();
                return Some((pick, stream));
            }
            Err(error) => {
                worker.record_failure(&pick, Failure::Connect);
                record.failed(upstream::connect_error(error).kind());
            }
        }
    }
    None
}
