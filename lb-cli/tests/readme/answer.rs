//! Whether two answers of grpcurl say the same, apart from what differs each time.

use serde_json::{Deserializer, Map, Value};

/// What differs each time: times, how far a fleet has come since it started, what was measured, and
/// how a single probe went, which on a busy machine may be too late.
const VOLATILE: [&str; 14] = [
    "time",
    "since",
    "connectedSince",
    "appliedAt",
    "took",
    "passed",
    "detail",
    "elapsed",
    "waitingFor",
    "hash",
    "epoch",
    "version",
    "load",
    "connections",
];

/// JSON by its fields, anything else word for word. Of a stream, only the last message is there in
/// any case.
///
/// # Errors
/// What differs.
pub fn same(expected: &str, actual: &str) -> Result<(), String> {
    let (Some(expected), Some(actual)) = (messages(expected), messages(actual)) else {
        return if expected == actual { Ok(()) } else { Err("the text differs".into()) };
    };
    same_value("", expected.last(), actual.last())
}

fn messages(text: &str) -> Option<Vec<Value>> {
    let messages: Result<Vec<Value>, _> = Deserializer::from_str(text).into_iter().collect();
    messages.ok().filter(|messages| !messages.is_empty())
}

fn same_value(path: &str, expected: Option<&Value>, actual: Option<&Value>) -> Result<(), String> {
    match (expected, actual) {
        (Some(Value::Object(expected)), Some(Value::Object(actual))) => {
            let names = expected.keys().chain(actual.keys());
            for name in names.filter(|name| !is_volatile(name, expected)) {
                same_value(&format!("{path}.{name}"), expected.get(name), actual.get(name))?;
            }
            Ok(())
        }
        (Some(Value::Array(expected)), Some(Value::Array(actual))) => {
            for i in 0..expected.len().max(actual.len()) {
                same_value(&format!("{path}[{i}]"), expected.get(i), actual.get(i))?;
            }
            Ok(())
        }
        _ if expected == actual => Ok(()),
        _ => Err(format!("{path}: {expected:?} became {actual:?}")),
    }
}

fn is_volatile(name: &str, object: &Map<String, Value>) -> bool {
    // A proxy's address is that of its connection to the controller.
    let is_proxy = object.contains_key("inSync");
    VOLATILE.contains(&name) || is_proxy && name == "address"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_may_differ_and_all_else_may_not() {
        let answer = r#"{"revision":"2","changes":[{"time":"now","kind":"ADDED"}]}"#;
        assert_eq!(same(answer, &answer.replace("now", "later")), Ok(()));
        assert_eq!(same(answer, &format!("{{\"drained\":false}}\n{answer}")), Ok(()), "the last");
        for (before, after) in [("ADDED", "REMOVED"), ("\"2\"", "\"3\""), ("kind", "sort")] {
            assert!(same(answer, &answer.replace(before, after)).is_err(), "{before} -> {after}");
        }
        assert!(same(answer, r#"{"revision":"2","changes":[]}"#).is_err(), "one is missing");
        assert!(same("a\nb\n", "a\n").is_err());
    }
}
