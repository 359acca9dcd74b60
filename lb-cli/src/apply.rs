//! `lb apply`: make the fleet what a file says.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::anyhow;
use lb_proto::{
    error::{Problem, Problems},
    file::{self, Document},
    v1,
};
use tonic::Code;

use crate::{
    check::{self, Refused as WrongFile, located},
    client::{
        Controller, Refused, Remote,
        proposal::{self, Consent},
    },
    output::Output,
};

/// Make the fleet what a file says
///
/// Shows what would change, asks, and changes exactly that: if somebody else changes the fleet in
/// between, nothing is changed.
///
/// A file is the whole desired state, so what is not in it is removed. A file that says
/// `partial = true`, as `lb get KIND` prints it, or one that is applied with --merge, is about some
/// parts only: what it names is added or replaced whole, and everything else stays.
#[derive(Debug, clap::Args)]
#[command(after_long_help = after_help())]
pub struct Args {
    #[command(flatten)]
    source: Source,

    #[command(flatten)]
    consent: Consent,

    /// Only if this is the current revision; lb get and lb history say which one is
    #[arg(long, value_name = "REVISION")]
    expected_revision: Option<u64>,

    #[command(flatten)]
    output: Output,

    #[command(flatten)]
    remote: Remote,
}

/// Where a desired state comes from.
#[derive(Debug, clap::Args)]
pub struct Source {
    /// A TOML file; - is standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,

    /// Add or replace what the file names, and leave the rest as it is
    #[arg(long)]
    merge: bool,

    /// Take a file with nothing in it at its word, and remove everything
    #[arg(long)]
    allow_empty: bool,
}

/// A file that was read.
pub struct Desired {
    file: PathBuf,
    text: String,
    document: Document,
}

fn after_help() -> String {
    format!(
        "{}\n\n\
         Examples:\n  \
         lb apply -f lb.toml\n  \
         lb apply -f lb.toml --dry-run\n  \
         lb apply -f lb.toml --yes --comment 'a third server'\n  \
         lb get routes app | sed 's/30s/10s/' | lb apply -f -\n  \
         render-config | lb apply -f - --yes --json",
        proposal::EXIT_CODES
    )
}

/// # Errors
/// If the file is wrong, or the controller refuses it.
pub async fn main(args: Args) -> anyhow::Result<ExitCode> {
    let Args { source, consent, expected_revision, output, remote } = args;
    let desired = match source.read() {
        Ok(desired) => desired,
        Err(refused) => return Ok(refused.report()),
    };
    let controller = remote.connect().await?;
    if !source.allow_empty && desired.is_nothing() {
        // Rather a program that failed and printed nothing than the wish to serve nothing.
        let (_, spec) = controller.get(None).await?;
        anyhow::ensure!(
            spec == v1::Spec::default(),
            "{}: holds nothing, and as the whole state it would remove every listener, route and \
             backend set; if that is meant, give --allow-empty",
            source.file.display()
        );
    }
    let settled = proposal::settle(
        &controller,
        &output,
        &consent,
        source.is_stdin(),
        async |current, dry_run| {
            // What the caller saw comes first: it is older than what was just shown.
            let expected = expected_revision.or(current);
            desired.apply(&controller, expected, dry_run, consent.comment.clone()).await
        },
    );
    settled.await.map_err(|error| desired.locate(error))
}

// === impl Source ===

impl Source {
    pub fn is_stdin(&self) -> bool {
        self.file == Path::new("-")
    }

    /// # Errors
    /// Everything that is wrong with the file, with its place.
    pub fn read(&self) -> Result<Desired, WrongFile> {
        let file = self.file.clone();
        let text = check::text(&file)?;
        match Document::parse(&text, self.merge) {
            Ok(document) => Ok(Desired { file, text, document }),
            Err(errors) => Err(WrongFile::Wrong { file, errors }),
        }
    }
}

// === impl Desired ===

impl Desired {
    /// The whole state, and nothing is in it.
    fn is_nothing(&self) -> bool {
        !self.document.partial && self.document.spec == v1::Spec::default()
    }

    /// # Errors
    /// The controller's refusal.
    pub async fn apply(
        &self,
        controller: &Controller,
        expected_revision: Option<u64>,
        dry_run: bool,
        comment: String,
    ) -> Result<v1::ApplyResponse, Refused> {
        let Document { spec, partial } = self.document.clone();
        controller.apply(request(spec, !partial, expected_revision, dry_run, comment)).await
    }

    /// Puts the places in the file before what the controller found wrong, as far as it is about
    /// the file.
    pub fn locate(&self, error: anyhow::Error) -> anyhow::Error {
        match error.downcast_ref::<Refused>() {
            Some(refused) if refused.code == Code::InvalidArgument => {
                let problems = problems(&refused.to_string());
                let errors = file::locate(&self.text, problems);
                anyhow!("the controller refuses it\n{}", located(&self.file, &errors))
            }
            _ => error,
        }
    }
}

/// All of the state, or some parts of it.
pub fn request(
    spec: v1::Spec,
    replace_all: bool,
    expected_revision: Option<u64>,
    dry_run: bool,
    comment: String,
) -> v1::ApplyRequest {
    let v1::Spec { listeners, routes, backend_sets, certificates } = spec;
    v1::ApplyRequest {
        listeners,
        routes,
        backend_sets,
        certificates,
        replace_all,
        // Who means it was asked already, and who only looks may see what it would be.
        allow_empty: replace_all,
        expected_revision,
        dry_run,
        comment,
        ..v1::ApplyRequest::default()
    }
}

/// A refusal's lines, `FIELD: what is wrong`.
pub fn problems(message: &str) -> Problems {
    let problem = |line: &str| {
        let (field, message) = line.split_once(": ").unwrap_or(("", line));
        Problem { field: field.into(), message: message.into() }
    };
    Problems(message.lines().map(problem).collect())
}

/// Asks what a file would change.
///
/// # Errors
/// The controller's refusal, with the places in the file.
pub async fn preview(
    desired: &Desired,
    controller: &Controller,
) -> anyhow::Result<v1::ApplyResponse> {
    let asked = desired.apply(controller, None, true, String::new()).await;
    asked.map_err(|refused| desired.locate(refused.into()))
}
