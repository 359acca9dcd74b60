//! A deadline that costs nothing while it does not pass.
//!
//! Setting a timer for every request is a good part of a request's cost. Deadlines of one
//! connection only ever move on, though, so one sleep is kept per connection and is moved only when
//! it fires too early, which is once a timeout instead of once a request.

use std::{
    cell::RefCell,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::time::Sleep;

/// Belongs to one task at a time, whose requests follow each other.
#[derive(Debug, Default)]
pub struct LazyTimer(RefCell<Option<Pin<Box<Sleep>>>>);

impl LazyTimer {
    /// Ready once the deadline passed.
    pub fn poll_expired(&self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = tokio::time::Instant::from_std(deadline);
        let mut sleep = self.0.borrow_mut();
        let sleep = sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if deadline <= sleep.deadline() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use lb_common::clock;

    use super::*;

    /// Waits for a deadline in so many milliseconds and returns how many it took.
    async fn wait(timer: &LazyTimer, millis: u64) -> u128 {
        let start = clock::now();
        poll_fn(|cx| timer.poll_expired(start + Duration::from_millis(millis), cx)).await;
        (clock::now() - start).as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn it_expires_at_the_deadline_whatever_was_set_before() {
        let timer = LazyTimer::default();
        assert_eq!(wait(&timer, 100).await, 100);
        assert_eq!(wait(&timer, 50).await, 50, "the old sleep has fired and is moved on");
        let later = clock::now() + Duration::from_secs(60);
        assert!(poll_fn(|cx| Poll::Ready(timer.poll_expired(later, cx))).await.is_pending());
        assert_eq!(wait(&timer, 20).await, 20, "a later one is moved back");
    }
}
