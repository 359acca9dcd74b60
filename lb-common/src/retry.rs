//! The small generic helper for whatever retries outside of the request path.
//!
//! The waits are an argument, so the caller chooses backoff, jitter and seed; sleeping is on
//! tokio's clock, so a test can pause it. Requests have their own policy with a budget, because for
//! them the question is not only when but whether.

use std::time::Duration;

/// Calls `f` until it succeeds, at most `1 + retries` times, and waits the next of `delays`
/// before each retry; ends early when `delays` ends.
///
/// # Errors
/// The last failure of `f`.
pub async fn retry_async<T, E, F>(
    mut f: F,
    retries: u32,
    delays: impl IntoIterator<Item = Duration>,
) -> Result<T, E>
where
    F: AsyncFnMut() -> Result<T, E>,
{
    let mut delays = delays.into_iter();
    let mut left = retries;
    loop {
        let error = match f().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if left == 0 {
            return Err(error);
        }
        left -= 1;
        let Some(delay) = delays.next() else { return Err(error) };
        tokio::time::sleep(delay).await;
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;
    use crate::clock;

    /// Fails `failures` times and then succeeds; returns the result, the calls and the time taken.
    async fn run(failures: u32, retries: u32, delays: &[u64]) -> (Result<u32, u32>, u32, u64) {
        let start = clock::now();
        let mut calls = 0;
        let delays = delays.iter().map(|s| Duration::from_secs(*s));
        let f = async || {
            calls += 1;
            if calls <= failures { Err(calls) } else { Ok(calls) }
        };
        let result = retry_async(f, retries, delays).await;
        (result, calls, (clock::now() - start).as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_needs_no_wait() {
        assert_eq!(run(0, 3, &[9, 9, 9]).await, (Ok(1), 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn each_retry_waits_its_delay() {
        assert_eq!(run(2, 3, &[1, 5, 9]).await, (Ok(3), 3, 6));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_failure_is_returned_when_retries_run_out() {
        assert_eq!(run(9, 2, &[1, 1, 1]).await, (Err(3), 3, 2));
        assert_eq!(run(9, 0, &[1]).await, (Err(1), 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_delays_means_no_more_retries() {
        assert_eq!(run(9, 9, &[1]).await, (Err(2), 2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn delays_may_be_endless() {
        let endless = iter::repeat(Duration::from_secs(1));
        let result: Result<(), &str> = retry_async(async || Err("no"), 4, endless).await;
        assert_eq!(result, Err("no"));
    }
}
