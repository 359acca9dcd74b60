//! Valid specs at random, for tests that must hold for all of them.

use std::collections::BTreeMap;

use fastrand::Rng;

use crate::{list, v1};

pub fn any_spec(rng: &mut Rng) -> v1::Spec {
    let sets: Vec<_> = (0..rng.usize(1..4)).map(|i| name(rng, i)).collect();
    let http: Vec<_> = (0..rng.usize(1..4)).map(|i| name(rng, i)).collect();
    let mut listeners: Vec<_> = (1..)
        .zip(&http)
        .map(|(port, name)| v1::Listener {
            name: name.clone(),
            address: format!("127.0.0.1:{port}"),
            protocol: one_of(rng, &["", "http"]),
            ..any_limits(rng)
        })
        .collect();
    let certificates: Vec<_> = (0..rng.usize(0..3)).map(|i| any_certificate(rng, i)).collect();
    let names: Vec<_> = certificates.iter().map(|certificate| certificate.name.clone()).collect();
    for listener in &mut listeners {
        listener.tls = (!names.is_empty() && rng.bool()).then(|| any_tls(rng, &names));
        match listener.tls {
            Some(_) => listener.hsts = one_of(rng, &["", "max-age=0", "max-age=9; preload"]),
            None => listener.redirect_to_https = rng.bool(),
        }
    }
    listeners.push(v1::Listener {
        name: "tcp".into(),
        address: "[::1]:1".into(),
        protocol: "tcp".into(),
        backend_set: some_of(rng, &sets, 1).remove(0),
        ..any_limits(rng)
    });
    let mut routes: Vec<_> =
        (0..rng.usize(0..4)).map(|i| any_route(rng, i, &http, &sets)).collect();
    if rng.bool() {
        // Without a set of its own, it needs the route.
        let backend_set = if rng.bool() { some_of(rng, &sets, 1).remove(0) } else { String::new() };
        listeners.push(v1::Listener {
            name: "edge".into(),
            address: "[::1]:2".into(),
            protocol: "tcp".into(),
            backend_set,
            ..any_limits(rng)
        });
        routes.push(any_tcp_route(rng, &sets));
    }
    v1::Spec {
        listeners,
        routes,
        backend_sets: sets.iter().map(|name| any_set(rng, name, &names)).collect(),
        certificates,
    }
}

fn any_tls(rng: &mut Rng, certificates: &[String]) -> v1::Tls {
    v1::Tls {
        certificates: some_of(rng, certificates, certificates.len()),
        min_version: one_of(rng, &["", "1.2", "1.3"]),
        client_auth: rng.bool().then(|| v1::ClientAuth {
            mode: one_of(rng, &["required", "optional"]),
            ca: one_of(rng, &PEMS),
            headers: one_of(rng, &["", "none", "facts", "certificate"]),
        }),
        handshake_timeout: time(rng),
        max_handshakes: within(rng, 1, u32::MAX),
    }
}

const PEMS: [&str; 2] = [
    "/etc/lb/it's a \"file\".pem",
    "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n",
];

fn any_certificate(rng: &mut Rng, i: usize) -> v1::Certificate {
    let certificate = v1::Certificate { name: name(rng, i), ..<_>::default() };
    if rng.bool() {
        return v1::Certificate { acme: Some(any_acme(rng)), ..certificate };
    }
    v1::Certificate {
        cert: one_of(rng, &PEMS),
        // A key that is given as such does not come back.
        key: one_of(rng, &["/etc/lb/key.pem", "sha256:00ff"]),
        ..certificate
    }
}

fn any_acme(rng: &mut Rng) -> v1::Acme {
    let domains = ["a.test", "b.a.test", "Example.com", "xn--bcher-kva.example"].map(String::from);
    v1::Acme {
        domains: some_of(rng, &domains, domains.len()),
        email: one_of(rng, &["", "a@b.c"]),
        directory: one_of(rng, &["https://ca.test/directory", "https://[::1]:14000/dir"]),
        ca: one_of(rng, &["", PEMS[0], PEMS[1]]),
        challenge: one_of(rng, &["", "http-01", "tls-alpn-01"]),
        eab: rng.bool().then(|| v1::Eab {
            kid: one_of(rng, &["kid-1", "it's \"one\""]),
            key: one_of(rng, &["/etc/lb/eab", "sha256:00ff"]),
        }),
    }
}

fn any_limits(rng: &mut Rng) -> v1::Listener {
    let trusted_proxies = networks(rng);
    let asks = !trusted_proxies.is_empty();
    let proxy_protocol = one_of(rng, if asks { &["", "optional", "required"] } else { &[""] });
    v1::Listener {
        idle_timeout: time(rng),
        header_timeout: time(rng),
        body_timeout: time(rng),
        write_timeout: time(rng),
        max_connections: number(rng, u32::MAX),
        max_connections_per_client: number(rng, u32::MAX),
        max_requests_per_connection: number(rng, u32::MAX),
        max_header_bytes: within(rng, 1024, 1_048_576),
        max_header_fields: within(rng, 1, 1000),
        max_target_bytes: within(rng, 64, 65_536),
        path_normalization: one_of(rng, &["", "off", "match", "forward"]),
        trusted_proxies,
        proxy_protocol,
        forwarded: one_of(rng, &["", "replace", "append"]),
        forwarded_header: one_of(rng, &["", "x-forwarded", "forwarded"]),
        ..v1::Listener::default()
    }
}

fn networks(rng: &mut Rng) -> Vec<String> {
    let all = ["10.0.0.0/8", "127.0.0.1", "2001:db8::/32"].map(String::from);
    if rng.bool() { some_of(rng, &all, all.len()) } else { vec![] }
}

fn any_route(rng: &mut Rng, i: usize, http: &[String], sets: &[String]) -> v1::Route {
    let mut route = v1::Route {
        name: name(rng, i),
        listeners: if rng.bool() { some_of(rng, http, http.len()) } else { vec![] },
        upgrade: rng.bool().then(|| upgrade(rng)),
        max_request_bytes: number(rng, u32::MAX).map(u64::from),
        timeout: time(rng),
        stream_idle_timeout: if rng.bool() { time(rng) } else { Some(<_>::default()) },
        tunnel_idle_timeout: time(rng),
        via: rng.bool().then(|| rng.bool()),
        ..v1::Route::default()
    };
    route.r#match = rng.bool().then(|| v1::RouteMatch {
        host: one_of(rng, &["", "example.com", "*.Example.com", "[::1]"]),
        method: one_of(rng, &["", "GET", "M-SEARCH", "it's"]),
        headers: headers(rng),
        from: networks(rng),
        not_from: networks(rng),
        ..match rng.u8(0..3) {
            0 => v1::RouteMatch { path: path(rng), ..v1::RouteMatch::default() },
            1 => v1::RouteMatch { path_prefix: path(rng), ..v1::RouteMatch::default() },
            _ => v1::RouteMatch::default(),
        }
    });
    match rng.u8(0..4) {
        0 => route.backend_set = some_of(rng, sets, 1).remove(0),
        1 => {
            let targets = some_of(rng, sets, 3);
            let mut weights: Vec<_> = targets.iter().map(|_| number(rng, 65_535)).collect();
            weights[0] = Some(1);
            let forward = targets.into_iter().zip(weights);
            let forward =
                forward.map(|(backend_set, weight)| v1::WeightedBackendSet { backend_set, weight });
            route.forward = forward.collect();
        }
        2 => {
            route.redirect = Some(v1::Redirect {
                status: if rng.bool() { 308 } else { 0 },
                scheme: one_of(rng, &["", "http", "https"]),
                host: one_of(rng, &["", "example.org:8443"]),
                path: path(rng),
            });
        }
        _ => {
            route.answer = Some(v1::Answer {
                status: rng.u32(200..600),
                body: string(rng),
                headers: headers(rng),
            });
        }
    }
    route.retry = rng.bool().then(|| v1::Retry {
        attempts: within(rng, 1, 255),
        on: if rng.bool() { vec!["5xx".into(), "429".into()] } else { vec![] },
        per_try_timeout: time(rng),
        backoff: time(rng),
        budget_percent: number(rng, 100),
        max_body_bytes: number(rng, 16 * 1024 * 1024).map(u64::from),
    });
    route
}

fn any_tcp_route(rng: &mut Rng, sets: &[String]) -> v1::Route {
    v1::Route {
        name: "by-sni".into(),
        listeners: vec!["edge".into()],
        r#match: rng.bool().then(|| v1::RouteMatch {
            sni: one_of(rng, &["", "example.com", "*.Example.com"]),
            alpn: one_of(rng, &["", "h2", "it's"]),
            from: networks(rng),
            ..v1::RouteMatch::default()
        }),
        backend_set: some_of(rng, sets, 1).remove(0),
        ..v1::Route::default()
    }
}

fn any_set(rng: &mut Rng, name: &str, certificates: &[String]) -> v1::BackendSet {
    let hashed = rng.bool();
    let health_check = rng.bool().then(|| any_check(rng));
    let backends = (0..rng.u16(0..5)).map(|i| v1::Backend {
        address: if rng.bool() { format!("10.0.0.1:{i}") } else { format!("[fd00::1]:{i}") },
        name: if rng.bool() { format!("b/{i}@[x]") } else { String::new() },
        weight: number(rng, 65_535),
        state: one_of(rng, &["", "active", "draining", "disabled"]),
    });
    let backends = backends.collect();
    v1::BackendSet {
        name: name.into(),
        balance: match hashed {
            true => "consistent_hash".into(),
            false => one_of(rng, &["", "round_robin", "least_connections", "random"]),
        },
        hash: (hashed && rng.bool()).then(|| any_hash(rng)),
        health_check,
        backends,
        outlier_ejection: rng.bool().then(|| v1::OutlierEjection {
            disabled: rng.bool(),
            consecutive_failures: within(rng, 1, u32::MAX),
            interval: time(rng),
            min_requests: within(rng, 1, u32::MAX),
            failure_percent: within(rng, 1, 100),
            base_time: time(rng),
            max_time: time(rng),
            max_percent: number(rng, 100),
        }),
        connect_timeout: time(rng),
        proxy_protocol: one_of(rng, &["", "v1", "v2"]),
        slow_start: if rng.bool() { time(rng) } else { Some(<_>::default()) },
        pool: rng
            .bool()
            .then(|| v1::Pool { max_idle: number(rng, u32::MAX), idle_timeout: time(rng) }),
        tls: rng.bool().then(|| any_backend_tls(rng, certificates)),
    }
}

fn any_backend_tls(rng: &mut Rng, certificates: &[String]) -> v1::BackendTls {
    let verify = [None, Some(true), Some(false)][rng.usize(..3)];
    let shows = !certificates.is_empty() && rng.bool();
    v1::BackendTls {
        ca: if verify == Some(false) { String::new() } else { one_of(rng, &PEMS) },
        server_name: one_of(rng, &["", "App.internal", "fd00::1"]),
        client_certificate: if shows {
            some_of(rng, certificates, 1).remove(0)
        } else {
            String::new()
        },
        verify,
        min_version: one_of(rng, &["", "1.2", "1.3"]),
    }
}

fn any_hash(rng: &mut Rng) -> v1::Hash {
    let algorithm = one_of(rng, &["", "maglev", "rendezvous"]);
    let sizes = [None, Some(65_537), Some(655_373), Some(5_000_011)];
    v1::Hash {
        key: one_of(rng, &["", "path", "header:X-User", "cookie:\"ü'\\"]),
        function: one_of(rng, &["", "xxh3", "crc32"]),
        table_size: if algorithm == "rendezvous" { None } else { sizes[rng.usize(..sizes.len())] },
        algorithm,
    }
}

fn any_check(rng: &mut Rng) -> v1::HealthCheck {
    let goes_to = rng.u8(0..3);
    let check = v1::HealthCheck {
        port: if goes_to == 1 { rng.u32(1..=65_535) } else { 0 },
        address: if goes_to == 2 {
            one_of(rng, &["10.0.0.9:1", "[fd00::9]:65535"])
        } else {
            String::new()
        },
        interval: time(rng),
        timeout: time(rng),
        healthy_after: within(rng, 1, 255),
        unhealthy_after: within(rng, 1, 255),
        host: one_of(rng, &["", "app.internal:80"]),
        prove_first: rng.bool(),
        max_unhealthy_percent: number(rng, 100),
        ..v1::HealthCheck::default()
    };
    match rng.u8(0..3) {
        0 => v1::HealthCheck {
            tcp: true,
            send: one_of(rng, &["", "PING\r\n", "\0\"'\\ü"]),
            expect: one_of(rng, &["", "+PONG", "\u{7f}\t"]),
            ..check
        },
        1 => v1::HealthCheck { grpc: Some(one_of(rng, &["", "a.v1.\"B\\\n"])), ..check },
        _ => v1::HealthCheck {
            http: one_of(rng, &["", "/health?x='1'"]),
            statuses: if rng.bool() { vec!["2xx".into(), "204".into()] } else { vec![] },
            headers: headers(rng),
            expect_body: one_of(rng, &["", "ready", "{\"is\": 'up'}\n"]),
            ..check
        },
    }
}

/// Unlike that of any other index.
fn name(rng: &mut Rng, i: usize) -> String {
    format!("{}{i}", one_of(rng, &["a", "1", "x/y", "-", "[::]", "true", "a.b", "@:_"]))
}

fn one_of(rng: &mut Rng, texts: &[&str]) -> String {
    texts[rng.usize(..texts.len())].into()
}

/// At least one, in any order, none twice.
fn some_of(rng: &mut Rng, texts: &[String], most: usize) -> Vec<String> {
    let mut texts = texts.to_vec();
    rng.shuffle(&mut texts);
    texts.truncate(rng.usize(1..=most));
    texts
}

fn number(rng: &mut Rng, most: u32) -> Option<u32> {
    within(rng, 0, most)
}

fn within(rng: &mut Rng, least: u32, most: u32) -> Option<u32> {
    let some = [least, least.saturating_add(1).min(most), most, rng.u32(least..=most)];
    rng.bool().then(|| some[rng.usize(..some.len())])
}

/// In any order and case, some twice.
fn upgrade(rng: &mut Rng) -> prost_types::ListValue {
    let protocols = ["websocket", "WebSocket", "h2c", "x~1"];
    list::to_wire((0..rng.usize(0..4)).map(|_| one_of(rng, &protocols)).collect::<Vec<_>>())
}

fn time(rng: &mut Rng) -> Option<prost_types::Duration> {
    rng.bool().then(|| match rng.u8(0..3) {
        0 => prost_types::Duration { seconds: rng.i64(1..=86_399), nanos: 0 },
        1 => prost_types::Duration { seconds: 0, nanos: rng.i32(1..1_000) * 1_000_000 },
        _ => {
            prost_types::Duration { seconds: rng.i64(1..86_400), nanos: rng.i32(0..1_000_000_000) }
        }
    })
}

fn path(rng: &mut Rng) -> String {
    one_of(rng, &["/", "/a/b", "/%20", "/it's\"quoted\"", "/[x]", "/a;b=c,d"])
}

/// Names are in any case, and none is there in two.
fn headers(rng: &mut Rng) -> BTreeMap<String, String> {
    let names = ["x-canary", "Content-Type", "B", "a", "1", "it's", "x.y", "~"];
    let values = ["", "*", "text/plain; q=\"1\"", "a\tb", "\\n \\", "'''", "\"\"\"", "# no"];
    (0..rng.usize(0..4)).map(|_| (one_of(rng, &names), one_of(rng, &values))).collect()
}

/// Anything that a text may be.
fn string(rng: &mut Rng) -> String {
    let odd = ["\n", "\r\n", "\t", "\"", "'", "\\", "\"\"\"", "'''", "\0", "\u{7f}", "ü", "🦀"];
    let plain = ["", "User-agent: *", "#", " ", "=", "[[routes]]", "\u{feff}", "\u{2028}"];
    let all = [&odd[..], &plain].concat();
    (0..rng.usize(0..12)).map(|_| one_of(rng, &all)).collect()
}

mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::{DescriptorProto, FileDescriptorSet};
    use serde_json::Value;

    use super::*;
    use crate::{DESCRIPTORS, encode::Defaults, parse};

    /// The paths of all fields, like `routes.retry.attempts`.
    fn declared(messages: &[DescriptorProto], name: &str, path: &str, into: &mut BTreeSet<String>) {
        let of = |name: &str| messages.iter().find(|m| format!(".lb.v1.{}", m.name()) == name);
        for field in &of(name).unwrap_or_else(|| panic!("there is no {name}")).field {
            let path = format!("{path}.{}", field.name());
            // Maps and what is not ours are not looked into.
            if of(field.type_name()).is_some() {
                declared(messages, field.type_name(), &path, into);
            }
            into.insert(path);
        }
    }

    fn given(value: &Value, path: &str, into: &mut BTreeSet<String>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| given(item, path, into)),
            Value::Object(fields) => {
                for (key, value) in fields {
                    let path = format!("{path}.{key}");
                    if !path.ends_with(".headers") {
                        given(value, &path, into);
                    }
                    into.insert(path);
                }
            }
            _ => {}
        }
    }

    /// A field that one of them forgets would pass every test that goes there and back.
    #[test]
    fn every_field_is_given_by_some_and_survives_parsing_and_encoding() {
        let files = FileDescriptorSet::decode(DESCRIPTORS).expect("it was just encoded").file;
        let messages: Vec<_> = files.into_iter().flat_map(|file| file.message_type).collect();
        let mut all = BTreeSet::new();
        declared(&messages, ".lb.v1.Spec", "", &mut all);
        let (mut wire, mut encoded) = (BTreeSet::new(), BTreeSet::new());
        for seed in 0..200 {
            let spec = any_spec(&mut Rng::with_seed(seed));
            let state = parse::desired_state(&spec).expect("they are valid");
            let json = |spec| serde_json::to_value(spec).expect("a spec has a JSON form");
            given(&json(spec), "", &mut wire);
            given(&json(Defaults::LeftOut.spec(&state)), "", &mut encoded);
        }
        let missing = |some: &BTreeSet<String>| all.difference(some).cloned().collect::<Vec<_>>();
        assert_eq!(missing(&wire), Vec::<String>::new(), "no spec gives these");
        assert_eq!(missing(&encoded), Vec::<String>::new(), "these get lost");
    }
}
