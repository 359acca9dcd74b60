//! Backups: all that a controller stores, in a file that does not depend on how it is stored.
//!
//! ```text
//!   lb backup  ──► controller ──► store.contents ──► format ──► DATA_DIR/backups/
//!   lb restore ──► format, checked to its end ──► a new store ──► in place of none, or of one kept aside
//! ```
//!
//! - [`mod@format`]: the file, and what is checked of it.
//! - [`Backups`]: where a controller writes them. [`restore`]: how one becomes a store again.
//!
//! # Invariants
//!
//! - A backup has private keys in it. It is written where the store is, for nobody else to read, and goes
//!   over no wire.
//! - A file with the name of a backup is a whole one.
//! - A restore puts all of a backup in place or nothing.

pub mod format;
mod restore;

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    future::Future,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use lb_common::clock;
use lb_proto::v1;
use tokio::sync::{Mutex, Semaphore};

use crate::{
    store::{Contents, StoreError},
    timestamp,
};

pub use self::restore::{RestoreError, Restored, restore};

const DIRECTORY: &str = "backups";
const SUFFIX: &str = ".backup";
/// One that is being written.
const UNFINISHED: &str = "unfinished";
/// So many are kept. Which of them is dispensable is not for the controller to say.
const MOST: usize = 100;
/// Whoever has one made, and whoever waits for that.
const MOST_ASKING: usize = 2;

/// Where a controller puts its backups.
#[derive(Debug)]
pub struct Backups {
    directory: PathBuf,
    /// One at a time, because they are written under the same name.
    alone: Arc<Mutex<()>>,
    asking: Semaphore,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(
        "this controller keeps everything in memory, so there is no place for a backup; start it \
         with --data-dir"
    )]
    NoDirectory,
    #[error("{directory:?} has {MOST} backups already; move some elsewhere, or remove them")]
    TooMany { directory: PathBuf },
    #[error("a backup is being written, and another one waits for that already; try again later")]
    Busy,
    #[error("cannot write a backup to {directory:?}: {source}")]
    Write {
        directory: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}

// === impl Backups ===

impl Backups {
    pub fn of(data_dir: &Path) -> Self {
        Self {
            directory: data_dir.join(DIRECTORY),
            alone: Arc::default(),
            asking: Semaphore::new(MOST_ASKING),
        }
    }

    /// Writes one. What is in it is read once it is its turn and there is a place for it: it may be large.
    ///
    /// # Errors
    /// If there are too many, or as many wait as may, or if it cannot be read or written.
    pub async fn write(
        &self,
        contents: impl Future<Output = Result<Contents, StoreError>>,
    ) -> Result<v1::BackupResponse, BackupError> {
        let _asking = self.asking.try_acquire().map_err(|_| BackupError::Busy)?;
        let alone = Arc::clone(&self.alone).lock_owned().await;
        if self.off(count).await? >= MOST {
            return Err(BackupError::TooMany { directory: self.directory.clone() });
        }
        let contents = contents.await?;
        let written = move |directory: &Path| {
            // Also if nobody waits for it any more.
            let _alone = alone;
            put(directory, &contents, clock::wall())
        };
        self.off(written).await
    }

    /// Off the runtime's threads.
    async fn off<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, BackupError> {
        let directory = self.directory.clone();
        let done = tokio::task::spawn_blocking(move || work(&directory)).await;
        done.unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|source| BackupError::Write { directory: self.directory.clone(), source })
    }
}

fn count(directory: &Path) -> io::Result<usize> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut count = 0;
    for entry in entries {
        count += usize::from(entry?.file_name().to_string_lossy().ends_with(SUFFIX));
    }
    Ok(count)
}

/// It has its name once all of it is on the disk.
fn put(directory: &Path, contents: &Contents, wall: Duration) -> io::Result<v1::BackupResponse> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    let unfinished = directory.join(UNFINISHED);
    // What a controller left that was killed.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let bytes = format::encode(contents, timestamp(wall));
    let revision = contents.revision();
    let path = directory.join(format!("lb-{}-revision-{revision}{SUFFIX}", stamp(wall)));
    let done = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)
    };
    if let Err(error) = done() {
        // The disk may be full of it.
        let _ = fs::remove_file(&unfinished);
        return Err(error);
    }
    File::open(directory)?.sync_all()?;
    // Whoever reads it is elsewhere.
    let path = std::path::absolute(&path).unwrap_or(path).to_string_lossy().into_owned();
    Ok(v1::BackupResponse { path, revision, bytes: bytes.len() as u64 })
}

/// `20261126T181501Z`
fn stamp(wall: Duration) -> String {
    let time = timestamp(Duration::from_secs(wall.as_secs())).to_string();
    time.replace(['-', ':'], "")
}

#[cfg(test)]
mod tests;
