//! What the dashboard's scripts ask for: the answers of the Fleet service that only look, as JSON
//! with the names of the protos.
//!
//! ```text
//!   /api/proxies                                  ListProxiesResponse
//!   /api/backends?backend_set=app                 ListBackendsResponse
//!   /api/history?limit=20&before=7                HistoryResponse
//!   /api/revision/7                               { revision: Revision, toml: its whole state }
//!   /api/explain?method=GET&url=..&header=..      ExplainResponse
//!   /api/events                                   Event after Event, as server-sent events
//! ```
//!
//! A refusal is `{"error": "..."}` with a status of its own.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use lb_proto::{file, v1};
use serde::Serialize;
use serde_json::json;
use tonic::{Code, Request, Status};
use v1::fleet_server::Fleet;

use super::{
    Body,
    query::{Query, QueryError},
    respond,
};
use crate::fleet::Service;

/// Of one page of the history.
const MOST_REVISIONS: u32 = 200;

pub struct Api {
    pub fleet: Service,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum ApiError {
    #[error(
        "there is no /api/{0}; there are proxies, backends, certificates, history, revision/N, explain, events"
    )]
    NoSuchPath(String),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error("{}", .0.message())]
    Fleet(#[from] Status),
    #[error("the answer has no JSON form: {0}")]
    Json(#[from] serde_json::Error),
}

// === impl Api ===

impl Api {
    /// `what` stands behind `/api/`.
    pub(super) async fn answer(&self, what: &str, query: &Query) -> Response<Body> {
        match self.json(what, query).await {
            Ok(body) => json_response(StatusCode::OK, body),
            Err(error) => failed(error.status(), &error.to_string()),
        }
    }

    async fn json(&self, what: &str, query: &Query) -> Result<Bytes, ApiError> {
        match what {
            "proxies" => {
                query.only(&[])?;
                let request = Request::new(v1::ListProxiesRequest {});
                encode(&self.fleet.list_proxies(request).await?.into_inner())
            }
            "certificates" => {
                query.only(&[])?;
                let request = Request::new(v1::ListCertificatesRequest {});
                encode(&self.fleet.list_certificates(request).await?.into_inner())
            }
            "backends" => {
                query.only(&["backend_set"])?;
                let backend_set = query.text("backend_set")?;
                let request = Request::new(v1::ListBackendsRequest { backend_set });
                encode(&self.fleet.list_backends(request).await?.into_inner())
            }
            "history" => {
                query.only(&["limit", "before"])?;
                let limit = query.number("limit")?.unwrap_or(0).min(MOST_REVISIONS);
                let before = query.number("before")?;
                let request = Request::new(v1::HistoryRequest { limit, before });
                encode(&self.fleet.history(request).await?.into_inner())
            }
            "explain" => encode(&self.explain(query).await?),
            _ => match what.strip_prefix("revision/").map(str::parse) {
                Some(Ok(number)) => self.revision(number).await,
                _ => Err(ApiError::NoSuchPath(what.chars().take(100).collect())),
            },
        }
    }

    async fn explain(&self, query: &Query) -> Result<v1::ExplainResponse, ApiError> {
        query.only(&["method", "url", "header", "from", "listener", "alpn"])?;
        let header = |line: &str| {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            v1::Header { name: name.trim().into(), value: value.trim().into() }
        };
        let request = v1::ExplainRequest {
            method: query.text("method")?,
            url: query.text("url")?,
            headers: query.all("header").map(header).collect(),
            from: query.text("from")?,
            listener: query.text("listener")?,
            alpn: query.all("alpn").map(str::to_owned).collect(),
        };
        Ok(self.fleet.explain(Request::new(request)).await?.into_inner())
    }

    /// What a revision changed, and all of the state that it made.
    async fn revision(&self, number: u64) -> Result<Bytes, ApiError> {
        let request = Request::new(v1::GetRequest { revision: Some(number) });
        let spec = self.fleet.get(request).await?.into_inner().spec.unwrap_or_default();
        let before = number.checked_add(1);
        let request = Request::new(v1::HistoryRequest { limit: 1, before });
        let mut revisions = self.fleet.history(request).await?.into_inner().revisions;
        let revision = revisions.pop().filter(|revision| revision.revision == number);
        encode(&json!({ "revision": revision, "toml": file::to_toml(&spec) }))
    }
}

// === impl ApiError ===

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoSuchPath(_) => StatusCode::NOT_FOUND,
            Self::Query(_) => StatusCode::BAD_REQUEST,
            Self::Fleet(status) => http_status(status),
            Self::Json(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// What a refusal of the Fleet service is in HTTP.
pub(super) fn http_status(status: &Status) -> StatusCode {
    match status.code() {
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::ResourceExhausted | Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

pub(super) fn failed(status: StatusCode, error: &str) -> Response<Body> {
    json_response(status, json!({ "error": error }).to_string().into())
}

fn encode(answer: &impl Serialize) -> Result<Bytes, ApiError> {
    Ok(serde_json::to_vec(answer)?.into())
}

fn json_response(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = respond(status, "application/json", body);
    // It is out of date in a moment.
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    response
}
