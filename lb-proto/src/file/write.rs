//! A spec as people would write it: what is small on one line, one line a backend, nothing that was
//! not given.
//!
//! The fields are named one by one, so that the compiler asks about a new one.

use serde::Serialize;
use toml::ser::ValueSerializer;

use crate::{duration, v1};

/// A message that would make its line longer gets a table of its own.
const WIDTH: usize = 100;

/// What [`parse`](super::parse()) reads back.
pub fn to_toml(spec: &v1::Spec) -> String {
    let v1::Spec { listeners, routes, backend_sets } = spec;
    let parts = listeners.iter().map(listener);
    let parts = parts.chain(routes.iter().map(route)).chain(backend_sets.iter().map(backend_set));
    parts.collect::<Vec<_>>().join("\n")
}

/// One element of a list of tables.
struct Element {
    list: &'static str,
    lines: String,
    /// What follows all plain lines, because it has a header.
    tables: String,
}

fn listener(listener: &v1::Listener) -> String {
    let v1::Listener { name, address, protocol, backend_set, idle_timeout, header_timeout } =
        listener;
    let mut element = Element::new("listeners");
    element.value("name", name);
    element.value("address", address);
    element.value("protocol", protocol);
    element.value("backend_set", backend_set);
    element.duration("idle_timeout", *idle_timeout);
    element.duration("header_timeout", *header_timeout);
    element.finish()
}

fn route(route: &v1::Route) -> String {
    let v1::Route {
        name,
        listeners,
        r#match,
        backend_set,
        forward,
        redirect,
        answer,
        timeout,
        retry,
    } = route;
    let mut element = Element::new("routes");
    element.value("name", name);
    element.value("listeners", listeners);
    element.message("match", r#match.as_ref());
    element.value("backend_set", backend_set);
    element.lines("forward", forward);
    element.message("redirect", redirect.as_ref());
    element.message("answer", answer.as_ref());
    element.duration("timeout", *timeout);
    element.message("retry", retry.as_ref());
    element.finish()
}

fn backend_set(set: &v1::BackendSet) -> String {
    let v1::BackendSet {
        name,
        balance,
        hash,
        health_check,
        backends,
        outlier_ejection,
        connect_timeout,
        pool,
    } = set;
    let mut element = Element::new("backend_sets");
    element.value("name", name);
    element.value("balance", balance);
    element.message("hash", hash.as_ref());
    element.message("health_check", health_check.as_ref());
    element.message("outlier_ejection", outlier_ejection.as_ref());
    element.duration("connect_timeout", *connect_timeout);
    element.message("pool", pool.as_ref());
    element.lines("backends", backends);
    element.finish()
}

/// On one line, unless there are line breaks in it.
fn inline(value: &impl Serialize) -> String {
    let mut text = String::new();
    value
        .serialize(ValueSerializer::new(&mut text))
        .expect("all numbers of a valid spec are far below what TOML can say");
    text
}

// === impl Element ===

impl Element {
    fn new(list: &'static str) -> Self {
        Self { list, lines: format!("[[{list}]]\n"), tables: String::new() }
    }

    fn finish(self) -> String {
        self.lines + &self.tables
    }

    fn value<T: Serialize + Default + PartialEq>(&mut self, key: &str, value: &T) {
        if *value != T::default() {
            self.line(key, &inline(value));
        }
    }

    fn duration(&mut self, key: &str, wire: Option<prost_types::Duration>) {
        // A valid one is not negative, which is all that can be wrong.
        if let Some(Ok(value)) = wire.map(duration::from_wire) {
            self.line(key, &inline(&duration::format(value)));
        }
    }

    /// Stays even if there is nothing in it, because it may mean something that it is there.
    fn message(&mut self, key: &str, message: Option<&impl Serialize>) {
        let Some(message) = message else { return };
        let text = inline(message);
        if key.len() + " = ".len() + text.len() <= WIDTH {
            self.line(key, &text);
            return;
        }
        let fields = toml::Table::try_from(message).expect("messages are tables");
        self.tables.push_str(&format!("\n[{}.{key}]\n", self.list));
        for (key, value) in &fields {
            self.tables.push_str(&format!("{key} = {}\n", inline(value)));
        }
    }

    /// One line an item.
    fn lines(&mut self, key: &str, items: &[impl Serialize]) {
        if items.is_empty() {
            return;
        }
        let items: String = items.iter().map(|item| format!("  {},\n", inline(item))).collect();
        self.line(key, &format!("[\n{items}]"));
    }

    fn line(&mut self, key: &str, value: &str) {
        self.lines.push_str(&format!("{key} = {value}\n"));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fastrand::Rng;

    use super::*;
    use crate::file::parse;

    #[test]
    fn it_looks_as_people_write_it() {
        let text = "\
[[listeners]]
name = \"web\"
address = \"0.0.0.0:8080\"
idle_timeout = \"1.5s\"

[[routes]]
name = \"app\"
match = { path_prefix = \"/\", headers = { x-canary = \"*\" } }
forward = [
  { backend_set = \"app\", weight = 9 },
  { backend_set = \"app\" },
]
retry = { attempts = 3, on = [\"connect-failure\", \"5xx\"], backoff = \"25ms\" }

[[backend_sets]]
name = \"app\"
health_check = {}
backends = [
  { address = \"127.0.0.1:3001\" },
  { address = \"[::1]:3002\", name = \"two\", weight = 0, state = \"draining\" },
]
";
        let spec = parse(text).expect("it is right");
        assert_eq!(to_toml(&spec), text);
    }

    #[test]
    fn what_is_long_gets_a_table_of_its_own() {
        let text = format!(
            "[[routes]]\nname = \"a\"\ntimeout = \"5s\"\n\n[routes.answer]\nbody = \"{}\"\n\
             headers = {{ a = \"b\" }}\nstatus = 200\n",
            "x".repeat(WIDTH)
        );
        let spec = parse(&text).expect("it is right");
        let written = to_toml(&spec);
        assert_eq!(parse(&written), Ok(spec));
        let (head, table) = written.split_once("\n\n").expect("there is a table");
        assert_eq!(head, "[[routes]]\nname = \"a\"\ntimeout = \"5s\"");
        assert!(table.starts_with("[routes.answer]\n"), "{table}");
        assert!(table.contains("\nheaders = { a = \"b\" }\n"), "{table}");
    }

    #[test]
    fn what_is_written_is_read_back_the_same() {
        let seed = fastrand::u64(..);
        for seed in (0..500).chain([seed]) {
            let spec = any_spec(&mut Rng::with_seed(seed));
            let text = to_toml(&spec);
            let read = parse(&text).unwrap_or_else(|error| panic!("seed {seed}: {error}\n{text}"));
            assert_eq!(read, spec, "seed {seed}:\n{text}");
            assert_eq!(to_toml(&read), text, "seed {seed}");
        }
    }

    fn any_spec(rng: &mut Rng) -> v1::Spec {
        let sets: Vec<_> = (0..rng.usize(1..4)).map(|i| name(rng, i)).collect();
        let http: Vec<_> = (0..rng.usize(1..4)).map(|i| name(rng, i)).collect();
        let mut listeners: Vec<_> = (1..)
            .zip(&http)
            .map(|(port, name)| v1::Listener {
                name: name.clone(),
                address: format!("127.0.0.1:{port}"),
                protocol: one_of(rng, &["", "http"]),
                ..any_times(rng)
            })
            .collect();
        listeners.push(v1::Listener {
            name: "tcp".into(),
            address: "[::1]:1".into(),
            protocol: "tcp".into(),
            backend_set: some_of(rng, &sets, 1).remove(0),
            ..any_times(rng)
        });
        v1::Spec {
            listeners,
            routes: (0..rng.usize(0..4)).map(|i| any_route(rng, i, &http, &sets)).collect(),
            backend_sets: sets.iter().map(|name| any_set(rng, name)).collect(),
        }
    }

    fn any_times(rng: &mut Rng) -> v1::Listener {
        v1::Listener {
            idle_timeout: time(rng),
            header_timeout: time(rng),
            ..v1::Listener::default()
        }
    }

    fn any_route(rng: &mut Rng, i: usize, http: &[String], sets: &[String]) -> v1::Route {
        let mut route = v1::Route {
            name: name(rng, i),
            listeners: if rng.bool() { some_of(rng, http, http.len()) } else { vec![] },
            timeout: time(rng),
            ..v1::Route::default()
        };
        route.r#match = rng.bool().then(|| v1::RouteMatch {
            host: one_of(rng, &["", "example.com", "*.Example.com", "[::1]"]),
            method: one_of(rng, &["", "GET", "M-SEARCH", "it's"]),
            headers: headers(rng),
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
                let forward = forward
                    .map(|(backend_set, weight)| v1::WeightedBackendSet { backend_set, weight });
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
            attempts: number(rng, 254).map(|n| n + 1),
            on: if rng.bool() { vec!["5xx".into(), "429".into()] } else { vec![] },
            per_try_timeout: time(rng),
            backoff: time(rng),
            budget_percent: number(rng, 100),
            max_body_bytes: number(rng, 16 * 1024 * 1024).map(u64::from),
        });
        route
    }

    fn any_set(rng: &mut Rng, name: &str) -> v1::BackendSet {
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
            hash: (hashed && rng.bool()).then(|| v1::Hash {
                key: one_of(rng, &["", "path", "header:x-user", "cookie:\"ü'\\"]),
                algorithm: one_of(rng, &["", "maglev", "rendezvous"]),
                function: one_of(rng, &["", "xxh3", "crc32"]),
            }),
            health_check,
            backends,
            outlier_ejection: rng.bool().then(|| v1::OutlierEjection {
                disabled: rng.bool(),
                consecutive_failures: number(rng, u32::MAX - 1).map(|n| n + 1),
                base_time: time(rng),
                max_time: time(rng),
                max_percent: number(rng, 100),
            }),
            connect_timeout: time(rng),
            pool: rng
                .bool()
                .then(|| v1::Pool { max_idle: number(rng, u32::MAX), idle_timeout: time(rng) }),
        }
    }

    fn any_check(rng: &mut Rng) -> v1::HealthCheck {
        let check = v1::HealthCheck {
            interval: time(rng),
            timeout: time(rng),
            healthy_after: number(rng, 254).map(|n| n + 1),
            unhealthy_after: number(rng, 254).map(|n| n + 1),
            host: one_of(rng, &["", "app.internal:80"]),
            prove_first: rng.bool(),
            ..v1::HealthCheck::default()
        };
        match rng.u8(0..3) {
            0 => v1::HealthCheck { tcp: true, ..check },
            1 => v1::HealthCheck { grpc: Some(one_of(rng, &["", "a.v1.\"B\\\n"])), ..check },
            _ => v1::HealthCheck {
                http: one_of(rng, &["", "/health?x='1'"]),
                statuses: if rng.bool() { vec!["2xx".into(), "204".into()] } else { vec![] },
                headers: headers(rng),
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
        let some = [0, 1, most, rng.u32(0..=most)];
        rng.bool().then(|| some[rng.usize(..some.len())])
    }

    fn time(rng: &mut Rng) -> Option<prost_types::Duration> {
        rng.bool().then(|| match rng.u8(0..3) {
            0 => prost_types::Duration { seconds: rng.i64(1..=86_399), nanos: 0 },
            1 => prost_types::Duration { seconds: 0, nanos: rng.i32(1..1_000) * 1_000_000 },
            _ => prost_types::Duration {
                seconds: rng.i64(1..86_400),
                nanos: rng.i32(0..1_000_000_000),
            },
        })
    }

    fn path(rng: &mut Rng) -> String {
        one_of(rng, &["/", "/a/b", "/%20", "/it's\"quoted\"", "/[x]", "/a;b=c,d"])
    }

    fn headers(rng: &mut Rng) -> BTreeMap<String, String> {
        let names = ["x-canary", "content-type", "1", "it's", "x.y", "~"];
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
}
