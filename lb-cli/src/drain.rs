//! `lb drain`: a backend gets nothing new, and this says when it is empty.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use futures_util::StreamExt;
use lb_proto::{duration, parse::name_of, v1};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    client::{Controller, Remote, name::BackendPath, when::short},
    output::{self, Output, Paint, Screen, count, cut, display_width},
};

/// Take a backend out of service without losing a request
///
/// It gets nothing new from any proxy, and keeps what it has. This waits until it is empty on every
/// proxy that is connected, or was within the last 30 s and may be serving still, or the deadline passes; it
/// stays draining in either case, until lb undrain.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// Which one
    #[arg(value_name = "SET/BACKEND")]
    backend: BackendPath,

    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration::parse)]
    deadline: Duration,

    /// Why; kept in the history [default: drain BACKEND of SET]
    #[arg(long, short = 'm', value_name = "TEXT", default_value = "", hide_default_value = true)]
    comment: String,

    #[command(flatten)]
    output: Output,

    #[command(flatten)]
    remote: Remote,
}

const AFTER_HELP: &str = "\
Exit codes:
  0    it is empty
  1    failed
  2    wrong usage
  3    the deadline passed first; it is draining still
  4    somebody else ended the drain
  130  interrupted (Ctrl-C); it is draining still

Examples:
  lb drain app/127.0.0.1:3001
  lb drain app/blue-1 --deadline 10m --comment 'kernel update'
  lb drain app/blue-1 && ssh blue-1 systemctl restart app && lb undrain app/blue-1";

const DEADLINE_PASSED: u8 = 3;
const INTERRUPTED: u8 = 130;
const BAR: usize = 20;

/// What is drained, and how that is shown.
struct View {
    /// `SET/BACKEND`
    title: String,
    deadline: Duration,
    json: bool,
    screen: Screen,
    /// One line that is written again and again.
    bar: bool,
    most: u64,
    /// What the bar's line has on it now, in columns.
    drawn: usize,
}

/// # Errors
/// If there is no such backend, or the controller goes away.
pub async fn main(args: Args) -> anyhow::Result<ExitCode> {
    let Args { backend, deadline, comment, output, remote } = args;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let controller = remote.connect().await?;
    let (_, spec) = controller.get(None).await?;
    let (set, backend) = backend.find(&spec)?;
    let backend = name_of(&backend).to_owned();
    let mut view = View::new(format!("{set}/{backend}"), deadline, &output);
    let request = v1::DrainBackendRequest {
        backend_set: set,
        backend,
        deadline: Some(duration::to_wire(deadline)),
        comment,
    };
    let drained = follow(&controller, request, &mut view, &mut interrupt).await;
    view.end();
    drained
}

async fn follow(
    controller: &Controller,
    request: v1::DrainBackendRequest,
    view: &mut View,
    interrupt: &mut Signal,
) -> anyhow::Result<ExitCode> {
    let mut progress = controller.call(async |mut api| api.drain_backend(request).await).await?;
    let title = view.title.clone();
    loop {
        let message = tokio::select! {
            message = progress.next() => message,
            _ = interrupt.recv() => {
                view.end();
                crate::complain(&format!(
                    "interrupted; {title} stays draining, lb undrain {title} ends that"
                ));
                return Ok(ExitCode::from(INTERRUPTED));
            }
        };
        let lost = || format!("{title} is draining, but how far is not known any more");
        let message = match message {
            Some(Ok(message)) => message,
            Some(Err(status)) if status.code() == tonic::Code::Aborted => {
                return Err(controller.refused(&status).into());
            }
            Some(Err(status)) => return Err(controller.refused(&status)).with_context(lost),
            None => {
                return Err(anyhow::anyhow!("the controller ended the stream")).with_context(lost);
            }
        };
        view.show(&message)?;
        if message.drained {
            view.say(Paint::Good, &format!("{title} is empty"));
            return Ok(ExitCode::SUCCESS);
        }
        if message.deadline_passed {
            view.end();
            let rest = match message.waiting_for.as_slice() {
                [] => format!("{} in flight still", count(message.in_flight, "request")),
                proxies => format!("not applied yet by {}", output::some(proxies)),
            };
            crate::complain(&format!(
                "{title} is not empty after {}: {rest}; it stays draining",
                duration::format(view.deadline)
            ));
            return Ok(ExitCode::from(DEADLINE_PASSED));
        }
    }
}

// === impl View ===

impl View {
    fn new(title: String, deadline: Duration, output: &Output) -> Self {
        let screen = output.colors.screen();
        let json = output.json;
        // A bar needs a cursor that can go back.
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let bar = !json && std::io::stdout().is_terminal() && !dumb;
        Self { title, deadline, json, screen, bar, most: 0, drawn: 0 }
    }

    fn show(&mut self, progress: &v1::DrainProgress) -> anyhow::Result<()> {
        if self.json {
            return output::json_line(progress).map(drop);
        }
        self.most = self.most.max(progress.in_flight);
        let text = self.text(progress);
        if self.bar {
            let width = self.screen.width.unwrap_or(usize::MAX);
            let title = format!("{} ", self.title);
            let bar = self.fraction(progress);
            let full = BAR * bar / 100;
            // The last column stays free: writing there moves some terminals on.
            let room = width.saturating_sub(display_width(&title) + BAR + 3);
            let text = cut(&text, room);
            let bar = format!("{}{}", "█".repeat(full), "░".repeat(BAR - full));
            let line = format!("{title}{}  {text}", self.screen.paint(Paint::Good, &bar));
            let columns = display_width(&title) + BAR + 2 + display_width(&text);
            let blank = " ".repeat(self.drawn.saturating_sub(columns));
            self.drawn = columns;
            crate::print(&format!("\r{line}{blank}"));
        } else {
            crate::print(&format!("{} {text}\n", self.title));
        }
        Ok(())
    }

    /// In percent: how much of what was in flight is gone. Nothing is, while proxies may still send
    /// more.
    fn fraction(&self, progress: &v1::DrainProgress) -> usize {
        if progress.drained {
            return 100;
        }
        if !progress.waiting_for.is_empty() || self.most == 0 {
            return 0;
        }
        let gone = self.most - progress.in_flight;
        // Not full before it is done.
        usize::try_from(gone.saturating_mul(100) / self.most).unwrap_or(0).min(99)
    }

    fn text(&self, progress: &v1::DrainProgress) -> String {
        let v1::DrainProgress { in_flight, waiting_for, elapsed, .. } = progress;
        let elapsed = elapsed.and_then(|wire| duration::from_wire(wire).ok()).unwrap_or_default();
        let waiting = match waiting_for.as_slice() {
            [] if *in_flight == 0 && !progress.drained => {
                // The controller has just started, and does not know all of them yet.
                ", waiting for proxies that may come back".into()
            }
            [] => String::new(),
            proxies => format!(", waiting for {}", output::some(proxies)),
        };
        format!("{in_flight} in flight{waiting}, {} of {}", short(elapsed), short(self.deadline))
    }

    /// Leaves the bar's line.
    fn end(&mut self) {
        if self.drawn > 0 {
            crate::print("\n");
            self.drawn = 0;
        }
    }

    fn say(&mut self, paint: Paint, text: &str) {
        self.end();
        if !self.json {
            crate::print(&format!("{}\n", self.screen.paint(paint, text)));
        }
        let _ = std::io::stdout().flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_full_only_when_the_backend_is_empty() {
        let mut view = View {
            title: "app/one".into(),
            deadline: Duration::from_secs(60),
            json: false,
            screen: Screen { width: Some(80), color: false },
            bar: true,
            most: 0,
            drawn: 0,
        };
        let progress = |in_flight, waiting: &[&str], drained| v1::DrainProgress {
            in_flight,
            waiting_for: waiting.iter().map(ToString::to_string).collect(),
            drained,
            ..v1::DrainProgress::default()
        };
        let just_started = view.text(&progress(0, &[], false));
        let expected = "0 in flight, waiting for proxies that may come back, ";
        assert!(just_started.starts_with(expected), "{just_started}");
        let steps = [
            (progress(0, &["p1"], false), 0),
            (progress(8, &["p1"], false), 0),
            (progress(6, &[], false), 25),
            (progress(0, &[], false), 99),
            (progress(0, &[], true), 100),
        ];
        for (step, expected) in steps {
            view.most = view.most.max(step.in_flight);
            assert_eq!(view.fraction(&step), expected, "{step:?}");
        }
        assert_eq!(
            view.text(&progress(8, &["p1", "p2"], false)),
            "8 in flight, waiting for p1, p2, 0s of 1m"
        );
    }
}
