//! The admin port: `/metrics`, `/healthz`, `/readyz` and `/table`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use lb_common::{clock, drain::Drain, id::ProxyId};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    control::status::ControlStatus,
    metrics::{BackendMetrics, Counter, Exposition},
    server::BoundAddresses,
    table::{RoutingTable, Target},
    worker::Shared,
};

/// What the admin port tells about.
#[derive(Debug)]
pub struct Admin {
    pub id: ProxyId,
    pub shared: Arc<Shared>,
    pub control: watch::Receiver<ControlStatus>,
    pub bound: BoundAddresses,
    pub drain: Drain,
}

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const REST: Duration = Duration::from_millis(100);

/// Serves until it is dropped.
pub async fn serve(admin: Arc<Admin>, listener: TcpListener) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the admin port rests");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        let admin = Arc::clone(&admin);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = admin.answer(&request);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "admin connection ended");
            }
        });
    }
}

impl Admin {
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        }
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" if self.drain.is_draining() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
            }
            "/readyz" if self.control.borrow().running.is_none() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "no routing table yet\n")
            }
            "/readyz" => text(StatusCode::OK, "ready\n"),
            "/metrics" => {
                let mut response = text(StatusCode::OK, self.metrics());
                let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            "/table" => {
                let mut response = text(StatusCode::OK, format!("{:#}\n", self.table()));
                let kind = HeaderValue::from_static("application/json");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz, /readyz and /table\n"),
        }
    }

    /// What the proxy runs.
    fn table(&self) -> serde_json::Value {
        let table = self.shared.table.load_full();
        let now = self.shared.millis(clock::now());
        let control = self.control.borrow().clone();
        let desired = &table.snapshot.desired;
        let bound = self.bound.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let listeners: Vec<_> = desired
            .listeners
            .values()
            .map(|listener| {
                let mut value = json(&lb_proto::encode::listener(listener));
                value["listening_on"] = json!(bound.get(&listener.name).map(ToString::to_string));
                value
            })
            .collect();
        let routes = desired.routes.values().map(|route| json(&lb_proto::encode::route(route)));
        let backend_sets: Vec<_> = desired
            .backend_sets
            .iter()
            .filter_map(|(name, spec)| {
                let set = table.backend_sets.get(name)?;
                let mut value = json(&lb_proto::encode::backend_set(spec));
                let states = spec.backends.iter().map(|backend| backend.state.as_str());
                let backends = set.backends.iter().zip(states).map(|(backend, state)| {
                    let ejection = backend.live.outlier.ejection(now);
                    json!({
                        "name": backend.name.as_str(),
                        "address": backend.address.to_string(),
                        "weight": backend.weight,
                        "state": state,
                        "healthy": !table.snapshot.unhealthy.contains(name, &backend.name),
                        "usable": backend.is_open(now),
                        "in_flight": backend.live.in_flight(),
                        "ejected": ejection.map(|ejection| json!({
                            "reason": ejection.failure.to_string(),
                            "remaining_ms": ejection.remaining,
                        })),
                    })
                });
                value["backends"] = backends.collect();
                Some(value)
            })
            .collect();
        let running = control.running.map(|running| {
            json!({
                "epoch": running.id.version.epoch,
                "version": running.id.version.version,
                "hash": running.id.digest.to_string(),
                "revision": running.revision,
            })
        });
        json!({
            "proxy": self.id.as_str(),
            "controller_connected": control.connection.is_connected(),
            "running": running,
            "listeners": listeners,
            "routes": routes.collect::<Vec<_>>(),
            "backend_sets": backend_sets,
        })
    }

    fn metrics(&self) -> String {
        let table = self.shared.table.load_full();
        let mut text = Exposition::default();
        self.process_metrics(&mut text);
        route_metrics(&table, &mut text);
        backend_metrics(&table, self.shared.millis(clock::now()), &mut text);
        text.into_text()
    }

    fn process_metrics(&self, text: &mut Exposition) {
        let control = self.control.borrow().clone();
        let metrics = &self.shared.metrics;
        let accepted = metrics.sum(|shard| &shard.connections_accepted);
        let closed = metrics.sum(|shard| &shard.connections_closed);
        let running = control.running.map(|running| (running.id.version, running.revision));
        let (version, revision) = running.unwrap_or_default();
        let connected = u64::from(control.connection.is_connected());
        let rejected = u64::from(control.last_rejection.is_some());
        #[rustfmt::skip]
        let values = [
            ("lb_proxy_table_epoch", "gauge", "Epoch of the snapshot that runs.", version.epoch),
            ("lb_proxy_table_version", "gauge", "Version of the snapshot that runs.", version.version),
            ("lb_proxy_table_revision", "gauge", "Accepted change that runs.", revision),
            ("lb_proxy_controller_connected", "gauge", "1 while the control stream is open.", connected),
            ("lb_proxy_update_rejected", "gauge", "1 once an update was refused.", rejected),
            ("lb_proxy_connections_accepted_total", "counter", "Client connections.", accepted),
            ("lb_proxy_connections_open", "gauge", "Client connections.", accepted.saturating_sub(closed)),
            ("lb_proxy_accept_errors_total", "counter", "Connections that could not be accepted.", metrics.sum(|shard| &shard.accept_errors)),
            ("lb_proxy_unrouted_total", "counter", "Requests that no route took.", metrics.sum(|shard| &shard.unrouted)),
        ];
        for (name, kind, help, value) in values {
            text.metric(name, kind, help);
            text.sample(name, &[], value);
        }
    }
}

fn route_metrics(table: &RoutingTable, text: &mut Exposition) {
    let mut routes: Vec<_> = table.routes.iter().collect();
    routes.sort_by_key(|(name, _)| *name);
    text.metric("lb_proxy_responses_total", "counter", "Responses by route and class of status.");
    for (name, route) in &routes {
        text.responses(name.as_str(), &route.metrics);
    }
    text.metric(
        "lb_proxy_response_seconds",
        "histogram",
        "From a request's head to its response's head.",
    );
    for (name, route) in &routes {
        text.durations(name.as_str(), &route.metrics);
    }
    let forwarding = || routes.iter().filter(|(_, r)| matches!(r.target, Target::Forward(_)));
    text.metric("lb_proxy_retries_total", "counter", "Attempts after the first.");
    for (name, route) in forwarding() {
        let retries = route.metrics.sum(|shard| &shard.retries);
        text.sample("lb_proxy_retries_total", &[("route", name.as_str())], retries);
    }
    const EXHAUSTED: &str = "lb_proxy_retry_budget_exhausted_total";
    text.metric(EXHAUSTED, "counter", "Retries that the budget did not pay for.");
    for (name, route) in forwarding() {
        let exhausted = route.metrics.sum(|shard| &shard.budget_exhausted);
        text.sample(EXHAUSTED, &[("route", name.as_str())], exhausted);
    }
}

type Read = fn(&BackendMetrics) -> &Counter;

fn backend_metrics(table: &RoutingTable, now: u64, text: &mut Exposition) {
    let mut sets: Vec<_> = table.backend_sets.iter().collect();
    sets.sort_by_key(|(name, _)| *name);
    #[rustfmt::skip]
    let counters: [(&str, &str, Read); 7] = [
        ("lb_proxy_attempts_total", "Requests sent to a backend, retries included.", |m| &m.attempts),
        ("lb_proxy_connects_total", "Connections opened to a backend.", |m| &m.connects),
        ("lb_proxy_connect_failures_total", "Connections that a backend did not take.", |m| &m.connect_failures),
        ("lb_proxy_resets_total", "Attempts that a backend broke off.", |m| &m.resets),
        ("lb_proxy_attempt_timeouts_total", "Attempts that a backend did not answer in time.", |m| &m.timeouts),
        ("lb_proxy_backend_5xx_total", "Responses of a backend with a 5xx.", |m| &m.responses_5xx),
        ("lb_proxy_ejections_total", "Times that this proxy kept a backend out.", |m| &m.ejections),
    ];
    for (name, help, read) in counters {
        text.metric(name, "counter", help);
        for (set, compiled) in &sets {
            for (backend, metrics) in compiled.counted() {
                let labels = [("backend_set", set.as_str()), ("backend", backend.name.as_str())];
                text.sample(name, &labels, metrics.sum(read));
            }
        }
    }
    text.metric("lb_proxy_in_flight", "gauge", "Attempts under way.");
    for (set, compiled) in &sets {
        for (backend, _) in compiled.counted() {
            let labels = [("backend_set", set.as_str()), ("backend", backend.name.as_str())];
            text.sample("lb_proxy_in_flight", &labels, backend.live.in_flight());
        }
    }
    text.metric("lb_proxy_backend_usable", "gauge", "1 if a request may go there now.");
    for (set, compiled) in &sets {
        for (backend, _) in compiled.counted() {
            let labels = [("backend_set", set.as_str()), ("backend", backend.name.as_str())];
            text.sample("lb_proxy_backend_usable", &labels, u8::from(backend.is_open(now)));
        }
    }
}

/// A spec as JSON, without what was not given.
fn json(spec: &impl serde::Serialize) -> serde_json::Value {
    fn is_given(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::Null | serde_json::Value::Bool(false) => false,
            serde_json::Value::String(text) => !text.is_empty(),
            serde_json::Value::Array(items) => !items.is_empty(),
            serde_json::Value::Object(fields) => !fields.is_empty(),
            serde_json::Value::Bool(true) | serde_json::Value::Number(_) => true,
        }
    }
    fn prune(value: &mut serde_json::Value) {
        if let serde_json::Value::Object(fields) = value {
            fields.values_mut().for_each(prune);
            fields.retain(|_, value| is_given(value));
        } else if let serde_json::Value::Array(items) = value {
            items.iter_mut().for_each(prune);
        }
    }
    let mut value = serde_json::to_value(spec).unwrap_or_default();
    prune(&mut value);
    value
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
