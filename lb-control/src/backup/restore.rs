//! From a backup to a store, while no controller runs on it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use lb_common::clock;

use super::{
    format::{self, FormatError},
    stamp,
};
use crate::store::{StoreError, redb};

/// What a restore did.
#[derive(Debug)]
pub struct Restored {
    /// The current one from now on.
    pub revision: u64,
    /// Where the store is that was there before.
    pub aside: Option<PathBuf>,
}

/// Why nothing was restored. What was there is there, as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("cannot read {path:?}: {source}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path:?} cannot be restored: {source}")]
    Format {
        path: PathBuf,
        #[source]
        source: FormatError,
    },
    #[error(
        "{path:?} is a store already; --replace keeps it aside and puts the backup in its place"
    )]
    Taken { path: PathBuf },
    #[error("cannot write {path:?}: {source}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes a store of a backup, in a data directory that no controller uses. Proxies follow whoever starts
/// on it: its epoch is later than all that the backup and a store that was there know of, and than now.
/// Blocks.
///
/// # Errors
/// If the backup is not right, if there is a store already and it is not to be replaced, or if a
/// controller has it.
pub fn restore(file: &Path, data_dir: &Path, replace: bool) -> Result<Restored, RestoreError> {
    let path = || file.to_path_buf();
    let read = || {
        // A device may have no end.
        match fs::metadata(file)?.is_file() {
            true => fs::read(file),
            false => Err(io::Error::other("is not a file")),
        }
    };
    let bytes = read().map_err(|source| RestoreError::Read { path: path(), source })?;
    let now = clock::wall();
    let mut contents = format::decode(&bytes, now)
        .map_err(|source| RestoreError::Format { path: path(), source })?;
    contents.epoch = contents.epoch.max(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    let aside = redb::restore(data_dir, contents.clone(), replace, &stamp(now))?;
    Ok(Restored { revision: contents.revision(), aside })
}
