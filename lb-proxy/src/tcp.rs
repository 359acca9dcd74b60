//! Forwarding a TCP connection: pick a backend, connect, and copy both ways until both have ended.

use std::{future::poll_fn, pin::pin, rc::Rc, sync::Arc, task::Poll};

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
    table::Service,
    worker::Worker,
};

/// Backends that are tried before the client is given up. Nothing was sent to those that failed.
const ATTEMPTS: usize = 3;

pub async fn serve(worker: Rc<Worker>, client: Rc<Client>, stream: TcpStream) {
    let Some((pick, backend)) = connect(&worker, &client).await else {
        tracing::debug!(peer = %client.peer, "no backend took the connection");
        return;
    };
    let _in_flight = InFlight::start(&pick.backend().live);
    let mut backend = backend;
    let mut stream = Metered::new(stream, Rc::clone(&client.meter));
    let mut copy = pin!(copy_bidirectional(&mut stream, &mut backend));
    let copied = poll_fn(|cx| match client.poll_end(cx) {
        End::AtOnce => Poll::Ready(Ok((0, 0))),
        // There is no request whose end could be awaited.
        End::Gracefully | End::NotYet => copy.as_mut().poll(cx),
    });
    if let Err(error) = copied.await {
        tracing::debug!(peer = %client.peer, %error, "connection ended");
    }
}

async fn connect(worker: &Rc<Worker>, client: &Client) -> Option<(Pick, TcpStream)> {
    let mut tried = Vec::with_capacity(ATTEMPTS);
    for _ in 0..ATTEMPTS {
        let set = match &worker.listener_of(client).service {
            Service::Tcp(set) => Arc::clone(worker.table().backend_sets.get(set)?),
            Service::Http(_) => return None,
        };
        let hash = set.hash_key().map_or(0, |(_, function)| {
            let nothing = http::Request::new(());
            let by_address = HashKey::ClientAddress;
            hash_of(&by_address, client.peer.ip(), &nothing, |bytes| hash::hash(function, bytes))
        });
        let now = worker.millis(clock::now());
        let pick =
            worker.with_rng(|rng| set.pick(&mut PickContext { now, rng, tried: &tried, hash }))?;
        let backend = pick.backend();
        tried.push(backend.live.id);
        pick.metrics(worker.index).attempts.increment();
        let connecting = TcpStream::connect(backend.address);
        match time::timeout(set.spec.connect_timeout, connecting).await {
            Ok(Ok(stream)) if stream.set_nodelay(true).is_ok() => {
                worker.record_success(&pick);
                return Some((pick, stream));
            }
            _ => worker.record_failure(&pick, Failure::Connect),
        }
    }
    None
}
