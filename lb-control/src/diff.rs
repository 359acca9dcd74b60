//! What changes between two states, field by field, for people.
//!
//! States are compared in the shape that people write them in, as trees, so that a field that is
//! added to the spec is compared from that day on. They are compared with their defaults in place, so
//! that what is not given is shown as what it means; what comes or goes as a whole is shown as
//! people wrote it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_common::{
    map::{Change, Map as Parts, changes},
    spec::DesiredState,
};
use lb_proto::{
    encode::{self, Defaults},
    v1,
};
use serde::Serialize;
use serde_json::{Map, Value};
use v1::change::Kind;

/// Longer values are cut.
const MOST_CHARS: usize = 200;

/// Every difference, in the order listeners, routes, backend sets, certificates; empty only for equal states.
pub fn diff(before: &DesiredState, after: &DesiredState) -> Vec<v1::Change> {
    let mut diff = Diff::default();
    diff.parts("listeners", &before.listeners, &after.listeners, Defaults::listener);
    diff.parts("routes", &before.routes, &after.routes, Defaults::route);
    diff.parts("backend_sets", &before.backend_sets, &after.backend_sets, Defaults::backend_set);
    diff.parts("certificates", &before.certificates, &after.certificates, |_, certificate| {
        encode::certificate(certificate)
    });
    diff.changes
}

#[derive(Default)]
struct Diff {
    changes: Vec<v1::Change>,
}

/// A part of a state, with its defaults and without; null where there is nothing.
#[derive(Clone, Copy)]
struct Node<'a> {
    full: &'a Value,
    given: &'a Value,
}

static NOTHING: Node<'static> = Node { full: &Value::Null, given: &Value::Null };

// === impl Diff ===

impl Diff {
    fn parts<K, V, W>(
        &mut self,
        kind: &str,
        before: &Parts<K, Arc<V>>,
        after: &Parts<K, Arc<V>>,
        encode: impl Fn(Defaults, &V) -> W,
    ) where
        K: Ord + std::fmt::Display,
        V: PartialEq,
        W: Serialize,
    {
        let tree = |part: Option<&Arc<V>>, defaults| {
            part.map_or(Value::Null, |part| {
                serde_json::to_value(encode(defaults, part)).expect("a spec has a JSON form")
            })
        };
        for Change { key, old, new } in changes(before, after) {
            let full = [old, new].map(|part| tree(part, Defaults::SpelledOut));
            let given = [old, new].map(|part| tree(part, Defaults::LeftOut));
            let [old, new] = [0, 1].map(|i| Node { full: &full[i], given: &given[i] });
            self.compare(&format!("{kind}[{key}]"), old, new);
        }
    }

    fn compare(&mut self, path: &str, before: Node<'_>, after: Node<'_>) {
        if before.full == after.full || before.is_implied_by(after) || after.is_implied_by(before) {
            return;
        }
        match (before.full, after.full) {
            (Value::Object(_), Value::Object(_)) => self.fields(path, before, after),
            // Maps, which are not there where they are empty.
            (Value::Object(_), Value::Null) | (Value::Null, Value::Object(_))
                if path.ends_with(".headers") =>
            {
                self.fields(path, before, after);
            }
            (Value::Array(_), Value::Array(_)) => match (before.by_key(), after.by_key()) {
                (Some(old), Some(new)) => self.elements(path, &old, &new),
                _ => self.leaf(path, before, after),
            },
            _ => self.leaf(path, before, after),
        }
    }

    fn fields(&mut self, path: &str, before: Node<'_>, after: Node<'_>) {
        for key in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
            self.compare(&format!("{path}.{key}"), before.field(key), after.field(key));
        }
    }

    fn elements(&mut self, path: &str, before: &[(&str, Node<'_>)], after: &[(&str, Node<'_>)]) {
        let old: BTreeMap<_, _> = before.iter().copied().collect();
        let new: BTreeMap<_, _> = after.iter().copied().collect();
        let gone = before.iter().filter(|(key, _)| !new.contains_key(key));
        for (key, _) in gone.chain(after) {
            let of = |map: &BTreeMap<&str, _>| map.get(key).copied().unwrap_or(NOTHING);
            self.compare(&format!("{path}[{key}]"), of(&old), of(&new));
        }
        let order = |list: &[(&str, Node<'_>)], other: &BTreeMap<&str, Node<'_>>| {
            let common = list.iter().map(|(key, _)| *key).filter(|key| other.contains_key(key));
            Value::from_iter(common)
        };
        let (was, is) = (order(before, &new), order(after, &old));
        if was != is {
            let node = |value| Node { full: value, given: value };
            self.leaf(path, node(&was), node(&is));
        }
    }

    fn leaf(&mut self, path: &str, before: Node<'_>, after: Node<'_>) {
        let shown = [before.shown(path, after), after.shown(path, before)];
        let [before, after] = shown;
        let kind = match (&before, &after) {
            (None, _) => Kind::Added,
            (_, None) => Kind::Removed,
            _ => Kind::Changed,
        };
        self.changes.push(v1::Change {
            kind: kind.into(),
            field: path.into(),
            before: before.unwrap_or_default(),
            after: after.unwrap_or_default(),
        });
    }
}

// === impl Node ===

impl<'a> Node<'a> {
    /// Whether nothing stands against defaults that only come with something else, as those of a
    /// hash come with the balance that hashes.
    fn is_implied_by(self, other: Node<'_>) -> bool {
        self.full.is_null() && other.given.is_null()
    }

    fn keys(self) -> impl Iterator<Item = &'a String> {
        self.full.as_object().into_iter().flat_map(Map::keys)
    }

    fn field(self, key: &str) -> Self {
        let of = |value: &'a Value| value.get(key).unwrap_or(&Value::Null);
        Self { full: of(self.full), given: of(self.given) }
    }

    /// The elements by name, address or backend set; none if they have no names or share one.
    fn by_key(self) -> Option<Vec<(&'a str, Self)>> {
        let (full, given) = (self.full.as_array()?, self.given.as_array()?);
        let keyed = full.iter().zip(given).map(|(full, given)| {
            let field = |key| full.get(key)?.as_str();
            let key = field("name").or(field("address")).or(field("backend_set"))?;
            Some((key, Self { full, given }))
        });
        let keyed: Vec<_> = keyed.collect::<Option<_>>()?;
        let keys: BTreeSet<_> = keyed.iter().map(|(key, _)| key).collect();
        (keys.len() == keyed.len()).then_some(keyed)
    }

    /// For people, beside what it is compared with; `None` if it is nothing.
    fn shown(self, path: &str, other: Node<'_>) -> Option<String> {
        match (self.full, other.full) {
            // Neither does the wire say these where they are so.
            (Value::Null, Value::Bool(true)) => Some("false".into()),
            (Value::Null, _) if path.starts_with("routes[") && path.ends_with("].listeners") => {
                Some("all".into())
            }
            (Value::Null, _) => None,
            (full, _) => Some(shorten(text(if self.given.is_null() { full } else { self.given }))),
        }
    }
}

fn text(value: &Value) -> String {
    let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(", ");
    match value {
        Value::Null => String::new(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(value) => value.clone(),
        Value::Array(items) => format!("[{}]", list(&mut items.iter().map(text))),
        Value::Object(fields) => {
            let mut fields = fields.iter().map(|(key, value)| format!("{key}: {}", text(value)));
            format!("{{ {} }}", list(&mut fields))
        }
    }
}

fn shorten(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MOST_CHARS) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::tests::state;

    /// Differences as lines: `+ field: after`, `- field: before`, `field: before -> after`.
    #[track_caller]
    fn check(before: &str, after: &str, expected: &[&str]) {
        let lines: Vec<_> = diff(&state(before), &state(after))
            .into_iter()
            .map(|change| {
                let v1::Change { field, before, after, .. } = &change;
                match change.kind() {
                    Kind::Added => format!("+ {field}: {after}"),
                    Kind::Removed => format!("- {field}: {before}"),
                    Kind::Changed | Kind::Unspecified => format!("{field}: {before} -> {after}"),
                }
            })
            .collect();
        assert_eq!(lines, expected);
    }

    /// One set with these fields.
    fn set(fields: &str) -> String {
        format!("backend_sets = [{{ name = 'app', {fields} }}]")
    }

    #[test]
    fn equal_states_do_not_differ() {
        check(&set("balance = 'random'"), &set("balance = 'random'"), &[]);
        check(&set("balance = 'round_robin'"), &set("pool = {}"), &[]);
    }

    #[test]
    fn a_field_is_told_with_both_values_and_defaults_are_spelled_out() {
        check(
            &set("backends = [{ address = '127.0.0.1:3002' }]"),
            &set("backends = [{ address = '127.0.0.1:3002', weight = 2, state = 'draining' }]"),
            &[
                "backend_sets[app].backends[127.0.0.1:3002].state: active -> draining",
                "backend_sets[app].backends[127.0.0.1:3002].weight: 1 -> 2",
            ],
        );
        check(
            &set("backends = [{ address = '127.0.0.1:3002', weight = 2 }]"),
            &set("backends = [{ address = '127.0.0.1:3002', weight = 0 }]"),
            &["backend_sets[app].backends[127.0.0.1:3002].weight: 2 -> 0"],
        );
    }

    #[test]
    fn a_backend_with_a_name_is_called_by_it() {
        check(
            &set("backends = [{ name = 'one', address = '127.0.0.1:1' }]"),
            &set("backends = [{ name = 'one', address = '127.0.0.1:2' }]"),
            &["backend_sets[app].backends[one].address: 127.0.0.1:1 -> 127.0.0.1:2"],
        );
    }

    #[test]
    fn whole_parts_come_and_go() {
        check(
            "listeners = [{ name = 'a', address = '127.0.0.1:1' }]",
            "listeners = [{ name = 'b', address = '127.0.0.1:2', idle_timeout = '1.5s' }]",
            &[
                "- listeners[a]: { address: 127.0.0.1:1, name: a }",
                "+ listeners[b]: { address: 127.0.0.1:2, idle_timeout: 1.5s, name: b }",
            ],
        );
        check(
            &set("backends = [{ address = '127.0.0.1:1' }, { address = '127.0.0.1:2' }]"),
            &set("backends = [{ address = '127.0.0.1:2' }, { address = '127.0.0.1:3' }]"),
            &[
                "- backend_sets[app].backends[127.0.0.1:1]: { address: 127.0.0.1:1 }",
                "+ backend_sets[app].backends[127.0.0.1:3]: { address: 127.0.0.1:3 }",
            ],
        );
    }

    #[test]
    fn a_message_that_means_its_defaults_is_compared_by_field_and_others_are_not() {
        check(
            &set(""),
            &set("outlier_ejection = { disabled = true }, health_check = { http = '/up' }"),
            &[
                "+ backend_sets[app].health_check: { http: /up }",
                "backend_sets[app].outlier_ejection.disabled: false -> true",
            ],
        );
        check(&set(""), &set("slow_start = '30s'"), &["backend_sets[app].slow_start: 0s -> 30s"]);
        check(
            "routes = [{ name = 'a', answer = { status = 200 }, retry = { attempts = 5 } }]",
            "routes = [{ name = 'a', answer = { status = 201 }, match = { headers = { x = '1' } } }]",
            &[
                "routes[a].answer.status: 200 -> 201",
                "+ routes[a].match.headers.x: 1",
                "routes[a].retry.attempts: 5 -> 3",
            ],
        );
        check(
            "routes = [{ name = 'a', redirect = { path = '/b' } }]",
            "routes = [{ name = 'a', redirect = { path = '/b', status = 308 } }]",
            &["routes[a].redirect.status: 302 -> 308"],
        );
    }

    #[test]
    fn what_is_a_default_of_something_else_is_told_as_what_it_means() {
        let listener = |fields: &str| {
            format!(
                "listeners = [{{ name = 'a', address = '127.0.0.1:1', {fields} }}]\n{}",
                set("")
            )
        };
        check(
            &listener(""),
            &listener("protocol = 'tcp', backend_set = 'app', max_connections = 9"),
            &[
                "+ listeners[a].backend_set: app",
                "listeners[a].idle_timeout: 75s -> 3600s",
                "listeners[a].max_connections: 0 -> 9",
                "listeners[a].protocol: http -> tcp",
            ],
        );
        let route = |fields: &str| {
            format!("routes = [{{ name = 'a', answer = {{ status = 200 }}, {fields} }}]")
        };
        check(
            &route("via = false, upgrade = [], max_request_bytes = 0"),
            &route("stream_idle_timeout = '0s'"),
            &[
                "- routes[a].max_request_bytes: 0",
                "routes[a].stream_idle_timeout: 60s -> 0s",
                "routes[a].upgrade: [] -> [websocket]",
                "routes[a].via: false -> true",
            ],
        );
        check(
            &format!("listeners = [{{ name = 'w', address = '127.0.0.1:1' }}]\n{}", route("")),
            &format!(
                "listeners = [{{ name = 'w', address = '127.0.0.1:1' }}]\n{}",
                route("listeners = ['w']")
            ),
            &["routes[a].listeners: all -> [w]"],
        );
    }

    #[test]
    fn defaults_that_come_with_a_choice_are_not_told() {
        check(
            &set("health_check = {}"),
            &set("health_check = { tcp = true }, balance = 'consistent_hash'"),
            &[
                "backend_sets[app].balance: round_robin -> consistent_hash",
                "- backend_sets[app].health_check.http: /health",
                "backend_sets[app].health_check.tcp: false -> true",
            ],
        );
        check(
            &set("balance = 'consistent_hash', hash = { algorithm = 'rendezvous' }"),
            &set("balance = 'consistent_hash', hash = { key = 'path' }"),
            &[
                "backend_sets[app].hash.algorithm: rendezvous -> maglev",
                "backend_sets[app].hash.key: client_address -> path",
            ],
        );
    }

    #[test]
    fn another_order_is_a_change_because_it_is_another_state() {
        check(
            &set("backends = [{ address = '127.0.0.1:1' }, { address = '127.0.0.1:2' }]"),
            &set("backends = [{ address = '127.0.0.1:2' }, { address = '127.0.0.1:1' }]"),
            &[
                "backend_sets[app].backends: [127.0.0.1:1, 127.0.0.1:2] -> [127.0.0.1:2, 127.0.0.1:1]",
            ],
        );
    }

    #[test]
    fn long_values_are_cut() {
        let answer = |body: &str| {
            format!("routes = [{{ name = 'a', answer = {{ status = 200, body = '{body}' }} }}]")
        };
        let changes = diff(&state(&answer("")), &state(&answer(&"ü".repeat(5_000))));
        assert_eq!(changes[0].after.chars().count(), MOST_CHARS + 1);
    }
}
