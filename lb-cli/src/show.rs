//! `lb show`: one revision.

use std::process::ExitCode;

use anyhow::bail;

use crate::{
    client::{Controller, Remote, changes, when},
    history,
    output::{self, Output, Paint},
};

/// Show what a revision changed, when and why
///
/// lb get --revision shows the whole desired state as it was then.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// Which one; lb history lists them
    revision: u64,

    #[command(flatten)]
    output: Output,

    #[command(flatten)]
    remote: Remote,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  shown
  1  failed, or there is no such revision
  2  wrong usage

Examples:
  lb show 12
  lb show 12 --json";

/// # Errors
/// If there is no such revision, or the controller does not say.
pub async fn main(args: Args) -> anyhow::Result<ExitCode> {
    let Args { revision: wanted, output, remote } = args;
    let controller = remote.connect().await?;
    let found = history::revisions(&controller, 1, wanted.checked_add(1)).await?;
    let Some(revision) = found.into_iter().find(|revision| revision.revision == wanted) else {
        bail!("there is no revision {wanted}; {}", what_there_is(&controller).await?);
    };
    if output.json {
        output::json(&revision)?;
        return Ok(ExitCode::SUCCESS);
    }
    let screen = output.colors.screen();
    let time = revision.time.as_ref();
    let mut text = screen.paint(Paint::Bold, &format!("revision {wanted}"));
    let by = if revision.author.is_empty() { "" } else { " by " };
    let when = format!("  {} UTC ({})", when::exact(time), when::ago(time));
    text.push_str(&format!("{when}{by}{}\n", revision.author));
    if !revision.comment.is_empty() {
        text.push_str(&format!("  {}\n", screen.wrap(&revision.comment, 2, 2)));
    }
    text.push('\n');
    text.push_str(&changes::lines(&revision.changes, &screen));
    crate::print(&text);
    Ok(ExitCode::SUCCESS)
}

async fn what_there_is(controller: &Controller) -> anyhow::Result<String> {
    let newest = history::revisions(controller, 1, None).await?;
    Ok(match newest.first() {
        Some(newest) => format!("the newest one is {}, and lb history lists them", newest.revision),
        None => "there is none at all".into(),
    })
}
