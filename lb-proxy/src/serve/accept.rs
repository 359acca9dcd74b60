//! Accepting, and how many connections there may be.

use std::{
    cell::Cell,
    io,
    net::{IpAddr, SocketAddr, TcpStream},
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::{self, Poll},
    time::Duration,
};

use lb_common::{id::ListenerName, spec::ProxyProtocol};
use lb_http::message::Request;
use pin_project_lite::pin_project;
use tokio::{sync::oneshot, task::spawn_local, time};

use super::{
    h1,
    linger::linger,
    prelude::{self, Arrived},
    tcp,
};
use crate::{
    connections::{End, Id, Scope},
    downstream::{Client, Downstream},
    local::Local,
    net::{listen, stream::Stream},
    proxy::{Context, error::ProxyError, reply, respond},
    table::{CountedClient, CountedConnection, Listener, Service},
};

/// How long connections that are being made get to complete, once no new ones begin.
pub const LINGER: Duration = Duration::from_millis(50);
/// How long accepting rests when the system has no more descriptors or memory.
const REST: Duration = Duration::from_millis(50);
/// So many at a time are told that they are one too many; others are just closed.
const MOST_TOLD: usize = 8;
/// What they get to read it.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// Stops accepting when it is dropped.
#[derive(Debug)]
pub struct Stop(#[expect(dead_code, reason = "dropping it is the signal")] oneshot::Sender<()>);

/// Accepts in a task of its own until told to stop.
pub fn start(cx: &Rc<Context>, name: &ListenerName, socket: listen::Socket) -> Option<Stop> {
    let (stop, stopped) = oneshot::channel();
    // Tables come before their listeners, so it is there unless it is gone again.
    let at_first = Arc::clone(cx.local.view().listener_named(name)?);
    let acceptor = Acceptor { cx: Rc::clone(cx), at_first, told: Rc::default() };
    spawn_local(async move {
        if let Err(error) = acceptor.run(socket, stopped).await {
            tracing::error!(listener = %acceptor.at_first.spec.name, %error, "cannot accept");
        }
    });
    Some(Stop(stop))
}

struct Acceptor {
    cx: Rc<Context>,
    /// For connections that are accepted when the listener is gone from the table.
    at_first: Arc<Listener>,
    /// Connections that are being told that they are one too many.
    told: Rc<Cell<usize>>,
}

impl Acceptor {
    async fn run(
        &self,
        socket: listen::Socket,
        mut stopped: oneshot::Receiver<()>,
    ) -> io::Result<()> {
        let socket = socket.accept_on()?;
        loop {
            tokio::select! {
                biased;
                accepted = socket.accept() => self.take(accepted).await,
                _ = &mut stopped => break,
            }
        }
        if socket.is_inherited() {
            return Ok(());
        }
        socket.refuse_new()?;
        let linger = async {
            loop {
                self.take(socket.accept().await).await;
            }
        };
        // Never completes by itself; what the queue still has then is taken without waiting.
        let _ = time::timeout(LINGER, linger).await;
        while let Ok(Ok(accepted)) = time::timeout(Duration::ZERO, socket.accept()).await {
            self.take(Ok(accepted)).await;
        }
        Ok(())
    }

    async fn take(&self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        match accepted {
            Ok((stream, peer)) => self.admit(stream, peer),
            Err(error) => {
                self.cx.local.metrics().accept_errors.increment();
                // A client that is gone already is no reason to rest; a full table of descriptors is.
                if !matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) {
                    self.cx.local.make_room();
                    let listener = &self.at_first.spec.name;
                    tracing::warn!(%listener, %error, "accepting rests");
                    time::sleep(REST).await;
                }
            }
        }
    }

    /// Serves the connection in a task of its own, if there may be one more. If there may not, the one
    /// that has idled longest makes room.
    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let local = &self.cx.local;
        let view = local.view();
        let presence = &self.at_first.presence;
        let listener = view.listener_of(presence).map_or(&self.at_first, |(listener, _)| listener);
        let ip = peer.ip().to_canonical();
        let is_http = matches!(listener.service, Service::Http(_));
        let trusts = listener.spec.trusted_proxies.contains(ip);
        let proxy_protocol = listener.spec.proxy_protocol.filter(|_| trusts);
        // Of a balancer in front, whose connection it is is not known yet.
        let client = proxy_protocol.is_none().then_some(ip);
        let (mut open, too_many) = Open::new(local, listener, client);
        if listener.spec.proxy_protocol == Some(ProxyProtocol::Required) && !trusts {
            local.metrics().proxy_headers.untrusted.increment();
            return;
        }
        let limits = &local.metrics().limits;
        let makes_room = |scope| local.connections.end_oldest(scope);
        let is_refused = match too_many {
            None => !local.make_room_within(local.shared.bounds.room.for_clients),
            Some(TooMany::InAll) => {
                limits.max_connections.increment();
                !makes_room(Scope::All)
            }
            Some(TooMany::OfListener) => {
                limits.max_connections.increment();
                !makes_room(Scope::Listener(presence.slot))
            }
            Some(TooMany::OfClient) => {
                limits.max_connections_per_client.increment();
                !makes_room(Scope::Client(presence.slot, ip))
            }
        };
        if is_refused {
            open.counted = None;
        }
        let id = local.connections.open(presence.slot, listener.terms, client);
        let place = Place { local: Rc::clone(local), open, id };
        let stream = match Stream::accepted(stream, local.shared.streams.one()) {
            Ok(stream) => stream,
            Err(error) => {
                local.metrics().accept_errors.increment();
                tracing::warn!(listener = %listener.spec.name, %error, "a connection is not served");
                return;
            }
        };
        let cx = Rc::clone(&self.cx);
        if listener.tls.is_some() || proxy_protocol.is_some() || listener.goes_by_hello() {
            // Who is one too many is not told so: that would take a handshake.
            if !is_refused {
                let arrived = Arrived { stream, peer, id, proxy_protocol };
                let serve = prelude::serve(cx, Arc::clone(listener), arrived);
                drop(spawn_local(Serving { place, serve }));
            }
            return;
        }
        let client = Client::new(local, peer, None, listener, id);
        let down = Downstream::new(local, Rc::new(client), stream);
        match (is_refused, is_http) {
            (false, true) => drop(spawn_local(Serving { place, serve: h1::serve(cx, down) })),
            (false, false) => {
                drop(spawn_local(Serving { place, serve: tcp::serve(cx, down, None) }))
            }
            (true, true) if self.told.get() < MOST_TOLD => {
                let told = Rc::clone(&self.told);
                drop(spawn_local(Serving { place, serve: tell(cx, told, down) }));
            }
            (true, _) => {}
        }
    }
}

/// Tells a client that its connection is one too many.
async fn tell(cx: Rc<Context>, told: Rc<Cell<usize>>, mut down: Downstream) {
    told.set(told.get() + 1);
    let error = ProxyError::TooManyConnections;
    cx.local.metrics().refused(error.kind());
    cx.recorder.malformed(&down.client, error.status(), error.reason());
    let reply = reply::refuse(&error);
    let nothing = Request::default();
    respond::refuse(&cx.local, &mut down, &nothing, reply, TOLD_WITHIN).await;
    // Not for as long as others: there may be many of them.
    let _ = time::timeout(TOLD_WITHIN, linger(&cx.local, down)).await;
    told.set(told.get() - 1);
}

/// Why a connection is one too many.
enum TooMany {
    InAll,
    OfListener,
    OfClient,
}

/// Counts a connection for as long as it is open.
struct Open {
    local: Rc<Local>,
    /// `None` once it is refused: while it is told so, it takes nobody's place.
    counted: Option<(CountedConnection, Option<CountedClient>)>,
}

impl Open {
    /// Counts it, and says if it is one too many. `client` is `None` if that is not known yet.
    fn new(
        local: &Rc<Local>,
        listener: &Listener,
        client: Option<IpAddr>,
    ) -> (Self, Option<TooMany>) {
        local.metrics().connections_accepted.increment();
        let before = local.shared.connections.fetch_add(1, Ordering::Relaxed);
        let (spec, presence) = (&listener.spec, &listener.presence);
        let (of_listener, is_full) = presence.count(spec.max_connections);
        let of_client = spec.max_connections_per_client.zip(client);
        let of_client = of_client.map(|(most, client)| presence.count_client(most, client));
        let too_many = match of_client {
            // Whoever has too many itself takes nobody else's place.
            Some((_, true)) => Some(TooMany::OfClient),
            _ if local.shared.bounds.connections <= before => Some(TooMany::InAll),
            _ => is_full.then_some(TooMany::OfListener),
        };
        let of_client = of_client.map(|(counted, _)| counted);
        (Self { local: Rc::clone(local), counted: Some((of_listener, of_client)) }, too_many)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.local.shared.connections.fetch_sub(1, Ordering::Relaxed);
        self.local.metrics().connections_closed.increment();
    }
}

/// An open connection's place among its worker's.
struct Place {
    local: Rc<Local>,
    #[expect(dead_code, reason = "dropping it counts the connection's end")]
    open: Open,
    id: Id,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.local.connections.close(self.id);
    }
}

pin_project! {
    /// Runs what serves a connection, until that ends or the connection is cut. Not an async block,
    /// which would be larger, and there is one for each connection.
    struct Serving<F> {
        // Dropped first: it may still ask how its connection was to end.
        #[pin]
        serve: F,
        place: Place,
    }
}

impl<F: Future<Output = ()>> Future for Serving<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<()> {
        let this = self.project();
        match this.place.local.connections.poll_end(this.place.id, cx) {
            End::AtOnce => Poll::Ready(()),
            End::NotYet | End::Gracefully => this.serve.poll(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;
    use crate::{
        connections::Terms,
        local::{Bounds, Shared},
        net::files,
    };

    /// A connection of which nobody knows but this worker.
    fn place(local: &Rc<Local>) -> Place {
        local.shared.connections.fetch_add(1, Ordering::Relaxed);
        let open = Open { local: Rc::clone(local), counted: None };
        let id = local.connections.open(0, Terms(0), None);
        Place { local: Rc::clone(local), open, id }
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_connection_and_no_other() {
        let bounds = Bounds { connections: 9, room: files::room_within(9), buffers: 9 };
        let local = Rc::new(Local::new(0, Arc::new(Shared::new(1, bounds)), 1));
        let (go_on, other) = oneshot::channel::<()>();
        LocalSet::new()
            .run_until(async {
                let fails = async { panic!("a fault of our own") };
                let failed = spawn_local(Serving { place: place(&local), serve: fails });
                let serve = async { other.await.expect("it is told") };
                let served = spawn_local(Serving { place: place(&local), serve });
                assert!(failed.await.expect_err("it failed").is_panic());
                assert_eq!(local.connections.count(), 1);
                go_on.send(()).expect("the other goes on");
                served.await.expect("it ends");
            })
            .await;
        assert_eq!(local.connections.count(), 0);
        assert_eq!(local.shared.connections.load(Ordering::Relaxed), 0);
    }
}
