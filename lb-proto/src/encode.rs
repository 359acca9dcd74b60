//! Domain to wire. What is a default is left out, so that what people read is what they wrote.

use http::HeaderMap;
use lb_common::spec::{
    Action, Answer, Backend, BackendSet, BackendState, Balance, DesiredState, Hash, HashAlgorithm,
    HashFunction, HashKey, HealthCheck, HostMatch, Listener, OutlierEjection, PathMatch,
    PoolLimits, Probe, Protocol, Redirect, RetryOn, RetryPolicy, Route, RouteMatch, Scheme,
};
use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use crate::{defaults, duration::to_wire, v1};

pub fn spec(state: &DesiredState) -> v1::Spec {
    v1::Spec {
        listeners: state.listeners.values().map(|part| listener(part)).collect(),
        routes: state.routes.values().map(|part| route(part)).collect(),
        backend_sets: state.backend_sets.values().map(|part| backend_set(part)).collect(),
    }
}

pub fn listener(listener: &Listener) -> v1::Listener {
    let (protocol, backend_set) = match &listener.protocol {
        Protocol::Http => (String::new(), String::new()),
        Protocol::Tcp { backend_set } => ("tcp".into(), backend_set.to_string()),
    };
    v1::Listener {
        name: listener.name.to_string(),
        address: listener.address.to_string(),
        protocol,
        backend_set,
        idle_timeout: unless(listener.idle_timeout, defaults::IDLE_TIMEOUT),
        header_timeout: unless(listener.header_timeout, defaults::HEADER_TIMEOUT),
    }
}

pub fn route(route: &Route) -> v1::Route {
    let mut wire = v1::Route {
        name: route.name.to_string(),
        listeners: route.listeners.iter().map(ToString::to_string).collect(),
        r#match: some_if_given(route_match(&route.matches)),
        timeout: unless(route.timeout, defaults::ROUTE_TIMEOUT),
        retry: some_if_given(retry(&route.retry)),
        ..v1::Route::default()
    };
    match &route.action {
        Action::Forward(sets) => match &sets[..] {
            [only] if only.weight == 1 => wire.backend_set = only.backend_set.to_string(),
            sets => {
                wire.forward = sets
                    .iter()
                    .map(|set| v1::WeightedBackendSet {
                        backend_set: set.backend_set.to_string(),
                        weight: (set.weight != 1).then_some(set.weight),
                    })
                    .collect();
            }
        },
        Action::Redirect(action) => wire.redirect = Some(redirect(action)),
        Action::Answer(action) => wire.answer = Some(answer(action)),
    }
    wire
}

pub fn backend_set(set: &BackendSet) -> v1::BackendSet {
    let (balance, hash) = match &set.balance {
        Balance::RoundRobin => ("", None),
        Balance::LeastConnections => ("least_connections", None),
        Balance::Random => ("random", None),
        Balance::ConsistentHash(how) => ("consistent_hash", some_if_given(hash(how))),
    };
    v1::BackendSet {
        name: set.name.to_string(),
        balance: balance.into(),
        hash,
        health_check: set.health_check.as_ref().map(health_check),
        backends: set.backends.iter().map(backend).collect(),
        outlier_ejection: some_if_given(outlier_ejection(set.outlier_ejection.as_ref())),
        connect_timeout: unless(set.connect_timeout, defaults::CONNECT_TIMEOUT),
        pool: some_if_given(pool(&set.pool)),
    }
}

pub fn backend(backend: &Backend) -> v1::Backend {
    let address = backend.address.to_string();
    let named = backend.name.as_str() != address;
    v1::Backend {
        name: if named { backend.name.to_string() } else { String::new() },
        address,
        weight: (backend.weight != 1).then_some(backend.weight),
        state: match backend.state {
            BackendState::Active => String::new(),
            other => other.as_str().into(),
        },
    }
}

fn route_match(matches: &RouteMatch) -> v1::RouteMatch {
    let (path, path_prefix) = match &matches.path {
        PathMatch::Any => (String::new(), String::new()),
        PathMatch::Exact(path) => (path.clone(), String::new()),
        PathMatch::Prefix(prefix) => (String::new(), prefix.clone()),
    };
    v1::RouteMatch {
        host: match &matches.host {
            HostMatch::Any => String::new(),
            HostMatch::Wildcard(suffix) => format!("*{suffix}"),
            HostMatch::Exact(host) => host.clone(),
        },
        path,
        path_prefix,
        method: matches.method.as_ref().map(ToString::to_string).unwrap_or_default(),
        headers: matches
            .headers
            .iter()
            .map(|(name, value)| {
                let value = value.as_ref().map_or("*".into(), text);
                (name.to_string(), value)
            })
            .collect(),
    }
}

fn redirect(redirect: &Redirect) -> v1::Redirect {
    let status = u32::from(redirect.status.as_u16());
    v1::Redirect {
        status: if status == defaults::REDIRECT_STATUS { 0 } else { status },
        scheme: match redirect.scheme {
            None => String::new(),
            Some(Scheme::Http) => "http".into(),
            Some(Scheme::Https) => "https".into(),
        },
        host: redirect.host.clone().unwrap_or_default(),
        path: redirect.path.clone().unwrap_or_default(),
    }
}

fn answer(answer: &Answer) -> v1::Answer {
    v1::Answer {
        status: answer.status.as_u16().into(),
        body: answer.body.clone(),
        headers: headers(&answer.headers),
    }
}

fn retry(retry: &RetryPolicy) -> v1::Retry {
    v1::Retry {
        attempts: unless_count(retry.attempts.get().into(), defaults::RETRY_ATTEMPTS),
        on: retry_on(&retry.on),
        per_try_timeout: retry.per_try_timeout.map(to_wire),
        backoff: unless(retry.backoff, defaults::RETRY_BACKOFF),
        budget_percent: unless_count(retry.budget_percent, defaults::RETRY_BUDGET_PERCENT),
        max_body_bytes: (retry.max_body_bytes != defaults::RETRY_MAX_BODY_BYTES)
            .then_some(retry.max_body_bytes),
    }
}

fn retry_on(on: &RetryOn) -> Vec<String> {
    if *on == (RetryOn { connect_failure: true, ..RetryOn::default() }) {
        return Vec::new();
    }
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

fn hash(hash: &Hash) -> v1::Hash {
    v1::Hash {
        key: match &hash.key {
            HashKey::ClientAddress => String::new(),
            key => key.to_string(),
        },
        algorithm: match hash.algorithm {
            HashAlgorithm::Maglev => String::new(),
            algorithm => algorithm.as_str().into(),
        },
        function: match hash.function {
            HashFunction::Xxh3 => String::new(),
            function => function.as_str().into(),
        },
    }
}

fn health_check(check: &HealthCheck) -> v1::HealthCheck {
    let mut wire = v1::HealthCheck {
        interval: unless(check.interval, defaults::HEALTH_INTERVAL),
        timeout: unless(check.timeout, defaults::HEALTH_TIMEOUT),
        healthy_after: unless_count(check.healthy_after.get().into(), defaults::HEALTHY_AFTER),
        unhealthy_after: unless_count(
            check.unhealthy_after.get().into(),
            defaults::UNHEALTHY_AFTER,
        ),
        prove_first: check.prove_first,
        ..v1::HealthCheck::default()
    };
    match &check.probe {
        Probe::Http { path, statuses, host, headers: sent } => {
            wire.http = path.clone();
            if *statuses != [200..=299] {
                wire.statuses = statuses.iter().map(status_range).collect();
            }
            wire.host = host.clone().unwrap_or_default();
            wire.headers = headers(sent);
        }
        Probe::Tcp => wire.tcp = true,
        Probe::Grpc { service, host } => {
            wire.grpc = Some(service.clone());
            wire.host = host.clone().unwrap_or_default();
        }
    }
    wire
}

/// The spelling that [`crate::parse`] reads back.
pub fn status_range(range: &RangeInclusive<u16>) -> String {
    match (*range.start(), *range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) if first % 100 == 0 && last == first + 99 => format!("{}xx", first / 100),
        (first, last) => format!("{first}-{last}"),
    }
}

fn outlier_ejection(ejection: Option<&OutlierEjection>) -> v1::OutlierEjection {
    let Some(ejection) = ejection else {
        return v1::OutlierEjection { disabled: true, ..v1::OutlierEjection::default() };
    };
    v1::OutlierEjection {
        disabled: false,
        consecutive_failures: unless_count(
            ejection.consecutive_failures.get(),
            defaults::EJECT_AFTER,
        ),
        base_time: unless(ejection.base_time, defaults::EJECT_BASE_TIME),
        max_time: unless(ejection.max_time, defaults::EJECT_MAX_TIME),
        max_percent: unless_count(ejection.max_percent, defaults::EJECT_MAX_PERCENT),
    }
}

fn pool(pool: &PoolLimits) -> v1::Pool {
    let max_idle = u32::try_from(pool.max_idle).unwrap_or(u32::MAX);
    v1::Pool {
        max_idle: unless_count(max_idle, defaults::POOL_MAX_IDLE),
        idle_timeout: unless(pool.idle_timeout, defaults::POOL_IDLE_TIMEOUT),
    }
}

fn headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

fn text(value: &http::HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn unless(value: Duration, default: Duration) -> Option<prost_types::Duration> {
    (value != default).then(|| to_wire(value))
}

fn unless_count(value: u32, default: u32) -> Option<u32> {
    (value != default).then_some(value)
}

fn some_if_given<T: Default + PartialEq>(message: T) -> Option<T> {
    (message != T::default()).then_some(message)
}
