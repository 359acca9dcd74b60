//! Whether what was started serves: asked from outside, as a client would.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, ensure};
use http::StatusCode;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::http_client::get;

const POLL: Duration = Duration::from_millis(5);

/// Asks `check` again and again.
///
/// # Errors
/// What it last said, if it does not agree within `limit`.
pub async fn eventually(
    limit: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut last = None;
    let agreed = timeout(limit, async {
        while let Err(error) = check().await {
            last = Some(error);
            sleep(POLL).await;
        }
    });
    if agreed.await.is_ok() {
        return Ok(());
    }
    let last = last.unwrap_or_else(|| anyhow::anyhow!("no answer"));
    Err(last).with_context(|| format!("{what} within {limit:?}"))
}

/// # Errors
/// If the answer is not a 200.
pub async fn answers_200(address: SocketAddr, path: &str) -> anyhow::Result<()> {
    fetch(address, path).await.map(drop)
}

/// # Errors
/// If fewer proxies run what the controller decided.
pub async fn in_sync(controller: SocketAddr, proxies: usize) -> anyhow::Result<()> {
    let metrics = fetch(controller, "/metrics").await?;
    let metrics = String::from_utf8_lossy(&metrics);
    let wanted = format!("lb_control_proxies_in_sync {proxies}");
    ensure!(
        metrics.lines().any(|line| line == wanted),
        "not every proxy runs what the controller decided; the log says why"
    );
    Ok(())
}

/// Where a proxy accepts, for each listener: `http://127.0.0.1:8080 (listener web)`.
///
/// # Errors
/// If the proxy does not say.
pub async fn listening(admin: SocketAddr) -> anyhow::Result<Vec<String>> {
    let table: Value = serde_json::from_slice(&fetch(admin, "/table").await?)?;
    let listeners = table["listeners"].as_array().context("there are listeners")?;
    // One that could not be opened has no address; the log says so.
    let open = listeners.iter().filter(|listener| !listener["listening_on"].is_null());
    let listener = |listener: &Value| {
        let name = listener["name"].as_str().context("a listener has a name")?;
        let address = listener["listening_on"].as_str().context("a listener has an address")?;
        let scheme = match (&listener["protocol"], listener.get("tls")) {
            (protocol, _) if protocol == "tcp" => "tcp",
            (_, Some(_)) => "https",
            (_, None) => "http",
        };
        Ok(format!("{scheme}://{address} (listener {name})"))
    };
    open.map(listener).collect()
}

async fn fetch(address: SocketAddr, path: &str) -> anyhow::Result<bytes::Bytes> {
    let url = format!("http://{address}{path}");
    let (status, body) = get(address, path).await.with_context(|| url.clone())?;
    let text = String::from_utf8_lossy(&body);
    ensure!(status == StatusCode::OK, "{url} answers {status}: {}", text.trim_end());
    Ok(body)
}
