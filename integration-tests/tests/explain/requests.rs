//! Random requests, as they are asked about and as they are sent.

use std::net::Ipv4Addr;

use lb_proto::v1::{ExplainRequest, Header};

use crate::configuration::{DRAINED_HOST, LISTENERS, Route};

/// Where clients are.
pub const SOURCES: [Ipv4Addr; 4] = [
    Ipv4Addr::new(127, 0, 0, 1),
    Ipv4Addr::new(127, 0, 0, 2),
    Ipv4Addr::new(127, 0, 0, 3),
    Ipv4Addr::new(127, 1, 2, 3),
];

#[derive(Clone, Debug)]
pub struct Asked {
    /// Of [`LISTENERS`].
    pub listener: usize,
    /// Whether the listener is named to the controller, or found by the URL's port.
    by_name: bool,
    /// Of [`SOURCES`].
    pub source: usize,
    pub method: &'static str,
    hosts: Vec<String>,
    target: String,
    headers: Vec<(&'static str, String)>,
    /// The target is sent as a whole URL.
    absolute: bool,
}

const HOSTS: [&str; 10] = [
    DRAINED_HOST,
    "shop.test",
    "Shop.Test",
    "www.shop.test",
    "eu.shop.test",
    "a.eu.shop.test",
    "x.test",
    "test",
    "org",
    "[::1]",
];
const PATHS: [&str; 12] =
    ["/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/a/bc", "/ab", "/abc", "/c", "/c/d-e/f/g", "/A"];
const METHODS: [&str; 6] = ["GET", "GET", "POST", "DELETE", "HEAD", "PATCH"];

// === impl Asked ===

impl Asked {
    /// Half of them are made for one of the routes, which may yet not be the best for it.
    pub fn random(routes: &[Route], rng: &mut fastrand::Rng) -> Self {
        let listener = rng.usize(..LISTENERS.len());
        let mut asked = Self {
            listener,
            by_name: rng.bool(),
            source: rng.usize(..SOURCES.len()),
            method: METHODS[rng.usize(..METHODS.len())],
            hosts: vec![HOSTS[rng.usize(..HOSTS.len())].into()],
            target: PATHS[rng.usize(..PATHS.len())].into(),
            headers: Vec::new(),
            absolute: false,
        };
        for (name, chance) in [("x-canary", 4), ("x-user", 2)] {
            if rng.u8(..chance) == 0 {
                asked.headers.push((name, rng.u32(..30).to_string()));
            }
        }
        if rng.bool() {
            let session = rng.u32(..30);
            asked.headers.push(("cookie", format!("a=1; session={session}; b=2")));
        }
        if rng.bool() {
            asked.suit(&routes[rng.usize(..routes.len())], rng);
        }
        if rng.u8(..3) == 0 {
            asked.target.push_str(&format!("?q={}", rng.u32(..9)));
        }
        if !asked.by_name {
            // The listeners of the configuration have ports 1 and 2.
            asked.hosts[0].push_str(&format!(":{}", asked.listener + 1));
        }
        match rng.u8(..50) {
            0 => asked.hosts.push("second.test".into()),
            1 => asked.hosts[0] = "a,b".into(),
            2 => asked.headers.push(("transfer-encoding", "gzip, chunked".into())),
            3 => asked.method = "CONNECT",
            4 => asked.hosts.clear(),
            5..11 => asked.absolute = true,
            _ => {}
        }
        asked
    }

    /// Meets all of the route's conditions.
    fn suit(&mut self, route: &Route, rng: &mut fastrand::Rng) {
        if let Some(host) = route.host {
            self.hosts[0] = match host.strip_prefix('*') {
                Some(suffix) => format!("{}{suffix}", ["w", "x.y"][rng.usize(..2)]),
                None => host.into(),
            };
        }
        if let Some((kind, path)) = route.path {
            self.target = path.into();
            if kind == "path_prefix" && rng.bool() {
                self.target.push_str(["/", "/more", "more"][rng.usize(..3)]);
            }
        }
        self.method = route.method.unwrap_or(self.method);
        for (name, value) in &route.headers {
            self.headers.retain(|(other, _)| other != name);
            let value = if *value == "*" { rng.u32(..30).to_string() } else { (*value).into() };
            self.headers.push((name, value));
        }
        self.listener = route.listener.unwrap_or(self.listener);
    }

    /// The question.
    pub fn explain(&self) -> ExplainRequest {
        // A client that is told to send another host than the URL's has it as a header.
        let by_header = self.by_name && !self.absolute || self.hosts.len() > 1 || !self.is_url();
        let mut headers = Vec::new();
        if by_header {
            headers.extend(self.hosts.iter().map(|host| ("host", host.clone())));
        }
        headers.extend(self.headers.iter().cloned());
        ExplainRequest {
            method: self.method.into(),
            url: if by_header { self.target.clone() } else { self.url() },
            headers: headers
                .into_iter()
                .map(|(name, value)| Header { name: name.into(), value })
                .collect(),
            from: SOURCES[self.source].to_string(),
            listener: if by_header || self.by_name {
                LISTENERS[self.listener].into()
            } else {
                String::new()
            },
            ..ExplainRequest::default()
        }
    }

    /// The request on the wire, with the token.
    pub fn bytes(&self, token: &str) -> String {
        let target = match self.absolute && self.is_url() {
            _ if self.method == "CONNECT" => self.hosts[0].clone(),
            true => self.url(),
            false => self.target.clone(),
        };
        let mut text = format!("{} {target} HTTP/1.1\r\nx-lb-explain: {token}\r\n", self.method);
        for host in &self.hosts {
            text.push_str(&format!("Host: {host}\r\n"));
        }
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        if self.headers.iter().any(|(name, _)| *name == "transfer-encoding") {
            // An end of the body, so that the proxy does not wait for one.
            text.push_str("0\r\n\r\n");
        }
        text
    }

    fn url(&self) -> String {
        format!("http://{}{}", self.hosts[0], self.target)
    }

    /// Whether there is a host that can stand in a URL.
    fn is_url(&self) -> bool {
        self.hosts.first().is_some_and(|host| !host.contains(','))
    }
}
