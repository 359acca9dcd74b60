//! Interchangeable servers: which they are, how one is picked, checked and spoken to.

use std::{
    fmt,
    net::SocketAddr,
    num::{NonZeroU8, NonZeroU16, NonZeroU32},
    ops::RangeInclusive,
    time::Duration,
};

use http::{HeaderMap, HeaderName};
use rustls_pki_types::ServerName;

use super::{
    certificate::Pem,
    listener::{Scheme, TlsVersion},
};
use crate::id::{BackendName, BackendSetName, CertificateName};

/// A named group of interchangeable backends.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendSet {
    pub name: BackendSetName,
    pub balance: Balance,
    pub health_check: Option<HealthCheck>,
    /// In the order given, with unique names.
    pub backends: Vec<Backend>,
    pub outlier_ejection: Option<OutlierEjection>,
    pub connect_timeout: Duration,
    /// How long a backend that others have a lead on takes to get its whole share.
    pub slow_start: Option<Duration>,
    pub pool: PoolLimits,
    /// Backends are spoken to by TLS.
    pub tls: Option<BackendTls>,
    /// Backends are told first whose connection it is.
    pub proxy_protocol: Option<ProxyVersion>,
}

/// Of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    V1,
    V2,
}

/// What backends must show, and what they are shown.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendTls {
    pub trust: Trust,
    /// Asked for, and looked for in certificates. `None` is the backend's address.
    pub server_name: Option<ServerName<'static>>,
    pub client_certificate: Option<CertificateName>,
    pub min_version: TlsVersion,
}

/// Whose certificates are believed.
#[derive(Clone, Debug, PartialEq)]
pub enum Trust {
    /// Those that this CA signed.
    Ca(Pem),
    /// Everybody's.
    Anybody,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Balance {
    RoundRobin,
    LeastConnections,
    ConsistentHash(Hash),
    Random,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Hash {
    pub key: HashKey,
    pub algorithm: HashAlgorithm,
    pub function: HashFunction,
    /// Maglev's, a prime.
    pub table_size: u32,
}

/// What of a request is hashed. A request without it is hashed by its client's address.
#[derive(Clone, Debug, PartialEq)]
pub enum HashKey {
    ClientAddress,
    Path,
    Header(HeaderName),
    Cookie(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashAlgorithm {
    Maglev,
    Rendezvous,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashFunction {
    Xxh3,
    Crc32,
}

/// One server.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    pub name: BackendName,
    pub address: SocketAddr,
    /// 0 gets nothing.
    pub weight: u32,
    pub state: BackendState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendState {
    Active,
    /// Keeps what it has, gets nothing new.
    Draining,
    /// Gets nothing and is not probed.
    Disabled,
}

#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    pub probe: Probe,
    pub goes_to: CheckAddress,
    pub interval: Duration,
    pub timeout: Duration,
    pub healthy_after: NonZeroU8,
    pub unhealthy_after: NonZeroU8,
    /// Not used before its first passes.
    pub prove_first: bool,
    /// Never more of those that serve are taken out.
    pub max_unhealthy_percent: u32,
}

/// Where a backend is asked for its health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckAddress {
    /// Where its traffic goes.
    OfTraffic,
    /// Another port of the same host.
    Port(NonZeroU16),
    Other(SocketAddr),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    Http {
        path: String,
        /// Of statuses that pass.
        statuses: Vec<RangeInclusive<u16>>,
        host: Option<String>,
        headers: HeaderMap,
        /// What the body must contain; nothing in particular if it is empty.
        expect_body: String,
    },
    Tcp {
        send: String,
        /// What the answer must contain. If it is empty, none is waited for.
        expect: String,
    },
    Grpc {
        /// Empty asks about the whole server.
        service: String,
        host: Option<String>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct OutlierEjection {
    /// Failed connects; and resets, timeouts and clients that give up, where peers do better.
    pub consecutive_failures: NonZeroU32,
    /// How long attempts are counted before they are judged.
    pub interval: Duration,
    /// Fewer attempts in an interval are no evidence.
    pub min_requests: NonZeroU32,
    /// Failures of any kind, of the attempts in an interval, 1 to 100.
    pub failure_percent: u32,
    pub base_time: Duration,
    pub max_time: Duration,
    /// Of the set, 0 to 100.
    pub max_percent: u32,
}

/// Idle connections to one backend, kept by each worker.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolLimits {
    pub max_idle: usize,
    pub idle_timeout: Duration,
}

// === impl ===

impl CheckAddress {
    /// For a backend whose traffic goes to `backend`.
    pub fn of(self, backend: SocketAddr) -> SocketAddr {
        match self {
            Self::OfTraffic => backend,
            Self::Port(port) => SocketAddr::new(backend.ip(), port.get()),
            Self::Other(address) => address,
        }
    }
}

impl BackendTls {
    pub fn ca(&self) -> Option<&Pem> {
        match &self.trust {
            Trust::Ca(ca) => Some(ca),
            Trust::Anybody => None,
        }
    }

    /// What the one at this address is asked for.
    pub fn name_of(&self, address: SocketAddr) -> ServerName<'static> {
        self.server_name.clone().unwrap_or_else(|| address.ip().into())
    }
}

impl ProxyVersion {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

impl BackendState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }
}

impl Balance {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastConnections => "least_connections",
            Self::ConsistentHash(_) => "consistent_hash",
            Self::Random => "random",
        }
    }
}

impl fmt::Display for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientAddress => f.write_str("client_address"),
            Self::Path => f.write_str("path"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
        }
    }
}

impl HashAlgorithm {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Maglev => "maglev",
            Self::Rendezvous => "rendezvous",
        }
    }
}

impl HashFunction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Xxh3 => "xxh3",
            Self::Crc32 => "crc32",
        }
    }
}

impl BackendSet {
    /// Of the URLs that lead to its backends.
    pub fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::Https } else { Scheme::Http }
    }

    /// Whether its backends may be anybody: it is spoken to by TLS, and nobody's certificate is looked at.
    pub fn is_unverified(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.trust == Trust::Anybody)
    }

    pub fn backend(&self, name: &BackendName) -> Option<&Backend> {
        self.backends.iter().find(|backend| backend.name == *name)
    }
}
