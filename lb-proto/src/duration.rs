//! Durations as people write them: "1.5s", "500ms", "2m", "1h".
//!
//! JSON of protobuf knows only seconds ("1.5s"); the other units are for TOML.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

/// What "0s" means where a duration may be turned off.
pub const OFF: Duration = Duration::ZERO;

/// # Errors
/// If the text is not a number with a unit.
pub fn parse(text: &str) -> Result<Duration, String> {
    let invalid = || format!("{text:?} is not a duration; valid are \"1.5s\", \"500ms\", \"2m\"");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match &text[digits.len()..] {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(invalid()),
    };
    let number: f64 = digits.parse().map_err(|_| invalid())?;
    // Nanoseconds are as fine as the wire is.
    Duration::try_from_secs_f64((number * scale * 1e9).round() / 1e9).map_err(|_| invalid())
}

/// The shortest exact spelling that [`parse`] reads back and, beyond milliseconds, JSON too.
pub fn format(duration: Duration) -> String {
    let (secs, nanos) = (duration.as_secs(), duration.subsec_nanos());
    if nanos == 0 {
        format!("{secs}s")
    } else if secs == 0 && nanos % 1_000_000 == 0 {
        format!("{}ms", nanos / 1_000_000)
    } else {
        let fraction = format!("{nanos:09}");
        format!("{secs}.{}s", fraction.trim_end_matches('0'))
    }
}

/// # Errors
/// If the duration is negative or malformed.
pub fn from_wire(wire: prost_types::Duration) -> Result<Duration, String> {
    Duration::try_from(wire).map_err(|_| "is negative; give a duration like \"1.5s\"".into())
}

/// Saturates at what the wire can say, some 292 billion years.
pub fn to_wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration)
        .unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}

/// For serde's `with`.
///
/// # Errors
/// If the text is not a duration.
pub fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<prost_types::Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map(|duration| Some(to_wire(duration))).map_err(D::Error::custom)
}

/// For serde's `with`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(
    duration: &Option<prost_types::Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration.map(from_wire) {
        Some(Ok(duration)) => serializer.serialize_str(&format(duration)),
        Some(Err(_)) | None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_durations_with_a_unit() {
        let cases = [
            ("1.5s", Some(1_500_000)),
            ("500ms", Some(500_000)),
            ("2m", Some(120_000_000)),
            ("1h", Some(3_600_000_000)),
            ("0.1s", Some(100_000)),
            ("10", None),
            ("-1s", None),
            ("s", None),
            ("", None),
            ("1e999s", None),
            ("1 day", None),
        ];
        for (text, micros) in cases {
            let expected = micros.map(Duration::from_micros);
            assert_eq!(parse(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_formatted_is_read_back() {
        for micros in [0, 1, 250_000, 1_000_000, 1_500_001, 86_400_000_000] {
            let duration = Duration::from_micros(micros);
            assert_eq!(parse(&format(duration)), Ok(duration), "{micros}");
        }
    }
}
