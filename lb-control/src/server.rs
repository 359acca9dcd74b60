//! The gRPC server: both services, reflection and health on one port.

use std::{io, time::Duration};

use futures_util::stream;
use lb_common::drain::Drain;
use lb_proto::v1::{discovery_server::DiscoveryServer, fleet_server::FleetServer};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::Stream;
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
        .serve_with_incoming_shutdown(accepted(listener), async move {
            drain.started().await;
            end_watches(&mut reporter).await;
        })
        .await
}

/// Accepts for ever. Errors that are the system's pass with time, and those that are one
/// connection's with the next one.
pub fn accepted(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> {
    stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => {
                    // Without it a connection is slower, and works.
                    let _ = connection.set_nodelay(true);
                    return Some((Ok(connection), listener));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
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
