//! `lb weight`: how much of the traffic a backend gets, whatever the spec says.

use std::process::ExitCode;

use lb_proto::{
    parse::{MAX_WEIGHT, name_of},
    v1,
};

use crate::{
    client::{Remote, changes, name::BackendPath},
    output::Output,
};

/// Set a backend's weight: its share of its set's requests
///
/// It holds whatever a file or lb apply says of the backend's weight, until --reset.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// Which one
    #[arg(value_name = "SET/BACKEND")]
    backend: BackendPath,

    /// From 0, nothing new, to 65535; backends that were given none have 1
    #[arg(
        value_name = "N",
        required_unless_present = "reset",
        value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_WEIGHT))
    )]
    weight: Option<u32>,

    /// Give it the weight again that the spec says
    #[arg(long, conflicts_with = "weight")]
    reset: bool,

    /// Why; kept in the history [default: weight N for BACKEND of SET]
    #[arg(long, short = 'm', value_name = "TEXT")]
    comment: Option<String>,

    #[command(flatten)]
    output: Output,

    #[command(flatten)]
    remote: Remote,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  it has this weight, or had it already
  1  failed; unless the connection was lost meanwhile, nothing was changed
  2  wrong usage

Examples:
  lb weight app/127.0.0.1:3001 3
  lb weight app/canary 0 --comment 'too many errors'
  lb weight app/canary --reset";

/// # Errors
/// If there is no such backend.
pub async fn main(args: Args) -> anyhow::Result<ExitCode> {
    let Args { backend, weight, reset, comment, output, remote } = args;
    let controller = remote.connect().await?;
    let (_, spec) = controller.get(None).await?;
    let (backend_set, backend) = backend.find(&spec)?;
    let backend = name_of(&backend).to_owned();
    let comment = comment.unwrap_or_else(|| match weight {
        Some(weight) => format!("weight {weight} for {backend} of {backend_set}"),
        None => format!("weight of {backend} of {backend_set} as the spec says"),
    });
    let request = v1::SetBackendRequest {
        backend_set,
        backend,
        weight,
        reset_weight: reset,
        comment,
        ..v1::SetBackendRequest::default()
    };
    let done = controller.call(async |mut api| api.set_backend(request).await).await?;
    changes::tell_done(&done, &output)?;
    Ok(ExitCode::SUCCESS)
}
