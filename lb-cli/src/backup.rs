//! `lb backup`: all that the controller stores, in one file on its host.

use std::process::ExitCode;

use lb_proto::v1;

use crate::{
    client::Remote,
    output::{self, Output},
};

/// Have the controller write a backup
///
/// It is written into backups/ of the controller's data directory, on its host, because it has
/// private keys in it. Take it elsewhere from there; lb restore makes a store of it again.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    output: Output,

    #[command(flatten)]
    remote: Remote,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  written
  1  failed
  2  wrong usage

Examples:
  lb backup
  scp controller:$(lb backup --json | jq -r .path) .";

/// # Errors
/// If the controller cannot write one.
pub async fn main(args: Args) -> anyhow::Result<ExitCode> {
    let controller = args.remote.connect().await?;
    let answer = controller.call(async |mut api| api.backup(v1::BackupRequest {}).await).await?;
    if args.output.json {
        output::json(&answer)?;
    } else {
        let v1::BackupResponse { path, revision, bytes } = answer;
        let kilobytes = bytes as f64 / 1e3;
        let about = format!("revision {revision}, {kilobytes:.1} kB, with private keys");
        crate::print(&format!("{path}\n{about}\n"));
    }
    Ok(ExitCode::SUCCESS)
}
