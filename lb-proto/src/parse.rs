//! Wire to domain. All that is wrong is collected, so that one round of corrections is enough.
//!
//! Each function takes the path of what it parses, and returns `None` only after it has added a
//! problem.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    num::{NonZeroU8, NonZeroU32},
    ops::RangeInclusive,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, uri::PathAndQuery};
use lb_common::{
    id::{BackendName, InvalidName, ListenerName, RouteName},
    spec::{
        Action, Answer, Backend, BackendSet, BackendState, Balance, DesiredState, Hash,
        HashAlgorithm, HashFunction, HashKey, HealthCheck, HostMatch, Listener, OutlierEjection,
        PathMatch, PoolLimits, Probe, Protocol, Redirect, RetryOn, RetryPolicy, Route, RouteMatch,
        Scheme, WeightedBackendSet,
    },
};

use crate::{defaults, duration, error::Problems, v1};

mod check;

pub use check::{check, list};

/// Weights beyond this are refused: balancing by them would need too fine a schedule.
pub const MAX_WEIGHT: u32 = 65_535;
const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);
const MAX_RETRY_BODY: u64 = 16 * 1024 * 1024;

/// A whole desired state.
///
/// # Errors
/// Everything that is wrong with it, references between its parts included.
pub fn desired_state(spec: &v1::Spec) -> Result<DesiredState, Problems> {
    let mut problems = Problems::default();
    let state = spec_parts(spec, &mut problems);
    // References are looked at only when all parts are there, lest one mistake be told twice.
    if problems.0.is_empty() {
        check(&state, &mut problems);
    }
    problems.or(state)
}

/// The parts, each valid by itself; references are not looked at.
pub fn spec_parts(spec: &v1::Spec, problems: &mut Problems) -> DesiredState {
    let mut state = DesiredState::default();
    for (i, wire) in spec.listeners.iter().enumerate() {
        let path = element("listeners", &wire.name, i);
        if let Some(parsed) = listener(wire, &path, problems) {
            insert(&mut state.listeners, parsed.name.clone(), parsed, &path, problems);
        }
    }
    for (i, wire) in spec.routes.iter().enumerate() {
        let path = element("routes", &wire.name, i);
        if let Some(parsed) = route(wire, &path, problems) {
            insert(&mut state.routes, parsed.name.clone(), parsed, &path, problems);
        }
    }
    for (i, wire) in spec.backend_sets.iter().enumerate() {
        let path = element("backend_sets", &wire.name, i);
        if let Some(parsed) = backend_set(wire, &path, problems) {
            insert(&mut state.backend_sets, parsed.name.clone(), parsed, &path, problems);
        }
    }
    state
}

/// How an element of a list is called in a path: by name, or by position if it has none.
pub fn element(kind: &str, name: &str, index: usize) -> String {
    if name.is_empty() { format!("{kind}[{index}]") } else { format!("{kind}[{name}]") }
}

pub fn listener(wire: &v1::Listener, path: &str, problems: &mut Problems) -> Option<Listener> {
    let mut at = At { path, problems };
    let name = at.name("name", &wire.name, ListenerName::new);
    let address = at.address("address", &wire.address);
    let protocol = match wire.protocol.as_str() {
        "" | "http" => {
            if !wire.backend_set.is_empty() {
                at.problem(
                    "backend_set",
                    "is only for protocol \"tcp\"; an http listener has routes",
                );
            }
            Some(Protocol::Http)
        }
        "tcp" => at
            .name("backend_set", &wire.backend_set, lb_common::id::BackendSetName::new)
            .map(|backend_set| Protocol::Tcp { backend_set }),
        other => at.one_of("protocol", other, "http, tcp"),
    };
    let idle_timeout = at.duration("idle_timeout", wire.idle_timeout, defaults::IDLE_TIMEOUT);
    let header_timeout =
        at.duration("header_timeout", wire.header_timeout, defaults::HEADER_TIMEOUT);
    Some(Listener {
        name: name?,
        address: address?,
        protocol: protocol?,
        idle_timeout: idle_timeout?,
        header_timeout: header_timeout?,
    })
}

pub fn route(wire: &v1::Route, path: &str, problems: &mut Problems) -> Option<Route> {
    let mut at = At { path, problems };
    let name = at.name("name", &wire.name, RouteName::new);
    let listeners: Vec<_> = wire
        .listeners
        .iter()
        .enumerate()
        .map(|(i, listener)| at.name(&format!("listeners[{i}]"), listener, ListenerName::new))
        .collect();
    let timeout = at.duration("timeout", wire.timeout, defaults::ROUTE_TIMEOUT);
    let matches = route_match(wire.r#match.as_ref(), &format!("{path}.match"), problems);
    let action = action(wire, path, problems);
    let retry = retry(wire.retry.as_ref(), &format!("{path}.retry"), problems);
    Some(Route {
        name: name?,
        listeners: listeners.into_iter().collect::<Option<BTreeSet<_>>>()?,
        matches: matches?,
        action: action?,
        timeout: timeout?,
        retry: retry?,
    })
}

pub fn backend_set(
    wire: &v1::BackendSet,
    path: &str,
    problems: &mut Problems,
) -> Option<BackendSet> {
    let mut at = At { path, problems };
    let name = at.name("name", &wire.name, lb_common::id::BackendSetName::new);
    let connect_timeout =
        at.duration("connect_timeout", wire.connect_timeout, defaults::CONNECT_TIMEOUT);
    let balance = balance(wire, path, problems);
    let health_check = match &wire.health_check {
        Some(check) => health_check(check, &format!("{path}.health_check"), problems).map(Some),
        None => Some(None),
    };
    let mut backends = Some(Vec::with_capacity(wire.backends.len()));
    let mut names = BTreeSet::new();
    for (i, wire) in wire.backends.iter().enumerate() {
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
    let outlier_path = format!("{path}.outlier_ejection");
    let outlier_ejection =
        outlier_ejection(wire.outlier_ejection.as_ref(), &outlier_path, problems);
    let pool = pool(wire.pool.as_ref(), &format!("{path}.pool"), problems);
    Some(BackendSet {
        name: name?,
        balance: balance?,
        health_check: health_check?,
        backends: backends?,
        outlier_ejection: outlier_ejection?,
        connect_timeout: connect_timeout?,
        pool: pool?,
    })
}

pub fn backend(wire: &v1::Backend, path: &str, problems: &mut Problems) -> Option<Backend> {
    let mut at = At { path, problems };
    let address = at.address("address", &wire.address);
    let name = at.name("name", name_of(wire), BackendName::new);
    let weight = at.weight("weight", wire.weight);
    let state = match wire.state.as_str() {
        "" | "active" => Some(BackendState::Active),
        "draining" => Some(BackendState::Draining),
        "disabled" => Some(BackendState::Disabled),
        other => at.one_of("state", other, "active, draining, disabled"),
    };
    Some(Backend { name: name?, address: address?, weight: weight?, state: state? })
}

/// What a backend is called: its address, unless it was given a name.
pub fn name_of(wire: &v1::Backend) -> &str {
    if wire.name.is_empty() { &wire.address } else { &wire.name }
}

fn insert<K: Ord, V>(
    map: &mut BTreeMap<K, Arc<V>>,
    name: K,
    value: V,
    path: &str,
    problems: &mut Problems,
) {
    if map.insert(name, Arc::new(value)).is_some() {
        problems.add(path, "is there twice; names are unique");
    }
}

fn route_match(
    wire: Option<&v1::RouteMatch>,
    path: &str,
    problems: &mut Problems,
) -> Option<RouteMatch> {
    let Some(wire) = wire else { return Some(RouteMatch::default()) };
    let mut at = At { path, problems };
    let host = match wire.host.to_ascii_lowercase() {
        host if host.is_empty() => Some(HostMatch::Any),
        host => match host.strip_prefix('*') {
            Some(rest) if rest.len() > 1 && rest.starts_with('.') && is_host(&rest[1..]) => {
                Some(HostMatch::Wildcard(rest.into()))
            }
            None if is_host(&host) => Some(HostMatch::Exact(host)),
            _ => at.invalid(
                "host",
                &wire.host,
                "a host without a port, \"example.com\", or \"*.example.com\"",
            ),
        },
    };
    let path_match = match (wire.path.as_str(), wire.path_prefix.as_str()) {
        ("", "") => Some(PathMatch::Any),
        (exact, "") => at.path("path", exact).map(PathMatch::Exact),
        ("", "/") => Some(PathMatch::Any),
        ("", prefix) => at.path("path_prefix", prefix).map(PathMatch::Prefix),
        (_, prefix) => at.invalid("path_prefix", prefix, "nothing where path is given"),
    };
    let method = match wire.method.as_str() {
        "" => Some(None),
        method => match Method::from_bytes(method.as_bytes()) {
            Ok(parsed) => Some(Some(parsed)),
            Err(_) => at.invalid("method", method, "a method like GET"),
        },
    };
    let headers: Vec<_> = wire
        .headers
        .iter()
        .map(|(name, value)| {
            let (name, value) = at.header("headers", name, value)?;
            Some((name, (value != "*").then_some(value)))
        })
        .collect();
    Some(RouteMatch {
        host: host?,
        path: path_match?,
        method: method?,
        headers: headers.into_iter().collect::<Option<_>>()?,
    })
}

fn action(wire: &v1::Route, path: &str, problems: &mut Problems) -> Option<Action> {
    let mut at = At { path, problems };
    let given = [
        !wire.backend_set.is_empty(),
        !wire.forward.is_empty(),
        wire.redirect.is_some(),
        wire.answer.is_some(),
    ];
    if given.into_iter().filter(|given| *given).count() != 1 {
        at.problems.add(path, "needs exactly one of backend_set, forward, redirect, answer");
        return None;
    }
    if let Some(redirect) = &wire.redirect {
        let path = format!("{path}.redirect");
        return parse_redirect(redirect, At { path: &path, problems }).map(Action::Redirect);
    }
    if let Some(answer) = &wire.answer {
        let path = format!("{path}.answer");
        return parse_answer(answer, At { path: &path, problems }).map(Action::Answer);
    }
    if wire.forward.is_empty() {
        let backend_set =
            at.name("backend_set", &wire.backend_set, lb_common::id::BackendSetName::new)?;
        return Some(Action::Forward(vec![WeightedBackendSet { backend_set, weight: 1 }]));
    }
    let parsed: Vec<_> = wire
        .forward
        .iter()
        .enumerate()
        .map(|(i, wire)| {
            let path = format!("{path}.forward[{i}]");
            let mut at = At { path: &path, problems: &mut *at.problems };
            let backend_set =
                at.name("backend_set", &wire.backend_set, lb_common::id::BackendSetName::new);
            let weight = at.weight("weight", wire.weight);
            Some(WeightedBackendSet { backend_set: backend_set?, weight: weight? })
        })
        .collect();
    let sets = parsed.into_iter().collect::<Option<Vec<_>>>()?;
    if sets.iter().all(|set| set.weight == 0) {
        at.problem("forward", "has only weights of 0; give one of them a weight above 0");
        return None;
    }
    Some(Action::Forward(sets))
}

fn parse_redirect(wire: &v1::Redirect, mut at: At<'_>) -> Option<Redirect> {
    let status = match wire.status {
        0 => at.status("status", defaults::REDIRECT_STATUS),
        301 | 302 | 303 | 307 | 308 => at.status("status", wire.status),
        other => at.one_of("status", &other.to_string(), "301, 302, 303, 307, 308"),
    };
    let scheme = match wire.scheme.as_str() {
        "" => Some(None),
        "http" => Some(Some(Scheme::Http)),
        "https" => Some(Some(Scheme::Https)),
        other => at.one_of("scheme", other, "http, https"),
    };
    let host = match wire.host.as_str() {
        "" => Some(None),
        host => match http::uri::Authority::from_str(host) {
            Ok(authority) => Some(Some(authority.as_str().into())),
            Err(_) => at.invalid("host", host, "a host, with or without a port"),
        },
    };
    let path = match wire.path.as_str() {
        "" => Some(None),
        path => at.path("path", path).map(Some),
    };
    if wire.scheme.is_empty() && wire.host.is_empty() && wire.path.is_empty() {
        at.problems.add(at.path, "leads to where it came from; give a scheme, host or path");
        return None;
    }
    Some(Redirect { status: status?, scheme: scheme?, host: host?, path: path? })
}

fn parse_answer(wire: &v1::Answer, mut at: At<'_>) -> Option<Answer> {
    let status = at.status("status", wire.status);
    let headers = at.headers("headers", &wire.headers);
    Some(Answer { status: status?, body: wire.body.clone(), headers: headers? })
}

fn retry(wire: Option<&v1::Retry>, path: &str, problems: &mut Problems) -> Option<RetryPolicy> {
    let unset = v1::Retry::default();
    let wire = wire.unwrap_or(&unset);
    let mut at = At { path, problems };
    let attempts = at.count("attempts", wire.attempts, defaults::RETRY_ATTEMPTS);
    let on = retry_on(&wire.on, &mut at);
    let per_try_timeout = match wire.per_try_timeout {
        None => Some(None),
        given => at.duration("per_try_timeout", given, Duration::ZERO).map(Some),
    };
    let backoff = at.duration("backoff", wire.backoff, defaults::RETRY_BACKOFF);
    let budget_percent = wire.budget_percent.unwrap_or(defaults::RETRY_BUDGET_PERCENT);
    if budget_percent > 100 {
        at.problem(
            "budget_percent",
            &format!("{budget_percent} is not a share; valid is 0 to 100"),
        );
    }
    let max_body_bytes = wire.max_body_bytes.unwrap_or(defaults::RETRY_MAX_BODY_BYTES);
    if max_body_bytes > MAX_RETRY_BODY {
        at.problem(
            "max_body_bytes",
            &format!("{max_body_bytes} is too much to keep; valid is up to {MAX_RETRY_BODY}"),
        );
    }
    Some(RetryPolicy {
        attempts: attempts?,
        on: on?,
        per_try_timeout: per_try_timeout?,
        backoff: backoff?,
        budget_percent,
        max_body_bytes,
    })
}

fn retry_on(conditions: &[String], at: &mut At<'_>) -> Option<RetryOn> {
    if conditions.is_empty() {
        return Some(RetryOn { connect_failure: true, ..RetryOn::default() });
    }
    let mut on = RetryOn::default();
    for (i, condition) in conditions.iter().enumerate() {
        match condition.as_str() {
            "connect-failure" => on.connect_failure = true,
            "reset" => on.reset = true,
            "timeout" => on.timeout = true,
            "gateway-error" => on.gateway_error = true,
            "5xx" => on.any_5xx = true,
            other => match other.parse::<u16>() {
                Ok(status @ 400..=599) => {
                    on.statuses.insert(status);
                }
                _ => {
                    let valid = "connect-failure, reset, timeout, gateway-error, 5xx, \
                                 a status from 400 to 599";
                    return at.one_of(&format!("on[{i}]"), other, valid);
                }
            },
        }
    }
    Some(on)
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
    Some(Hash { key: key?, algorithm: algorithm?, function: function? })
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
    let host = match wire.host.as_str() {
        "" => Some(None),
        host => match http::uri::Authority::from_str(host) {
            Ok(authority) => Some(Some(authority.as_str().to_owned())),
            Err(_) => at.invalid("host", host, "a host, with or without a port"),
        },
    };
    let probe = if wire.tcp {
        Some(Probe::Tcp)
    } else if let Some(service) = &wire.grpc {
        host.map(|host| Probe::Grpc { service: service.clone(), host })
    } else {
        http_probe(wire, host, &mut at)
    };
    let interval = at.duration("interval", wire.interval, defaults::HEALTH_INTERVAL);
    let timeout = at.duration("timeout", wire.timeout, defaults::HEALTH_TIMEOUT);
    let healthy_after = at.count("healthy_after", wire.healthy_after, defaults::HEALTHY_AFTER);
    let unhealthy_after =
        at.count("unhealthy_after", wire.unhealthy_after, defaults::UNHEALTHY_AFTER);
    Some(HealthCheck {
        probe: probe?,
        interval: interval?,
        timeout: timeout?,
        healthy_after: healthy_after?,
        unhealthy_after: unhealthy_after?,
        prove_first: wire.prove_first,
    })
}

fn http_probe(
    wire: &v1::HealthCheck,
    host: Option<Option<String>>,
    at: &mut At<'_>,
) -> Option<Probe> {
    let path = match wire.http.as_str() {
        "" => Some(defaults::HEALTH_PATH.into()),
        path if path.starts_with('/') && PathAndQuery::from_str(path).is_ok() => Some(path.into()),
        path => at.invalid("http", path, "a path, \"/health\""),
    };
    let statuses = if wire.statuses.is_empty() {
        Some(vec![200..=299])
    } else {
        let parsed: Vec<_> = wire
            .statuses
            .iter()
            .enumerate()
            .map(|(i, text)| match status_range(text) {
                Some(range) => Some(range),
                None => at.one_of(&format!("statuses[{i}]"), text, "\"204\", \"200-299\", \"2xx\""),
            })
            .collect();
        parsed.into_iter().collect()
    };
    let headers = at.headers("headers", &wire.headers);
    Some(Probe::Http { path: path?, statuses: statuses?, host: host?, headers: headers? })
}

fn status_range(text: &str) -> Option<RangeInclusive<u16>> {
    let status = |text: &str| text.parse().ok().filter(|status| (100..=599).contains(status));
    if let Some(class) = text.strip_suffix("xx") {
        let first = class.parse::<u16>().ok().filter(|class| (1..=5).contains(class))? * 100;
        return Some(first..=first + 99);
    }
    match text.split_once('-') {
        Some((first, last)) => {
            let range = status(first)?..=status(last)?;
            (!range.is_empty()).then_some(range)
        }
        None => status(text).map(|status| status..=status),
    }
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
    let failures = wire.consecutive_failures.unwrap_or(defaults::EJECT_AFTER);
    let consecutive_failures = NonZeroU32::new(failures);
    if consecutive_failures.is_none() {
        at.problem("consecutive_failures", "0 would eject at once; valid is 1 or more");
    }
    let base_time = at.duration("base_time", wire.base_time, defaults::EJECT_BASE_TIME);
    let max_time = at.duration("max_time", wire.max_time, defaults::EJECT_MAX_TIME);
    let max_percent = wire.max_percent.unwrap_or(defaults::EJECT_MAX_PERCENT);
    if max_percent > 100 {
        at.problem("max_percent", &format!("{max_percent} is not a share; valid is 0 to 100"));
    }
    let parsed = OutlierEjection {
        consecutive_failures: consecutive_failures?,
        base_time: base_time?,
        max_time: max_time?,
        max_percent,
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

fn is_host(host: &str) -> bool {
    let fits = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b'[' | b']');
    let v6 = host.starts_with('[') && host.ends_with(']');
    !host.is_empty() && (v6 || host.bytes().all(fits))
}

/// Where a value stands, and where its problems go.
struct At<'a> {
    path: &'a str,
    problems: &'a mut Problems,
}

impl At<'_> {
    fn problem(&mut self, field: &str, message: &str) {
        self.problems.add(format!("{}.{field}", self.path), message);
    }

    fn invalid<T>(&mut self, field: &str, value: &str, valid: &str) -> Option<T> {
        self.problem(field, &format!("{value:?} is not valid; give {valid}"));
        None
    }

    fn one_of<T>(&mut self, field: &str, value: &str, valid: &str) -> Option<T> {
        self.problem(field, &format!("{value:?} is not known; valid are {valid}"));
        None
    }

    fn name<T>(
        &mut self,
        field: &str,
        text: &str,
        new: impl Fn(&str) -> Result<T, InvalidName>,
    ) -> Option<T> {
        new(text).map_err(|error| self.problem(field, &error.to_string())).ok()
    }

    fn address(&mut self, field: &str, text: &str) -> Option<SocketAddr> {
        match text.parse() {
            Ok(address) => Some(address),
            Err(_) => self.invalid(field, text, "an IP address and a port, \"127.0.0.1:3001\""),
        }
    }

    fn path(&mut self, field: &str, text: &str) -> Option<String> {
        let is_path = text.starts_with('/')
            && !text.contains(['?', '#'])
            && PathAndQuery::from_str(text).is_ok();
        if is_path {
            Some(text.into())
        } else {
            self.invalid(field, text, "a path that begins with a slash and has no query")
        }
    }

    fn duration(
        &mut self,
        field: &str,
        wire: Option<prost_types::Duration>,
        default: Duration,
    ) -> Option<Duration> {
        let Some(wire) = wire else { return Some(default) };
        match duration::from_wire(wire) {
            Ok(duration) if (Duration::from_millis(1)..=MAX_DURATION).contains(&duration) => {
                Some(duration)
            }
            Ok(other) => {
                self.invalid(field, &duration::format(other), "something between 1ms and 24h")
            }
            Err(message) => {
                self.problem(field, &message);
                None
            }
        }
    }

    fn count(&mut self, field: &str, wire: Option<u32>, default: u32) -> Option<NonZeroU8> {
        let value = wire.unwrap_or(default);
        let parsed = u8::try_from(value).ok().and_then(NonZeroU8::new);
        if parsed.is_none() {
            self.problem(field, &format!("{value} is not valid; give 1 to 255"));
        }
        parsed
    }

    fn weight(&mut self, field: &str, wire: Option<u32>) -> Option<u32> {
        match wire.unwrap_or(1) {
            weight @ 0..=MAX_WEIGHT => Some(weight),
            weight => {
                self.problem(field, &format!("{weight} is not valid; give 0 to {MAX_WEIGHT}"));
                None
            }
        }
    }

    fn status(&mut self, field: &str, status: u32) -> Option<StatusCode> {
        match u16::try_from(status).map(StatusCode::from_u16) {
            Ok(Ok(parsed)) if (200..=599).contains(&status) => Some(parsed),
            _ => self.invalid(field, &status.to_string(), "a status from 200 to 599"),
        }
    }

    fn headers(&mut self, field: &str, wire: &BTreeMap<String, String>) -> Option<HeaderMap> {
        let parsed: Vec<_> =
            wire.iter().map(|(name, value)| self.header(field, name, value)).collect();
        parsed.into_iter().collect()
    }

    fn header(
        &mut self,
        field: &str,
        name: &str,
        value: &str,
    ) -> Option<(HeaderName, HeaderValue)> {
        match (HeaderName::from_str(name), HeaderValue::from_str(value)) {
            (Ok(name), Ok(value)) => Some((name, value)),
            (Err(_), _) => self.invalid(field, name, "a header name, \"x-canary\""),
            (_, Err(_)) => {
                self.invalid(&format!("{field}[{name}]"), value, "visible ASCII characters")
            }
        }
    }
}

#[cfg(test)]
mod tests;
