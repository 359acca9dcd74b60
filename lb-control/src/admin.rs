//! The admin port: metrics, whether the controller is alive and ready, and the dashboard.
//!
//! There is no authentication here, and so nothing here changes anything: only GET and HEAD are
//! answered, and what is shown is what the Fleet service shows everybody who reaches its port.
//!
//! - `page`: the dashboard's files. `api`: what its scripts ask for. `events`: what happens,
//!   as it happens. `query`: what stands behind a question mark.
//! - [`site`]: which web sites may ask, so that a page from elsewhere cannot read the fleet through
//!   the browser of an operator.

mod api;
mod events;
mod page;
mod query;
pub mod site;

use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use lb_common::{drain::Drain, exposition};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

use self::{api::Api, query::Query, site::Site};
use crate::{fleet, owner::Handle, server::accepted};

/// So many connections at a time; others wait.
const MOST_CONNECTIONS: usize = 128;
/// From so many on, a connection ends with its answer, so that whoever waits gets a turn.
const MANY_CONNECTIONS: usize = 64;
/// So many of the connections may be there to hear what happens.
const MOST_LISTENERS: usize = 32;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Of one request, in bytes.
const MOST_HEADERS: usize = 64 * 1024;
/// After which a connection is cut, lest one whose peer reads nothing stays for ever.
const LONGEST: Duration = Duration::from_secs(3600);
/// How long the state's owner may take for an answer.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What the port answers from. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    /// Set once the first snapshot is published.
    handle: Arc<OnceLock<Handle>>,
    drain: Drain,
    site: Arc<Site>,
    listeners: Arc<Semaphore>,
    /// Once `handle` is set.
    fleet: Arc<OnceLock<fleet::Service>>,
    connections: Arc<AtomicUsize>,
}

/// Counts a connection for as long as it lives.
struct Connected(Arc<AtomicUsize>);

// === impl Admin ===

impl Admin {
    pub fn new(handle: Arc<OnceLock<Handle>>, drain: Drain, site: Site) -> Self {
        Self {
            handle,
            drain,
            site: Arc::new(site),
            fleet: Arc::default(),
            listeners: Arc::new(Semaphore::new(MOST_LISTENERS)),
            connections: Arc::default(),
        }
    }

    /// Serves for ever.
    pub async fn serve(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        let mut accepted = pin!(accepted(listener));
        while let Some(connection) = accepted.next().await {
            while connections.try_join_next().is_some() {}
            if connections.len() >= MOST_CONNECTIONS {
                connections.join_next().await;
            }
            connections.spawn(self.clone().connection(connection));
        }
    }

    async fn connection(self, connection: TcpStream) {
        let _connected = Connected::start(&self.connections);
        let service = service_fn(move |request| {
            let admin = self.clone();
            async move { Ok::<_, Infallible>(admin.answer(&request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(MOST_HEADERS)
            .serve_connection(TokioIo::new(connection), service);
        // However it ends, its client knows.
        let _ = tokio::time::timeout(LONGEST, connection).await;
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let mut response = self.route(request).await;
        if self.connections.load(Relaxed) > MANY_CONNECTIONS {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }

    async fn route(&self, request: &Request<Incoming>) -> Response<Body> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        }
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match self.readiness().await {
                Ok(()) => text(StatusCode::OK, "ready\n"),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
            },
            "/metrics" => self.metrics().await,
            path => self.dashboard(path, request).await,
        }
    }

    async fn dashboard(&self, path: &str, request: &Request<Incoming>) -> Response<Body> {
        if let Err(refusal) = self.site.admits(request.uri(), request.headers()) {
            return text(refusal.status(), format!("{refusal}\n"));
        }
        if let Some(what) = path.strip_prefix("/api/") {
            return self.api(what, request).await;
        }
        match page::find(path) {
            Some(file) => file.answer(request.headers()),
            None => text(
                StatusCode::NOT_FOUND,
                "there are / (the dashboard), /metrics, /healthz and /readyz\n",
            ),
        }
    }

    async fn api(&self, what: &str, request: &Request<Incoming>) -> Response<Body> {
        let Some(handle) = self.handle.get() else {
            return api::failed(StatusCode::SERVICE_UNAVAILABLE, "starting");
        };
        let new = || fleet::Service::new(handle.clone(), self.drain.clone());
        let fleet = self.fleet.get_or_init(new);
        if what == "events" {
            return events::answer(fleet, &self.listeners).await;
        }
        let query = match Query::parse(request.uri().query().unwrap_or_default()) {
            Ok(query) => query,
            Err(error) => return api::failed(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        match tokio::time::timeout(LOOK_TIMEOUT, Api { fleet: fleet.clone() }.answer(what, &query))
            .await
        {
            Ok(answer) => answer,
            Err(_) => api::failed(StatusCode::SERVICE_UNAVAILABLE, "the controller is too busy"),
        }
    }

    /// Proxies are served whatever it says: it is about those who want to change something.
    async fn readiness(&self) -> Result<(), String> {
        if self.drain.is_draining() {
            return Err("shutting down\n".into());
        }
        let handle = self.handle.get().ok_or("starting\n")?;
        let problem = handle.look(|controller| controller.store_problem().map(str::to_owned));
        match tokio::time::timeout(LOOK_TIMEOUT, problem).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(why))) => Err(format!("the store fails: {why}\n")),
            Ok(Err(_)) => Err("shutting down\n".into()),
            Err(_) => Err("the controller is too busy\n".into()),
        }
    }

    async fn metrics(&self) -> Response<Body> {
        let Some(handle) = self.handle.get() else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "starting\n");
        };
        let page = handle.look(|controller| controller.metrics());
        match tokio::time::timeout(LOOK_TIMEOUT, page).await {
            Ok(Ok(mut page)) => {
                exposition::process(&mut page);
                text(StatusCode::OK, page.into_text())
            }
            Ok(Err(_)) => text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "the controller is too busy\n"),
        }
    }
}

// === impl Connected ===

impl Connected {
    fn start(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    // The version is that of Prometheus' format.
    respond(status, "text/plain; version=0.0.4; charset=utf-8", body.into())
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // What is named one thing is not to be taken for another.
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}
