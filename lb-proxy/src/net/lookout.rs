//! Waiting for one side while the other is not read: what has come of that one waits, and whether it is
//! still there is not seen. So it is asked, now and then.

use std::{
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use lb_common::clock;

use super::timer::LazyTimer;

/// Since when nobody has looked.
#[derive(Debug, Default)]
pub struct Lookout(Option<Instant>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The deadline has passed.
    Expired,
    Gone,
}

const INTERVAL: Duration = Duration::from_secs(1);

impl Lookout {
    /// Ready when the deadline has passed, or it was found to be gone.
    pub fn poll(
        &mut self,
        timer: &LazyTimer,
        deadline: Option<Instant>,
        cx: &mut Context<'_>,
        mut is_gone: impl FnMut() -> bool,
    ) -> Poll<Waited> {
        loop {
            let look = *self.0.get_or_insert_with(clock::now) + INTERVAL;
            let until = deadline.map_or(look, |deadline| deadline.min(look));
            ready!(timer.poll_expired(until, cx));
            if deadline == Some(until) {
                return Poll::Ready(Waited::Expired);
            }
            self.0 = None;
            if is_gone() {
                return Poll::Ready(Waited::Gone);
            }
        }
    }

    /// It is read again.
    pub fn rest(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::poll_fn};

    use super::*;

    /// After how many milliseconds, and how often it had been asked by then.
    async fn wait(deadline: Option<u64>, gone_at: u32) -> (Waited, u128, u32) {
        let (timer, asked, start) = (LazyTimer::default(), Cell::new(0), clock::now());
        let deadline = deadline.map(|millis| start + Duration::from_millis(millis));
        let is_gone = || {
            asked.set(asked.get() + 1);
            asked.get() == gone_at
        };
        let mut lookout = Lookout::default();
        let waited = poll_fn(|cx| lookout.poll(&timer, deadline, cx, is_gone)).await;
        (waited, (clock::now() - start).as_millis(), asked.get())
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_asked_once_a_second_until_the_deadline() {
        assert_eq!(wait(Some(2_500), 9).await, (Waited::Expired, 2_500, 2));
        assert_eq!(wait(Some(500), 1).await, (Waited::Expired, 500, 0));
        assert_eq!(wait(Some(2_500), 2).await, (Waited::Gone, 2_000, 2));
        assert_eq!(wait(None, 3).await, (Waited::Gone, 3_000, 3));
    }
}
