//! `lb restore`: a backup as a controller's store again.

use std::{path::PathBuf, process::ExitCode};

use anyhow::anyhow;
use lb_control::backup::{self, Restored};

/// Make a controller's store of a backup
///
/// On the controller's host, while no controller runs on the data directory. All of the backup is
/// checked before anything is written. Proxies follow the controller that starts on it then,
/// whatever they run.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// What lb backup wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The data directory of the controller; made if it is missing
    #[arg(long, env = "LB_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,

    /// Put it in place of the store that is there, which is kept aside
    #[arg(long)]
    replace: bool,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  restored
  1  failed; what was there is as it was
  2  wrong usage

Examples:
  lb restore lb-20261126T181501Z-revision-12.backup --data-dir /var/lib/lb
  lb restore lb-20261126T181501Z-revision-12.backup --data-dir /var/lib/lb --replace";

/// # Errors
/// If the backup is not right, or cannot be put there.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let Args { file, data_dir, replace } = args;
    // What it says has its causes in it.
    let restored = backup::restore(file, data_dir, *replace).map_err(|error| anyhow!("{error}"))?;
    let Restored { revision, aside } = restored;
    crate::print(&format!("{} has revision {revision}\n", data_dir.display()));
    if let Some(aside) = aside {
        crate::print(&format!("what was there is {}\n", aside.display()));
    }
    Ok(ExitCode::SUCCESS)
}
