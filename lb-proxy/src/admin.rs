//! The admin port: `/metrics`, `/healthz`, `/readyz` and `/table`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use lb_common::{clock, drain::Drain, exposition, id::ProxyId};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    control::status::ControlStatus,
    listeners::BoundAddresses,
    local::Shared,
    metrics::page::{self, Facts},
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
            "/readyz" if !self.is_reachable() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "no listener could be opened\n")
            }
            "/readyz" => text(StatusCode::OK, "ready\n"),
            "/metrics" => {
                let mut response = text(StatusCode::OK, self.metrics());
                let kind = HeaderValue::from_static(exposition::CONTENT_TYPE);
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

    /// Some listener is open, unless none is asked for.
    fn is_reachable(&self) -> bool {
        let bound = self.bound.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        !bound.is_empty() || self.shared.table.load().listeners().next().is_none()
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
                let set = table.set_named(name)?;
                let mut value = json(&lb_proto::encode::backend_set(spec));
                if spec.is_unverified() {
                    value["tls"]["verify"] = json!(false);
                }
                let states = set.members.iter().map(|backend| backend.state.as_str());
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
        let mut certificates: Vec<_> = table.certificates.iter().collect();
        certificates.sort_by_key(|(name, _)| *name);
        let certificates: Vec<_> = certificates
            .into_iter()
            .map(|(name, compiled)| {
                let facts = &compiled.certificate.facts;
                json!({
                    "name": name.as_str(),
                    "names": facts.names,
                    "fingerprint": facts.fingerprint,
                    "expires": facts.not_after.as_secs(),
                })
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
            "certificates": certificates,
        })
    }

    fn metrics(&self) -> String {
        let facts = Facts {
            shared: &self.shared,
            control: &self.control.borrow().clone(),
            is_draining: self.drain.is_draining(),
            now: self.shared.millis(clock::now()),
        };
        page::render(&facts).into_text()
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
