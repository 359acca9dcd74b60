//! What a route may say depends on its listeners: requests have more to go by than connections, and more
//! can be done with them.

use lb_common::{
    id::RouteName,
    spec::{Action, HostMatch, PathMatch, Route, RouteMatch},
};

use super::route::retry;
use crate::{defaults, error::Problems};

/// Adds a problem for everything that is for http.
pub fn check_tcp(name: &RouteName, route: &Route, problems: &mut Problems) {
    let RouteMatch { host, path, method, headers, sni: _, alpn: _, from: _, not_from: _ } =
        &route.matches;
    let plain = retry(None, "", &mut Problems::default());
    let matching = [
        ("match.host", *host != HostMatch::Any),
        ("match.path", matches!(path, PathMatch::Exact(_))),
        ("match.path_prefix", matches!(path, PathMatch::Prefix(_))),
        ("match.method", method.is_some()),
        ("match.headers", !headers.is_empty()),
    ];
    let doing = [
        ("redirect", matches!(route.action, Action::Redirect(_))),
        ("answer", matches!(route.action, Action::Answer(_))),
        ("upgrade", route.upgrade != defaults::UPGRADE),
        ("max_request_bytes", route.max_request_bytes.is_some()),
        ("timeout", route.timeout != defaults::ROUTE_TIMEOUT),
        ("stream_idle_timeout", route.stream_idle_timeout != Some(defaults::STREAM_IDLE_TIMEOUT)),
        ("tunnel_idle_timeout", route.tunnel_idle_timeout != defaults::TUNNEL_IDLE_TIMEOUT),
        ("via", route.via != defaults::VIA),
        ("retry", Some(&route.retry) != plain.as_ref()),
    ];
    for (field, _) in matching.into_iter().filter(|(_, is_given)| *is_given) {
        let why = "is for http, and this route's listeners are tcp; these match sni, alpn, from, not_from";
        problems.add(format!("routes[{name}].{field}"), why);
    }
    for (field, _) in doing.into_iter().filter(|(_, is_given)| *is_given) {
        let why = "is for http, and this route's listeners are tcp; these only forward";
        problems.add(format!("routes[{name}].{field}"), why);
    }
}

/// Adds a problem for everything that is for tcp.
pub fn check_http(name: &RouteName, route: &Route, problems: &mut Problems) {
    let RouteMatch { sni, alpn, .. } = &route.matches;
    for (field, is_given) in [("sni", *sni != HostMatch::Any), ("alpn", alpn.is_some())] {
        if is_given {
            let why = "is for tcp; name tcp listeners in listeners, or match host instead";
            problems.add(format!("routes[{name}].match.{field}"), why);
        }
    }
}
