//! What changes between two states, field by field, for people.
//!
//! States are compared in the shape that people write them in, as trees, so that a field that is
//! added to the spec is compared from that day on. What is not given is shown as its default.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use lb_common::spec::DesiredState;
use lb_proto::{defaults, duration, encode, v1};
use serde::Serialize;
use serde_json::{Map, Value};
use v1::change::Kind;

/// Longer values are cut.
const MOST_CHARS: usize = 200;

/// Messages whose absence means nothing but their defaults. So do maps of headers.
const IMPLIED: [&str; 5] = [
    "routes.match",
    "routes.retry",
    "backend_sets.hash",
    "backend_sets.outlier_ejection",
    "backend_sets.pool",
];

/// Every difference, in the order listeners, routes, backend sets; empty only for equal states.
pub fn diff(before: &DesiredState, after: &DesiredState) -> Vec<v1::Change> {
    let mut diff = Diff::default();
    diff.parts("listeners", &before.listeners, &after.listeners, encode::listener);
    diff.parts("routes", &before.routes, &after.routes, encode::route);
    diff.parts("backend_sets", &before.backend_sets, &after.backend_sets, encode::backend_set);
    diff.changes
}

#[derive(Default)]
struct Diff {
    changes: Vec<v1::Change>,
}

/// Where a value stands: for people, and without the names of elements, to look defaults up.
#[derive(Clone, Copy)]
struct At<'a> {
    path: &'a str,
    field: &'a str,
}

// === impl Diff ===

impl Diff {
    fn parts<K, V, W>(
        &mut self,
        kind: &str,
        before: &BTreeMap<K, Arc<V>>,
        after: &BTreeMap<K, Arc<V>>,
        encode: impl Fn(&V) -> W,
    ) where
        K: Ord + std::fmt::Display,
        V: PartialEq,
        W: Serialize,
    {
        let tree = |part: Option<&Arc<V>>| {
            part.map_or(Value::Null, |part| {
                serde_json::to_value(encode(part)).expect("a spec has a JSON form")
            })
        };
        for name in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
            let (old, new) = (before.get(name), after.get(name));
            let same = old.zip(new).is_some_and(|(old, new)| Arc::ptr_eq(old, new) || old == new);
            if !same {
                let path = format!("{kind}[{name}]");
                self.compare(At { path: &path, field: kind }, &tree(old), &tree(new));
            }
        }
    }

    fn compare(&mut self, at: At<'_>, before: &Value, after: &Value) {
        if before == after || at.is_unset(before) && at.is_unset(after) {
            return;
        }
        let nothing = Map::new();
        let implied = IMPLIED.contains(&at.field) || at.field.ends_with(".headers");
        match (before, after) {
            (Value::Object(before), Value::Object(after)) => self.fields(at, before, after),
            (Value::Null, Value::Object(after)) if implied => self.fields(at, &nothing, after),
            (Value::Object(before), Value::Null) if implied => self.fields(at, before, &nothing),
            (Value::Array(old), Value::Array(new)) => match (by_key(old), by_key(new)) {
                (Some(old), Some(new)) => self.elements(at, &old, &new),
                _ => self.leaf(at, before, after),
            },
            _ => self.leaf(at, before, after),
        }
    }

    fn fields(&mut self, at: At<'_>, before: &Map<String, Value>, after: &Map<String, Value>) {
        for key in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
            let (path, field) = (format!("{}.{key}", at.path), format!("{}.{key}", at.field));
            let at = At { path: &path, field: &field };
            let of = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or_default();
            self.compare(at, &of(before), &of(after));
        }
    }

    fn elements(&mut self, at: At<'_>, before: &[(&str, &Value)], after: &[(&str, &Value)]) {
        let old: BTreeMap<_, _> = before.iter().copied().collect();
        let new: BTreeMap<_, _> = after.iter().copied().collect();
        let gone = before.iter().filter(|(key, _)| !new.contains_key(key));
        for (key, _) in gone.chain(after) {
            let path = format!("{}[{key}]", at.path);
            let of =
                |map: &BTreeMap<&str, &Value>| map.get(key).map_or(Value::Null, |v| (*v).clone());
            self.compare(At { path: &path, field: at.field }, &of(&old), &of(&new));
        }
        let order = |list: &[(&str, &Value)], other: &BTreeMap<&str, &Value>| {
            let common = list.iter().map(|(key, _)| *key).filter(|key| other.contains_key(key));
            Value::from_iter(common)
        };
        let (was, is) = (order(before, &new), order(after, &old));
        if was != is {
            self.leaf(at, &was, &is);
        }
    }

    fn leaf(&mut self, at: At<'_>, before: &Value, after: &Value) {
        let shown = |value: &Value| {
            if at.is_unset(value) { default(at.field) } else { Some(shorten(text(value))) }
        };
        let (before, after) = (shown(before), shown(after));
        let kind = match (&before, &after) {
            (None, _) => Kind::Added,
            (_, None) => Kind::Removed,
            _ => Kind::Changed,
        };
        self.changes.push(v1::Change {
            kind: kind.into(),
            field: at.path.into(),
            before: before.unwrap_or_default(),
            after: after.unwrap_or_default(),
        });
    }
}

// === impl At ===

impl At<'_> {
    /// Whether the value is how the wire says nothing.
    fn is_unset(&self, value: &Value) -> bool {
        match value {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            // The one number that is not optional where it has a default.
            Value::Number(number) => {
                self.field == "routes.redirect.status" && number.as_u64() == Some(0)
            }
            Value::Bool(true) => false,
        }
    }
}

/// The elements by name, address or backend set; none if they have no names or share one.
fn by_key(items: &[Value]) -> Option<Vec<(&str, &Value)>> {
    let keyed = items.iter().map(|item| {
        let field = |key| item.get(key)?.as_str().filter(|text| !text.is_empty());
        Some((field("name").or(field("address")).or(field("backend_set"))?, item))
    });
    let keyed: Vec<_> = keyed.collect::<Option<_>>()?;
    let keys: BTreeSet<_> = keyed.iter().map(|(key, _)| key).collect();
    (keys.len() == keyed.len()).then_some(keyed)
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
            let at = At { path: "", field: "" };
            let given = fields.iter().filter(|(_, value)| !at.is_unset(value));
            let mut given = given.map(|(key, value)| format!("{key}: {}", text(value)));
            format!("{{ {} }}", list(&mut given))
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

/// What a field means where it is not given.
fn default(field: &str) -> Option<String> {
    let time = |value: Duration| Some(duration::format(value));
    let number = |value: u64| Some(value.to_string());
    let word = |value: &str| Some(value.to_owned());
    match field {
        "listeners.protocol" => word("http"),
        "listeners.idle_timeout" => time(defaults::IDLE_TIMEOUT),
        "listeners.header_timeout" => time(defaults::HEADER_TIMEOUT),
        "routes.listeners" => word("all"),
        "routes.timeout" => time(defaults::ROUTE_TIMEOUT),
        "routes.forward.weight" => number(1),
        "routes.redirect.status" => number(defaults::REDIRECT_STATUS.into()),
        "routes.retry.attempts" => number(defaults::RETRY_ATTEMPTS.into()),
        "routes.retry.on" => word("[connect-failure]"),
        "routes.retry.backoff" => time(defaults::RETRY_BACKOFF),
        "routes.retry.budget_percent" => number(defaults::RETRY_BUDGET_PERCENT.into()),
        "routes.retry.max_body_bytes" => number(defaults::RETRY_MAX_BODY_BYTES),
        "backend_sets.balance" => word("round_robin"),
        "backend_sets.hash.key" => word("client_address"),
        "backend_sets.hash.algorithm" => word("maglev"),
        "backend_sets.hash.function" => word("xxh3"),
        "backend_sets.health_check.tcp" => word("false"),
        "backend_sets.health_check.prove_first" => word("false"),
        "backend_sets.health_check.interval" => time(defaults::HEALTH_INTERVAL),
        "backend_sets.health_check.timeout" => time(defaults::HEALTH_TIMEOUT),
        "backend_sets.health_check.healthy_after" => number(defaults::HEALTHY_AFTER.into()),
        "backend_sets.health_check.unhealthy_after" => number(defaults::UNHEALTHY_AFTER.into()),
        "backend_sets.health_check.statuses" => word("[2xx]"),
        "backend_sets.backends.weight" => number(1),
        "backend_sets.backends.state" => word("active"),
        "backend_sets.outlier_ejection.disabled" => word("false"),
        "backend_sets.outlier_ejection.consecutive_failures" => {
            number(defaults::EJECT_AFTER.into())
        }
        "backend_sets.outlier_ejection.base_time" => time(defaults::EJECT_BASE_TIME),
        "backend_sets.outlier_ejection.max_time" => time(defaults::EJECT_MAX_TIME),
        "backend_sets.outlier_ejection.max_percent" => number(defaults::EJECT_MAX_PERCENT.into()),
        "backend_sets.connect_timeout" => time(defaults::CONNECT_TIMEOUT),
        "backend_sets.pool.max_idle" => number(defaults::POOL_MAX_IDLE.into()),
        "backend_sets.pool.idle_timeout" => time(defaults::POOL_IDLE_TIMEOUT),
        _ => None,
    }
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
