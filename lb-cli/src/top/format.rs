//! Figures as people read them at a glance: at most five characters where that can be.

use std::time::Duration;

/// What is shown for a figure that nobody has.
pub const ABSENT: &str = "-";

/// How many a second: `0.3`, `12`, `1.2k`, `34k`, `5.6M`.
pub fn rate(per_second: f64) -> String {
    // Each bound is where rounding would add a digit.
    match per_second {
        r if !(0.05..).contains(&r) => "0".into(),
        r if r < 9.95 => format!("{r:.1}"),
        r if r < 999.5 => format!("{r:.0}"),
        r if r < 9_950.0 => format!("{:.1}k", r / 1e3),
        r if r < 999_500.0 => format!("{:.0}k", r / 1e3),
        r if r < 9_950_000.0 => format!("{:.1}M", r / 1e6),
        r => format!("{:.0}M", r / 1e6),
    }
}

/// Exact up to 9999, and as a [`rate`] beyond.
pub fn count(n: u64) -> String {
    if n < 10_000 { n.to_string() } else { rate(n as f64) }
}

/// What share of `all` these are, `None` if there are none at all. Few are never shown as none.
pub fn percent(some: f64, all: f64) -> Option<String> {
    if all <= 0.0 {
        return None;
    }
    Some(match some / all * 100.0 {
        p if p <= 0.0 => "0".into(),
        p if p < 0.1 => "<0.1".into(),
        p if p < 9.95 => format!("{p:.1}"),
        p => format!("{:.0}", p.min(100.0)),
    })
}

/// How long an answer took: `850µs`, `1.2ms`, `34ms`, `5.6s`, `78s`.
pub fn latency(took: Duration) -> String {
    let micros = took.as_micros() as f64;
    match micros {
        t if t < 999.5 => format!("{t:.0}µs"),
        t if t < 9_950.0 => format!("{:.1}ms", t / 1e3),
        t if t < 999_500.0 => format!("{:.0}ms", t / 1e3),
        t if t < 9_950_000.0 => format!("{:.1}s", t / 1e6),
        t => format!("{:.0}s", t / 1e6),
    }
}

/// The time of day, UTC, of a time since the Unix epoch: `12:34:56`.
pub fn time_of_day(since_epoch: Duration) -> String {
    let second = since_epoch.as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_keeps_two_digits_and_never_takes_more_than_five_characters() {
        let cases = [
            (0.0, "0"),
            (f64::NAN, "0"),
            (-1.0, "0"),
            (0.04, "0"),
            (0.05, "0.1"),
            (0.3, "0.3"),
            (9.94, "9.9"),
            (9.96, "10"),
            (999.4, "999"),
            (999.6, "1.0k"),
            (1_234.0, "1.2k"),
            (9_960.0, "10k"),
            (999_400.0, "999k"),
            (999_600.0, "1.0M"),
            (12_345_678.0, "12M"),
        ];
        for (rate_, expected) in cases {
            assert_eq!(rate(rate_), expected, "{rate_}");
        }
        assert_eq!((count(9_999), count(10_000)), ("9999".into(), "10k".into()));
    }

    #[test]
    fn few_errors_are_never_shown_as_none() {
        let cases = [
            (0.0, 0.0, None),
            (0.0, 5.0, Some("0")),
            (1.0, 1_000_000.0, Some("<0.1")),
            (1.0, 100.0, Some("1.0")),
            (9.96, 100.0, Some("10")),
            (7.0, 7.0, Some("100")),
            (8.0, 7.0, Some("100")),
        ];
        for (some, all, expected) in cases {
            assert_eq!(percent(some, all).as_deref(), expected, "{some} of {all}");
        }
    }

    #[test]
    fn a_latency_is_shown_in_the_unit_that_fits() {
        let cases = [
            (0, "0µs"),
            (850, "850µs"),
            (999, "999µs"),
            (1_000, "1.0ms"),
            (1_240, "1.2ms"),
            (9_960, "10ms"),
            (999_400, "999ms"),
            (999_600, "1.0s"),
            (9_960_000, "10s"),
            (30_000_000, "30s"),
        ];
        for (micros, expected) in cases {
            assert_eq!(latency(Duration::from_micros(micros)), expected, "{micros}");
        }
    }

    #[test]
    fn the_time_of_day_is_utc() {
        assert_eq!(time_of_day(Duration::from_secs(1_700_000_000)), "22:13:20");
    }
}
