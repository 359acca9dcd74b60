//! A client's TLS handshake, before it may speak.

use std::{
    future::poll_fn,
    rc::Rc,
    sync::Arc,
    task::{Poll, ready},
};

use lb_common::clock;
use lb_routing::millis;
use lb_tls::{
    certificate::has_expired,
    handshake::{Agreed, Handshake},
};
use rustls::ServerConfig;

use crate::{
    connections::{End, Id, Scope, Waits},
    local::{Held, Local},
    net::{
        shake::{ShakeError, Shaking},
        stream::Stream,
    },
    table::Listener,
};

/// Why there was no handshake.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("it took too long, or others needed its place")]
    Ended,
    #[error("too much waits in buffers")]
    NoRoom,
    #[error("the client's certificate has expired since")]
    Expired,
    #[error(transparent)]
    Shake(#[from] ShakeError),
}

/// Of what has come and is no whole flight, when buffers are full.
const LITTLE: usize = 4 * 1024;

/// What was agreed on, with the connection as it goes on. `None` if it came to nothing; that is counted.
pub async fn shake(
    local: &Rc<Local>,
    listener: &Listener,
    id: Id,
    stream: Stream,
) -> Option<(Stream, Agreed)> {
    let (tls, spec) = (listener.tls.as_ref()?, listener.spec.tls.as_ref()?);
    let metrics = local.metrics();
    let most = (spec.max_handshakes.get() as usize).div_ceil(local.shared.workers);
    let waits = Waits::Handshake { listener: listener.presence.slot };
    if most <= local.connections.count_of(waits) {
        // Who just came may be well behaved. Who has taken longest most likely is not.
        metrics.limits.max_handshakes.increment();
        local.connections.end_oldest(Scope::That(waits));
    }
    let timeout = millis::of(spec.handshake_timeout);
    local.connections.wait(id, waits, local.coarse(), timeout);
    let shaken = run(local, &tls.config, id, stream).await;
    local.connections.busy(id);
    match shaken {
        Ok((stream, agreed)) => {
            match agreed.is_resumed {
                true => metrics.handshakes_resumed.increment(),
                false => metrics.handshakes_full.increment(),
            }
            Some((stream, agreed))
        }
        Err(error) => {
            metrics.handshakes_failed.increment();
            tracing::debug!(listener = %listener.spec.name, %error, "no TLS handshake");
            None
        }
    }
}

async fn run(
    local: &Rc<Local>,
    config: &Arc<ServerConfig>,
    id: Id,
    stream: Stream,
) -> Result<(Stream, Agreed), Failed> {
    let handshake = Handshake::server(config).map_err(ShakeError::from)?;
    let mut shaking = Shaking::answering(stream, handshake);
    let mut held = Held::new(local);
    poll_fn(|cx| {
        loop {
            if local.connections.poll_end(id, cx) != End::NotYet {
                return Poll::Ready(Err(Failed::Ended));
            }
            if ready!(shaking.poll_step(&local.hot, cx))? {
                return Poll::Ready(Ok(()));
            }
            held.set(shaking.capacity());
            // What comes in one piece is no burden.
            if LITTLE < shaking.waiting() && local.is_full() {
                return Poll::Ready(Err(Failed::NoRoom));
            }
        }
    })
    .await?;
    let (tls, agreed) = shaking.finish(&local.scratch)?;
    // A ticket is no way to go on with a certificate that is not good any more.
    let shown = agreed.certificates.first().filter(|_| agreed.is_resumed);
    if shown.is_some_and(|shown| has_expired(shown, clock::wall())) {
        return Err(Failed::Expired);
    }
    Ok((Stream::Tls(Box::new(tls)), agreed))
}
