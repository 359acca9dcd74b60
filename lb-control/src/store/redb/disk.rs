//! The file, which is closed when something went wrong with it, and opened again by who needs it next.
//!
//! redb refuses everything after an error of its file, until it is opened again; then it recovers: what
//! was committed is there, and what was not is gone. A commit that failed may be either, so each
//! transaction counts itself, and the count is read again.
//!
//! A system that could not write pages to its disk shows them all the same, as if it had. So what is
//! read after an error is written once more, and is believed once that has reached the disk. So it is when a
//! process starts, because the one before it may have ended by such an error: that takes 0.2 s for 100 MB.

use std::{
    fmt,
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use ::redb::{
    AccessGuard, Builder, Database, DatabaseError, Error, ReadTransaction, ReadableDatabase,
    ReadableTable, StorageBackend, StorageError, WriteTransaction,
    backends::{FileBackend, InMemoryBackend},
};

use super::tables::{META, META_EPOCH, META_WRITES};
use crate::store::StoreError;

pub const FILE: &str = "control.redb";
/// redb's own default is a gigabyte.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
/// What is written once more is written so many bytes at a time.
const PAGE: usize = 4096;

/// Opens the file again.
type Reopen = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

pub struct Disk {
    path: PathBuf,
    /// What was there when it was opened; none if it is no file. Whoever moves it away moves what is open, and
    /// what is written from then on would be where nobody looks for it.
    identity: Option<Identity>,
    reopen: Reopen,
    /// None after an error. A lock, because only who has it alone may close what others use.
    database: RwLock<Option<Database>>,
    /// One transaction at a time, so that none comes between one that failed and the look at whether it is
    /// there.
    writing: Mutex<()>,
}

/// Tells a file from one that took its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

/// How a transaction ended.
enum End<T> {
    Done(T),
    Refused(StoreError),
    /// Which of these the file is marked with tells.
    Unknown {
        value: T,
        before: Mark,
        after: Mark,
        source: Error,
    },
}

/// How many transactions there were, and who leads: another process may have come in between.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mark {
    count: u64,
    epoch: u64,
}

// === impl Disk ===

impl Disk {
    /// # Errors
    /// If the directory or the file in it cannot be made or read, or if another process has it.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let unusable = |source| StoreError::Directory { path: directory.into(), source };
        fs::create_dir_all(directory).map_err(unusable)?;
        let path = directory.join(FILE);
        let len = fs::metadata(&path).map(|file| file.len()).ok();
        if len == Some(0) {
            // A file that was cut to nothing would be taken for a new one, and all of its history for none.
            let (what, why) = ("the store".into(), "it is empty".into());
            return Err(StoreError::Unreadable { path, what, why });
        }
        let file = private(&path, true)
            .map_err(|source| StoreError::Directory { path: path.clone(), source })?;
        let opened = open_again(file, FileBackend::new);
        // A new file is only as safe as its directory's entry for it.
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(unusable)?;
        let reopen = {
            let path = path.clone();
            move || reopen(&path, FileBackend::new)
        };
        match opened {
            // The system refused. What is in the file can be read, and it is opened once that works.
            Err(DatabaseError::Storage(StorageError::Io(error)))
                if error.raw_os_error().is_some() && len.is_some() =>
            {
                Ok(Self::with_or_without(None, path, Box::new(reopen)))
            }
            opened => Self::new(opened, path, Box::new(reopen)),
        }
    }

    /// # Errors
    /// If there is not the memory for it.
    pub fn in_memory() -> Result<Self, StoreError> {
        let gone = || Err(io::Error::other("what was in memory is gone").into());
        Self::new(create(InMemoryBackend::new()), "(memory)".into(), Box::new(gone))
    }

    fn new(
        opened: Result<Database, DatabaseError>,
        path: PathBuf,
        reopen: Reopen,
    ) -> Result<Self, StoreError> {
        match opened {
            Ok(database) => Ok(Self::with_or_without(Some(database), path, reopen)),
            Err(DatabaseError::DatabaseAlreadyOpen) => Err(StoreError::InUse { path }),
            Err(error) => Err(StoreError::Open { path, source: Box::new(error.into()) }),
        }
    }

    fn with_or_without(database: Option<Database>, path: PathBuf, reopen: Reopen) -> Self {
        let (identity, database) = (Identity::of(&path), RwLock::new(database));
        Self { path, identity, reopen, database, writing: Mutex::default() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn read<T>(
        &self,
        f: impl FnOnce(&ReadTransaction) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        self.with(|database| f(&database.begin_read()?))
    }

    /// What the file says, where it cannot be opened, which takes writes. Of what was written last it is not known
    /// whether the disk has it.
    pub fn read_copy<T>(
        &self,
        f: impl FnOnce(&ReadTransaction) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        self.is_in_place()?;
        let read = || {
            let (bytes, copy) = (fs::read(&self.path)?, InMemoryBackend::new());
            copy.set_len(bytes.len() as u64)?;
            copy.write(0, &bytes)?;
            f(&create(copy)?.begin_read()?)
        };
        read().map_err(|source| self.failed(source))
    }

    /// One transaction, unless `refusal` finds a reason against it. redb's default durability is what is
    /// wanted: on disk when this returns.
    pub fn write<T>(
        &self,
        refusal: impl FnOnce(&WriteTransaction) -> Result<Option<StoreError>, Error>,
        f: impl FnOnce(&WriteTransaction) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_in_place()?;
        let end = self.with(|database| {
            let transaction = database.begin_write()?;
            if let Some(refusal) = refusal(&transaction)? {
                transaction.abort()?;
                return Ok(End::Refused(refusal));
            }
            let before = Mark::read(&transaction.open_table(META)?)?;
            let value = f(&transaction)?;
            transaction.open_table(META)?.insert(META_WRITES, before.count + 1)?;
            let after = Mark::read(&transaction.open_table(META)?)?;
            Ok(match transaction.commit() {
                Ok(()) => End::Done(value),
                Err(source) => End::Unknown { value, before, after, source: source.into() },
            })
        })?;
        match end {
            End::Done(value) => match self.is_in_place() {
                Ok(()) => Ok(value),
                Err(gone) => {
                    Err(StoreError::Unknown { path: self.path.clone(), source: gone.into() })
                }
            },
            End::Refused(refusal) => Err(refusal),
            End::Unknown { value, before, after, source } => {
                self.close();
                match self.read(|transaction| Mark::read(&transaction.open_table(META)?)) {
                    Ok(there) if there == after => Ok(value),
                    Ok(there) if there == before => Err(self.failed(source)),
                    Ok(_) | Err(_) => {
                        let source = Box::new(source);
                        Err(StoreError::Unknown { path: self.path.clone(), source })
                    }
                }
            }
        }
    }

    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, Error>) -> Result<T, StoreError> {
        let opened = self.opened()?;
        let database = opened.as_ref().expect("it was opened, and is closed only by who is alone");
        let result = work(database);
        drop(opened);
        result.map_err(|source| {
            self.close();
            self.failed(source)
        })
    }

    fn opened(&self) -> Result<RwLockReadGuard<'_, Option<Database>>, StoreError> {
        let current = self.database.read().unwrap_or_else(PoisonError::into_inner);
        if current.is_some() {
            return Ok(current);
        }
        drop(current);
        let mut current = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if current.is_none() {
            self.is_in_place()?;
            match (self.reopen)() {
                Ok(database) => *current = Some(database),
                Err(DatabaseError::DatabaseAlreadyOpen) => {
                    return Err(StoreError::InUse { path: self.path.clone() });
                }
                Err(error) => return Err(self.failed(error.into())),
            }
        }
        Ok(RwLockWriteGuard::downgrade(current))
    }

    fn is_in_place(&self) -> Result<(), StoreError> {
        if self.identity.is_none() || self.identity == Identity::of(&self.path) {
            return Ok(());
        }
        let why = "it was moved away or replaced while it was in use; put it back, or start the controller \
                   again to go on with what is there";
        Err(StoreError::Failed { path: self.path.clone(), source: why.into() })
    }

    fn close(&self) {
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn failed(&self, source: Error) -> StoreError {
        StoreError::Failed { path: self.path.clone(), source: Box::new(source) }
    }
}

impl Identity {
    fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self { device: file.dev(), inode: file.ino() })
    }
}

impl Mark {
    fn read(meta: &impl ReadableTable<&'static str, u64>) -> Result<Self, Error> {
        let number = |key| {
            Ok::<_, Error>(meta.get(key)?.map_or(0, |value: AccessGuard<'_, u64>| value.value()))
        };
        Ok(Self { count: number(META_WRITES)?, epoch: number(META_EPOCH)? })
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The database in a file that is there, for whoever needs nothing more.
pub fn open_file(path: &Path) -> Result<Database, DatabaseError> {
    database(private(path, false)?)
}

/// A file for a database, which nobody else may read.
pub fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

pub fn database(file: File) -> Result<Database, DatabaseError> {
    create(FileBackend::new(file)?)
}

fn create(backend: impl StorageBackend) -> Result<Database, DatabaseError> {
    Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(backend)
}

/// Not a new one in place of one that is gone: what was acknowledged is to be there.
fn reopen<B: StorageBackend>(
    path: &Path,
    backend: impl Fn(File) -> Result<B, DatabaseError>,
) -> Result<Database, DatabaseError> {
    open_again(private(path, false)?, backend)
}

/// Believes only what has reached the disk.
fn open_again<B: StorageBackend>(
    file: File,
    backend: impl Fn(File) -> Result<B, DatabaseError>,
) -> Result<Database, DatabaseError> {
    let same = backend(file.try_clone()?)?;
    let database = create(backend(file)?)?;
    // Once it is open, because nobody else writes to it from then on.
    write_again(&same)?;
    Ok(database)
}

/// Opens the file, which has secrets in it, so that nobody else may read it.
fn private(path: &Path, create: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file =
        options.read(true).write(true).create(create).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Every page with what is in it. Where there is nothing there may be a hole, and no room to fill it.
fn write_again(file: &impl StorageBackend) -> io::Result<()> {
    let len = file.len()?;
    let mut page = vec![0; PAGE];
    for offset in (0..len).step_by(PAGE) {
        let rest = usize::try_from(len - offset).unwrap_or(PAGE);
        page.truncate(rest);
        file.read(offset, &mut page)?;
        if page.iter().any(|byte| *byte != 0) {
            file.write(offset, &page)?;
        }
    }
    file.sync_data()
}

#[cfg(test)]
mod tests;
