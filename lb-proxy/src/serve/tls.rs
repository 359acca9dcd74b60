//! A client's TLS handshake, before it may speak.

use std::{
    future::poll_fn,
    rc::Rc,
    sync::Arc,
    task::{Poll, ready},
};

use lb_common::clock;
use lb_tls::{
    certificate::has_expired,
    handshake::{Agreed, Handshake},
};
use rustls::ServerConfig;

use super::input::{ReadError, may_wait};
use crate::{
    connections::{End, Id},
    local::{Held, Local},
    net::{
        shake::{ShakeError, Shaking},
        stream::Stream,
    },
    table::ListenerTls,
};

/// Why there was no handshake.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the client's certificate has expired since")]
    Expired,
    #[error(transparent)]
    Shake(#[from] ShakeError),
}

/// What was agreed on, with the connection as it goes on. `input` has come already.
///
/// # Errors
/// If it came to nothing; that is counted.
pub async fn shake(
    local: &Rc<Local>,
    tls: &ListenerTls,
    id: Id,
    stream: Stream,
    input: Vec<u8>,
) -> Result<(Stream, Agreed), Failed> {
    let metrics = local.metrics();
    let shaken = run(local, &tls.config, id, stream, input).await;
    match &shaken {
        Ok((_, agreed)) if agreed.is_resumed => metrics.handshakes_resumed.increment(),
        Ok(_) => metrics.handshakes_full.increment(),
        Err(_) => metrics.handshakes_failed.increment(),
    }
    shaken
}

/// The same, not counted.
pub async fn run(
    local: &Rc<Local>,
    config: &Arc<ServerConfig>,
    id: Id,
    stream: Stream,
    input: Vec<u8>,
) -> Result<(Stream, Agreed), Failed> {
    let handshake = Handshake::server(config).map_err(ShakeError::from)?;
    let mut shaking = Shaking::answering(stream, handshake, input);
    let mut held = Held::new(local);
    poll_fn(|cx| {
        loop {
            if local.connections.poll_end(id, cx) != End::NotYet {
                return Poll::Ready(Err(Failed::from(ReadError::Ended)));
            }
            if ready!(shaking.poll_step(&local.hot, cx))? {
                return Poll::Ready(Ok(()));
            }
            held.set(shaking.capacity());
            // What comes in one piece is no burden.
            may_wait(local, shaking.waiting())?;
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
