//! `lb top`: the fleet, live, on a whole screen.
//!
//! ```text
//!   terminal ─┐
//!   feed ─────┼─► state.update(event, now) ─► draw(state, now) ─► terminal
//!   clock ────┘
//! ```
//!
//! - [`state`] is all that there is to know, [`figures`] the part of it that comes from the controller.
//! - [`draw`] makes a frame of it: [`panes`] say what is in which column, a [`grid`] fits it into
//!   the room that there is.
//! - [`feed`] asks the controller, and asks again when it was away.
//!
//! # Invariants
//!
//! - The terminal is as it was before, however this ends: a key, a signal, an error, a panic.
//! - Nothing here spawns a task, so that a panic is not swallowed by one while the screen stays.
//! - What others sent (names, reasons) never gets to the terminal as control characters.

use std::{
    io::{self, IsTerminal as _},
    pin::pin,
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::Context;
use clap::builder::FalseyValueParser;
use lb_common::{clock, drain::Signals};
use ratatui::{
    DefaultTerminal,
    crossterm::{self, event},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time,
};

use self::{
    state::{Event, Flow, State},
    theme::Theme,
};
use crate::{client::Remote, output::Colors};

mod draw;
mod feed;
mod figures;
mod format;
mod grid;
mod panes;
mod state;
mod theme;

/// Watch the fleet live: proxies, backend sets, backends, events
///
/// What is wrong comes first: sorted so in each pane, and in a line at the bottom. While the
/// controller is away, its last figures stay, with since when, and it goes on by itself.
///
/// Keys: q ends it, Tab and 1 to 4 choose a pane, arrows select a row, s sorts, / filters, p pauses,
/// z zooms, ? says all of them.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// How often the controller is asked
    #[arg(
        long,
        env = "LB_INTERVAL",
        value_name = "DURATION",
        default_value = "1s",
        value_parser = interval
    )]
    interval: Duration,

    /// Print it once, as plain text, and end
    #[arg(long, env = "LB_ONCE", value_parser = FalseyValueParser::new())]
    once: bool,

    #[command(flatten)]
    remote: Remote,

    #[command(flatten)]
    colors: Colors,
}

const AFTER_HELP: &str = "\
Exit codes:
  0    ended by a key, or printed with --once
  1    no terminal, or with --once no controller
  2    wrong usage
  129  ended by SIGHUP
  130  ended by SIGINT
  143  ended by SIGTERM

Examples:
  lb top
  lb top --control http://10.0.0.5:7000 --interval 500ms
  lb top --once | grep unhealthy";

/// The terminal, until it is dropped.
struct Screen(DefaultTerminal);

/// How often there is a new frame even if nothing happens, because ages in it grow.
const FRAME: Duration = Duration::from_secs(1);
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(3_600);
/// Events that wait while a frame is drawn.
const WAITING: usize = 256;
/// As a shell has it: 128 and the signal's number.
const HANGUP: u8 = 129;

/// # Errors
/// If there is no terminal, or with `--once` no controller.
pub async fn main(args: Args) -> anyhow::Result<ExitCode> {
    if args.once {
        crate::print(&once(&args).await?);
        return Ok(ExitCode::SUCCESS);
    }
    anyhow::ensure!(
        io::stdout().is_terminal(),
        "standard output is no terminal; lb top --once prints the same as text"
    );
    live(&args).await
}

async fn once(args: &Args) -> anyhow::Result<String> {
    let controller = args.remote.connect().await?;
    let mut state = State::new(controller.url());
    let poll = feed::look(&controller).await?;
    let history = feed::history(&controller).await?;
    let now = clock::wall();
    state.update(Event::Polled(Box::new(poll)), now);
    state.update(Event::History(history), now);
    // What is not looked at, but read by a program, is better not cut.
    let width = args.colors.screen().width.and_then(|width| u16::try_from(width).ok());
    Ok(draw::plain(&state, now, width))
}

async fn live(args: &Args) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new().context("cannot register signal handlers")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot register signal handlers")?;
    let colours = args.colors.screen().color;
    // It looks at NO_COLOR itself otherwise, whatever --color says.
    crossterm::style::force_color_output(colours);
    let theme = Theme::new(colours);
    let mut state = State::new(args.remote.to_string());
    let (sender, mut events) = mpsc::channel(WAITING);
    let mut screen = Screen::open().context("cannot use the terminal")?;
    read_terminal(sender.clone());
    let mut feed = pin!(feed::run(&args.remote, args.interval, sender));
    let mut frames = time::interval(FRAME);
    loop {
        let now = clock::wall();
        screen.0.draw(|frame| {
            let area = frame.area();
            draw::draw(&state, now, theme, area, frame.buffer_mut());
        })?;
        let mut next = tokio::select! {
            event = events.recv() => event,
            never = &mut feed => match never {},
            _ = frames.tick() => None,
            stop = signals.next() => return Ok(ExitCode::from(stop.exit_code())),
            _ = hangup.recv() => return Ok(ExitCode::from(HANGUP)),
        };
        // A crowd of events is one frame.
        while let Some(event) = next {
            let event = event.context("cannot read the terminal")?;
            if state.update(event, clock::wall()) == Flow::Quit {
                return Ok(ExitCode::SUCCESS);
            }
            next = events.try_recv().ok();
        }
    }
}

/// Keys and sizes. It ends with the process, because nothing else wakes it.
fn read_terminal(events: feed::Events) {
    thread::spawn(move || {
        loop {
            let read = event::read();
            let failed = read.is_err();
            if events.blocking_send(read.map(Event::Terminal)).is_err() || failed {
                return;
            }
        }
    });
}

/// # Errors
/// What would be valid.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = lb_proto::duration::parse(text)?;
    let valid = (SHORTEST..=LONGEST).contains(&interval);
    valid.then_some(interval).ok_or_else(|| "give a duration from 100ms to 1h".into())
}

// === impl Screen ===

impl Screen {
    /// From here on a panic restores the terminal before it says what happened.
    fn open() -> io::Result<Self> {
        ratatui::try_init().map(Self).inspect_err(|_| ratatui::restore())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // It may be gone; then there is nothing to restore.
        let _ = ratatui::try_restore();
    }
}

#[cfg(test)]
mod tests;
