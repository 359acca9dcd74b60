//! The threads that probes are made on: neither do they delay what goes on elsewhere in this process, nor
//! that them. A target is always probed by the same thread, which has its connection.
//!
//! ```text
//!                     of each thread:
//!   owner ── Job ──►  one task a probe ──► findings, gathered for a moment ──► owner
//!                       ▲         │
//!                       └─ Pool ◄─┘  connections that answered
//! ```
//!
//! # Invariants
//!
//! - Exactly one [`Probed`] follows each [`Job`], also where a probe panics.
//! - How many jobs are under way is up to the schedule: the channels have room for all of them.
//! - If a thread ends before the [`Prober`] does, [`Prober::probed`] says so.

mod pool;
mod turns;

use std::{cell::RefCell, io, panic::AssertUnwindSafe, pin::pin, rc::Rc, thread, time::Duration};

use futures_util::{FutureExt, future::select_all};
use lb_common::{clock, spec::Probe};
use tokio::{
    runtime,
    sync::mpsc,
    task::{LocalSet, spawn_local},
    time::{MissedTickBehavior, interval, sleep},
};

use self::{
    pool::{Lent, Pool},
    turns::Turns,
};
use super::{
    monitor::Job,
    probe::{self, Finding},
    schedule::{CONCURRENT, TargetId},
};

/// On a slow machine one thread makes some 18,000 probes a second if most take a connection of their own.
const MOST_THREADS: usize = 2;
/// So many jobs are begun, and findings handed over, in one go.
const BATCH: usize = 256;
/// After findings were handed over, those that come next are gathered for so long.
const GATHER: Duration = Duration::from_millis(2);
/// How often connections that nobody uses any more are looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// What probes may take of the descriptors that this process may have. The rest, an eighth and 256 at the least, is
/// for proxies, clients and the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Probes at a time.
    pub concurrent: usize,
    /// Connections that wait for their next probe.
    pub kept: usize,
}

/// What became of a job.
#[derive(Clone, Debug)]
pub struct Probed {
    pub id: TargetId,
    /// How long after it was due it was begun.
    pub late: Duration,
    pub finding: Finding,
}

/// The running threads. They end when this is dropped, and leave what is under way.
#[derive(Debug)]
pub struct Prober {
    /// To each thread.
    jobs: Vec<mpsc::Sender<Job>>,
    /// From each, in any order.
    probed: Vec<mpsc::Receiver<Vec<Probed>>>,
}

// === impl Share ===

impl Share {
    /// Of so many descriptors.
    pub fn of(descriptors: u64) -> Self {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let concurrent = CONCURRENT.min(descriptors / 8);
        let others = (descriptors / 8).max(256);
        Self { concurrent, kept: pool::MOST.min(descriptors.saturating_sub(concurrent + others)) }
    }
}

// === impl Prober ===

impl Prober {
    /// # Errors
    /// If there is no thread to be had.
    pub fn start(share: Share) -> io::Result<Self> {
        let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        let mut prober = Self { jobs: Vec::new(), probed: Vec::new() };
        for number in 0..threads {
            let (jobs, to_do) = mpsc::channel(CONCURRENT);
            let (done, probed) = mpsc::channel(CONCURRENT / BATCH);
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let kept = share.kept / threads;
            let work = move || LocalSet::new().block_on(&runtime, work(to_do, done, kept));
            thread::Builder::new().name(format!("lb-prober-{number}")).spawn(work)?;
            prober.jobs.push(jobs);
            prober.probed.push(probed);
        }
        Ok(prober)
    }

    /// One whose thread has failed.
    #[cfg(test)]
    pub fn failed() -> Self {
        Self { jobs: vec![mpsc::channel(1).0], probed: vec![mpsc::channel(1).1] }
    }

    pub fn probe(&self, job: Job) {
        let thread = job.id.of(self.jobs.len());
        // If the thread has ended, `probed` says so. There is room: no more are under way at a time.
        let sent = self.jobs[thread].try_send(job);
        debug_assert!(!matches!(sent, Err(mpsc::error::TrySendError::Full(_))), "the schedule's");
    }

    /// The next findings; `None` if a thread has failed.
    pub async fn probed(&mut self) -> Option<Vec<Probed>> {
        // The first one is asked first, which is to be another one each time.
        self.probed.rotate_left(1);
        let next = self.probed.iter_mut().map(|probed| Box::pin(probed.recv()));
        let (findings, ..) = select_all(next).await;
        findings
    }
}

async fn work(mut to_do: mpsc::Receiver<Job>, done: mpsc::Sender<Vec<Probed>>, kept: usize) {
    let pool = Rc::new(RefCell::new(Pool::new(kept, fastrand::Rng::new())));
    let turns = Rc::new(Turns::new());
    let (found, findings) = mpsc::unbounded_channel();
    spawn_local(hand_over(findings, done));
    let mut sweeps = interval(SWEEP);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut jobs = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            received = to_do.recv_many(&mut jobs, BATCH) => if received == 0 { break },
            _ = sweeps.tick() => pool.borrow_mut().sweep(clock::now()),
        }
        for job in jobs.drain(..) {
            let (pool, turns, found) = (Rc::clone(&pool), Rc::clone(&turns), found.clone());
            spawn_local(async move {
                // Nobody waits for it any more if that fails.
                let _ = found.send(make(job, &pool, &turns).await);
            });
        }
    }
}

/// A panic in a probe is a bug, but must not leave its backend unprobed for ever.
async fn make(
    Job { id, due, address, asking }: Job,
    pool: &RefCell<Pool>,
    turns: &Turns,
) -> Probed {
    let is_http = matches!(asking.check.probe, Probe::Http { .. });
    let Lent { kept, uses } = match is_http {
        true => pool.borrow_mut().take(id, asking.check.interval),
        false => Lent { kept: None, uses: 1 },
    };
    let shakes_hands = asking.tls.is_some() && kept.is_none();
    // In one place, where either way finds it: else each had room for it of its own.
    let probing = pin!(async {
        let late = clock::now().saturating_duration_since(due);
        let probing = AssertUnwindSafe(probe::probe(address, &asking, kept, uses)).catch_unwind();
        (late, probing.await)
    });
    let (late, probed) = match shakes_hands {
        true => turns.take(probing).await,
        false => probing.await,
    };
    let (finding, kept) = probed.unwrap_or_else(|_| {
        let detail = "not checked: the probe itself failed".into();
        (Finding { outcome: None, detail, took: Duration::ZERO }, None)
    });
    pool.borrow_mut().put(id, uses, kept, clock::now());
    Probed { id, late, finding }
}

/// A finding that comes alone goes at once.
async fn hand_over(mut findings: mpsc::UnboundedReceiver<Probed>, done: mpsc::Sender<Vec<Probed>>) {
    let mut batch = Vec::with_capacity(BATCH);
    while findings.recv_many(&mut batch, BATCH).await > 0 {
        if done.send(std::mem::replace(&mut batch, Vec::with_capacity(BATCH))).await.is_err() {
            return;
        }
        if findings.is_empty() {
            sleep(GATHER).await;
        }
    }
}

#[cfg(test)]
mod tests;
