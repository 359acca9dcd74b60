//! Every way in which a request gets no response from a backend, named once, and the only place
//! where a failure becomes a status.

use std::{io, time::Duration};

use http::{HeaderValue, Method, StatusCode};
use lb_common::id::{BackendName, BackendSetName};
use lb_routing::outlier::Failure;

use crate::retry::Outcome;

/// Why the proxy answers by itself.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("{0}")]
    BadRequest(&'static str),
    #[error("method {0} is not forwarded")]
    MethodRefused(Method),
    #[error("no route matches")]
    NoRoute,
    #[error("backend set {0} has no backend to try")]
    NoBackend(BackendSetName),
    #[error("backend {backend}: {source}")]
    Attempt {
        backend: BackendName,
        #[source]
        source: AttemptError,
    },
}

/// How one attempt failed, ordered by how much the backend may have seen of the request.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    #[error("connect refused")]
    Refused,
    #[error("no connection within {0:?}")]
    ConnectTimeout(Duration),
    #[error("could not connect: {0}")]
    Connect(io::Error),
    #[error("closed before the response")]
    Closed,
    #[error("no response within {0:?}")]
    Timeout(Duration),
    #[error("the response is malformed: {0}")]
    Malformed(String),
    #[error("the client's body ended early")]
    ClientGone,
    #[error("the client's body did not come in time")]
    ClientSlow,
}

// === impl ProxyError ===

impl ProxyError {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::MethodRefused(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoBackend(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Attempt { source, .. } => source.status(),
        }
    }

    /// The `Proxy-Status` of the answer: an error type of RFC 9209, section 2.3, and our own words.
    pub fn proxy_status(&self) -> HeaderValue {
        let kind = match self {
            Self::BadRequest(_) => "http_request_error",
            Self::MethodRefused(_) => "http_request_denied",
            Self::NoRoute => "destination_not_found",
            Self::NoBackend(_) => "destination_unavailable",
            Self::Attempt { source, .. } => source.kind(),
        };
        // A structured-field string: printable ASCII, with quotes and backslashes escaped.
        let mut details = String::new();
        for c in self.to_string().chars() {
            match c {
                '"' | '\\' => details.extend(['\\', c]),
                ' '..='~' => details.push(c),
                _ => details.push('?'),
            }
        }
        let text = format!("lb; error={kind}; details=\"{details}\"");
        HeaderValue::from_str(&text).expect("only printable ASCII is left")
    }
}

impl AttemptError {
    /// How a retry policy sees it; `None` if it is not the backend's doing.
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Refused | Self::ConnectTimeout(_) | Self::Connect(_) => {
                Some(Outcome::ConnectFailed)
            }
            Self::Closed | Self::Malformed(_) => Some(Outcome::Reset),
            Self::Timeout(_) => Some(Outcome::PerTryTimeout),
            Self::ClientGone | Self::ClientSlow => None,
        }
    }

    /// How outlier ejection sees it; `None` if it says nothing about the backend.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Self::Refused | Self::ConnectTimeout(_) | Self::Connect(_) => Some(Failure::Connect),
            Self::Closed | Self::Malformed(_) => Some(Failure::Reset),
            Self::Timeout(_) => Some(Failure::Timeout),
            Self::ClientGone | Self::ClientSlow => None,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::ConnectTimeout(_) | Self::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Refused | Self::Connect(_) | Self::Closed | Self::Malformed(_) => {
                StatusCode::BAD_GATEWAY
            }
            Self::ClientGone => StatusCode::BAD_REQUEST,
            Self::ClientSlow => StatusCode::REQUEST_TIMEOUT,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Refused => "connection_refused",
            Self::ConnectTimeout(_) => "connection_timeout",
            Self::Connect(_) => "destination_ip_unroutable",
            Self::Closed => "connection_terminated",
            Self::Timeout(_) => "http_response_timeout",
            Self::Malformed(_) => "http_protocol_error",
            Self::ClientGone | Self::ClientSlow => "http_request_error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(source: AttemptError) -> ProxyError {
        ProxyError::Attempt { backend: BackendName::new("10.0.0.1:80").expect("valid"), source }
    }

    #[test]
    fn each_failure_has_one_status_and_one_reason() {
        #[rustfmt::skip]
        let cases = [
            (ProxyError::NoRoute,                                           404, "destination_not_found"),
            (ProxyError::NoBackend(BackendSetName::new("app").expect("valid")), 503, "destination_unavailable"),
            (ProxyError::BadRequest("no host"),                             400, "http_request_error"),
            (ProxyError::MethodRefused(Method::CONNECT),                    405, "http_request_denied"),
            (attempt(AttemptError::Refused),                                502, "connection_refused"),
            (attempt(AttemptError::ConnectTimeout(Duration::from_secs(1))), 504, "connection_timeout"),
            (attempt(AttemptError::Closed),                                 502, "connection_terminated"),
            (attempt(AttemptError::ClientSlow),                             408, "http_request_error"),
            (attempt(AttemptError::Timeout(Duration::from_secs(1))),        504, "http_response_timeout"),
        ];
        for (error, status, kind) in cases {
            assert_eq!(error.status(), status, "{error}");
            let header = error.proxy_status();
            let header = header.to_str().expect("it is ASCII");
            assert!(header.starts_with(&format!("lb; error={kind}; details=\"")), "{header}");
        }
    }

    #[test]
    fn details_cannot_break_out_of_their_quotes() {
        let odd = io::Error::other("a \"b\" \\ \n ü");
        let header = attempt(AttemptError::Connect(odd)).proxy_status();
        let header = header.to_str().expect("it is ASCII");
        assert!(header.ends_with(r#"could not connect: a \"b\" \\ ? ?""#), "{header}");
    }
}
