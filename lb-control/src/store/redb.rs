//! The store in one redb file, or in memory for a controller without a data directory.
//!
//! Values are the API's own messages, so that what is stored follows the same rules of
//! compatibility. What a revision says about itself and its whole state are apart, so that
//! reading the history does not read every state that ever was.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    ops::RangeInclusive,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use ::redb::{
    Builder, Database, DatabaseError, Error, ReadTransaction, ReadableDatabase, ReadableTable,
    TableDefinition, WriteTransaction,
    backends::{FileBackend, InMemoryBackend},
};
use lb_common::{
    material::{MaterialId, Materials},
    secret::Secret,
};
use lb_proto::v1;
use prost::Message;

use super::{HISTORY, Revision, StoreError, Stored};

const FILE: &str = "control.redb";
/// redb's own default is a gigabyte.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
/// How the tables below are laid out; another number is another program's file.
const FORMAT: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const REVISIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("revisions");
const SPECS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("specs");
/// Secrets, in a table of their own: whoever reads another one finds none.
const MATERIALS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("materials");
/// Which revision was the last one that needed a key that is nowhere else.
const NEEDED: TableDefinition<'_, &str, u64> = TableDefinition::new("needed");
const HEALTH: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("health");

const META_FORMAT: &str = "format";
const META_EPOCH: &str = "epoch";
const META_FILE_DIGEST: &str = "file_digest";

/// Calls block: on the disk, and on a write that is under way. Reads never wait for writes.
#[derive(Debug)]
pub struct Store {
    database: Database,
    path: PathBuf,
}

// === impl Store ===

impl Store {
    /// # Errors
    /// If the directory or the file in it cannot be made or read, or if another process has it.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let unusable = |source| StoreError::Directory { path: directory.into(), source };
        fs::create_dir_all(directory).map_err(unusable)?;
        let path = directory.join(FILE);
        let file = private(&path)
            .map_err(|source| StoreError::Directory { path: path.clone(), source })?;
        let opened = FileBackend::new(file)
            .and_then(|file| Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(file));
        // A new file is only as safe as its directory's entry for it.
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(unusable)?;
        match opened {
            Ok(database) => Self::new(database, path),
            Err(DatabaseError::DatabaseAlreadyOpen) => Err(StoreError::InUse { path }),
            Err(error) => Err(StoreError::Open { path, source: Box::new(error.into()) }),
        }
    }

    /// # Errors
    /// If there is not the memory for it.
    pub fn in_memory() -> Result<Self, StoreError> {
        let path = PathBuf::from("(memory)");
        match Builder::new().create_with_backend(InMemoryBackend::new()) {
            Ok(database) => Self::new(database, path),
            Err(error) => Err(StoreError::Open { path, source: Box::new(error.into()) }),
        }
    }

    fn new(database: Database, path: PathBuf) -> Result<Self, StoreError> {
        let store = Self { database, path };
        let format = store.write(|transaction| {
            let mut meta = transaction.open_table(META)?;
            let format = meta.get(META_FORMAT)?.map(|format| format.value());
            if format.is_none() {
                meta.insert(META_FORMAT, FORMAT)?;
            }
            transaction.open_table(REVISIONS)?;
            transaction.open_table(SPECS)?;
            transaction.open_table(HEALTH)?;
            transaction.open_table(MATERIALS)?;
            transaction.open_table(NEEDED)?;
            Ok(format.unwrap_or(FORMAT))
        })?;
        if format != FORMAT {
            let why = format!("it is {format}, and this version knows {FORMAT}");
            return Err(store.unreadable("the format".into(), &why));
        }
        Ok(store)
    }

    /// Begins a controller's life: counts the epoch up, or begins at `first`, and reads the rest.
    ///
    /// # Errors
    /// If the disk fails, or what is on it does not decode.
    pub fn begin(&self, first: u64) -> Result<Stored, StoreError> {
        let epoch = self.write(|transaction| {
            let mut meta = transaction.open_table(META)?;
            let epoch = meta.get(META_EPOCH)?.map_or(first, |last| last.value() + 1);
            meta.insert(META_EPOCH, epoch)?;
            Ok(epoch)
        })?;
        let (file_digest, revision, health, materials) = self.read(|transaction| {
            let meta = transaction.open_table(META)?;
            let digest = meta.get(META_FILE_DIGEST)?.map(|digest| digest.value());
            let last = transaction.open_table(REVISIONS)?.last()?.map(|(last, _)| last.value());
            let mut health = Vec::new();
            for entry in transaction.open_table(HEALTH)?.iter()? {
                health.push(entry?.1.value().to_vec());
            }
            let mut materials = Materials::new();
            for entry in transaction.open_table(MATERIALS)?.iter()? {
                let (id, content) = entry?;
                let content = Secret::new(content.value().to_vec());
                materials.insert(MaterialId::of(id.value()), content);
            }
            Ok((digest, last.unwrap_or(0), health, materials))
        })?;
        let health = health
            .iter()
            .map(|bytes| self.decode(bytes, || "a backend's health".into()))
            .collect::<Result<_, _>>()?;
        let spec = if revision == 0 { v1::Spec::default() } else { self.spec(revision)? };
        Ok(Stored { epoch, revision, spec, file_digest, health, materials })
    }

    /// Writes a revision with what it needs besides itself, or that a configuration file was applied, or
    /// both at once.
    ///
    /// # Errors
    /// If the disk fails; nothing is written then.
    pub fn commit(
        &self,
        revision: Option<&Revision>,
        materials: &Materials,
        file_digest: Option<u64>,
    ) -> Result<(), StoreError> {
        self.write(|transaction| {
            if let Some(Revision { about, spec }) = revision {
                let mut revisions = transaction.open_table(REVISIONS)?;
                let mut specs = transaction.open_table(SPECS)?;
                revisions.insert(about.revision, about.encode_to_vec().as_slice())?;
                specs.insert(about.revision, spec.encode_to_vec().as_slice())?;
                if let Some(old) = about.revision.checked_sub(HISTORY) {
                    revisions.remove(old)?;
                    specs.remove(old)?;
                }
                put_materials(transaction, materials, about.revision)?;
            }
            if let Some(digest) = file_digest {
                transaction.open_table(META)?.insert(META_FILE_DIGEST, digest)?;
            }
            Ok(())
        })
    }

    /// What there is of these.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn materials<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a MaterialId>,
    ) -> Result<Materials, StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(MATERIALS)?;
            let mut found = Materials::new();
            for id in ids {
                if let Some(content) = table.get(id.as_str())? {
                    found.insert(id.clone(), Secret::new(content.value().to_vec()));
                }
            }
            Ok(found)
        })
    }

    /// Replaces the contents of files, and other material that comes by itself. The last revision needs
    /// it.
    ///
    /// # Errors
    /// If the disk fails; nothing is written then.
    pub fn commit_materials(&self, materials: &Materials) -> Result<(), StoreError> {
        self.write(|transaction| {
            let last = transaction.open_table(REVISIONS)?.last()?.map(|(last, _)| last.value());
            insert_materials(transaction, materials, last.unwrap_or(0))
        })
    }

    /// Replaces what was decided about all backends.
    ///
    /// # Errors
    /// If the disk fails; nothing is written then.
    pub fn commit_health(&self, health: &[v1::BackendStatus]) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(HEALTH)?;
            table.retain(|_, _| false)?;
            for status in health {
                let key = (status.backend_set.as_str(), status.backend.as_str());
                table.insert(key, status.encode_to_vec().as_slice())?;
            }
            Ok(())
        })
    }

    /// The whole state as it was at a revision.
    ///
    /// # Errors
    /// If it is not among those that are kept, or if the disk fails.
    pub fn spec(&self, number: u64) -> Result<v1::Spec, StoreError> {
        let (bytes, kept) = self.read(|transaction| {
            let specs = transaction.open_table(SPECS)?;
            let bytes = specs.get(number)?.map(|bytes| bytes.value().to_vec());
            Ok((bytes, range(&specs)?))
        })?;
        match bytes {
            Some(bytes) => self.decode(&bytes, || format!("revision {number}")),
            None => Err(StoreError::NoSuchRevision { number, kept }),
        }
    }

    /// At most `limit` revisions, newest first, all of them before `before`.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn history(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<v1::Revision>, StoreError> {
        let entries = self.read(|transaction| {
            let revisions = transaction.open_table(REVISIONS)?;
            let mut entries = Vec::new();
            for entry in revisions.range(..before.unwrap_or(u64::MAX))?.rev().take(limit) {
                let (number, bytes) = entry?;
                entries.push((number.value(), bytes.value().to_vec()));
            }
            Ok(entries)
        })?;
        entries
            .iter()
            .map(|(number, bytes)| self.decode(bytes, || format!("revision {number}")))
            .collect()
    }

    /// Something that is stored does not mean anything.
    pub fn unreadable(&self, what: String, why: &dyn std::fmt::Display) -> StoreError {
        StoreError::Unreadable { path: self.path.clone(), what, why: why.to_string() }
    }

    fn decode<M: Message + Default>(
        &self,
        bytes: &[u8],
        what: impl FnOnce() -> String,
    ) -> Result<M, StoreError> {
        M::decode(bytes).map_err(|error| self.unreadable(what(), &error))
    }

    /// One transaction. redb's default durability is what is wanted: on disk when it returns.
    fn write<T>(
        &self,
        f: impl FnOnce(&WriteTransaction) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        let run = || {
            let transaction = self.database.begin_write()?;
            let value = f(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run().map_err(|source| self.failed(source))
    }

    fn read<T>(
        &self,
        f: impl FnOnce(&ReadTransaction) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        let run = || f(&self.database.begin_read()?);
        run().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: Error) -> StoreError {
        StoreError::Failed { path: self.path.clone(), source: Box::new(source) }
    }
}

fn range(
    table: &impl ReadableTable<u64, &'static [u8]>,
) -> Result<Option<RangeInclusive<u64>>, Error> {
    let first = table.first()?.map(|(number, _)| number.value());
    let last = table.last()?.map(|(number, _)| number.value());
    Ok(first.zip(last).map(|(first, last)| first..=last))
}

/// Opens the file, which has secrets in it, so that nobody else may read it.
fn private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file =
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

fn insert_materials(
    transaction: &WriteTransaction,
    materials: &Materials,
    revision: u64,
) -> Result<(), Error> {
    let mut table = transaction.open_table(MATERIALS)?;
    let mut needed = transaction.open_table(NEEDED)?;
    for (id, secret) in materials {
        table.insert(id.as_str(), secret.reveal())?;
        if id.is_nowhere_else() {
            needed.insert(id.as_str(), revision)?;
        }
    }
    Ok(())
}

/// What the revision needs is put, and what none needs any more is gone. A key that was given, or that a
/// certificate was issued for, is needed for as long as there is a revision to return to that has it.
fn put_materials(
    transaction: &WriteTransaction,
    materials: &Materials,
    revision: u64,
) -> Result<(), Error> {
    insert_materials(transaction, materials, revision)?;
    let mut table = transaction.open_table(MATERIALS)?;
    let mut needed = transaction.open_table(NEEDED)?;
    needed.retain(|_, last| last + HISTORY > revision)?;
    table.retain(|id, _| {
        let is_kept = materials.contains_key(id) || id == MaterialId::tickets().as_str();
        is_kept || matches!(needed.get(id), Ok(Some(_)))
    })?;
    Ok(())
}

#[cfg(test)]
mod tests;
