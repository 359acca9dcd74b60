//! Domain to wire. What is a default is left out, so that what people read is what they wrote; or it
//! is spelled out, so that two states can be compared field by field.
//!
//! Messages are built without `..default()`, so that the compiler asks about a new field.

use std::{collections::BTreeMap, num::NonZeroU32, ops::RangeInclusive, sync::Arc, time::Duration};

use http::HeaderMap;
use lb_common::{
    id::{BackendName, BackendSetName},
    spec::{
        Acme, Action, Answer, Backend, BackendSet, BackendState, BackendTls, Balance, Certificate,
        CertificateSource, Challenge, CheckAddress, DesiredState, Hash, HashAlgorithm,
        HashFunction, HashKey, HealthCheck, HostMatch, Listener, ListenerTls, OutlierEjection,
        Override, Overrides, PathMatch, PoolLimits, Probe, Protocol, Redirect, RetryOn,
        RetryPolicy, Route, RouteMatch, Scheme, SetOverrides, WeightedBackendSet,
    },
};

use crate::{
    defaults,
    duration::{self, to_wire},
    list, pem, v1,
};

/// What becomes of values that are defaults. [`crate::parse`] reads either back to the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defaults {
    LeftOut,
    SpelledOut,
}

pub fn spec(state: &DesiredState) -> v1::Spec {
    Defaults::LeftOut.spec(state)
}

pub fn listener(listener: &Listener) -> v1::Listener {
    Defaults::LeftOut.listener(listener)
}

pub fn route(route: &Route) -> v1::Route {
    Defaults::LeftOut.route(route)
}

pub fn backend_set(set: &BackendSet) -> v1::BackendSet {
    Defaults::LeftOut.backend_set(set)
}

pub fn backend(backend: &Backend) -> v1::Backend {
    Defaults::LeftOut.backend(backend)
}

pub fn override_of(
    set: &BackendSetName,
    backend: &BackendName,
    by_hand: &Override,
) -> v1::Override {
    let Override { weight, state, author, time } = by_hand;
    v1::Override {
        backend_set: set.to_string(),
        backend: backend.to_string(),
        weight: *weight,
        state: state.map(|state| state.as_str().into()).unwrap_or_default(),
        author: author.clone(),
        time: Some(prost_types::Timestamp {
            seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(time.subsec_nanos()).unwrap_or_default(),
        }),
    }
}

pub fn overrides(overrides: &Overrides) -> Vec<v1::Override> {
    let of_set = |(set, of_set): (&BackendSetName, &Arc<SetOverrides>)| {
        let one = |(backend, by_hand)| override_of(set, backend, by_hand);
        of_set.iter().map(one).collect::<Vec<_>>()
    };
    overrides.iter().flat_map(of_set).collect()
}

/// It has no defaults.
pub fn certificate(certificate: &Certificate) -> v1::Certificate {
    let (mut cert, mut key, mut acme) = (String::new(), String::new(), None);
    match &certificate.source {
        CertificateSource::Pair { chain, key: of_pair } => {
            cert = pem::of_pem(chain);
            key = pem::of_key(of_pair);
        }
        CertificateSource::Acme(order) => acme = Some(wire_acme(order)),
    }
    v1::Certificate { name: certificate.name.to_string(), cert, key, acme }
}

fn wire_acme(acme: &Acme) -> v1::Acme {
    v1::Acme {
        domains: acme.domains.clone(),
        email: acme.email.clone(),
        directory: acme.directory.clone(),
        ca: acme.ca.as_ref().map(pem::of_pem).unwrap_or_default(),
        challenge: acme.challenge.map(Challenge::as_str).unwrap_or_default().into(),
        eab: acme
            .eab
            .as_ref()
            .map(|eab| v1::Eab { kid: eab.kid.clone(), key: pem::of_key(&eab.key) }),
    }
}

// === impl Defaults ===

impl Defaults {
    pub fn spec(self, state: &DesiredState) -> v1::Spec {
        v1::Spec {
            listeners: state.listeners.values().map(|part| self.listener(part)).collect(),
            routes: state.routes.values().map(|part| self.route(part)).collect(),
            backend_sets: state.backend_sets.values().map(|part| self.backend_set(part)).collect(),
            certificates: state.certificates.values().map(|part| certificate(part)).collect(),
        }
    }

    pub fn listener(self, listener: &Listener) -> v1::Listener {
        let (protocol, backend_set) = match &listener.protocol {
            Protocol::Http => ("http", String::new()),
            Protocol::Tcp { backend_set } => {
                ("tcp", backend_set.as_ref().map(ToString::to_string).unwrap_or_default())
            }
        };
        let limit = |limit: Option<NonZeroU32>| self.value(limit.map_or(0, NonZeroU32::get), 0);
        v1::Listener {
            name: listener.name.to_string(),
            address: listener.address.to_string(),
            protocol: self.word(protocol, "http"),
            backend_set,
            idle_timeout: self
                .time(listener.idle_timeout, defaults::idle_timeout(&listener.protocol)),
            header_timeout: self.time(listener.header_timeout, defaults::HEADER_TIMEOUT),
            body_timeout: self.time(listener.body_timeout, defaults::BODY_TIMEOUT),
            write_timeout: self.time(listener.write_timeout, defaults::WRITE_TIMEOUT),
            max_connections: limit(listener.max_connections),
            max_connections_per_client: limit(listener.max_connections_per_client),
            max_requests_per_connection: limit(listener.max_requests_per_connection),
            max_header_bytes: self.value(listener.max_header_bytes, defaults::MAX_HEADER_BYTES),
            max_header_fields: self.value(listener.max_header_fields, defaults::MAX_HEADER_FIELDS),
            max_target_bytes: self.value(listener.max_target_bytes, defaults::MAX_TARGET_BYTES),
            path_normalization: self
                .word(listener.path_normalization.as_str(), defaults::PATH_NORMALIZATION.as_str()),
            tls: listener.tls.as_ref().map(|tls| self.tls(tls)),
            trusted_proxies: listener.trusted_proxies.to_texts(),
            proxy_protocol: listener.proxy_protocol.map_or("", |how| how.as_str()).into(),
            forwarded: self.word(listener.forwarded.as_str(), defaults::FORWARDED.as_str()),
            forwarded_header: self
                .word(listener.forwarded_header.as_str(), defaults::FORWARDED_HEADER.as_str()),
            hsts: listener.hsts.as_ref().map(text).unwrap_or_default(),
            redirect_to_https: listener.redirect_to_https,
        }
    }

    fn tls(self, tls: &ListenerTls) -> v1::Tls {
        v1::Tls {
            certificates: tls.certificates.iter().map(ToString::to_string).collect(),
            min_version: self.word(tls.min_version.as_str(), defaults::MIN_TLS_VERSION.as_str()),
            client_auth: tls.client_auth.as_ref().map(|auth| v1::ClientAuth {
                mode: if auth.is_required { "required" } else { "optional" }.into(),
                ca: pem::of_pem(&auth.ca),
                headers: self.word(auth.headers.as_str(), defaults::CLIENT_CERT_HEADERS.as_str()),
            }),
            handshake_timeout: self.time(tls.handshake_timeout, defaults::HANDSHAKE_TIMEOUT),
            max_handshakes: self.value(tls.max_handshakes.get(), defaults::MAX_HANDSHAKES),
        }
    }

    pub fn route(self, route: &Route) -> v1::Route {
        let (mut backend_set, mut forward) = (String::new(), Vec::new());
        let (mut redirect, mut answer) = (None, None);
        match &route.action {
            Action::Forward(sets) => match &sets[..] {
                [only] if only.weight == 1 => backend_set = only.backend_set.to_string(),
                sets => forward = sets.iter().map(|set| self.weighted(set)).collect(),
            },
            Action::Redirect(action) => redirect = Some(self.redirect(action)),
            Action::Answer(action) => answer = Some(wire_answer(action)),
        }
        v1::Route {
            name: route.name.to_string(),
            listeners: route.listeners.iter().map(ToString::to_string).collect(),
            r#match: self.message(route_match(&route.matches)),
            backend_set,
            forward,
            redirect,
            answer,
            upgrade: self
                .shows(route.upgrade == defaults::UPGRADE)
                .then(|| list::to_wire(&route.upgrade)),
            max_request_bytes: route.max_request_bytes,
            timeout: self.time(route.timeout, defaults::ROUTE_TIMEOUT),
            stream_idle_timeout: self.time(
                route.stream_idle_timeout.unwrap_or(duration::OFF),
                defaults::STREAM_IDLE_TIMEOUT,
            ),
            tunnel_idle_timeout: self
                .time(route.tunnel_idle_timeout, defaults::TUNNEL_IDLE_TIMEOUT),
            via: self.value(route.via, defaults::VIA),
            retry: self.message(self.retry(&route.retry)),
        }
    }

    fn weighted(self, set: &WeightedBackendSet) -> v1::WeightedBackendSet {
        v1::WeightedBackendSet {
            backend_set: set.backend_set.to_string(),
            weight: self.value(set.weight, 1),
        }
    }

    fn redirect(self, redirect: &Redirect) -> v1::Redirect {
        let status = redirect.status.as_u16().into();
        v1::Redirect {
            status: self.value(status, defaults::REDIRECT_STATUS).unwrap_or_default(),
            scheme: redirect.scheme.map(Scheme::as_str).unwrap_or_default().into(),
            host: redirect.host.clone().unwrap_or_default(),
            path: redirect.path.clone().unwrap_or_default(),
        }
    }

    fn retry(self, retry: &RetryPolicy) -> v1::Retry {
        let default = RetryOn { connect_failure: true, ..RetryOn::default() };
        v1::Retry {
            attempts: self.value(retry.attempts.get().into(), defaults::RETRY_ATTEMPTS),
            on: if self.shows(retry.on == default) { retry_on(&retry.on) } else { vec![] },
            per_try_timeout: retry.per_try_timeout.map(to_wire),
            backoff: self.time(retry.backoff, defaults::RETRY_BACKOFF),
            budget_percent: self.value(retry.budget_percent, defaults::RETRY_BUDGET_PERCENT),
            max_body_bytes: self.value(retry.max_body_bytes, defaults::RETRY_MAX_BODY_BYTES),
        }
    }

    pub fn backend_set(self, set: &BackendSet) -> v1::BackendSet {
        let hash = match &set.balance {
            Balance::ConsistentHash(how) => self.message(self.hash(how)),
            Balance::RoundRobin | Balance::LeastConnections | Balance::Random => None,
        };
        v1::BackendSet {
            name: set.name.to_string(),
            balance: self.word(set.balance.as_str(), Balance::RoundRobin.as_str()),
            hash,
            health_check: set.health_check.as_ref().map(|check| self.health_check(check)),
            backends: set.backends.iter().map(|backend| self.backend(backend)).collect(),
            outlier_ejection: self.message(self.outlier_ejection(set.outlier_ejection.as_ref())),
            connect_timeout: self.time(set.connect_timeout, defaults::CONNECT_TIMEOUT),
            pool: self.message(self.pool(&set.pool)),
            slow_start: self.time(set.slow_start.unwrap_or(duration::OFF), defaults::SLOW_START),
            tls: set.tls.as_ref().map(|tls| self.backend_tls(tls)),
            proxy_protocol: set.proxy_protocol.map_or("", |version| version.as_str()).into(),
        }
    }

    fn backend_tls(self, tls: &BackendTls) -> v1::BackendTls {
        let (server_name, certificate) =
            (tls.server_name.as_ref(), tls.client_certificate.as_ref());
        v1::BackendTls {
            ca: tls.ca().map(pem::of_pem).unwrap_or_default(),
            server_name: server_name.map(|name| name.to_str().into()).unwrap_or_default(),
            client_certificate: certificate.map(ToString::to_string).unwrap_or_default(),
            verify: self.value(tls.ca().is_some(), defaults::VERIFY),
            min_version: self.word(tls.min_version.as_str(), defaults::MIN_TLS_VERSION.as_str()),
        }
    }

    fn backend(self, backend: &Backend) -> v1::Backend {
        let address = backend.address.to_string();
        // One that is called by its address is listed by it, too: its name is never spelled out.
        let named = backend.name.as_str() != address;
        v1::Backend {
            name: if named { backend.name.to_string() } else { String::new() },
            address,
            weight: self.value(backend.weight, 1),
            state: self.word(backend.state.as_str(), BackendState::Active.as_str()),
        }
    }

    fn hash(self, hash: &Hash) -> v1::Hash {
        v1::Hash {
            key: self.word(&hash.key.to_string(), &HashKey::ClientAddress.to_string()),
            algorithm: self.word(hash.algorithm.as_str(), HashAlgorithm::Maglev.as_str()),
            function: self.word(hash.function.as_str(), HashFunction::Xxh3.as_str()),
            table_size: match hash.algorithm {
                HashAlgorithm::Maglev => self.value(hash.table_size, defaults::HASH_TABLE_SIZE),
                HashAlgorithm::Rendezvous => None,
            },
        }
    }

    fn health_check(self, check: &HealthCheck) -> v1::HealthCheck {
        let (mut http, mut tcp, mut grpc) = (String::new(), false, None);
        let (mut statuses, mut headers, mut host) = (Vec::new(), BTreeMap::new(), None);
        let (mut expect_body, mut send, mut expect) = Default::default();
        match &check.probe {
            Probe::Http {
                path,
                statuses: pass,
                host: sent_host,
                headers: sent,
                expect_body: body,
            } => {
                expect_body = body.clone();
                http = path.clone();
                if self.shows(*pass == [200..=299]) {
                    statuses = pass.iter().map(status_range).collect();
                }
                host = sent_host.clone();
                headers = wire_headers(sent);
            }
            Probe::Tcp { send: sent, expect: answer } => {
                tcp = true;
                (send, expect) = (sent.clone(), answer.clone());
            }
            Probe::Grpc { service, host: sent_host } => {
                grpc = Some(service.clone());
                host = sent_host.clone();
            }
        }
        let (port, address) = match check.goes_to {
            CheckAddress::OfTraffic => (0, String::new()),
            CheckAddress::Port(port) => (port.get().into(), String::new()),
            CheckAddress::Other(address) => (0, address.to_string()),
        };
        let (healthy_after, unhealthy_after) = (check.healthy_after, check.unhealthy_after);
        v1::HealthCheck {
            http,
            tcp,
            grpc,
            interval: self.time(check.interval, defaults::HEALTH_INTERVAL),
            timeout: self.time(check.timeout, defaults::HEALTH_TIMEOUT),
            healthy_after: self.value(healthy_after.get().into(), defaults::HEALTHY_AFTER),
            unhealthy_after: self.value(unhealthy_after.get().into(), defaults::UNHEALTHY_AFTER),
            statuses,
            host: host.unwrap_or_default(),
            headers,
            prove_first: check.prove_first,
            port,
            address,
            expect_body,
            send,
            expect,
            max_unhealthy_percent: self
                .value(check.max_unhealthy_percent, defaults::MAX_UNHEALTHY_PERCENT),
        }
    }

    /// One that is off has its defaults.
    fn outlier_ejection(self, ejection: Option<&OutlierEjection>) -> v1::OutlierEjection {
        let number = |of: fn(&OutlierEjection) -> u32, default| {
            self.value(ejection.map_or(default, of), default)
        };
        let time = |of: fn(&OutlierEjection) -> Duration, default| {
            self.time(ejection.map_or(default, of), default)
        };
        v1::OutlierEjection {
            disabled: ejection.is_none(),
            consecutive_failures: number(|e| e.consecutive_failures.get(), defaults::EJECT_AFTER),
            base_time: time(|e| e.base_time, defaults::EJECT_BASE_TIME),
            max_time: time(|e| e.max_time, defaults::EJECT_MAX_TIME),
            max_percent: number(|e| e.max_percent, defaults::EJECT_MAX_PERCENT),
            interval: time(|e| e.interval, defaults::EJECT_INTERVAL),
            min_requests: number(|e| e.min_requests.get(), defaults::EJECT_MIN_REQUESTS),
            failure_percent: number(|e| e.failure_percent, defaults::EJECT_FAILURE_PERCENT),
        }
    }

    fn pool(self, pool: &PoolLimits) -> v1::Pool {
        let max_idle = u32::try_from(pool.max_idle).unwrap_or(u32::MAX);
        v1::Pool {
            max_idle: self.value(max_idle, defaults::POOL_MAX_IDLE),
            idle_timeout: self.time(pool.idle_timeout, defaults::POOL_IDLE_TIMEOUT),
        }
    }

    fn shows(self, is_default: bool) -> bool {
        !is_default || self == Self::SpelledOut
    }

    fn value<T: PartialEq>(self, value: T, default: T) -> Option<T> {
        self.shows(value == default).then_some(value)
    }

    fn time(self, value: Duration, default: Duration) -> Option<prost_types::Duration> {
        self.value(value, default).map(to_wire)
    }

    fn word(self, value: &str, default: &str) -> String {
        self.value(value, default).unwrap_or_default().into()
    }

    /// One whose absence means nothing but its fields' defaults.
    fn message<T: Default + PartialEq>(self, message: T) -> Option<T> {
        self.value(message, T::default())
    }
}

fn route_match(matches: &RouteMatch) -> v1::RouteMatch {
    let (path, path_prefix) = match &matches.path {
        PathMatch::Any => (String::new(), String::new()),
        PathMatch::Exact(path) => (path.clone(), String::new()),
        PathMatch::Prefix(prefix) => (String::new(), prefix.clone()),
    };
    let headers = matches.headers.iter().map(|(name, value)| {
        let value = value.as_ref().map_or("*".into(), text);
        (name.to_string(), value)
    });
    v1::RouteMatch {
        host: host(&matches.host),
        path,
        path_prefix,
        method: matches.method.as_ref().map(ToString::to_string).unwrap_or_default(),
        headers: headers.collect(),
        sni: host(&matches.sni),
        alpn: matches.alpn.clone().unwrap_or_default(),
        from: matches.from.to_texts(),
        not_from: matches.not_from.to_texts(),
    }
}

fn host(matches: &HostMatch) -> String {
    match matches {
        HostMatch::Any => String::new(),
        HostMatch::Wildcard(suffix) => format!("*{suffix}"),
        HostMatch::Exact(host) => host.clone(),
    }
}

fn wire_answer(answer: &Answer) -> v1::Answer {
    v1::Answer {
        status: answer.status.as_u16().into(),
        body: answer.body.clone(),
        headers: wire_headers(&answer.headers),
    }
}

fn retry_on(on: &RetryOn) -> Vec<String> {
    let named = [
        (on.connect_failure, "connect-failure"),
        (on.reset, "reset"),
        (on.timeout, "timeout"),
        (on.gateway_error, "gateway-error"),
        (on.any_5xx, "5xx"),
    ];
    let named = named.into_iter().filter(|(given, _)| *given).map(|(_, name)| name.to_owned());
    named.chain(on.statuses.iter().map(ToString::to_string)).collect()
}

/// The spelling that [`crate::parse`] reads back.
pub fn status_range(range: &RangeInclusive<u16>) -> String {
    match (*range.start(), *range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) if first % 100 == 0 && last == first + 99 => format!("{}xx", first / 100),
        (first, last) => format!("{first}-{last}"),
    }
}

fn wire_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

fn text(value: &http::HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}
