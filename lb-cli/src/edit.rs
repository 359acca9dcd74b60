//! `lb edit`: the desired state in an editor.
//!
//! # Invariants
//!
//! - Nothing that was typed is lost: until it is applied, the text stays in its file, and whoever
//!   typed it is told where.
//! - What is applied replaces only the revision that was opened.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, anyhow};
use lb_proto::{
    file::{self, FileErrors},
    v1,
};
use tempfile::NamedTempFile;
use tokio::signal::unix::{SignalKind, signal};
use tonic::Code;

use crate::{
    apply::{problems, request},
    client::{CONFLICT, Controller, Refused, Remote, arrival, changes, proposal},
    output::Colors,
};

/// Change the desired state in an editor
///
/// The editor is $VISUAL or else $EDITOR. What is saved there is applied when it ends. If something
/// is wrong with it, the editor opens again and says what; to give up, leave without a change or
/// with an empty file.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// Why; kept in the history
    #[arg(long, short = 'm', value_name = "TEXT", default_value = "", hide_default_value = true)]
    comment: String,

    #[command(flatten)]
    colors: Colors,

    #[command(flatten)]
    remote: Remote,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  changed, or there was nothing to change
  1  failed; unless the connection was lost meanwhile, nothing was changed. What was typed is kept
  2  wrong usage
  4  somebody else changed the fleet in between; nothing was changed, and what was typed is kept

Examples:
  lb edit
  EDITOR='code --wait' lb edit
  lb edit --comment 'longer timeouts for the import'";

const USUAL_EDITOR: &str = "vi";
/// At the top, and taken off again: never a part of what is applied.
const NOTE: &str = "#: ";

/// A file that an editor is opened with.
struct Draft {
    file: NamedTempFile,
    /// As it was given to the editor, without notes.
    text: String,
    /// The file has what the text has not.
    is_unreadable: bool,
}

/// What the controller made of a text.
enum Answer {
    Applied(v1::ApplyResponse),
    /// To be corrected.
    Wrong(FileErrors),
}

/// # Errors
/// If the editor cannot be run, or the controller refuses what was typed.
pub async fn main(args: Args) -> anyhow::Result<ExitCode> {
    let controller = args.remote.connect().await?;
    let (revision, spec) = controller.get(None).await?;
    // From here on signals are the editor's affair: how it ends decides, and what was typed stays.
    let _kept_from_ending =
        [SignalKind::interrupt(), SignalKind::hangup(), SignalKind::terminate()].map(signal);
    let mut draft = Draft::new(file::to_toml(&spec))?;
    let opened = draft.text.clone();
    let mut notes = vec![
        format!("revision {revision}: all listeners, routes and backend sets."),
        "It is applied when the editor ends; to give up, leave it as it is or empty it.".into(),
    ];
    loop {
        let before = draft.text.clone();
        if let Err(error) = draft.edit(&notes) {
            return Err(draft.keep(error, &opened));
        }
        let again = before != opened;
        if draft.text.trim().is_empty() || draft.text == opened {
            crate::print("nothing was changed\n");
            return Ok(ExitCode::SUCCESS);
        }
        if again && draft.text == before {
            // Nobody is to be asked the same for ever.
            return Err(draft.keep(anyhow!("it is still wrong, and nothing was changed"), &opened));
        }
        match apply(&controller, &draft.text, revision, &args.comment).await {
            Ok(Answer::Applied(applied)) if applied.changes.is_empty() => {
                crate::print(&format!(
                    "nothing to change: revision {} has it all already\n",
                    applied.revision
                ));
                return Ok(ExitCode::SUCCESS);
            }
            Ok(Answer::Applied(applied)) => {
                crate::print(&changes::lines(&applied.changes, &args.colors.screen()));
                crate::print(&format!("done: revision {}\n", applied.revision));
                return Ok(arrival::tell(&controller, applied.revision, None).await?);
            }
            Ok(Answer::Wrong(errors)) => notes = draft.notes(&errors),
            Err(refused) if refused.code == Code::Aborted => {
                let error = anyhow!(refused).context(proposal::RACED);
                crate::complain(&format!("{:#}", draft.keep(error, &opened)));
                return Ok(ExitCode::from(CONFLICT));
            }
            Err(refused) => return Err(draft.keep(refused.into(), &opened)),
        }
    }
}

async fn apply(
    controller: &Controller,
    text: &str,
    revision: u64,
    comment: &str,
) -> Result<Answer, Refused> {
    let spec = match file::parse(text) {
        Ok(spec) => spec,
        Err(errors) => return Ok(Answer::Wrong(errors)),
    };
    if spec == v1::Spec::default() {
        let message = "nothing is left in it; what removes everything is lb apply --allow-empty";
        let field = String::new();
        let error = file::FileError { line: 1, column: 1, field, message: message.into() };
        return Ok(Answer::Wrong(FileErrors(vec![error])));
    }
    match controller.apply(request(spec, true, Some(revision), false, comment.into())).await {
        Ok(applied) => Ok(Answer::Applied(applied)),
        Err(refused) if refused.code == Code::InvalidArgument => {
            Ok(Answer::Wrong(file::locate(text, problems(&refused.to_string()))))
        }
        Err(refused) => Err(refused),
    }
}

fn editor() -> String {
    let set = |name| env::var(name).ok().filter(|editor| !editor.trim().is_empty());
    set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| USUAL_EDITOR.into())
}

// === impl Draft ===

impl Draft {
    fn new(text: String) -> anyhow::Result<Self> {
        let mut file = tempfile::Builder::new();
        // Only its owner may read it: headers may have secrets in them.
        let file = file.prefix("lb-edit-").suffix(".toml").tempfile();
        Ok(Self {
            file: file.context("cannot make a temporary file to edit")?,
            text,
            is_unreadable: false,
        })
    }

    fn path(&self) -> &Path {
        self.file.path()
    }

    /// # Errors
    /// If the editor cannot be run, or says that it failed.
    fn edit(&mut self, notes: &[String]) -> anyhow::Result<()> {
        let notes: String = notes.iter().map(|note| format!("{NOTE}{note}\n")).collect();
        let path = self.path().to_owned();
        let unreadable = || format!("cannot use {}", path.display());
        fs::write(&path, notes + &self.text).with_context(unreadable)?;
        let editor = editor();
        // Through a shell, because editors are given with their arguments: `code --wait`.
        let status =
            Command::new("sh").args(["-c", &format!("{editor} \"$1\""), "lb"]).arg(&path).status();
        let status = status.with_context(|| format!("cannot run {editor:?}"))?;
        let typed = fs::read(&path).with_context(unreadable)?;
        let Ok(text) = String::from_utf8(typed) else {
            self.is_unreadable = true;
            return Err(anyhow!("what was saved is not UTF-8, so nothing was changed"));
        };
        let is_note = |line: &str| line.starts_with(NOTE.trim_end());
        self.text = text.split_inclusive('\n').skip_while(|line| is_note(line)).collect();
        if !status.success() {
            return Err(anyhow!(
                "the editor {editor:?} ended with {status}, so nothing was changed; $VISUAL or \
                 $EDITOR says which one to use"
            ));
        }
        Ok(())
    }

    /// What is wrong, with the lines as the editor is going to number them.
    fn notes(&self, errors: &FileErrors) -> Vec<String> {
        let intro = ["Nothing was changed yet, because of this:", "Leave it as it is to give up."];
        let count: usize = errors.0.iter().map(|error| error.message.lines().count().max(1)).sum();
        let above = count + intro.len();
        let told = errors.0.iter().flat_map(|error| {
            let error = file::FileError { line: error.line + above, ..error.clone() };
            error.to_string().lines().map(|line| format!("  {line}")).collect::<Vec<_>>()
        });
        let [first, last] = intro.map(str::to_owned);
        [first].into_iter().chain(told).chain([last]).collect()
    }

    /// Says where the text is, if there is anything in it that was typed.
    fn keep(self, error: anyhow::Error, opened: &str) -> anyhow::Error {
        let Self { file, text, is_unreadable } = self;
        if !is_unreadable && (text.trim().is_empty() || text == opened) {
            return error;
        }
        let kept = |path: PathBuf| {
            // Without notes, for `lb apply`.
            if is_unreadable { Ok(path) } else { fs::write(&path, &text).map(|()| path) }
        };
        let kept = file.keep().map_err(|error| error.error).and_then(|(_, path)| kept(path));
        match kept {
            Ok(path) => {
                let path = path.display();
                error.context(format!("what you typed is kept in {path}, for lb apply -f {path}"))
            }
            // The last place that is left.
            Err(lost) => error.context(format!("cannot keep what you typed ({lost}):\n{text}\n")),
        }
    }
}
