//! CAs that make a TLS handshake to see whether a domain is ours (RFC 8737). They are known by their hello,
//! which is looked at only while one may come.

use std::{rc::Rc, sync::Arc};

use rustls::ServerConfig;

use super::{
    input::{Input, ReadError},
    tls::{self, Failed},
};
use crate::{connections::Id, local::Local, table::Challenges};

/// What the client is to be shown, if it is one.
pub async fn asked(
    local: &Local,
    id: Id,
    input: &mut Input,
    challenges: &Challenges,
) -> Result<Option<Arc<ServerConfig>>, ReadError> {
    // What is wrong with a hello is told by the handshake.
    let hello = input.hello(local, id).await?.ok();
    Ok(hello.and_then(|hello| challenges.tls_alpn_01(&hello)).cloned())
}

/// Shows it that, which is all that it came for: its connection ends here.
///
/// # Errors
/// If there was no handshake; that is counted.
pub async fn answer(
    local: &Rc<Local>,
    id: Id,
    input: Input,
    config: &Arc<ServerConfig>,
) -> Result<(), Failed> {
    let Input { stream, bytes, .. } = input;
    let metrics = local.metrics();
    let shaken = tls::run(local, config, id, stream, bytes.into_bytes()).await;
    let counter = if shaken.is_ok() { &metrics.tls_alpn_01 } else { &metrics.handshakes_failed };
    counter.increment();
    shaken.map(drop)
}
