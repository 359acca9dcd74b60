//! What comes before a client may speak, or is passed on: whose connection it is, whom the client wants,
//! and TLS.
//!
//! ```text
//!   accept ─► PROXY header ─► a look at the ─► TLS handshake ─► http or tcp
//!                             ClientHello
//!             if the peer is  if tcp routes    if the listener
//!             trusted and the ask for it, or   has TLS; a CA's
//!             listener asks   CAs may come     connection ends here
//! ```
//!
//! All of it has one deadline: the listener's `handshake_timeout`, or without TLS its `header_timeout`.
//! Who is at it waits in a list of its worker's, so no timer is needed, and when there are too many, the
//! one that has taken longest makes room.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use lb_common::spec::ProxyProtocol;
use lb_prelude::{
    client_hello::{ClientHello, HelloError},
    proxy_protocol::{Header, HeaderError, decode},
};
use lb_routing::millis;

use super::{
    acme, client_cert, h1,
    input::{Input, ReadError},
    tcp, tls,
};
use crate::{
    connections::{Id, Scope, Waits},
    downstream::{Client, Downstream, Proxied},
    local::Local,
    net::stream::Stream,
    proxy::Context,
    table::{Listener, Service},
};

/// A connection that was just accepted.
#[derive(Debug)]
pub struct Arrived {
    pub stream: Stream,
    pub peer: SocketAddr,
    pub id: Id,
    /// Whether the peer is to say whose connection it is.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// One that has passed, and what its client said first, if that matters.
type Passed = (Downstream, Option<Box<ClientHello>>);

/// Why a connection is not served.
#[derive(Debug, thiserror::Error)]
enum PreludeError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error("too many connections of the client {0}")]
    TooMany(SocketAddr),
    #[error("no TLS handshake: {0}")]
    Handshake(#[from] tls::Failed),
    #[error("it was a CA, which wanted no more than its answer")]
    Answered,
}

/// So many may be at it at once on a listener without TLS; with TLS, its `max_handshakes`.
const MOST_WAITING: u32 = 1024;

/// Serves the connection once it has passed.
#[expect(clippy::manual_async_fn, reason = "an async function's arguments are in its future twice")]
pub fn serve(
    cx: Rc<Context>,
    listener: Arc<Listener>,
    arrived: Arrived,
) -> impl Future<Output = ()> {
    async move {
        // In boxes, so that a connection that idles is small.
        let passed = Box::pin(pass(&cx.local, &listener, arrived)).await;
        let Some((down, hello)) = passed else { return };
        let is_http = matches!(listener.service, Service::Http(_));
        // What it is by then, the table says.
        drop(listener);
        match is_http {
            true => h1::serve(cx, down).await,
            false => tcp::serve(cx, down, hello).await,
        }
    }
}

/// `None` if it came to nothing; that is counted.
async fn pass(local: &Rc<Local>, listener: &Listener, arrived: Arrived) -> Option<Passed> {
    let (id, peer, slot) = (arrived.id, arrived.peer, listener.presence.slot);
    let limits = &local.metrics().limits;
    let (waits, timeout, most, is_one_too_many) = match &listener.spec.tls {
        Some(tls) => {
            let most = tls.max_handshakes.get();
            (
                Waits::Handshake { listener: slot },
                tls.handshake_timeout,
                most,
                &limits.max_handshakes,
            )
        }
        None => {
            let timeout = listener.spec.header_timeout;
            (Waits::Prelude { listener: slot }, timeout, MOST_WAITING, &limits.max_preludes)
        }
    };
    if (most as usize).div_ceil(local.shared.workers) <= local.connections.count_of(waits) {
        // Who just came may be well behaved. Who has taken longest most likely is not.
        is_one_too_many.increment();
        local.connections.end_oldest(Scope::That(waits));
    }
    local.connections.wait(id, waits, local.coarse(), millis::of(timeout));
    let passed = run(local, listener, arrived).await;
    local.connections.busy(id);
    let refused = |error: &PreludeError| {
        tracing::debug!(listener = %listener.spec.name, %peer, %error, "a connection is not served");
    };
    passed.inspect_err(refused).ok()
}

async fn run(
    local: &Rc<Local>,
    listener: &Listener,
    arrived: Arrived,
) -> Result<Passed, PreludeError> {
    let Arrived { stream, peer, id, proxy_protocol } = arrived;
    let mut input = Input::new(local, stream);
    let proxied = match proxy_protocol {
        None => None,
        Some(how) => {
            let header = header(local, id, how, &mut input).await?;
            Some(Box::new(count(local, listener, id, peer, header)?))
        }
    };
    if listener.tls.is_some()
        && let Some(challenges) = local.view().challenges.clone()
        && let Some(config) = acme::asked(local, id, &mut input, &challenges).await?
    {
        acme::answer(local, id, input, &config).await?;
        return Err(PreludeError::Answered);
    }
    let mut said = None;
    if listener.goes_by_hello() {
        said = Some(hello(local, id, &mut input).await?);
    }
    let Input { mut stream, mut bytes, .. } = input;
    let mut cert = None;
    if let Some(tls) = &listener.tls {
        let agreed;
        let read = std::mem::take(&mut bytes).into_bytes();
        (stream, agreed) = tls::shake(local, tls, id, stream, read).await?;
        cert = client_cert::of(local, listener, &agreed.certificates).map(Box::new);
        if let Some(hello) = &mut said {
            // Of what the client offers, that is what is left.
            **hello =
                ClientHello::offering(hello.server_name.as_deref(), agreed.protocol.as_deref());
        }
    }
    let mut client = Client::new(local, peer, proxied, listener, id);
    client.cert = cert;
    let mut down = Downstream::new(local, Rc::new(client), stream);
    down.input = bytes;
    // Until a backend has taken it, it waits here.
    down.hold(0);
    Ok((down, said))
}

/// What a trusted peer says of its connection.
async fn header(
    local: &Local,
    id: Id,
    how: ProxyProtocol,
    input: &mut Input,
) -> Result<Header, PreludeError> {
    let counts = &local.metrics().proxy_headers;
    loop {
        match decode(&input.bytes) {
            Ok(Some(decoded)) => {
                counts.read.increment();
                input.consume(local, decoded.length);
                return Ok(decoded.header);
            }
            Ok(None) => input.more(local, id).await?,
            Err(HeaderError::Absent) if how == ProxyProtocol::Optional => {
                return Ok(Header::default());
            }
            Err(error) => {
                match error {
                    HeaderError::Absent => counts.absent.increment(),
                    _ => counts.malformed.increment(),
                }
                return Err(error.into());
            }
        }
    }
}

/// What a client says to whoever answers it. A client that does not speak TLS says nothing.
async fn hello(local: &Local, id: Id, input: &mut Input) -> Result<Box<ClientHello>, PreludeError> {
    let counts = &local.metrics().client_hellos;
    let read = input.hello(local, id).await?;
    let counter = match &read {
        Ok(_) => &counts.read,
        Err(HelloError::NoTls) => &counts.no_tls,
        Err(_) => &counts.malformed,
    };
    counter.increment();
    match read {
        Ok(hello) => Ok(Box::new(hello)),
        Err(HelloError::NoTls) => Ok(Box::default()),
        Err(error) => Err(error.into()),
    }
}

/// Counts it as its client's, now that it is known who that is.
fn count(
    local: &Local,
    listener: &Listener,
    id: Id,
    peer: SocketAddr,
    header: Header,
) -> Result<Proxied, PreludeError> {
    let client = header.addresses.map_or(peer, |addresses| addresses.source);
    let (presence, ip) = (&listener.presence, client.ip().to_canonical());
    let most = listener.spec.max_connections_per_client;
    let counted = most.map(|most| presence.count_client(most, ip));
    if let Some((_, true)) = counted {
        local.metrics().limits.max_connections_per_client.increment();
        if !local.connections.end_oldest(Scope::Client(presence.slot, ip)) {
            return Err(PreludeError::TooMany(client));
        }
    }
    local.connections.is_of(id, ip);
    Ok(Proxied::new(header, counted.map(|(counted, _)| counted)))
}
