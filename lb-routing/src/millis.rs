//! Time, as pure code has it.

use std::time::Duration;

/// Milliseconds since the proxy started: what hot atomics keep instead of an `Instant`.
pub type Millis = u64;

/// A duration that does not fit is the longest that does.
pub fn of(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
