//! The admin port: metrics, and whether the controller is alive and ready.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use lb_common::drain::Drain;
use tokio::{net::TcpListener, task::JoinSet};

use crate::{owner::Handle, server::accepted};

/// So many connections at a time; others wait.
const MOST_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the state's owner may take for an answer.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// What the port answers from.
#[derive(Clone)]
pub struct Admin {
    /// Set once the first snapshot is published.
    pub handle: Arc<OnceLock<Handle>>,
    pub drain: Drain,
}

// === impl Admin ===

impl Admin {
    /// Serves for ever.
    pub async fn serve(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        let mut accepted = pin!(accepted(listener));
        while let Some(connection) = accepted.next().await {
            let Ok(connection) = connection else { continue };
            while connections.try_join_next().is_some() {}
            if connections.len() >= MOST_CONNECTIONS {
                connections.join_next().await;
            }
            let admin = self.clone();
            let service = service_fn(move |request| {
                let admin = admin.clone();
                async move { Ok::<_, Infallible>(admin.answer(&request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(connection), service);
            connections.spawn(connection);
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        }
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match self.readiness() {
                Ok(()) => text(StatusCode::OK, "ready\n"),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
            },
            "/metrics" => self.metrics().await,
            _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
        }
    }

    fn readiness(&self) -> Result<(), &'static str> {
        if self.drain.is_draining() {
            return Err("shutting down\n");
        }
        self.handle.get().map(|_| ()).ok_or("starting\n")
    }

    async fn metrics(&self) -> Response<Full<Bytes>> {
        let Some(handle) = self.handle.get() else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "starting\n");
        };
        let page = handle.look(|controller| controller.metrics());
        match tokio::time::timeout(LOOK_TIMEOUT, page).await {
            Ok(Ok(page)) => text(StatusCode::OK, page),
            Ok(Err(_)) => text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "the controller is too busy\n"),
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    // The version is that of Prometheus' format.
    let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
