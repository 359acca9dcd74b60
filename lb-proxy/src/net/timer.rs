//! A deadline that costs nothing while it does not pass.
//!
//! Setting a timer for every request is a good part of a request's cost. Deadlines of one
//! connection only ever move on, though, so one sleep is kept per connection and is moved only when
//! it fires too early, which is once a timeout instead of once a request. The next connection gets
//! the sleep of one that is gone.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::time::Sleep;

/// Belongs to one task at a time, whose requests follow each other.
#[derive(Debug, Default)]
pub struct LazyTimer {
    sleep: RefCell<Option<Pin<Box<Sleep>>>>,
    spares: Spares,
}

/// A thread's sleeps that nobody waits for.
#[derive(Clone, Debug, Default)]
pub struct Spares(Rc<RefCell<Vec<Pin<Box<Sleep>>>>>);

/// More than so many are not kept.
const SPARES: usize = 128;

impl Spares {
    /// One that takes its sleep here, and leaves it here.
    pub fn timer(&self) -> LazyTimer {
        LazyTimer { sleep: RefCell::default(), spares: self.clone() }
    }
}

impl Drop for LazyTimer {
    fn drop(&mut self) {
        let mut spares = self.spares.0.borrow_mut();
        if spares.len() < SPARES {
            spares.extend(self.sleep.take());
        }
    }
}

impl LazyTimer {
    /// Ready once the deadline passed.
    pub fn poll_expired(&self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = tokio::time::Instant::from_std(deadline);
        let mut sleep = self.sleep.borrow_mut();
        let sleep = sleep.get_or_insert_with(|| {
            let spare = self.spares.0.borrow_mut().pop();
            spare.unwrap_or_else(|| Box::pin(tokio::time::sleep_until(deadline)))
        });
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

    #[tokio::test(start_paused = true)]
    async fn a_sleep_that_another_left_is_as_good() {
        let spares = Spares::default();
        for (first, millis) in [(100, 50), (50, 100), (70, 70)] {
            let timer = spares.timer();
            let later = clock::now() + Duration::from_millis(first);
            assert!(poll_fn(|cx| Poll::Ready(timer.poll_expired(later, cx))).await.is_pending());
            drop(timer);
            assert_eq!(spares.0.borrow().len(), 1);
            let timer = spares.timer();
            assert_eq!(wait(&timer, millis).await, u128::from(millis));
            assert_eq!(spares.0.borrow().len(), 0, "it has the one that there is");
        }
    }
}
