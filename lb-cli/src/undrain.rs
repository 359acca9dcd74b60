//! `lb undrain`: a backend gets requests again.

use std::process::ExitCode;

use anyhow::bail;

use crate::{
    client::{Remote, name::BackendPath},
    output::Output,
    weight::{self, Edit},
};

/// Give a draining backend new requests again
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// Which one
    #[arg(value_name = "SET/BACKEND")]
    backend: BackendPath,

    /// Why; kept in the history [default: undrain BACKEND of SET]
    #[arg(long, short = 'm', value_name = "TEXT")]
    comment: Option<String>,

    #[command(flatten)]
    output: Output,

    #[command(flatten)]
    remote: Remote,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  it is active, or was already
  1  failed; unless the connection was lost meanwhile, nothing was changed
  2  wrong usage

Examples:
  lb undrain app/127.0.0.1:3001
  lb undrain app/blue-1 --comment 'deployed'";

/// # Errors
/// If there is no such backend, or it is disabled.
pub async fn main(args: Args) -> anyhow::Result<ExitCode> {
    let Args { backend, comment, output, remote } = args;
    let controller = remote.connect().await?;
    let edit = Edit {
        backend: &backend,
        comment: &|set, backend| comment.clone().unwrap_or(format!("undrain {backend} of {set}")),
        change: &|backend| {
            match backend.state.as_str() {
                "draining" => backend.state.clear(),
                "" | "active" => {}
                other => bail!(
                    "{} is {other}, not draining; lb edit can change its state",
                    lb_proto::parse::name_of(backend)
                ),
            }
            Ok(())
        },
    };
    weight::settle(&controller, &edit, &output).await
}
