//! Show what would change, ask, and change exactly that.
//!
//! # Invariants
//!
//! - What is changed is what was shown: the change is tied to the revision that the difference was
//!   made from, and refused if somebody was faster.
//! - Nobody is asked who cannot answer: without a terminal nothing happens, unless `--yes` says so.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::builder::FalseyValueParser;
use lb_proto::v1::ApplyResponse;
use tonic::Code;

use super::{Controller, Refused, arrival, changes};
use crate::output::{self, Output, Paint};

/// How a change is agreed to.
#[derive(Debug, clap::Args)]
pub struct Consent {
    /// Change it without asking
    #[arg(long, short, env = "LB_YES", value_parser = FalseyValueParser::new())]
    pub yes: bool,

    /// Only show what would change
    #[arg(long)]
    pub dry_run: bool,

    /// Why; kept in the history
    #[arg(long, short = 'm', value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub comment: String,

    /// Return when every connected proxy runs it, or after this time
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "60s",
        value_parser = lb_proto::duration::parse
    )]
    pub wait: Option<Duration>,
}

/// Nobody agreed, so nothing was changed.
pub const NOT_CONFIRMED: u8 = 3;

pub const EXIT_CODES: &str = "\
Exit codes:
  0  changed, or there was nothing to change, or --dry-run; with --wait, and every connected proxy runs it
  1  failed; unless the connection was lost meanwhile, nothing was changed
  2  wrong usage
  3  not confirmed; nothing was changed
  4  somebody else changed the fleet in between; nothing was changed
  5  changed, and a proxy refuses it or cannot run all of it
  6  changed, and with --wait not every connected proxy runs it in time";

/// What a refused change means to whoever asked for it.
pub const RACED: &str = "somebody else changed the fleet in between, so nothing was changed; \
                         run it again to see what would change now";

/// `call(expected_revision, dry_run)` asks or changes. What proxies make of it is told, too.
///
/// # Errors
/// The controller's refusal.
pub async fn settle(
    controller: &Controller,
    output: &Output,
    consent: &Consent,
    stdin_is_taken: bool,
    mut call: impl AsyncFnMut(Option<u64>, bool) -> Result<ApplyResponse, Refused>,
) -> anyhow::Result<ExitCode> {
    let screen = output.colors.screen();
    let Consent { yes, dry_run, wait, .. } = *consent;
    let proposed = call(None, true).await?;
    if output.json && dry_run {
        output::json(&proposed)?;
        return Ok(ExitCode::SUCCESS);
    }
    if proposed.changes.is_empty() {
        let revision = proposed.revision;
        match output.json {
            true => output::json(&proposed)?,
            false => {
                crate::print(&format!(
                    "nothing to change: revision {revision} has it all already\n"
                ));
            }
        }
        return match dry_run || wait.is_none() {
            true => Ok(ExitCode::SUCCESS),
            // Somebody may have asked for it before, and without waiting.
            false => Ok(arrival::tell(controller, proposed.revision, wait).await?),
        };
    }
    let summary = changes::summary(&proposed.changes);
    if !output.json {
        crate::print(&changes::lines(&proposed.changes, &screen));
    }
    if dry_run {
        crate::print(&format!("{summary}; nothing was changed\n"));
        return Ok(ExitCode::SUCCESS);
    }
    if !yes {
        let question = format!("{summary}. Go ahead? [y/N] ");
        let question = screen.paint(Paint::Bold, &question);
        match ask(&question, output.json, stdin_is_taken)? {
            Some(true) => {}
            Some(false) => {
                crate::complain("nothing was changed");
                return Ok(ExitCode::from(NOT_CONFIRMED));
            }
            None => {
                let why = match output.json {
                    true => "--json does not ask",
                    false => "there is no terminal to ask on",
                };
                crate::complain(&format!(
                    "{summary}; {why}, so nothing was changed; --yes goes ahead without asking"
                ));
                return Ok(ExitCode::from(NOT_CONFIRMED));
            }
        }
    }
    let done = raced(call(Some(proposed.revision), false).await)?;
    if output.json {
        output::json(&done)?;
    } else {
        crate::print(&format!("done: revision {}\n", done.revision));
    }
    Ok(arrival::tell(controller, done.revision, wait).await?)
}

/// Says what it means that somebody was faster.
///
/// # Errors
/// The refusal, if it is one.
pub fn raced<T>(result: Result<T, Refused>) -> anyhow::Result<T> {
    match result {
        Err(refused) if refused.code == Code::Aborted => Err(refused).context(RACED),
        result => Ok(result?),
    }
}

/// None if there is nobody to ask.
fn ask(question: &str, quiet: bool, stdin_is_taken: bool) -> io::Result<Option<bool>> {
    // With JSON there is nothing to see that could be agreed to.
    if quiet || !io::stderr().is_terminal() {
        return Ok(None);
    }
    let mut input: Box<dyn BufRead> = if stdin_is_taken {
        match File::open("/dev/tty") {
            Ok(terminal) => Box::new(BufReader::new(terminal)),
            Err(_) => return Ok(None),
        }
    } else if io::stdin().is_terminal() {
        Box::new(io::stdin().lock())
    } else {
        return Ok(None);
    };
    let mut stderr = io::stderr();
    stderr.write_all(question.as_bytes())?;
    stderr.flush()?;
    let mut answer = String::new();
    if input.read_line(&mut answer)? == 0 {
        // The cursor is still behind the question.
        stderr.write_all(b"\n")?;
    }
    Ok(Some(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")))
}
