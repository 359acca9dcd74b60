//! Ending a process in order: the first SIGTERM or SIGINT asks, the second one insists.

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

/// Which signal came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Terminate,
    Interrupt,
}

impl Stop {
    /// What a shell reports for a process that this signal ended.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// Tells that draining began. Cheap to clone; every holder sees it.
#[derive(Clone, Debug)]
pub struct Drain(watch::Receiver<bool>);

/// Begins the drain. Dropping it does so too.
#[derive(Debug)]
pub struct DrainTrigger(watch::Sender<bool>);

/// A trigger and what it triggers.
pub fn channel() -> (DrainTrigger, Drain) {
    let (sender, receiver) = watch::channel(false);
    (DrainTrigger(sender), Drain(receiver))
}

/// SIGTERM and SIGINT as a stream, from the moment of creation.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

// === impl Drain ===

impl Drain {
    pub fn is_draining(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Completes once draining began.
    pub async fn started(&mut self) {
        // An error means that the trigger is gone, which counts as pulled.
        let _ = self.0.wait_for(|draining| *draining).await;
    }
}

impl DrainTrigger {
    pub fn start(&self) {
        self.0.send_replace(true);
    }
}

// === impl Signals ===

impl Signals {
    /// # Errors
    /// If the process cannot register signal handlers.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.terminate.recv() => Stop::Terminate,
            _ = self.interrupt.recv() => Stop::Interrupt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_sees_the_drain_start() {
        let (trigger, drain) = channel();
        let mut other = drain.clone();
        assert!(!drain.is_draining());
        trigger.start();
        other.started().await;
        assert!(drain.is_draining());
    }

    #[tokio::test]
    async fn a_lost_trigger_counts_as_pulled() {
        let (trigger, mut drain) = channel();
        drop(trigger);
        drain.started().await;
        assert!(drain.is_draining());
    }
}
