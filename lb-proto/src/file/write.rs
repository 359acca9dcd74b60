//! A spec as people would write it: what is small on one line, one line a backend, nothing that was
//! not given.
//!
//! The fields are named one by one, so that the compiler asks about a new one.

use serde::Serialize;
use toml::ser::ValueSerializer;

use crate::{duration, list, v1};

/// A message that would make its line longer gets a table of its own.
const WIDTH: usize = 100;

/// What [`parse`](super::parse()) reads back.
pub fn to_toml(spec: &v1::Spec) -> String {
    let v1::Spec { listeners, routes, backend_sets, certificates } = spec;
    let parts = certificates.iter().map(certificate).chain(listeners.iter().map(listener));
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
    let v1::Listener {
        name,
        address,
        protocol,
        backend_set,
        idle_timeout,
        header_timeout,
        body_timeout,
        write_timeout,
        max_connections,
        max_connections_per_client,
        max_requests_per_connection,
        max_header_bytes,
        max_header_fields,
        max_target_bytes,
        path_normalization,
        tls,
        trusted_proxies,
        proxy_protocol,
        forwarded,
        forwarded_header,
        hsts,
        redirect_to_https,
    } = listener;
    let mut element = Element::new("listeners");
    element.value("name", name);
    element.value("address", address);
    element.value("protocol", protocol);
    element.value("backend_set", backend_set);
    element.duration("idle_timeout", *idle_timeout);
    element.duration("header_timeout", *header_timeout);
    element.duration("body_timeout", *body_timeout);
    element.duration("write_timeout", *write_timeout);
    element.value("max_connections", max_connections);
    element.value("max_connections_per_client", max_connections_per_client);
    element.value("max_requests_per_connection", max_requests_per_connection);
    element.value("max_header_bytes", max_header_bytes);
    element.value("max_header_fields", max_header_fields);
    element.value("max_target_bytes", max_target_bytes);
    element.value("path_normalization", path_normalization);
    element.message("tls", tls.as_ref());
    element.value("trusted_proxies", trusted_proxies);
    element.value("proxy_protocol", proxy_protocol);
    element.value("forwarded", forwarded);
    element.value("forwarded_header", forwarded_header);
    element.value("hsts", hsts);
    element.value("redirect_to_https", redirect_to_https);
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
        upgrade,
        max_request_bytes,
        stream_idle_timeout,
        tunnel_idle_timeout,
        via,
    } = route;
    let mut element = Element::new("routes");
    element.value("name", name);
    element.value("listeners", listeners);
    element.message("match", r#match.as_ref());
    element.value("backend_set", backend_set);
    element.lines("forward", forward);
    element.message("redirect", redirect.as_ref());
    element.message("answer", answer.as_ref());
    if let Some(Ok(protocols)) = upgrade.as_ref().map(list::from_wire) {
        element.line("upgrade", &inline(&protocols));
    }
    element.value("max_request_bytes", max_request_bytes);
    element.duration("timeout", *timeout);
    element.duration("stream_idle_timeout", *stream_idle_timeout);
    element.duration("tunnel_idle_timeout", *tunnel_idle_timeout);
    element.value("via", via);
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
        slow_start,
        tls,
        proxy_protocol,
    } = set;
    let mut element = Element::new("backend_sets");
    element.value("name", name);
    element.value("balance", balance);
    element.message("hash", hash.as_ref());
    element.message("health_check", health_check.as_ref());
    element.message("outlier_ejection", outlier_ejection.as_ref());
    element.duration("connect_timeout", *connect_timeout);
    element.duration("slow_start", *slow_start);
    element.message("pool", pool.as_ref());
    element.message("tls", tls.as_ref());
    element.value("proxy_protocol", proxy_protocol);
    element.lines("backends", backends);
    element.finish()
}

fn certificate(certificate: &v1::Certificate) -> String {
    let v1::Certificate { name, cert, key, acme } = certificate;
    let mut element = Element::new("certificates");
    element.value("name", name);
    element.value("cert", cert);
    element.value("key", key);
    element.message("acme", acme.as_ref());
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
    use fastrand::Rng;

    use super::*;
    use crate::{any::any_spec, file::parse};

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
}
