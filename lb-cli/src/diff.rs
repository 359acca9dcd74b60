//! `lb diff`: what a file would change.

use std::process::ExitCode;

use crate::{
    apply::{self, Source},
    client::{Remote, changes},
    output::{self, Output},
};

/// Show what applying a file would change
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    source: Source,

    #[command(flatten)]
    output: Output,

    #[command(flatten)]
    remote: Remote,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  no difference: the fleet is what the file says
  1  failed
  2  wrong usage
  3  there are differences

Examples:
  lb diff -f lb.toml
  lb diff -f canary.toml --merge
  lb diff -f lb.toml --json > /dev/null; test $? = 3 && echo 'somebody changed the fleet'";

const DIFFERENT: u8 = 3;

/// # Errors
/// If the file is wrong, or the controller does not say.
pub async fn main(args: Args) -> anyhow::Result<ExitCode> {
    let desired = match args.source.read() {
        Ok(desired) => desired,
        Err(refused) => return Ok(refused.report()),
    };
    let controller = args.remote.connect().await?;
    let answer = apply::preview(&desired, &controller).await?;
    if args.output.json {
        output::json(&answer)?;
    } else {
        crate::print(&changes::lines(&answer.changes, &args.output.colors.screen()));
    }
    let same = answer.changes.is_empty();
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
}
