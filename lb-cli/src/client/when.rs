//! Times, durations and rates in a few characters. Exact ones are in the JSON.

use std::time::Duration;

use lb_common::clock;
use lb_proto::v1;

/// Zero if it is before the epoch.
pub fn since_epoch(time: &prost_types::Timestamp) -> Duration {
    let nanos = u32::try_from(time.nanos).unwrap_or(0);
    u64::try_from(time.seconds).map_or(Duration::ZERO, |seconds| Duration::new(seconds, nanos))
}

/// `3m ago`; empty without a time.
pub fn ago(time: Option<&prost_types::Timestamp>) -> String {
    let Some(age) = age(time, clock::wall()) else { return String::new() };
    if age < Duration::from_secs(1) { "now".into() } else { format!("{} ago", short(age)) }
}

/// `3m`; empty without a time.
pub fn since(time: Option<&prost_types::Timestamp>) -> String {
    age(time, clock::wall()).map(short).unwrap_or_default()
}

/// Nothing is younger than now: clocks of two machines differ.
fn age(time: Option<&prost_types::Timestamp>, now: Duration) -> Option<Duration> {
    let time = time?;
    let secs = u64::try_from(time.seconds).ok()?;
    let nanos = u32::try_from(time.nanos).ok()?;
    Some(now.saturating_sub(Duration::new(secs, nanos)))
}

/// In its largest unit.
pub fn short(duration: Duration) -> String {
    let secs = duration.as_secs();
    match secs {
        0..60 => format!("{secs}s"),
        60..3_600 => format!("{}m", secs / 60),
        3_600..172_800 => format!("{}h", secs / 3_600),
        _ => format!("{}d", secs / 86_400),
    }
}

/// `2026-11-22 02:04:38`, in UTC, as it is in the JSON with fractions.
pub fn exact(time: Option<&prost_types::Timestamp>) -> String {
    let Some(time) = time else { return String::new() };
    let text = prost_types::Timestamp { nanos: 0, ..*time }.to_string();
    text.replace('T', " ").trim_end_matches('Z').to_owned()
}

/// `1.2ms`; empty without a value.
pub fn latency(wire: Option<&prost_types::Duration>) -> String {
    let Some(duration) = wire.and_then(|wire| Duration::try_from(*wire).ok()) else {
        return String::new();
    };
    let millis = duration.as_secs_f64() * 1e3;
    match millis {
        ..10.0 => format!("{millis:.1}ms"),
        ..1_000.0 => format!("{millis:.0}ms"),
        _ => format!("{:.1}s", millis / 1e3),
    }
}

/// `0.3`, `42`, `1.2k`
pub fn rate(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        ..10.0 => format!("{value:.1}"),
        ..10_000.0 => format!("{value:.0}"),
        ..1e7 => format!("{:.1}k", value / 1e3),
        _ => format!("{:.1}M", value / 1e6),
    }
}

/// Requests and errors a second, p50, p99: empty if nothing was measured.
pub fn load(load: Option<&v1::Load>) -> [String; 4] {
    let Some(load) = load else { return Default::default() };
    [
        rate(load.requests_per_second),
        rate(load.errors_per_second),
        latency(load.p50.as_ref()),
        latency(load.p99.as_ref()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_in_their_largest_unit() {
        let cases =
            [(0, "0s"), (59, "59s"), (61, "1m"), (7_200, "2h"), (90_000, "25h"), (172_800, "2d")];
        for (secs, expected) in cases {
            assert_eq!(short(Duration::from_secs(secs)), expected);
        }
        let time = prost_types::Timestamp { seconds: 1_000, nanos: 0 };
        assert_eq!(age(Some(&time), Duration::from_secs(1_180)), Some(Duration::from_secs(180)));
        assert_eq!(
            age(Some(&time), Duration::from_secs(999)),
            Some(Duration::ZERO),
            "clocks differ"
        );
    }

    #[test]
    fn times_rates_and_latencies_are_short() {
        let time = prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5 };
        assert_eq!(exact(Some(&time)), "2023-11-14 22:13:20");
        let rates = [(0.0, "0"), (0.26, "0.3"), (42.4, "42"), (12_345.0, "12.3k"), (2e7, "20.0M")];
        for (value, expected) in rates {
            assert_eq!(rate(value), expected);
        }
        let of = |nanos| latency(Some(&prost_types::Duration { seconds: 0, nanos }));
        assert_eq!([of(250_000), of(12_400_000)], ["0.2ms", "12ms"]);
        assert_eq!(latency(Some(&prost_types::Duration { seconds: 2, nanos: 0 })), "2.0s");
    }
}
