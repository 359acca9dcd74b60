//! Backend sets, their backends, and how those are picked, probed and kept out.

use std::{collections::BTreeSet, str::FromStr};

use http::HeaderName;
use lb_common::{
    id::{BackendName, BackendSetName, CertificateName},
    spec::{
        Backend, BackendSet, BackendState, BackendTls, Balance, Hash, HashAlgorithm, HashFunction,
        HashKey, HealthCheck, OutlierEjection, PoolLimits, Probe, ProxyVersion, Trust,
    },
};
use rustls_pki_types::ServerName;

use super::{at::At, element, probe};
use crate::{defaults, duration, error::Problems, v1};

/// Of Maglev's tables. Primes, so that each backend's steps reach every place; a few, so that nobody
/// needs to look for one.
const TABLE_SIZES: [u32; 3] = [65_537, 655_373, 5_000_011];

pub fn backend_set(
    wire: &v1::BackendSet,
    path: &str,
    problems: &mut Problems,
) -> Option<BackendSet> {
    let mut at = At { path, problems };
    let name = at.name("name", &wire.name, BackendSetName::new);
    let connect_timeout =
        at.duration("connect_timeout", wire.connect_timeout, defaults::CONNECT_TIMEOUT);
    let slow_start = at.duration_or_off(
        "slow_start",
        wire.slow_start.or(Some(duration::to_wire(defaults::SLOW_START))),
        defaults::SLOW_START,
    );
    let balance = balance(wire, path, problems);
    let health_check = match &wire.health_check {
        Some(check) => health_check(check, &format!("{path}.health_check"), problems).map(Some),
        None => Some(None),
    };
    let backends = backends(&wire.backends, path, problems);
    let outlier_path = format!("{path}.outlier_ejection");
    let outlier_ejection =
        outlier_ejection(wire.outlier_ejection.as_ref(), &outlier_path, problems);
    let proxy_protocol = match wire.proxy_protocol.as_str() {
        "" => Some(None),
        "v1" => Some(Some(ProxyVersion::V1)),
        "v2" => Some(Some(ProxyVersion::V2)),
        other => At { path, problems }.one_of("proxy_protocol", other, "v1, v2"),
    };
    let pool = pool(wire.pool.as_ref(), &format!("{path}.pool"), problems);
    let tls = match &wire.tls {
        Some(wire) => tls(wire, &format!("{path}.tls"), problems).map(Some),
        None => Some(None),
    };
    Some(BackendSet {
        name: name?,
        balance: balance?,
        health_check: health_check?,
        backends: backends?,
        outlier_ejection: outlier_ejection?,
        connect_timeout: connect_timeout?,
        slow_start: slow_start?,
        pool: pool?,
        proxy_protocol: proxy_protocol?,
        tls: tls?,
    })
}

/// Of one set; `path` is that of what they are in.
pub fn backends(wire: &[v1::Backend], path: &str, problems: &mut Problems) -> Option<Vec<Backend>> {
    let mut backends = Some(Vec::with_capacity(wire.len()));
    let mut names = BTreeSet::new();
    for (i, wire) in wire.iter().enumerate() {
        let path = element(&format!("{path}.backends"), name_of(wire), i);
        let parsed = backend(wire, &path, problems);
        if let Some(backend) = &parsed
            && !names.insert(backend.name.clone())
        {
            problems.add(&path, "is there twice; each backend of a set needs a name of its own");
        }
        backends = backends.zip(parsed).map(|(mut backends, backend)| {
            backends.push(backend);
            backends
        });
    }
    backends
}

pub fn backend(wire: &v1::Backend, path: &str, problems: &mut Problems) -> Option<Backend> {
    let mut at = At { path, problems };
    let address = at.address("address", &wire.address);
    let name = at.name("name", name_of(wire), BackendName::new);
    let weight = at.weight("weight", wire.weight);
    let state = match wire.state.as_str() {
        "" => Some(BackendState::Active),
        given => backend_state(given, &mut at),
    };
    Some(Backend { name: name?, address: address?, weight: weight?, state: state? })
}

/// In the field `state`.
pub(super) fn backend_state(word: &str, at: &mut At<'_>) -> Option<BackendState> {
    match word {
        "active" => Some(BackendState::Active),
        "draining" => Some(BackendState::Draining),
        "disabled" => Some(BackendState::Disabled),
        other => at.one_of("state", other, "active, draining, disabled"),
    }
}

/// What a backend is called: its address, unless it was given a name.
pub fn name_of(wire: &v1::Backend) -> &str {
    if wire.name.is_empty() { &wire.address } else { &wire.name }
}

fn balance(wire: &v1::BackendSet, path: &str, problems: &mut Problems) -> Option<Balance> {
    let mut at = At { path, problems };
    if wire.hash.is_some() && wire.balance != "consistent_hash" {
        at.problem("hash", "is only for balance \"consistent_hash\"");
        return None;
    }
    match wire.balance.as_str() {
        "" | "round_robin" => Some(Balance::RoundRobin),
        "least_connections" => Some(Balance::LeastConnections),
        "random" => Some(Balance::Random),
        "consistent_hash" => {
            let unset = v1::Hash::default();
            let path = format!("{path}.hash");
            let wire = wire.hash.as_ref().unwrap_or(&unset);
            hash(wire, At { path: &path, problems }).map(Balance::ConsistentHash)
        }
        other => {
            at.one_of("balance", other, "round_robin, least_connections, consistent_hash, random")
        }
    }
}

fn hash(wire: &v1::Hash, mut at: At<'_>) -> Option<Hash> {
    let key = match (wire.key.as_str(), wire.key.split_once(':')) {
        ("" | "client_address", _) => Some(HashKey::ClientAddress),
        ("path", _) => Some(HashKey::Path),
        (_, Some(("header", name))) if HeaderName::from_str(name).is_ok() => {
            HeaderName::from_str(name).ok().map(HashKey::Header)
        }
        (_, Some(("cookie", name))) if !name.is_empty() => Some(HashKey::Cookie(name.into())),
        (other, _) => at.one_of("key", other, "client_address, path, header:NAME, cookie:NAME"),
    };
    let algorithm = match wire.algorithm.as_str() {
        "" | "maglev" => Some(HashAlgorithm::Maglev),
        "rendezvous" => Some(HashAlgorithm::Rendezvous),
        other => at.one_of("algorithm", other, "maglev, rendezvous"),
    };
    let function = match wire.function.as_str() {
        "" | "xxh3" => Some(HashFunction::Xxh3),
        "crc32" => Some(HashFunction::Crc32),
        other => at.one_of("function", other, "xxh3, crc32"),
    };
    let table_size = match (algorithm, wire.table_size) {
        (_, None) => Some(defaults::HASH_TABLE_SIZE),
        (Some(HashAlgorithm::Rendezvous), Some(_)) => {
            at.problem("table_size", "is only for algorithm \"maglev\"; rendezvous has no table");
            None
        }
        (_, Some(size)) if TABLE_SIZES.contains(&size) => Some(size),
        (_, Some(other)) => {
            let [small, middle, large] = TABLE_SIZES;
            let valid = format!("a prime, {small}, {middle} or {large}");
            at.invalid("table_size", &other.to_string(), &valid)
        }
    };
    Some(Hash { key: key?, algorithm: algorithm?, function: function?, table_size: table_size? })
}

fn health_check(
    wire: &v1::HealthCheck,
    path: &str,
    problems: &mut Problems,
) -> Option<HealthCheck> {
    let mut at = At { path, problems };
    let is_http = !wire.tcp && wire.grpc.is_none();
    if !wire.http.is_empty() && !is_http || wire.tcp && wire.grpc.is_some() {
        at.problems.add(path, "takes only one of http, tcp, grpc");
        return None;
    }
    if !(is_http || wire.statuses.is_empty() && wire.headers.is_empty()) {
        at.problems.add(path, "takes statuses and headers only with http");
    }
    probe::refuse_misplaced(wire, &mut at);
    let goes_to = probe::goes_to(wire, &mut at);
    let host = match wire.host.as_str() {
        "" => Some(None),
        host => match http::uri::Authority::from_str(host) {
            Ok(authority) => Some(Some(authority.as_str().to_owned())),
            Err(_) => at.invalid("host", host, "a host, with or without a port"),
        },
    };
    let probe = if wire.tcp {
        probe::tcp(wire, &mut at)
    } else if let Some(service) = &wire.grpc {
        host.map(|host| Probe::Grpc { service: service.clone(), host })
    } else {
        probe::http(wire, host, &mut at)
    };
    let interval = at.duration("interval", wire.interval, defaults::HEALTH_INTERVAL);
    let timeout = at.duration("timeout", wire.timeout, defaults::HEALTH_TIMEOUT);
    let healthy_after = at.count("healthy_after", wire.healthy_after, defaults::HEALTHY_AFTER);
    let unhealthy_after =
        at.count("unhealthy_after", wire.unhealthy_after, defaults::UNHEALTHY_AFTER);
    let max_unhealthy_percent = at.within(
        "max_unhealthy_percent",
        wire.max_unhealthy_percent,
        defaults::MAX_UNHEALTHY_PERCENT,
        0..=100,
    );
    Some(HealthCheck {
        probe: probe?,
        goes_to: goes_to?,
        interval: interval?,
        timeout: timeout?,
        healthy_after: healthy_after?,
        unhealthy_after: unhealthy_after?,
        prove_first: wire.prove_first,
        max_unhealthy_percent: max_unhealthy_percent?,
    })
}

/// The outer `Option` says whether it is valid, the inner one whether there is any.
#[expect(clippy::option_option, reason = "both questions are asked")]
fn outlier_ejection(
    wire: Option<&v1::OutlierEjection>,
    path: &str,
    problems: &mut Problems,
) -> Option<Option<OutlierEjection>> {
    let unset = v1::OutlierEjection::default();
    let wire = wire.unwrap_or(&unset);
    let mut at = At { path, problems };
    let consecutive_failures =
        at.positive("consecutive_failures", wire.consecutive_failures, defaults::EJECT_AFTER);
    let interval = at.duration("interval", wire.interval, defaults::EJECT_INTERVAL);
    let min_requests = at.positive("min_requests", wire.min_requests, defaults::EJECT_MIN_REQUESTS);
    let failure_percent = at.within(
        "failure_percent",
        wire.failure_percent,
        defaults::EJECT_FAILURE_PERCENT,
        1..=100,
    );
    let base_time = at.duration("base_time", wire.base_time, defaults::EJECT_BASE_TIME);
    let max_time = at.duration("max_time", wire.max_time, defaults::EJECT_MAX_TIME);
    let max_percent =
        at.within("max_percent", wire.max_percent, defaults::EJECT_MAX_PERCENT, 0..=100);
    let parsed = OutlierEjection {
        consecutive_failures: consecutive_failures?,
        interval: interval?,
        min_requests: min_requests?,
        failure_percent: failure_percent?,
        base_time: base_time?,
        max_time: max_time?,
        max_percent: max_percent?,
    };
    Some((!wire.disabled).then_some(parsed))
}

fn pool(wire: Option<&v1::Pool>, path: &str, problems: &mut Problems) -> Option<PoolLimits> {
    let unset = v1::Pool::default();
    let wire = wire.unwrap_or(&unset);
    let mut at = At { path, problems };
    let idle_timeout = at.duration("idle_timeout", wire.idle_timeout, defaults::POOL_IDLE_TIMEOUT);
    let max_idle = usize::try_from(wire.max_idle.unwrap_or(defaults::POOL_MAX_IDLE));
    Some(PoolLimits { max_idle: max_idle.unwrap_or(usize::MAX), idle_timeout: idle_timeout? })
}

fn tls(wire: &v1::BackendTls, path: &str, problems: &mut Problems) -> Option<BackendTls> {
    let mut at = At { path, problems };
    let trust = match (wire.verify.unwrap_or(defaults::VERIFY), wire.ca.as_str()) {
        (true, "") => {
            at.problem(
                "ca",
                "is empty; give who signs the backends' certificates, as PEM or as the path of a file \
                 with it (the system's CAs are not used), or believe everybody with verify = false",
            );
            None
        }
        (true, ca) => at.pem("ca", ca).map(Trust::Ca),
        (false, "") => Some(Trust::Anybody),
        (false, _) => {
            at.problem("ca", "is of no use with verify = false; give one of the two");
            None
        }
    };
    let server_name = match wire.server_name.as_str() {
        "" => Some(None),
        name => match ServerName::try_from(name.to_ascii_lowercase()) {
            Ok(name) => Some(Some(name)),
            Err(_) => {
                at.invalid("server_name", name, "a host name without a port, or an IP address")
            }
        },
    };
    let client_certificate = match wire.client_certificate.as_str() {
        "" => Some(None),
        name => at.name("client_certificate", name, CertificateName::new).map(Some),
    };
    let min_version = at.tls_version("min_version", &wire.min_version);
    Some(BackendTls {
        trust: trust?,
        server_name: server_name?,
        client_certificate: client_certificate?,
        min_version: min_version?,
    })
}
