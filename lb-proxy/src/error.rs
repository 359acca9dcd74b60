//! Every way in which a request gets no response from a backend, named once, and the only place
//! where a failure becomes a status.

use std::{io, time::Duration};

use http::{HeaderValue, StatusCode};
use lb_common::id::BackendName;
use lb_routing::{outlier::Failure, refusal::Refusal};

use crate::retry::Outcome;

/// Why the proxy answers by itself.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// No backend was tried.
    #[error(transparent)]
    Refused(#[from] Refusal),
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
            Self::Refused(refusal) => refusal.status(),
            Self::Attempt { source, .. } => source.status(),
        }
    }

    /// An error type of RFC 9209, section 2.3.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.kind(),
            Self::Attempt { source, .. } => source.kind(),
        }
    }

    /// As in the access log: the kind, or what is more telling.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Attempt { source: AttemptError::ClientGone, .. } => "client_gone",
            Self::Attempt { source: AttemptError::ClientSlow, .. } => "client_slow",
            Self::Attempt { .. } | Self::Refused(_) => self.kind(),
        }
    }

    /// The `Proxy-Status` of the answer: an error type of RFC 9209, section 2.3, and our own words.
    pub fn proxy_status(&self) -> HeaderValue {
        let kind = self.kind();
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

    /// An error type of RFC 9209, section 2.3.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Refused => "connection_refused",
            Self::ConnectTimeout(_) => "connection_timeout",
            Self::Connect(error) if error.kind() == io::ErrorKind::TimedOut => "connection_timeout",
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
    use http::Method;
    use lb_common::id::BackendSetName;

    use super::*;

    fn attempt(source: AttemptError) -> ProxyError {
        ProxyError::Attempt { backend: BackendName::new("10.0.0.1:80").expect("valid"), source }
    }

    #[test]
    fn each_failure_has_one_status_and_one_reason() {
        #[rustfmt::skip]
        let cases = [
            (Refusal::NoRoute.into(),                                       404, "destination_not_found"),
            (Refusal::NoBackend(BackendSetName::new("app").expect("valid")).into(), 503, "destination_unavailable"),
            (Refusal::BadRequest("no host").into(),                         400, "http_request_error"),
            (Refusal::MethodRefused(Method::CONNECT).into(),                405, "http_request_denied"),
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
