//! A file as the source of the desired state: read at the start, and again whenever it changes.
//!
//! The file is looked at, not watched, so that replacing it by a rename, a symbolic link or a
//! mount all work. Only what was the same for a second counts, so a file that is being written is not
//! taken half. What was applied last is not applied again, though the file went missing meanwhile or was
//! broken: it would undo what was changed since.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use lb_common::spec::DesiredState;
use lb_proto::{file::FileErrors, parse, pem};
use tokio::signal::unix::Signal;

use crate::{
    controller::{Applied, Change, Controller, Event, Refused},
    desired::Batch,
    owner::{Handle, Terms},
};

const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// So many looks in a row see the same before it counts. Writers pause.
const SAME_LOOKS: u32 = 4;

/// Why the file is not in force.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path:?}: {source}")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}", Located(path, errors))]
    Wrong { path: PathBuf, errors: FileErrors },
    /// Rather a file that is being made anew than the wish to serve nothing.
    #[error(
        "{path:?} holds nothing, and would remove everything; to do that, use lb apply --allow-empty"
    )]
    Empty { path: PathBuf },
    #[error("{path:?} is not in force: {source}")]
    Refused {
        path: PathBuf,
        #[source]
        source: Refused,
    },
}

pub struct ConfigFile {
    path: PathBuf,
    handle: Handle,
    /// What was applied, or refused for what it says.
    dealt_with: Option<Seen>,
    /// The store could not take it; it is tried again once that works.
    waits_for_store: bool,
}

/// Read, and not looked into yet.
struct Content {
    text: String,
    digest: u64,
}

/// What a look found, as far as another look can be compared with it.
type Seen = Result<u64, io::ErrorKind>;

/// `FILE:LINE:COLUMN: field: what is wrong`, a line each.
struct Located<'a>(&'a Path, &'a FileErrors);

// === impl ConfigFile ===

impl ConfigFile {
    pub fn new(path: PathBuf, handle: Handle) -> Self {
        Self { path, handle, dealt_with: None, waits_for_store: false }
    }

    /// Applies the file, unless it is the one that was applied last, before a restart maybe.
    ///
    /// # Errors
    /// If it cannot be read, is wrong, or cannot be stored.
    pub async fn apply_if_new(&mut self) -> Result<(), ConfigError> {
        let read = self.read().await;
        self.deal_with(read, false).await
    }

    /// Applies the file whenever it changes, for ever. SIGHUP tries at once what was refused; it is sent to
    /// rotate logs, too, and so what was applied last is not applied again by it.
    pub async fn follow(mut self, mut hangup: Signal) {
        let mut before = self.dealt_with;
        let mut same = 0;
        loop {
            let asked = asked_or_due(&mut hangup).await;
            let read = self.read().await;
            let now = Some(seen(&read));
            let is_same = now == std::mem::replace(&mut before, now);
            same = if is_same { same + 1 } else { 0 };
            if !asked && (same < SAME_LOOKS || now == self.dealt_with) {
                continue;
            }
            let fails = |controller: &Controller| controller.store_problem().is_some();
            if !asked && self.waits_for_store && self.handle.look(fails).await.unwrap_or(true) {
                continue;
            }
            if let Err(error) = self.deal_with(read, asked).await {
                tracing::error!("the configuration file changes nothing: {error}");
            }
        }
    }

    async fn deal_with(
        &mut self,
        read: Result<Content, ConfigError>,
        asked: bool,
    ) -> Result<(), ConfigError> {
        let seen = seen(&read);
        if let Ok(content) = &read {
            let applied = self.handle.look(|controller| controller.file_digest()).await;
            if applied.map_err(|refused| self.refused(refused))? == Some(content.digest) {
                self.dealt_with = Some(seen);
                let _ = self.handle.send(Event::File { problem: None }).await;
                if asked {
                    let file = self.path.display();
                    tracing::info!(%file, "the configuration file is as it was applied last, and changes nothing");
                }
                return Ok(());
            }
        }
        let result = match read {
            Ok(content) => self.apply(content).await,
            Err(error) => Err(error),
        };
        // That the store is busy or fails is no fault of the file's: it is tried again.
        self.waits_for_store = matches!(
            &result,
            Err(ConfigError::Refused {
                source: Refused::Store(_)
                    | Refused::Unknown(_)
                    | Refused::Unsettled
                    | Refused::NoLead,
                ..
            })
        );
        let is_busy = matches!(&result, Err(ConfigError::Refused { source: Refused::Busy, .. }));
        let passing = is_busy || self.waits_for_store;
        self.dealt_with = (!passing).then_some(seen);
        let problem = result.as_ref().err().map(ToString::to_string);
        // A controller that is ending has no use for it.
        let _ = self.handle.send(Event::File { problem }).await;
        result
    }

    async fn read(&self) -> Result<Content, ConfigError> {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || fs::read_to_string(path)).await;
        let text = read
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|source| ConfigError::Unreadable { path: self.path.clone(), source })?;
        Ok(Content { digest: xxhash_rust::xxh3::xxh3_64(text.as_bytes()), text })
    }

    async fn apply(&self, Content { text, digest }: Content) -> Result<(), ConfigError> {
        let wrong = |errors| ConfigError::Wrong { path: self.path.clone(), errors };
        let mut spec = lb_proto::file::parse(&text).map_err(wrong)?;
        pem::resolve(&mut spec, self.path.parent().unwrap_or(Path::new("/")));
        let state = parse::desired_state(&spec)
            .map_err(|problems| self.refused(Refused::Invalid(problems)))?;
        if state == DesiredState::default() {
            let current = self.handle.look(|controller| controller.asked()).await;
            if current.map_err(|refused| self.refused(refused))?.1.spec != state {
                return Err(ConfigError::Empty { path: self.path.clone() });
            }
        }
        let keys = pem::keys(&spec.certificates);
        let terms = Terms {
            comment: format!("file {}", self.path.display()),
            author: "file".into(),
            file_digest: Some(digest),
            ..Terms::default()
        };
        let applied =
            self.handle.mutate(Change::Batch(Box::new(Batch::replace(state, keys))), terms).await;
        let Applied { revision, changes, .. } = applied.map_err(|refused| self.refused(refused))?;
        let file = self.path.display();
        tracing::info!(%file, revision, changes = changes.len(), "configuration file applied");
        Ok(())
    }

    fn refused(&self, source: Refused) -> ConfigError {
        ConfigError::Refused { path: self.path.clone(), source }
    }
}

fn seen(read: &Result<Content, ConfigError>) -> Seen {
    match read {
        Ok(content) => Ok(content.digest),
        Err(ConfigError::Unreadable { source, .. }) => Err(source.kind()),
        Err(_) => Err(io::ErrorKind::Other),
    }
}

/// Whether somebody asked, or else the next look is due.
async fn asked_or_due(hangup: &mut Signal) -> bool {
    tokio::select! {
        Some(()) = hangup.recv() => true,
        () = tokio::time::sleep(LOOK_INTERVAL) => false,
    }
}

// === impl Located ===

impl fmt::Display for Located<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.1.0.iter().enumerate() {
            let newline = if i > 0 { "\n" } else { "" };
            write!(f, "{newline}{}:{}:{}: ", self.0.display(), error.line, error.column)?;
            if !error.field.is_empty() {
                write!(f, "{}: ", error.field)?;
            }
            f.write_str(&error.message)?;
        }
        Ok(())
    }
}
