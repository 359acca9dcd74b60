//! `lb undrain`: a backend gets requests again.

use std::process::ExitCode;

use lb_proto::{parse::name_of, v1};

use crate::{
    client::{Remote, changes, name::BackendPath},
    output::Output,
};

/// Give a draining backend new requests again
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// Which one
    #[arg(value_name = "SET/BACKEND")]
    backend: BackendPath,

    /// Let the spec say again whether it is active, whatever was set by hand
    #[arg(long)]
    reset: bool,

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
  0  it is active or as the spec says, or was already
  1  failed; unless the connection was lost meanwhile, nothing was changed
  2  wrong usage

Examples:
  lb undrain app/127.0.0.1:3001
  lb undrain app/blue-1 --comment 'deployed'
  lb undrain app/blue-1 --reset";

/// # Errors
/// If there is no such backend, or it is disabled.
pub async fn main(args: Args) -> anyhow::Result<ExitCode> {
    let Args { backend, reset, comment, output, remote } = args;
    let controller = remote.connect().await?;
    let (_, spec) = controller.get(None).await?;
    let (backend_set, backend) = backend.find(&spec)?;
    let backend = name_of(&backend).to_owned();
    let done = if reset {
        let comment = comment
            .unwrap_or_else(|| format!("state of {backend} of {backend_set} as the spec says"));
        let reset_state = true;
        let request =
            v1::SetBackendRequest { backend_set, backend, reset_state, comment, ..<_>::default() };
        controller.call(async |mut api| api.set_backend(request).await).await?
    } else {
        let comment = comment.unwrap_or_default();
        let request = v1::UndrainBackendRequest { backend_set, backend, comment };
        controller.call(async |mut api| api.undrain_backend(request).await).await?
    };
    changes::tell_done(&done, &output)?;
    Ok(ExitCode::SUCCESS)
}
