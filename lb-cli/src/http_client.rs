//! One GET over a connection of its own: enough to ask whether something serves.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

const TIMEOUT: Duration = Duration::from_secs(1);
const MAX_BODY: usize = 16 * 1024 * 1024;

/// # Errors
/// If there is no whole answer within a second.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    timeout(TIMEOUT, exchange(address, path)).await?
}

async fn exchange(address: SocketAddr, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request =
        Request::get(path).header(HOST, address.to_string()).body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        drop(sender);
        Ok((status, body.map_err(anyhow::Error::from_boxed)?.to_bytes()))
    };
    // The connection ends with the exchange, whose result says all about it.
    let (result, _) = tokio::join!(exchange, connection);
    result
}
