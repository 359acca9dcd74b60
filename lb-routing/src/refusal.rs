//! Why a proxy answers a request by itself without having tried a backend, and with which status.

use http::StatusCode;
use lb_common::id::BackendSetName;
use lb_http::h1::RequestError;

/// What follows from the request and the table alone, so that the controller can foresee it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Request(RequestError),
    #[error("method {0} is not forwarded")]
    MethodRefused(String),
    #[error("no route matches")]
    NoRoute,
    #[error("backend set {0} has no backend to try")]
    NoBackend(BackendSetName),
}

// === impl Refusal ===

impl Refusal {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Request(error) => {
                StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST)
            }
            Self::MethodRefused(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoBackend(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The error type of RFC 9209, section 2.3.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Request(_) => "http_request_error",
            Self::MethodRefused(_) => "http_request_denied",
            Self::NoRoute => "destination_not_found",
            Self::NoBackend(_) => "destination_unavailable",
        }
    }
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        Self::Request(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_cannot_be_read_is_refused_with_the_codecs_own_status() {
        for (error, status) in [
            (RequestError::Malformed("what is wrong"), 400),
            (RequestError::TargetTooLong, 414),
            (RequestError::Expectation, 417),
            (RequestError::HeadTooLong, 431),
            (RequestError::Version, 505),
        ] {
            let refusal = Refusal::from(error);
            assert_eq!((refusal.status().as_u16(), refusal.kind()), (status, "http_request_error"));
            assert_eq!(refusal.to_string(), error.to_string());
        }
    }
}
