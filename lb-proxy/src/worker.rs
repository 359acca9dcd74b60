//! One OS thread with a runtime of its own: accepts, and serves what it accepted to its end.
//!
//! Requests never change threads. What workers share is the table, the backends' live parts and
//! the counters.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::{clock, id::ListenerName};
use tokio::{sync::mpsc, task::spawn_local};

use crate::{
    connections::End,
    local::{Local, Shared},
    net::listen,
    observe::record::Recorder,
    proxy::Context,
    serve::accept::{self, Stop},
};

const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// How long a draining proxy waits for a silent client's next request, which it would answer with
/// `Connection: close`: a client that just sends one must not find its connection closed.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// What a worker is told.
#[derive(Debug)]
pub enum Command {
    Open {
        listener: ListenerName,
        socket: listen::Socket,
    },
    Close(ListenerName),
    /// Close all, answer with `Connection: close`, and return when all clients are gone or at the
    /// deadline.
    Drain {
        deadline: Instant,
    },
}

/// Serves until it is told to drain. Returns how many connections were cut at the deadline.
pub async fn run(
    index: usize,
    shared: Arc<Shared>,
    recorder: Recorder,
    seed: u64,
    mut commands: mpsc::UnboundedReceiver<Command>,
) -> usize {
    let local = Rc::new(Local::new(index, shared, seed));
    let context = Rc::new(Context { local, recorder: Rc::new(recorder) });
    spawn_local(Rc::clone(&context.recorder.log).keep_moving());
    spawn_local(keep_sweeping(Rc::clone(&context)));
    let mut listeners: Vec<(ListenerName, Stop)> = Vec::new();
    loop {
        match commands.recv().await {
            Some(Command::Open { listener, socket }) => {
                if let Some(stop) = accept::start(&context, &listener, socket) {
                    listeners.push((listener, stop));
                }
            }
            Some(Command::Close(name)) => listeners.retain(|(other, _)| *other != name),
            Some(Command::Drain { deadline }) => {
                listeners.clear();
                return drain(&context.local, deadline).await;
            }
            None => return drain(&context.local, clock::now()).await,
        }
    }
}

/// Goes on while the worker drains: who is slow then is slow all the same.
async fn keep_sweeping(cx: Rc<Context>) {
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    let local = &cx.local;
    let mut seen = local.view();
    loop {
        sweep.tick().await;
        let now = clock::now();
        local.tick(now);
        cx.recorder.log.set_clock(now);
        local.pool.sweep(local.coarse());
        local.hot.sweep();
        local.pipes.sweep();
        let ended = local.connections.sweep(local.coarse());
        let limits = &local.metrics().limits;
        limits.idle_timeout.add(ended.idle);
        limits.handshake_timeout.add(ended.handshakes);
        limits.header_timeout.add(ended.preludes);
        let view = local.view();
        if !Rc::ptr_eq(&seen, &view) {
            local.connections.end_outdated(|slot| Some(view.listener_at(slot)?.terms));
            seen = view;
        }
    }
}

async fn drain(local: &Local, deadline: Instant) -> usize {
    local.is_draining.set(true);
    let start = clock::now();
    let grace = DRAIN_GRACE.min(deadline.saturating_duration_since(start) / 2);
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    // Listeners take what waits in their queues first.
    let queues = start + accept::LINGER * 2;
    while local.connections.count() > 0 || clock::now() < queues.min(deadline) {
        let now = tick.tick().await.into_std();
        if deadline <= now {
            break;
        }
        if start + grace <= now {
            local.connections.end_all(End::Gracefully);
        }
    }
    let cut = local.connections.count();
    local.connections.end_all(End::AtOnce);
    // Their tasks end, and say so in the log.
    while cut > 0 && local.connections.count() > 0 && clock::now() < deadline + DRAIN_GRACE {
        tokio::task::yield_now().await;
    }
    cut
}
