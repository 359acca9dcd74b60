//! Turns for what takes this thread's time, so that not all backends of a fleet shake hands at once: by TLS that
//! is a millisecond or so each, and they would run into their timeouts together, by no fault of theirs.

use std::{pin::pin, time::Duration};

use tokio::{sync::Semaphore, time::timeout};

/// So many at a time. They are through long before a turn is over, unless it is others that they wait for.
const MOST: usize = 32;
/// Whoever has not ended by then waits for a backend, and lets the next one begin.
const TURN: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Turns(Semaphore);

impl Turns {
    pub fn new() -> Self {
        Self(Semaphore::new(MOST))
    }

    /// Begins the work once it is its turn, and returns what it does.
    pub async fn take<T>(&self, work: impl Future<Output = T>) -> T {
        let turn = self.0.acquire().await.expect("it is never closed");
        let mut work = pin!(work);
        let done = timeout(TURN, &mut work).await;
        drop(turn);
        match done {
            Ok(done) => done,
            Err(_) => work.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::pending};

    use futures_util::{FutureExt, future::join_all};
    use lb_common::clock;
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_than_some_work_at_a_time() {
        let (turns, working, most) = (Turns::new(), Cell::new(0), Cell::new(0));
        let work = || async {
            working.set(working.get() + 1);
            most.set(most.get().max(working.get()));
            sleep(TURN / 2).await;
            working.set(working.get() - 1);
        };
        let began = clock::now();
        join_all((0..3 * MOST).map(|_| turns.take(work()))).await;
        assert_eq!((most.get(), clock::now() - began), (MOST, 3 * (TURN / 2)));
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_wait_for_ever_keep_nobody_waiting_longer_than_a_turn() {
        let turns = Turns::new();
        let mut stuck = join_all((0..MOST).map(|_| turns.take(pending::<()>())));
        assert!((&mut stuck).now_or_never().is_none());
        let began = clock::now();
        tokio::select! {
            _ = stuck => unreachable!("they wait for ever"),
            () = turns.take(async {}) => {}
        }
        assert_eq!(clock::now() - began, TURN);
    }
}
