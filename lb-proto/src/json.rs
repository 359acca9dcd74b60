//! How the controller's answers look in JSON: the names of the protos, times in RFC 3339, durations
//! as in TOML, enums in lower case, and nothing where a message is absent.

use serde::Serializer;

use crate::v1::{Health, change::Kind};

/// For serde's `skip_serializing_if`: what proto3 does not send either.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// For serde's `serialize_with`.
///
/// # Errors
/// Those of the serializer.
pub fn timestamp<S: Serializer>(
    time: &Option<prost_types::Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(time),
        None => serializer.serialize_none(),
    }
}

/// For serde's `serialize_with`.
///
/// # Errors
/// Those of the serializer.
pub fn health<S: Serializer>(health: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    let health = Health::try_from(*health).unwrap_or_default();
    serializer.serialize_str(&health.as_str_name().to_ascii_lowercase())
}

/// For serde's `serialize_with`.
///
/// # Errors
/// Those of the serializer.
pub fn kind<S: Serializer>(kind: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    let kind = Kind::try_from(*kind).unwrap_or_default();
    serializer.serialize_str(&kind.as_str_name().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::v1;

    #[test]
    fn an_event_is_its_time_and_what_happened() {
        let event = v1::Event {
            time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 500_000_000 }),
            event: Some(v1::event::Event::Health(v1::HealthChanged {
                backend_set: "app".into(),
                backend: "one".into(),
                health: v1::Health::Unhealthy.into(),
                why: "connect refused".into(),
                held: String::new(),
            })),
        };
        let expected = json!({
            "time": "2023-11-14T22:13:20.500Z",
            "event": {
                "health": {
                    "backend_set": "app",
                    "backend": "one",
                    "health": "unhealthy",
                    "why": "connect refused",
                    "held": "",
                },
            },
        });
        assert_eq!(serde_json::to_value(event).expect("it has a JSON form"), expected);
    }

    #[test]
    fn what_is_absent_is_left_out_and_what_is_zero_is_not() {
        let progress = v1::DrainProgress { revision: 3, ..v1::DrainProgress::default() };
        let expected = json!({
            "revision": 3,
            "in_flight": 0,
            "waiting_for": [],
            "drained": false,
            "deadline_passed": false,
        });
        assert_eq!(serde_json::to_value(progress).expect("it has a JSON form"), expected);
    }
}
