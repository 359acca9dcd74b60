//! The only place that reads the time; everything else takes `now` as an argument.
//!
//! It reads tokio's clock, so a test that pauses tokio's time pauses this too.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Monotonic: for deadlines and durations.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
#[inline]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Wall time since the Unix epoch: for people, never for decisions. Zero if the clock is before it.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
