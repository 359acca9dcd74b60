//! Routes: which requests, and what to do with them.

use std::{collections::BTreeSet, net::IpAddr, str::FromStr, time::Duration};

use http::Method;
use lb_common::{
    id::{BackendSetName, ListenerName, RouteName},
    spec::{
        Action, Answer, HostMatch, PathMatch, Redirect, RetryOn, RetryPolicy, Route, RouteMatch,
        Scheme, WeightedBackendSet,
    },
};

use super::at::At;
use crate::{defaults, error::Problems, list, v1};

const MAX_RETRY_BODY: u64 = 16 * 1024 * 1024;
/// What TOML can say.
const MAX_REQUEST: u64 = i64::MAX.unsigned_abs();

pub fn route(wire: &v1::Route, path: &str, problems: &mut Problems) -> Option<Route> {
    let mut at = At { path, problems };
    let name = at.name("name", &wire.name, RouteName::new);
    let listeners: Vec<_> = wire
        .listeners
        .iter()
        .enumerate()
        .map(|(i, listener)| at.name(&format!("listeners[{i}]"), listener, ListenerName::new))
        .collect();
    let upgrade = upgrade(wire.upgrade.as_ref(), &mut at);
    let max_request_bytes = wire.max_request_bytes;
    if max_request_bytes.is_some_and(|bytes| bytes > MAX_REQUEST) {
        at.problem(
            "max_request_bytes",
            &format!("is no limit; leave it out, or give 0 to {MAX_REQUEST}"),
        );
    }
    let timeout = at.duration("timeout", wire.timeout, defaults::ROUTE_TIMEOUT);
    let stream_idle_timeout = at.duration_or_off(
        "stream_idle_timeout",
        wire.stream_idle_timeout,
        defaults::STREAM_IDLE_TIMEOUT,
    );
    let tunnel_idle_timeout =
        at.duration("tunnel_idle_timeout", wire.tunnel_idle_timeout, defaults::TUNNEL_IDLE_TIMEOUT);
    let matches = route_match(wire.r#match.as_ref(), &format!("{path}.match"), problems);
    let action = action(wire, path, problems);
    let retry = retry(wire.retry.as_ref(), &format!("{path}.retry"), problems);
    Some(Route {
        name: name?,
        listeners: listeners.into_iter().collect::<Option<BTreeSet<_>>>()?,
        matches: matches?,
        action: action?,
        upgrade: upgrade?,
        max_request_bytes,
        timeout: timeout?,
        stream_idle_timeout: stream_idle_timeout?,
        tunnel_idle_timeout: tunnel_idle_timeout?,
        via: wire.via.unwrap_or(defaults::VIA),
        retry: retry?,
    })
}

fn upgrade(wire: Option<&prost_types::ListValue>, at: &mut At<'_>) -> Option<Vec<String>> {
    let Some(wire) = wire else { return Some(defaults::UPGRADE.map(Into::into).into()) };
    let protocols = match list::from_wire(wire) {
        Ok(protocols) => protocols,
        Err(i) => {
            at.problem(&format!("upgrade[{i}]"), "is no text; give a protocol, \"websocket\"");
            return None;
        }
    };
    let mut parsed = BTreeSet::new();
    for (i, protocol) in protocols.into_iter().enumerate() {
        // A method is a token, too, and may be any.
        if Method::from_bytes(protocol.as_bytes()).is_err() {
            return at.invalid(&format!("upgrade[{i}]"), protocol, "a protocol, \"websocket\"");
        }
        parsed.insert(protocol.to_ascii_lowercase());
    }
    Some(parsed.into_iter().collect())
}

fn route_match(
    wire: Option<&v1::RouteMatch>,
    path: &str,
    problems: &mut Problems,
) -> Option<RouteMatch> {
    let Some(wire) = wire else { return Some(RouteMatch::default()) };
    let mut at = At { path, problems };
    let host = host_match(
        &mut at,
        "host",
        &wire.host,
        is_host,
        "a host without a port, \"example.com\", or \"*.example.com\"",
    );
    let sni = host_match(
        &mut at,
        "sni",
        &wire.sni,
        is_server_name,
        "a DNS name, \"example.com\", or \"*.example.com\"",
    );
    let alpn = match wire.alpn.as_str() {
        "" => Some(None),
        alpn if is_protocol(alpn) => Some(Some(alpn.into())),
        other => at.invalid("alpn", other, "a protocol of at most 255 visible characters, \"h2\""),
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
    let headers = at.header_fields("headers", &wire.headers)?;
    let headers = headers.into_iter().map(|(name, value)| (name, (value != "*").then_some(value)));
    let headers = headers.collect();
    let from = at.networks("from", &wire.from);
    let not_from = at.networks("not_from", &wire.not_from);
    Some(RouteMatch {
        host: host?,
        path: path_match?,
        method: method?,
        headers,
        sni: sni?,
        alpn: alpn?,
        from: from?,
        not_from: not_from?,
    })
}

/// A name, or a wildcard for the names below it.
fn host_match(
    at: &mut At<'_>,
    field: &str,
    text: &str,
    is_host: impl Fn(&str) -> bool,
    valid: &str,
) -> Option<HostMatch> {
    match text.to_ascii_lowercase() {
        host if host.is_empty() => Some(HostMatch::Any),
        host => match host.strip_prefix('*') {
            Some(rest) if rest.len() > 1 && rest.starts_with('.') && is_host(&rest[1..]) => {
                Some(HostMatch::Wildcard(rest.into()))
            }
            None if is_host(&host) => Some(HostMatch::Exact(host)),
            _ => at.invalid(field, text, valid),
        },
    }
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
        let backend_set = at.name("backend_set", &wire.backend_set, BackendSetName::new)?;
        return Some(Action::Forward(vec![WeightedBackendSet { backend_set, weight: 1 }]));
    }
    let parsed: Vec<_> = wire
        .forward
        .iter()
        .enumerate()
        .map(|(i, wire)| {
            let path = format!("{path}.forward[{i}]");
            let mut at = At { path: &path, problems: &mut *at.problems };
            let backend_set = at.name("backend_set", &wire.backend_set, BackendSetName::new);
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

/// Of a route that says nothing of it, the default.
pub fn retry(wire: Option<&v1::Retry>, path: &str, problems: &mut Problems) -> Option<RetryPolicy> {
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
    let budget_percent =
        at.within("budget_percent", wire.budget_percent, defaults::RETRY_BUDGET_PERCENT, 0..=100);
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
        budget_percent: budget_percent?,
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

fn is_host(host: &str) -> bool {
    let fits = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b'[' | b']');
    let v6 = host.starts_with('[') && host.ends_with(']');
    !host.is_empty() && (v6 || host.bytes().all(fits))
}

/// What a client may ask for; never an address.
fn is_server_name(name: &str) -> bool {
    let fits = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(fits);
    name.split('.').all(is_label) && name.parse::<IpAddr>().is_err()
}

fn is_protocol(alpn: &str) -> bool {
    alpn.len() <= usize::from(u8::MAX) && alpn.bytes().all(|c| c.is_ascii_graphic())
}
