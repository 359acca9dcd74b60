//! One call of `grpc.health.v1`.

use std::{error::Error, future::ready, io, net::SocketAddr};

use http::Uri;
use hyper_util::rt::TokioIo;
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::service_fn;

use super::{
    USER_AGENT,
    connection::Stream,
    problem::{Problem, describe},
};

/// So much of what a backend says is told, in characters.
const MOST_TOLD: usize = 200;

/// The name of the service, empty for the whole server; and who is asked.
pub async fn ask(
    address: SocketAddr,
    stream: Stream,
    service: &str,
    origin: &str,
) -> Result<String, Problem> {
    let invalid = |error: &dyn Error| Problem::OfBackend(error.to_string());
    let origin = origin.parse().map_err(|error| invalid(&error))?;
    // Whatever this says, the connection is there, and the origin is what is asked for.
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
        .map_err(|error| invalid(&error))?
        .origin(origin);
    let mut io = Some(TokioIo::new(stream));
    let connector = service_fn(move |_: Uri| {
        ready(io.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
    });
    let connected = endpoint.connect_with_connector(connector).await;
    let channel = connected.map_err(|error| describe(&error, address))?;
    let request = HealthCheckRequest { service: service.into() };
    match HealthClient::new(channel).check(request).await {
        Ok(response) => match response.into_inner().status() {
            ServingStatus::Serving => Ok("SERVING".into()),
            other => Err(Problem::OfBackend(format!("{}, expected SERVING", other.as_str_name()))),
        },
        Err(status) if status.source().is_some() => Err(describe(&status, address)),
        Err(status) => {
            let why = format!("{}: {}", status.code(), told(status.message()));
            Err(Problem::OfBackend(why))
        }
    }
}

/// In one line, because it is on pages and in logs.
fn told(message: &str) -> String {
    let chars = message.chars().map(|c| if c.is_control() { ' ' } else { c });
    chars.take(MOST_TOLD).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_backend_says_is_told_in_one_line_and_cut() {
        assert_eq!(told("not\r\nready\0"), "not  ready ");
        assert_eq!(told(&"ä".repeat(16 * 1024)), "ä".repeat(200));
    }
}
