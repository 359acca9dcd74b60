//! What operators ask for, parsed. Every value here is valid by itself, and a [`DesiredState`]
//! is consistent as a whole; `lb_proto::parse` is where that is decided.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    num::{NonZeroU8, NonZeroU32},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use rustls_pki_types::ServerName;

use crate::{
    id::{BackendName, BackendSetName, CertificateName, ListenerName, RouteName},
    material::{MaterialId, Materials},
    network::Networks,
};

/// Listeners, routes, backend sets and certificates, each by name. Parts are shared between versions
/// that have them in common.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DesiredState {
    pub listeners: BTreeMap<ListenerName, Arc<Listener>>,
    pub routes: BTreeMap<RouteName, Arc<Route>>,
    pub backend_sets: BTreeMap<BackendSetName, Arc<BackendSet>>,
    pub certificates: BTreeMap<CertificateName, Arc<Certificate>>,
}

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

/// What a server proves who it is with, and by what it is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Certificate {
    pub name: CertificateName,
    pub source: CertificateSource,
}

/// Where a certificate comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum CertificateSource {
    Pair {
        /// The server's own certificate first, then its chain.
        chain: Pem,
        key: Key,
    },
    Acme(Acme),
}

/// The controller orders it from a CA (RFC 8555), and orders it again in time.
#[derive(Clone, Debug, PartialEq)]
pub struct Acme {
    /// At least one, in lower case, each once.
    pub domains: Vec<String>,
    /// The URL of the CA's directory.
    pub directory: String,
    /// Where the CA writes to. Empty if nowhere.
    pub email: String,
    /// Who signs the certificate of the directory's server. `None` is whom the system trusts.
    pub ca: Option<Pem>,
    /// `None` is whatever is possible.
    pub challenge: Option<Challenge>,
    pub eab: Option<Eab>,
}

/// How a CA finds out whether a domain is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Challenge {
    /// It asks for a path by plain HTTP.
    Http01,
    /// It makes a TLS handshake (RFC 8737).
    TlsAlpn01,
}

/// What ties an account at a CA to one that was had with it before (RFC 8555, section 7.3.4).
#[derive(Clone, Debug, PartialEq)]
pub struct Eab {
    pub kid: String,
    pub key: Key,
}

/// Where a PEM text is that everybody may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pem {
    /// A path at the controller.
    File(String),
    Text(String),
}

/// Where a key is. It is never here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// A path at the controller.
    File(String),
    /// It was given to the controller, which calls it by this digest.
    Given(String),
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

/// Which requests, and what to do with them.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub name: RouteName,
    /// All http, or all tcp. Empty: every http listener.
    pub listeners: BTreeSet<ListenerName>,
    pub matches: RouteMatch,
    pub action: Action,
    /// Protocols that a request may switch to, in lower case, ordered, each once.
    pub upgrade: Vec<String>,
    /// Of a request's body. `None` is no limit; 0 is no body at all.
    pub max_request_bytes: Option<u64>,
    /// From the request's last byte to the response's head, all attempts included.
    pub timeout: Duration,
    /// Silence within a response. `None` is no limit.
    pub stream_idle_timeout: Option<Duration>,
    /// Silence in both directions of a connection that has switched protocols.
    pub tunnel_idle_timeout: Duration,
    /// Whether requests get a `Via`.
    pub via: bool,
    pub retry: RetryPolicy,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteMatch {
    pub host: HostMatch,
    pub path: PathMatch,
    pub method: Option<Method>,
    /// Ordered by name, each once. `None` takes any value.
    pub headers: Vec<(HeaderName, Option<HeaderValue>)>,
    /// The server that a TLS client asks for. This and the next are for tcp, those above for http.
    pub sni: HostMatch,
    /// A protocol that it offers.
    pub alpn: Option<String>,
    /// Where the client is. Empty: anywhere.
    pub from: Networks,
    /// Where it is not.
    pub not_from: Networks,
}

/// Hosts are lower case and without a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostMatch {
    #[default]
    Any,
    /// `*.example.com`, kept as `.example.com`.
    Wildcard(String),
    Exact(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PathMatch {
    #[default]
    Any,
    /// Whole segments, or any text if it ends in a slash.
    Prefix(String),
    Exact(String),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// At least one, and at least one with a weight above zero.
    Forward(Vec<WeightedBackendSet>),
    Redirect(Redirect),
    Answer(Answer),
}

#[derive(Clone, Debug, PartialEq)]
pub struct WeightedBackendSet {
    pub backend_set: BackendSetName,
    pub weight: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    pub status: StatusCode,
    pub scheme: Option<Scheme>,
    pub host: Option<String>,
    pub path: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    #[default]
    Http,
    Https,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: StatusCode,
    pub body: String,
    pub headers: HeaderMap,
}

/// When a failed attempt may be followed by another one.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// In all, the first included.
    pub attempts: NonZeroU8,
    pub on: RetryOn,
    pub per_try_timeout: Option<Duration>,
    pub backoff: Duration,
    pub budget_percent: u32,
    pub max_body_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    pub connect_failure: bool,
    pub reset: bool,
    pub timeout: bool,
    pub gateway_error: bool,
    pub any_5xx: bool,
    pub statuses: BTreeSet<u16>,
}

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
    pub interval: Duration,
    pub timeout: Duration,
    pub healthy_after: NonZeroU8,
    pub unhealthy_after: NonZeroU8,
    /// Not used before its first passes.
    pub prove_first: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    Http {
        path: String,
        /// Of statuses that pass.
        statuses: Vec<RangeInclusive<u16>>,
        host: Option<String>,
        headers: HeaderMap,
    },
    Tcp,
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

impl DesiredState {
    /// What it needs besides itself, each once.
    pub fn materials(&self) -> BTreeSet<MaterialId> {
        let mut needed = self.materials_of_proxies();
        needed.extend(self.certificates.values().flat_map(|part| part.materials_of_controller()));
        needed
    }

    /// What of that proxies need.
    pub fn materials_of_proxies(&self) -> BTreeSet<MaterialId> {
        let of_certificates = self.certificates.values().flat_map(|part| part.materials());
        let of_listeners = self.listeners.values().filter_map(|listener| {
            let tls = listener.tls.as_ref()?;
            tls.client_auth.as_ref()?.ca.material()
        });
        let of_sets =
            self.backend_sets.values().filter_map(|set| set.tls.as_ref()?.ca()?.material());
        let mut needed: BTreeSet<_> = of_certificates.chain(of_listeners).chain(of_sets).collect();
        if self.listeners.values().any(|listener| listener.tls.is_some()) {
            needed.insert(MaterialId::tickets());
        }
        needed
    }

    /// Backend sets whose backends nobody checks. To be told wherever somebody may hear it.
    pub fn unverified(&self) -> impl Iterator<Item = &BackendSetName> {
        let is_unverified = |set: &&Arc<BackendSet>| {
            set.tls.as_ref().is_some_and(|tls| tls.trust == Trust::Anybody)
        };
        self.backend_sets.values().filter(is_unverified).map(|set| &set.name)
    }
}

/// What is to be told of sets that are [`DesiredState::unverified`].
pub const UNVERIFIED: &str = "verify = false believes whoever answers at a backend's address";
impl Certificate {
    /// What it is made of.
    pub fn materials(&self) -> Vec<MaterialId> {
        match &self.source {
            CertificateSource::Pair { chain, key } => {
                chain.material().into_iter().chain([key.material()]).collect()
            }
            CertificateSource::Acme(_) => vec![MaterialId::acme(&self.name)],
        }
    }

    /// Whether it is ordered and was not issued yet. Whoever uses it does without it until then.
    pub fn is_awaited(&self, materials: &Materials) -> bool {
        self.acme().is_some() && !materials.contains_key(&MaterialId::acme(&self.name))
    }

    /// What ordering it takes, and tells of itself.
    pub fn materials_of_controller(&self) -> Vec<MaterialId> {
        match &self.source {
            CertificateSource::Pair { .. } => Vec::new(),
            CertificateSource::Acme(acme) => {
                let own = [acme.account(), MaterialId::acme_order(&self.name)];
                own.into_iter().chain(acme.given()).collect()
            }
        }
    }

    pub fn acme(&self) -> Option<&Acme> {
        match &self.source {
            CertificateSource::Pair { .. } => None,
            CertificateSource::Acme(acme) => Some(acme),
        }
    }
}

impl Acme {
    /// What the account is known by.
    pub fn account(&self) -> MaterialId {
        let kid = self.eab.as_ref().map_or("", |eab| &eab.kid);
        MaterialId::acme_account(&self.directory, &self.email, kid)
    }

    /// What an operator gave for it, in files or as such.
    pub fn given(&self) -> impl Iterator<Item = MaterialId> {
        let ca = self.ca.as_ref().and_then(Pem::material);
        ca.into_iter().chain(self.eab.as_ref().map(|eab| eab.key.material()))
    }
}

impl Challenge {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        }
    }
}

impl Listener {
    /// Of the URLs that lead here.
    pub fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::Https } else { Scheme::Http }
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

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl Pem {
    /// What it is in, if it is elsewhere.
    pub fn material(&self) -> Option<MaterialId> {
        match self {
            Self::File(path) => Some(MaterialId::file(path)),
            Self::Text(_) => None,
        }
    }
}

impl Key {
    pub fn material(&self) -> MaterialId {
        match self {
            Self::File(path) => MaterialId::file(path),
            Self::Given(digest) => MaterialId::key(digest),
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

impl ProxyVersion {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
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

    pub fn backend(&self, name: &BackendName) -> Option<&Backend> {
        self.backends.iter().find(|backend| backend.name == *name)
    }
}

impl RouteMatch {
    /// Whether it matters what a TLS client says first.
    pub fn asks_for_hello(&self) -> bool {
        self.sni != HostMatch::Any || self.alpn.is_some()
    }
}

impl Route {
    /// Whether what comes to that listener may go here.
    pub fn serves(&self, listener: &Listener) -> bool {
        let is_for_all = self.listeners.is_empty() && listener.protocol == Protocol::Http;
        is_for_all || self.listeners.contains(&listener.name)
    }

    /// The backend sets that it forwards to; none if it answers by itself.
    pub fn backend_sets(&self) -> &[WeightedBackendSet] {
        match &self.action {
            Action::Forward(sets) => sets,
            Action::Redirect(_) | Action::Answer(_) => &[],
        }
    }
}
