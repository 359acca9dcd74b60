//! `lb weight`: how much of the traffic a backend gets. And how one field of one backend is changed
//! without touching the others, whoever else changes them at the same time.

use std::process::ExitCode;

use lb_proto::{
    parse::{MAX_WEIGHT, name_of},
    v1,
};
use tonic::Code;

use crate::{
    client::{Controller, Remote, changes, name::BackendPath, proposal},
    output::{self, Output},
};

/// Set a backend's weight: its share of its set's requests
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// Which one
    #[arg(value_name = "SET/BACKEND")]
    backend: BackendPath,

    /// From 0, nothing new, to 65535; backends that were given none have 1
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_WEIGHT)))]
    weight: u32,

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
  lb weight app/canary 0 --comment 'too many errors'";

/// One change to one backend, made again if somebody else changes the fleet in between.
pub struct Edit<'a> {
    pub backend: &'a BackendPath,
    pub comment: &'a dyn Fn(&str, &str) -> String,
    pub change: &'a dyn Fn(&mut v1::Backend) -> anyhow::Result<()>,
}

/// As often as nobody is slower than everybody else by bad luck alone.
const TRIES: usize = 20;

/// # Errors
/// If there is no such backend.
pub async fn main(args: Args) -> anyhow::Result<ExitCode> {
    let Args { backend, weight, comment, output, remote } = args;
    let controller = remote.connect().await?;
    let edit = Edit {
        backend: &backend,
        comment: &|set, backend| {
            comment.clone().unwrap_or(format!("weight {weight} for {backend} of {set}"))
        },
        change: &|backend| {
            if backend.weight.unwrap_or(1) != weight {
                backend.weight = Some(weight);
            }
            Ok(())
        },
    };
    settle(&controller, &edit, &output).await
}

/// # Errors
/// If there is no such backend, or the controller refuses the change.
pub async fn settle(
    controller: &Controller,
    edit: &Edit<'_>,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let done = edit.apply(controller).await?;
    if output.json {
        output::json(&done)?;
    } else if done.changes.is_empty() {
        crate::print(&format!("nothing to change: revision {} is just that\n", done.revision));
    } else {
        crate::print(&changes::lines(&done.changes, &output.colors.screen()));
        crate::print(&format!("done: revision {}\n", done.revision));
    }
    Ok(ExitCode::SUCCESS)
}

// === impl Edit ===

impl Edit<'_> {
    /// A backend can only be replaced whole, so what replaces it is tied to what it was made from.
    async fn apply(&self, controller: &Controller) -> anyhow::Result<v1::ApplyResponse> {
        for tries in 1.. {
            let (revision, spec) = controller.get(None).await?;
            let (set, mut backend) = self.backend.find(&spec)?;
            (self.change)(&mut backend)?;
            let request = v1::ApplyRequest {
                comment: (self.comment)(&set, name_of(&backend)),
                backends: vec![v1::BackendChange { backend_set: set, backend: Some(backend) }],
                expected_revision: Some(revision),
                ..v1::ApplyRequest::default()
            };
            match controller.apply(request).await {
                Err(refused) if refused.code == Code::Aborted && tries < TRIES => {}
                done => return proposal::raced(done),
            }
        }
        unreachable!("the last try returns")
    }
}
