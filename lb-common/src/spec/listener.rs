//! Where clients come in, and by what terms.

use std::{net::SocketAddr, num::NonZeroU32, time::Duration};

use http::HeaderValue;

use super::certificate::Pem;
use crate::{
    id::{BackendSetName, CertificateName, ListenerName},
    network::Networks,
};

/// An address that proxies accept on.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub name: ListenerName,
    pub address: SocketAddr,
    pub protocol: Protocol,
    /// Between requests; for tcp, in both directions.
    pub idle_timeout: Duration,
    /// For a request's head; without TLS, also for what comes before.
    pub header_timeout: Duration,
    /// Silence within a request's body.
    pub body_timeout: Duration,
    /// Of a client that takes nothing of what is ready for it.
    pub write_timeout: Duration,
    /// At once, on each proxy. `None` is no limit, here and below.
    pub max_connections: Option<NonZeroU32>,
    pub max_connections_per_client: Option<NonZeroU32>,
    pub max_requests_per_connection: Option<NonZeroU32>,
    /// Of a request's head.
    pub max_header_bytes: u32,
    pub max_header_fields: u32,
    pub max_target_bytes: u32,
    pub path_normalization: PathNormalization,
    pub tls: Option<ListenerTls>,
    /// Whom it believes who its clients are.
    pub trusted_proxies: Networks,
    /// Whether these say so by the PROXY protocol.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// What becomes of what those say.
    pub forwarded: Forwarding,
    /// In which fields they say it.
    pub forwarded_header: ForwardedHeader,
    /// `Strict-Transport-Security` of responses to clients that came by TLS.
    pub hsts: Option<HeaderValue>,
    /// What comes without TLS is sent there.
    pub redirect_to_https: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    Optional,
    Required,
}

/// What backends get of what is said by who passed a request on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// The client alone.
    Replace,
    /// All of it, and who is connected behind it.
    Append,
}

/// Where who passes a request on says for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For` and others.
    XForwarded,
    /// RFC 7239.
    Forwarded,
}

/// What a listener demands of its clients before they may speak, and what it shows them.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerTls {
    /// At least one. The first is for clients that ask for a name that no certificate is for.
    pub certificates: Vec<CertificateName>,
    pub min_version: TlsVersion,
    pub client_auth: Option<ClientAuth>,
    /// From a connection's first byte to the end of its handshake.
    pub handshake_timeout: Duration,
    /// Under way at once, on each proxy.
    pub max_handshakes: NonZeroU32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// Clients show certificates.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientAuth {
    pub is_required: bool,
    /// Who signs them.
    pub ca: Pem,
    /// What of them backends get.
    pub headers: ClientCertHeaders,
}

/// What backends get of a client's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertHeaders {
    Nothing,
    /// `X-Client-Cert-Subject` and others.
    Facts,
    /// All of it, as `Client-Cert` (RFC 9440).
    Certificate,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Protocol {
    Http,
    Tcp {
        /// For what no route takes.
        backend_set: Option<BackendSetName>,
    },
}

/// Who sees a request's path in its normal form, without escapes that are none, `.` and `..`, and
/// empty segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathNormalization {
    /// Nobody.
    Off,
    /// Routes do; backends see it as it came.
    Match,
    /// Routes and backends.
    Forward,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    #[default]
    Http,
    Https,
}

// === impl ===

impl Listener {
    /// Of the URLs that lead here.
    pub fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::Https } else { Scheme::Http }
    }
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl TlsVersion {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}

impl ProxyProtocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Optional => "optional",
            Self::Required => "required",
        }
    }
}

impl Forwarding {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::Append => "append",
        }
    }
}

impl ForwardedHeader {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::XForwarded => "x-forwarded",
            Self::Forwarded => "forwarded",
        }
    }
}

impl ClientCertHeaders {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Facts => "facts",
            Self::Certificate => "certificate",
        }
    }
}

impl PathNormalization {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Match => "match",
            Self::Forward => "forward",
        }
    }
}
