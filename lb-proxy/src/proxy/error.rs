//! Every way in which a request gets no response from a backend, named once, and the only place
//! where a failure becomes a status.

use std::{io, time::Duration};

use http::StatusCode;
use lb_common::id::BackendName;
use lb_http::h1::RequestError;
use lb_routing::{outlier::Failure, refusal::Refusal};
use lb_tls::fault::Fault;

use crate::{policy::retry::Outcome, upstream::connect::ConnectError};

/// Why the proxy answers by itself.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// No backend was tried.
    #[error(transparent)]
    Refusal(#[from] Refusal),
    /// Nor was one for this.
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("there are too many connections")]
    TooManyConnections,
    #[error("too much waits in buffers")]
    NoRoom,
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
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The request was sent on a connection that turned out to be closed, and there was no other.
    #[error(transparent)]
    Reconnect(ConnectError),
    #[error("closed before the response")]
    Closed,
    #[error("no response within {0:?}")]
    Timeout(Duration),
    #[error("the backend took nothing of the request's body for {0:?}")]
    NotTaken(Duration),
    #[error("the response is malformed: {0}")]
    Malformed(&'static str),
    /// TLS broke, after its handshake was done.
    #[error("TLS: {}", .0.in_short())]
    Tls(Box<Fault>),
    /// The client's doing: [`ProxyError::Client`] by the time that it is told.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// What a client did, or did not do, while its request was under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Nobody is left to be answered.
    #[error("the client went away")]
    Gone,
    /// It has ended its side, and may read an answer all the same.
    #[error("the client's body ended early")]
    Truncated,
    #[error("the request's head did not come in time")]
    SlowHead,
    #[error("the client's body did not come in time")]
    Slow,
    #[error("the client's body is malformed: {0}")]
    Malformed(&'static str),
    #[error("the client's body is longer than {0} bytes")]
    TooLarge(u64),
}

// === impl ProxyError ===

impl ProxyError {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Refusal(refusal) => refusal.status(),
            Self::Client(error) => error.status(),
            Self::TooManyConnections | Self::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
            Self::Attempt { source, .. } => source.status(),
        }
    }

    /// An error type of RFC 9209, section 2.3.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Refusal(refusal) => refusal.kind(),
            Self::Client(_) => "http_request_error",
            Self::TooManyConnections => "connection_limit_reached",
            Self::NoRoom => "proxy_internal_error",
            Self::Attempt { source, .. } => source.kind(),
        }
    }

    /// As in the access log: the kind, or what is more telling.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Attempt { source, .. } => source.reason(),
            Self::Client(error) => error.reason(),
            Self::NoRoom => "max_buffer_bytes",
            Self::Refusal(Refusal::Request(RequestError::TargetTooLong)) => "max_target_bytes",
            Self::Refusal(Refusal::Request(
                RequestError::HeadTooLong | RequestError::TooManyFields,
            )) => "max_header_bytes",
            Self::Refusal(_) | Self::TooManyConnections => self.kind(),
        }
    }

    /// What the client did, if it was its doing.
    pub fn client(&self) -> Option<ClientError> {
        match self {
            Self::Client(error) => Some(*error),
            Self::Refusal(_) | Self::Attempt { .. } | Self::TooManyConnections | Self::NoRoom => {
                None
            }
        }
    }

    /// Whether what follows the request on its connection can no longer be told from it, or its client
    /// takes the connection for something else.
    pub fn ends_connection(&self) -> bool {
        match self {
            Self::Client(_) => true,
            Self::Refusal(refusal) => matches!(refusal, Refusal::MethodRefused(_)),
            Self::TooManyConnections | Self::NoRoom => true,
            Self::Attempt { .. } => false,
        }
    }

    /// The `Proxy-Status` of the answer: an error type of RFC 9209, section 2.3, and our own words.
    pub fn proxy_status(&self) -> String {
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
        format!("lb; error={kind}; details=\"{details}\"")
    }
}

impl AttemptError {
    /// How a retry policy sees it; `None` if another attempt would fare no better.
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Connect(ConnectError::Local(_))
            | Self::Reconnect(ConnectError::Local(_))
            | Self::Client(_) => None,
            // Nobody saw anything of it.
            Self::Connect(_) => Some(Outcome::ConnectFailed),
            Self::Reconnect(_) | Self::Closed | Self::Malformed(_) | Self::Tls(_) => {
                Some(Outcome::Reset)
            }
            Self::Timeout(_) | Self::NotTaken(_) => Some(Outcome::PerTryTimeout),
        }
    }

    /// How outlier ejection sees it; `None` if it says nothing about the backend.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Self::Connect(ConnectError::Local(_))
            | Self::Reconnect(ConnectError::Local(_))
            | Self::Client(_) => None,
            Self::Connect(_) | Self::Reconnect(_) => Some(Failure::Connect),
            Self::Closed | Self::Malformed(_) | Self::Tls(_) => Some(Failure::Reset),
            Self::Timeout(_) | Self::NotTaken(_) => Some(Failure::Timeout),
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Connect(error) | Self::Reconnect(error) => match error {
                ConnectError::Timeout(_) | ConnectError::SlowHandshake(_) => {
                    StatusCode::GATEWAY_TIMEOUT
                }
                ConnectError::Local(_) => StatusCode::SERVICE_UNAVAILABLE,
                ConnectError::Refused | ConnectError::Failed(_) | ConnectError::Tls(_) => {
                    StatusCode::BAD_GATEWAY
                }
            },
            Self::Timeout(_) | Self::NotTaken(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Closed | Self::Malformed(_) | Self::Tls(_) => StatusCode::BAD_GATEWAY,
            Self::Client(error) => error.status(),
        }
    }

    /// An error type of RFC 9209, section 2.3.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Connect(error) | Self::Reconnect(error) => match error {
                ConnectError::Refused => "connection_refused",
                ConnectError::Timeout(_) | ConnectError::SlowHandshake(_) => "connection_timeout",
                ConnectError::Failed(error) if error.kind() == io::ErrorKind::TimedOut => {
                    "connection_timeout"
                }
                ConnectError::Failed(_) => "destination_ip_unroutable",
                ConnectError::Tls(fault) => kind_of(fault),
                ConnectError::Local(_) => "proxy_internal_error",
            },
            Self::Closed => "connection_terminated",
            Self::Timeout(_) => "http_response_timeout",
            Self::NotTaken(_) => "connection_write_timeout",
            Self::Malformed(_) => "http_protocol_error",
            Self::Tls(fault) => kind_of(fault),
            Self::Client(_) => "http_request_error",
        }
    }
}

impl AttemptError {
    /// The kind, or what is more telling.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Client(error) => error.reason(),
            Self::Connect(ConnectError::Tls(fault)) | Self::Reconnect(ConnectError::Tls(fault)) => {
                match **fault {
                    Fault::Expired => "tls_certificate_expired",
                    Fault::OtherName(_) => "tls_certificate_of_other_name",
                    Fault::UnknownIssuer => "tls_certificate_of_unknown_issuer",
                    _ => self.kind(),
                }
            }
            Self::Connect(ConnectError::SlowHandshake(_)) => "tls_handshake_timeout",
            _ => self.kind(),
        }
    }
}

/// An error type of RFC 9209, section 2.3.
fn kind_of(fault: &Fault) -> &'static str {
    match fault {
        Fault::Expired | Fault::OtherName(_) | Fault::UnknownIssuer | Fault::Certificate(_) => {
            "tls_certificate_error"
        }
        Fault::Refused(_) | Fault::Alert(_) => "tls_alert_received",
        Fault::Protocol(_) => "tls_protocol_error",
        Fault::Ours(_) => "proxy_internal_error",
    }
}

impl ClientError {
    fn status(self) -> StatusCode {
        match self {
            Self::Gone | Self::Truncated | Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::SlowHead | Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }

    /// As in the access log.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Gone | Self::Truncated => "client_gone",
            Self::SlowHead => "header_timeout",
            Self::Slow => "body_timeout",
            Self::Malformed(_) => "http_request_error",
            Self::TooLarge(_) => "max_request_bytes",
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_common::id::BackendSetName;

    use super::*;
    use crate::metrics::REASONS;

    fn attempt(source: AttemptError) -> ProxyError {
        ProxyError::Attempt { backend: BackendName::new("10.0.0.1:80").expect("valid"), source }
    }

    #[test]
    fn each_failure_has_one_status_and_one_reason() {
        #[rustfmt::skip]
        let cases = [
            (Refusal::NoRoute.into(),                                       404, "destination_not_found"),
            (Refusal::NoBackend(BackendSetName::new("app").expect("valid")).into(), 503, "destination_unavailable"),
            (Refusal::Request(RequestError::Malformed("no host")).into(),                         400, "http_request_error"),
            (Refusal::MethodRefused("CONNECT".into()).into(),                405, "http_request_denied"),
            (attempt(ConnectError::Refused.into()),                                502, "connection_refused"),
            (attempt(ConnectError::Timeout(Duration::from_secs(1)).into()), 504, "connection_timeout"),
            (attempt(AttemptError::Closed),                                 502, "connection_terminated"),
            (ClientError::Slow.into(),                                      408, "http_request_error"),
            (attempt(AttemptError::Timeout(Duration::from_secs(1))),        504, "http_response_timeout"),
            (attempt(ConnectError::Local(io::ErrorKind::Other.into()).into()), 503, "proxy_internal_error"),
            (attempt(ConnectError::Failed(io::ErrorKind::HostUnreachable.into()).into()), 502, "destination_ip_unroutable"),
            (attempt(AttemptError::Malformed("no status")),                 502, "http_protocol_error"),
            (attempt(AttemptError::NotTaken(Duration::from_secs(1))),       504, "connection_write_timeout"),
            (attempt(ConnectError::SlowHandshake(Duration::from_secs(1)).into()), 504, "connection_timeout"),
            (attempt(ConnectError::Tls(Fault::Expired.into()).into()),      502, "tls_certificate_error"),
            (attempt(ConnectError::Tls(Fault::Refused("x".into()).into()).into()), 502, "tls_alert_received"),
            (attempt(AttemptError::Tls(Fault::Protocol("x".into()).into())), 502, "tls_protocol_error"),
            (ClientError::TooLarge(1).into(),                               413, "http_request_error"),
            (ProxyError::TooManyConnections,                                503, "connection_limit_reached"),
            (ProxyError::NoRoom,                                            503, "proxy_internal_error"),
        ];
        for (error, status, kind) in cases {
            assert_eq!(error.status(), status, "{error}");
            assert!(REASONS.contains(&kind), "{kind} has no counter");
            let header = error.proxy_status();
            assert!(header.starts_with(&format!("lb; error={kind}; details=\"")), "{header}");
        }
    }

    #[test]
    fn details_cannot_break_out_of_their_quotes() {
        let odd = io::Error::other("a \"b\" \\ \n ü");
        let header = attempt(ConnectError::Failed(odd).into()).proxy_status();
        assert!(header.ends_with(r#"could not connect: a \"b\" \\ ? ?""#), "{header}");
    }
}
