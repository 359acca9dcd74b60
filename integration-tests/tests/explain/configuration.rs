//! A random configuration, and its backends.

use std::collections::BTreeMap;

use integration_tests::backend::{Backend, Reply};

pub const ROUTES: usize = 50;

#[derive(Debug)]
pub struct Configuration {
    pub routes: Vec<Route>,
    pub toml: String,
    /// Those that are probed, by set and name, and whether they are healthy.
    pub probed: BTreeMap<(String, String), bool>,
    /// They serve for as long as this lives.
    _backends: Vec<Backend>,
}

/// The conditions of a route.
#[derive(Clone, Debug)]
pub struct Route {
    pub host: Option<&'static str>,
    /// `path` or `path_prefix`, and which.
    pub path: Option<(&'static str, &'static str)>,
    pub method: Option<&'static str>,
    pub headers: Vec<(&'static str, &'static str)>,
    /// Index of the only listener that it serves.
    pub listener: Option<usize>,
}

pub const LISTENERS: [&str; 2] = ["web", "inside"];
/// Set and backend of one that is to be drained once all runs, and the only host of its route.
pub const DRAINED: (&str, &str) = ("drained", "gone");
pub const DRAINED_HOST: &str = "drained.test";

const HOSTS: [&str; 7] = [
    "shop.test",
    "www.shop.test",
    "eu.shop.test",
    "*.shop.test",
    "*.test",
    "*.eu.shop.test",
    "[::1]",
];
const PATHS: [&str; 8] = ["/a", "/a/b", "/a/b/c", "/ab", "/a/", "/a/b/", "/c", "/c/d-e/f"];
const KEYS: [&str; 5] =
    ["client_address", "path", "header:x-user", "header:x-absent", "cookie:session"];

// === impl Configuration ===

impl Configuration {
    pub async fn random(rng: &mut fastrand::Rng) -> Self {
        let mut new = Self {
            routes: (0..ROUTES).map(|_| Route::random(rng)).collect(),
            toml: String::new(),
            probed: BTreeMap::new(),
            _backends: Vec::new(),
        };
        for (i, listener) in LISTENERS.iter().enumerate() {
            // Each proxy has them elsewhere; only the ports are of use, in URLs.
            let port = i + 1;
            new.toml.push_str(&format!(
                "[[listeners]]\nname = '{listener}'\naddress = '127.0.0.1:{port}'\n"
            ));
        }
        new.drained(rng).await;
        for i in 1..ROUTES {
            let name = format!("r{i:02}");
            let action = match rng.u8(..20) {
                0..2 => format!("redirect = {{ path = '/moved/{name}' }}"),
                2 => format!("redirect = {{ scheme = 'https', path = '/{name}', status = 308 }}"),
                3 => format!("redirect = {{ host = '{name}.test:81', status = 301 }}"),
                4..7 => format!(
                    "answer = {{ status = {}, body = 'from {name}', headers = {{ x-route = '{name}' }} }}",
                    [200, 204, 404, 418, 503][rng.usize(..5)]
                ),
                7..11 => new.split(&name, rng).await,
                _ => {
                    new.set(&name, rng).await;
                    format!("backend_set = '{name}'")
                }
            };
            let conditions = new.routes[i].toml();
            new.toml.push_str(&format!("[[routes]]\nname = '{name}'\n{conditions}\n{action}\n"));
        }
        new
    }

    /// Two or three sets, and sometimes one that gets nothing.
    async fn split(&mut self, route: &str, rng: &mut fastrand::Rng) -> String {
        let mut sets = Vec::new();
        for i in 0..rng.usize(2..4) {
            let name = format!("{route}-{i}");
            self.set(&name, rng).await;
            let weight = if i > 0 && rng.u8(..3) == 0 { 0 } else { rng.u32(1..10) };
            sets.push(format!("{{ backend_set = '{name}', weight = {weight} }}"));
        }
        format!("forward = [{}]", sets.join(", "))
    }

    /// A set of its own backends, so that who served a request tells its set.
    async fn set(&mut self, name: &str, rng: &mut fastrand::Rng) {
        let mut set = format!("[[backend_sets]]\nname = '{name}'\n{}\n", balance(rng));
        let probed = rng.u8(..3) == 0;
        if probed {
            set.push_str(HEALTH_CHECK);
        }
        let mut entries = Vec::new();
        for i in 0..rng.usize(1..6) {
            let healthy = !probed || rng.u8(..3) > 0;
            let entry = match rng.u8(..12) {
                0 => "state = 'draining'",
                1 => "state = 'disabled'",
                2 => "weight = 0",
                3 => "weight = 2",
                4 => "weight = 7",
                _ => "state = 'active'",
            };
            let backend = format!("b{i}");
            let address = self.backend(name, &backend, healthy).await;
            entries.push(format!("{{ name = '{backend}', address = '{address}', {entry} }}"));
            if probed && entry != "state = 'disabled'" {
                self.probed.insert((name.into(), backend), healthy);
            }
        }
        self.toml.push_str(&format!("{set}backends = [{}]\n", entries.join(", ")));
    }

    /// The first route, and three backends of which one is to be drained.
    async fn drained(&mut self, rng: &mut fastrand::Rng) {
        let (set, gone) = DRAINED;
        let mut entries = Vec::new();
        for backend in [gone, "left", "right"] {
            let address = self.backend(set, backend, true).await;
            entries.push(format!("{{ name = '{backend}', address = '{address}' }}"));
        }
        rng.shuffle(&mut entries);
        self.routes[0] = Route {
            host: Some(DRAINED_HOST),
            path: None,
            method: None,
            headers: vec![],
            listener: None,
        };
        let conditions = self.routes[0].toml();
        self.toml.push_str(&format!(
            "[[routes]]\nname = 'r00'\n{conditions}\nbackend_set = '{set}'\n\
             [[backend_sets]]\nname = '{set}'\nbalance = 'consistent_hash'\n\
             hash = {{ key = 'header:x-user' }}\nbackends = [{}]\n",
            entries.join(", ")
        ));
    }

    async fn backend(&mut self, set: &str, name: &str, healthy: bool) -> std::net::SocketAddr {
        let served_by = format!("{set}/{name}");
        let backend = Backend::start(move |seen| {
            let is_probe = seen.head.fields.all("user-agent").contains(&"lb-health");
            match is_probe && !healthy {
                true => Reply::status(500, ""),
                false => Reply::ok("").header("x-served-by", &served_by),
            }
        });
        let backend = backend.await;
        let address = backend.address();
        self._backends.push(backend);
        address
    }
}

/// Decides with the first probe, and is not misled by a slow machine.
const HEALTH_CHECK: &str =
    "health_check = { interval = '1s', timeout = '20s', healthy_after = 1, unhealthy_after = 1 }\n";

fn balance(rng: &mut fastrand::Rng) -> String {
    match rng.u8(..8) {
        0 => "balance = 'round_robin'".into(),
        1 => "balance = 'random'".into(),
        2 => "balance = 'least_connections'".into(),
        _ => format!(
            "balance = 'consistent_hash'\n\
             hash = {{ key = '{}', algorithm = '{}', function = '{}' }}",
            KEYS[rng.usize(..KEYS.len())],
            ["maglev", "rendezvous"][rng.usize(..2)],
            ["xxh3", "crc32"][rng.usize(..2)],
        ),
    }
}

// === impl Route ===

impl Route {
    fn random(rng: &mut fastrand::Rng) -> Self {
        let path = PATHS[rng.usize(..PATHS.len())];
        let host = (rng.u8(..3) > 0).then(|| HOSTS[rng.usize(..HOSTS.len())]);
        let header = |name, rng: &mut fastrand::Rng| (name, ["*", "1", "2"][rng.usize(..3)]);
        Self {
            host,
            path: match rng.u8(..5) {
                // None takes everything, for some requests are to find no route.
                0 if host.is_some() => None,
                1 => Some(("path", path)),
                _ => Some(("path_prefix", path)),
            },
            method: (rng.u8(..4) == 0).then(|| ["GET", "POST", "DELETE", "HEAD"][rng.usize(..4)]),
            headers: match rng.u8(..8) {
                0 => vec![header("x-canary", rng)],
                1 => vec![header("x-user", rng)],
                2 => vec![header("x-canary", rng), header("x-user", rng)],
                _ => Vec::new(),
            },
            listener: (rng.u8(..6) == 0).then(|| rng.usize(..LISTENERS.len())),
        }
    }

    fn toml(&self) -> String {
        let mut conditions = Vec::new();
        conditions.extend(self.host.map(|host| format!("host = '{host}'")));
        conditions.extend(self.path.map(|(kind, path)| format!("{kind} = '{path}'")));
        conditions.extend(self.method.map(|method| format!("method = '{method}'")));
        if !self.headers.is_empty() {
            let headers = self.headers.iter().map(|(name, value)| format!("{name} = '{value}'"));
            let headers: Vec<_> = headers.collect();
            conditions.push(format!("headers = {{ {} }}", headers.join(", ")));
        }
        let listeners = self.listener.map(|i| format!("listeners = ['{}']\n", LISTENERS[i]));
        format!("{}match = {{ {} }}", listeners.unwrap_or_default(), conditions.join(", "))
    }
}
