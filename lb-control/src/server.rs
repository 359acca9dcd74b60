//! The gRPC server: both services, reflection and health on one port.

use std::{io, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use lb_common::{drain::Drain, shortage::raise_descriptor_limit};
use lb_proto::v1::{discovery_server::DiscoveryServer, fleet_server::FleetServer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::transport::Server;
use tonic_health::server::{HealthReporter, health_reporter};
use tonic_reflection::server::Builder;

use crate::{discovery, fleet, owner::Handle};

/// How soon a proxy is missed that went without a word.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Calls at a time on one connection.
const MOST_STREAMS: u32 = 1024;
/// Of one request, in bytes.
const MOST_HEADERS: u32 = 16 * 1024;
/// How long a connection may say nothing at first.
const FIRST_BYTE: Duration = Duration::from_secs(10);
/// Such connections may take up one in so many of the descriptors. A fleet that comes all at once has room there,
/// and who finds none waits until another one has spoken.
const SHARE_OF_SILENT: u64 = 8;
const MOST_SILENT: u64 = 4096;
/// How long to wait after the system refused to accept a connection, for lack of descriptors most
/// likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the drain starts, and then until all connections have ended.
///
/// # Errors
/// Those of the transport.
pub async fn serve(
    listener: TcpListener,
    handle: Handle,
    mut drain: Drain,
) -> Result<(), tonic::transport::Error> {
    let (mut reporter, health) = health_reporter();
    reporter.set_serving::<FleetServer<fleet::Service>>().await;
    reporter.set_serving::<DiscoveryServer<discovery::Service>>().await;
    let descriptors = || {
        Builder::configure()
            .include_reflection_service(false)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(
                tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
            )
            .register_encoded_file_descriptor_set(lb_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let built = "the descriptors are part of this program";
    let most_silent = (raise_descriptor_limit() / SHARE_OF_SILENT).clamp(1, MOST_SILENT);
    let incoming = speaking(accepted(listener), usize::try_from(most_silent).unwrap_or(usize::MAX));
    Server::builder()
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .max_concurrent_streams(MOST_STREAMS)
        .http2_max_header_list_size(MOST_HEADERS)
        .add_service(fleet::server(handle.clone(), drain.clone()))
        .add_service(discovery::server(handle, drain.clone()))
        .add_service(health)
        .add_service(descriptors().build_v1().expect(built))
        .add_service(descriptors().build_v1alpha().expect(built))
        .serve_with_incoming_shutdown(incoming, async move {
            drain.started().await;
            end_watches(&mut reporter).await;
        })
        .await
}

/// Accepts for ever. Errors that are the system's pass with time, and those that are one
/// connection's with the next one.
pub fn accepted(listener: TcpListener) -> impl Stream<Item = TcpStream> {
    stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => {
                    // Without it a connection is slower, and works.
                    let _ = connection.set_nodelay(true);
                    return Some((connection, listener));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

/// Those that have begun to say something, as long as somebody takes them. Who says nothing takes up a
/// descriptor, which the checks of backends lack then: so there are few of these at a time, and not for long.
fn speaking(
    connections: impl Stream<Item = TcpStream> + Send + 'static,
    most_silent: usize,
) -> impl Stream<Item = io::Result<TcpStream>> + Unpin {
    let (speaking, incoming) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut connections = std::pin::pin!(connections);
        let silent = Arc::new(Semaphore::new(most_silent));
        loop {
            let next = async {
                let room = Arc::clone(&silent).acquire_owned().await;
                (room, connections.next().await)
            };
            let (room, Some(connection)) = (tokio::select! {
                next = next => next,
                () = speaking.closed() => return,
            }) else {
                return;
            };
            let speaking = speaking.clone();
            tokio::spawn(async move {
                let first = tokio::time::timeout(FIRST_BYTE, connection.peek(&mut [0])).await;
                drop(room);
                if matches!(first, Ok(Ok(1..))) {
                    // Nobody takes it any more at the end.
                    let _ = speaking.send(Ok(connection)).await;
                }
            });
        }
    });
    ReceiverStream::new(incoming)
}

/// Whoever watches the health of a service would keep its connection open for ever.
async fn end_watches(reporter: &mut HealthReporter) {
    use tonic::server::NamedService;
    for service in
        ["", FleetServer::<fleet::Service>::NAME, DiscoveryServer::<discovery::Service>::NAME]
    {
        reporter.clear_service_status(service).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const MANY: usize = 64;

    async fn listening() -> (SocketAddr, impl Stream<Item = io::Result<TcpStream>> + Unpin) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        (listener.local_addr().expect("is bound"), speaking(accepted(listener), MANY))
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_let_go_and_takes_nobody_elses_place() {
        let (address, mut accepted) = listening().await;
        let mut silent = Vec::new();
        for _ in 0..=MANY {
            silent.push(TcpStream::connect(address).await.expect("it listens"));
        }
        assert!(accepted.next().now_or_never().is_none(), "nobody has said anything");
        let mut client = TcpStream::connect(address).await.expect("it listens");
        client.write_all(b"PRI").await.expect("it is open");
        let mut taken = accepted.next().await.expect("it goes on").expect("it is a connection");
        let mut said = [0; 3];
        taken.read_exact(&mut said).await.expect("nothing of it is lost");
        assert_eq!(&said, b"PRI");
        for mut silent in silent {
            assert_eq!(silent.read(&mut [0]).await.expect("it ended in order"), 0);
        }
    }
}
