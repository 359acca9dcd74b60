//! Why a proxy answers a request by itself without having tried a backend, and with which status.

use http::{Method, StatusCode};
use lb_common::id::BackendSetName;

/// What follows from the request and the table alone, so that the controller can foresee it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    BadRequest(&'static str),
    #[error("method {0} is not forwarded")]
    MethodRefused(Method),
    #[error("no route matches")]
    NoRoute,
    #[error("backend set {0} has no backend to try")]
    NoBackend(BackendSetName),
}

// === impl Refusal ===

impl Refusal {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::MethodRefused(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoBackend(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The error type of RFC 9209, section 2.3.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "http_request_error",
            Self::MethodRefused(_) => "http_request_denied",
            Self::NoRoute => "destination_not_found",
            Self::NoBackend(_) => "destination_unavailable",
        }
    }
}
