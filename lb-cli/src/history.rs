//! `lb history`: what was changed, when and why.

use std::process::ExitCode;

use lb_proto::v1;

use crate::{
    client::{Controller, Refused, Remote, changes, when},
    output::{self, Output, Paint},
    table::{Cell, Column, Table},
};

/// Show what was changed, when and why, newest first
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// At most so many revisions
    #[arg(long, short = 'n', value_name = "N", default_value = "20",
          value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    /// Only revisions before this one
    #[arg(long, value_name = "REVISION")]
    before: Option<u64>,

    #[command(flatten)]
    output: Output,

    #[command(flatten)]
    remote: Remote,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  shown
  1  failed
  2  wrong usage

Examples:
  lb history
  lb history -n 5
  lb history --before 120
  lb history --json | jq -r '.revisions[] | \"\\(.revision) \\(.comment)\"'";

/// # Errors
/// If the controller does not say.
pub async fn main(args: Args) -> anyhow::Result<ExitCode> {
    let Args { limit, before, output, remote } = args;
    let controller = remote.connect().await?;
    // One more than asked for says whether there are more.
    let mut revisions = revisions(&controller, limit.saturating_add(1), before).await?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = revisions.len() > limit;
    revisions.truncate(limit);
    if output.json {
        output::json(&v1::HistoryResponse { revisions })?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(oldest) = revisions.last().map(|revision| revision.revision) else {
        crate::print("no revisions\n");
        return Ok(ExitCode::SUCCESS);
    };
    let screen = output.colors.screen();
    let mut table = Table::new(vec![
        Column::right("REVISION"),
        Column::left("WHEN"),
        Column::left("BY").dropped(1),
        Column::left("COMMENT").cut_to(20),
        Column::left("CHANGES").cut_to(24),
    ]);
    for v1::Revision { revision, time, comment, changes, author } in &revisions {
        table.row(vec![
            Cell::painted(revision.to_string(), Paint::Bold),
            when::ago(time.as_ref()).into(),
            (&**author).into(),
            (&**comment).into(),
            changes::short(changes).into(),
        ]);
    }
    let mut text = table.render(&screen);
    if more {
        let hint = format!("older ones: lb history --before {oldest}");
        text.push_str(&format!("\n{}\n", screen.paint(Paint::Dim, &hint)));
    }
    crate::print(&text);
    Ok(ExitCode::SUCCESS)
}

/// Newest first.
///
/// # Errors
/// The controller's refusal.
pub async fn revisions(
    controller: &Controller,
    limit: u32,
    before: Option<u64>,
) -> Result<Vec<v1::Revision>, Refused> {
    let request = v1::HistoryRequest { limit, before };
    let answer = controller.call(async |mut api| api.history(request).await).await?;
    Ok(answer.revisions)
}
