//! Waiting for a state instead of for a time.

use std::{fmt::Display, time::Duration};

use lb_common::clock;

/// Longer than anything takes on a busy machine; only what hangs takes so long.
pub const PATIENCE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(10);

/// Probes until it succeeds, and returns what it found.
///
/// # Panics
/// After [`PATIENCE`], with what the last probe found instead.
pub async fn eventually<T, E: Display>(what: &str, probe: impl AsyncFnMut() -> Result<T, E>) -> T {
    eventually_within(PATIENCE, what, probe).await
}

/// As [`eventually`], with another patience.
///
/// # Panics
/// After `patience`, with what the last probe found instead.
pub async fn eventually_within<T, E: Display>(
    patience: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = clock::now() + patience;
    loop {
        match within(patience, what, probe()).await {
            Ok(found) => return found,
            Err(instead) if deadline <= clock::now() => {
                panic!("not within {patience:?}: {what}; instead: {instead}")
            }
            Err(_) => tokio::time::sleep(INTERVAL).await,
        }
    }
}

/// Bounds what might hang.
///
/// # Panics
/// If it does.
pub async fn within<T>(patience: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(patience, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {patience:?}: {what}"),
    }
}

/// For a probe: `Ok` if it holds, and otherwise what is instead.
///
/// # Errors
/// `instead`, if the condition does not hold.
pub fn holds(condition: bool, instead: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(instead()) }
}
