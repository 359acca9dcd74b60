//! How backends are asked for their health, and where.

use std::{num::NonZeroU16, ops::RangeInclusive, str::FromStr};

use http::uri::PathAndQuery;
use lb_common::spec::{CheckAddress, Probe};

use super::at::At;
use crate::{defaults, v1};

/// What is looked for in an answer, or sent, may be so long, in bytes.
const MOST_TEXT: usize = 4 * 1024;

/// Where one kind of check has what another kind does not.
pub fn refuse_misplaced(wire: &v1::HealthCheck, at: &mut At<'_>) {
    let is_http = !wire.tcp && wire.grpc.is_none();
    let of_tcp = if is_http {
        "is for tcp alone; give tcp = true, or expect_body for what http answers"
    } else {
        "is for tcp alone; give tcp = true instead of grpc"
    };
    let of_http = if wire.tcp {
        "is for http alone; give http = \"/health\" instead of tcp, or expect for what tcp answers"
    } else {
        "is for http alone; give http = \"/health\" instead of grpc"
    };
    let fields = [
        ("expect_body", &wire.expect_body, is_http, of_http),
        ("send", &wire.send, wire.tcp, of_tcp),
        ("expect", &wire.expect, wire.tcp, of_tcp),
    ];
    for (field, text, is_in_place, valid) in fields {
        if !(text.is_empty() || is_in_place) {
            at.problem(field, &format!("{text:?} {valid}"));
        }
    }
}

pub fn goes_to(wire: &v1::HealthCheck, at: &mut At<'_>) -> Option<CheckAddress> {
    match (wire.port, wire.address.as_str()) {
        (0, "") => Some(CheckAddress::OfTraffic),
        (0, address) => at.address("address", address).map(CheckAddress::Other),
        (port, "") => match u16::try_from(port).ok().and_then(NonZeroU16::new) {
            Some(port) => Some(CheckAddress::Port(port)),
            None => at.invalid("port", &port.to_string(), "1 to 65535"),
        },
        (port, address) => {
            let why = format!("{port} beside address {address:?}, which has a port; give only one");
            at.problem("port", &why);
            None
        }
    }
}

pub fn tcp(wire: &v1::HealthCheck, at: &mut At<'_>) -> Option<Probe> {
    let (send, expect) = (text("send", &wire.send, at), text("expect", &wire.expect, at));
    Some(Probe::Tcp { send: send?, expect: expect? })
}

/// The outer `Option` of `host` says whether it is valid.
#[expect(clippy::option_option, reason = "both questions are asked")]
pub fn http(
    wire: &v1::HealthCheck,
    host: Option<Option<String>>,
    at: &mut At<'_>,
) -> Option<Probe> {
    let path = match wire.http.as_str() {
        "" => Some(defaults::HEALTH_PATH.into()),
        path => match sent(path) {
            Some(path) => Some(path),
            None => at.invalid("http", path, "a path, \"/health\""),
        },
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
    let expect_body = text("expect_body", &wire.expect_body, at);
    Some(Probe::Http {
        path: path?,
        statuses: statuses?,
        host: host?,
        headers: headers?,
        expect_body: expect_body?,
    })
}

/// What of a path is asked for: not what is behind a '#', which is nobody's business but a browser's.
fn sent(path: &str) -> Option<String> {
    // Behind a '#', nobody else looks for them.
    if !path.starts_with('/') || path.contains(char::is_control) {
        return None;
    }
    Some(PathAndQuery::from_str(path).ok()?.as_str().into())
}

fn text(field: &str, text: &str, at: &mut At<'_>) -> Option<String> {
    if text.len() > MOST_TEXT {
        let length = text.len();
        at.problem(field, &format!("has {length} bytes; give {MOST_TEXT} at most"));
        return None;
    }
    Some(text.into())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_a_fragments_sign_is_not_asked_for() {
        assert_eq!(sent("/up?deep=1#part").as_deref(), Some("/up?deep=1"));
        assert_eq!(sent("/#"), Some("/".into()));
        for path in ["", "#", "*", "?a", "/a b", "/up#\r\nx: y", "/up\u{7f}", "/up#\0"] {
            assert_eq!(sent(path), None, "{path:?}");
        }
    }
}
