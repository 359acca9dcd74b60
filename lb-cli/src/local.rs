//! A controller and proxies in this process, from their start to an orderly end.
//!
//! They know nothing of each other's presence: they talk over loopback, as processes would. The
//! controller and the proxies' control parts share the calling thread; traffic has its own threads,
//! which the proxies start.
//!
//! # Invariants
//!
//! - The controller outlives the proxies, so that they drain with a controller to report to.
//! - A second signal ends the wait, whatever still goes on.

use std::{net::TcpListener, pin::pin, process::ExitCode};

use anyhow::Context;
use futures_util::future::try_join_all;
use lb_common::drain::{self, Signals, Stop};
use lb_proxy::{Shutdown, config::Config};
use tokio::signal::unix::{SignalKind, signal};

/// What runs, with its sockets bound already.
pub struct Local {
    pub settings: lb_control::Settings,
    pub listeners: lb_control::Listeners,
    /// Each with the socket of its admin endpoint.
    pub proxies: Vec<(Config, TcpListener)>,
    pub on_hangup: OnHangup,
}

/// What SIGHUP is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHangup {
    /// The controller reads its file again.
    Reload,
    /// The terminal is gone, and whoever looked at it.
    Drain,
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    Drained,
    /// The drain timeout passed, and so many connections were cut.
    Cut(usize),
    /// A second signal came.
    AtOnce(Stop),
}

pub const EXIT_CODES: &str = "\
Exit codes:
  0    drained: a signal came, and every request finished
  1    could not start
  2    wrong usage
  3    the drain timeout passed, and requests were cut
  130  a second SIGINT ended it at once
  143  a second SIGTERM ended it at once";

// === impl Local ===

impl Local {
    /// Runs `self` in a runtime of this thread, and `ready` beside it, until a signal.
    ///
    /// # Errors
    /// If a part of it cannot run, or `ready` fails: all of it ends then.
    pub fn run(self, ready: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Ended> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ended = runtime.block_on(self.serve(ready));
        // What still blocks, blocks a thread that nobody waits for.
        runtime.shutdown_background();
        ended
    }

    async fn serve(self, ready: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Ended> {
        let mut signals = Signals::new().context("cannot register signal handlers")?;
        // Registered before the controller does it, lest one that comes early end the process.
        let mut hangup = signal(SignalKind::hangup()).context("cannot register signal handlers")?;
        let (stop_controller, controller_drain) = drain::channel();
        let (stop_proxies, proxies_drain) = drain::channel();

        let controller = async {
            let run = lb_control::run(self.settings, self.listeners, controller_drain);
            run.await.context("the controller")
        };
        let proxies = async {
            let run = |(config, admin): (Config, TcpListener)| async {
                let id = config.id.clone();
                let run = lb_proxy::run(config, admin, proxies_drain.clone());
                run.await.with_context(|| format!("proxy {id}"))
            };
            let outcomes = try_join_all(self.proxies.into_iter().map(run)).await?;
            stop_controller.start();
            Ok(outcomes)
        };
        let mut all = pin!(async { tokio::try_join!(proxies, controller) });
        let mut ready = pin!(ready);
        let (mut getting_ready, mut draining) = (true, false);
        loop {
            let stop = tokio::select! {
                ended = &mut all => return ended.map(|(outcomes, ())| Ended::new(&outcomes)),
                result = &mut ready, if getting_ready && !draining => {
                    getting_ready = false;
                    result?;
                    continue;
                }
                stop = signals.next() => Some(stop),
                _ = hangup.recv() => match self.on_hangup {
                    OnHangup::Reload => continue,
                    OnHangup::Drain => None,
                },
            };
            if let Some(stop) = stop
                && draining
            {
                return Ok(Ended::AtOnce(stop));
            }
            draining = true;
            stop_proxies.start();
        }
    }
}

// === impl Ended ===

impl Ended {
    fn new(outcomes: &[Shutdown]) -> Self {
        let cut = outcomes.iter().map(|outcome| match outcome {
            Shutdown::Drained => 0,
            Shutdown::Cut(connections) => *connections,
        });
        match cut.sum() {
            0 => Self::Drained,
            connections => Self::Cut(connections),
        }
    }

    /// Says on standard error how it ended, if not as it should.
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Drained => ExitCode::SUCCESS,
            Self::Cut(connections) => {
                eprintln!("lb: the drain timeout passed; {connections} connections were cut");
                ExitCode::from(3)
            }
            Self::AtOnce(stop) => {
                eprintln!("lb: ended at once by a second signal");
                ExitCode::from(stop.exit_code())
            }
        }
    }
}
