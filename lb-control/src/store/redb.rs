//! The store in one redb file, or in memory for a controller without a data directory.
//!
//! Values are the API's own messages, so that what is stored follows the same rules of
//! compatibility. The current state is there part by part, and of each revision, besides what it says
//! of itself, what leads back from it: a change costs the disk what it changed, twice.

use std::{
    collections::BTreeMap,
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
use prost::{Message, bytes::Bytes};
use v1::Kind;

use super::{HISTORY, HISTORY_BYTES, Part, Revision, StoreError, Stored, Verdict};

const FILE: &str = "control.redb";
/// redb's own default is a gigabyte.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
/// How the tables below are laid out; another number is another program's file.
const FORMAT: u64 = 2;
/// With all of each revision's state.
const FORMER_FORMAT: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const REVISIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("revisions");
/// Of the current state, by kind and name.
const PARTS: TableDefinition<'_, (i32, &str), &[u8]> = TableDefinition::new("parts");
/// By revision: a [`v1::Delta`] that leads to the state before it.
const UNDO: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("undo");
/// Of the former format.
const SPECS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("specs");
/// Secrets, in a table of their own: whoever reads another one finds none.
const MATERIALS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("materials");
/// Which revision was the last one that needed a key that is nowhere else.
const NEEDED: TableDefinition<'_, &str, u64> = TableDefinition::new("needed");
const HEALTH: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("health");

const META_FORMAT: &str = "format";
const META_EPOCH: &str = "epoch";
const META_FILE_DIGEST: &str = "file_digest";
/// Of all of [`UNDO`], and of what revisions say of themselves.
const META_UNDO_BYTES: &str = "undo_bytes";
/// The revision that said last what material is needed.
const META_MATERIALS: &str = "materials";

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
            let format =
                transaction.open_table(META)?.get(META_FORMAT)?.map(|format| format.value());
            transaction.open_table(REVISIONS)?;
            transaction.open_table(PARTS)?;
            transaction.open_table(UNDO)?;
            transaction.open_table(HEALTH)?;
            transaction.open_table(MATERIALS)?;
            transaction.open_table(NEEDED)?;
            match format {
                Some(FORMER_FORMAT) => convert(transaction)?,
                Some(FORMAT) | None => {}
                Some(other) => return Ok(other),
            }
            transaction.open_table(META)?.insert(META_FORMAT, FORMAT)?;
            Ok(FORMAT)
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
        let (spec, overrides) =
            if revision == 0 { Default::default() } else { self.spec(revision)? };
        Ok(Stored { epoch, revision, spec, overrides, file_digest, health, materials })
    }

    /// Writes a revision with what it needs besides itself, unless that is what the one before it needs,
    /// or that a configuration file was applied, or both at once.
    ///
    /// # Errors
    /// If the disk fails; nothing is written then.
    pub fn commit(
        &self,
        revision: Option<&Revision>,
        materials: Option<&Materials>,
        file_digest: Option<u64>,
    ) -> Result<(), StoreError> {
        self.write(|transaction| {
            if let Some(revision) = revision {
                put_revision(transaction, revision)?;
                if let Some(materials) = materials {
                    put_materials(transaction, materials, revision.about.revision)?;
                }
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

    /// Replaces what was decided about these backends.
    ///
    /// # Errors
    /// If the disk fails; nothing is written then.
    pub fn commit_health(&self, verdicts: &[Verdict]) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(HEALTH)?;
            for Verdict { backend_set, backend, status } in verdicts {
                let key = (backend_set.as_str(), backend.as_str());
                match status {
                    Some(status) => drop(table.insert(key, status.encode_to_vec().as_slice())?),
                    None => drop(table.remove(key)?),
                }
            }
            Ok(())
        })
    }

    /// All that was asked for, as it was at a revision.
    ///
    /// # Errors
    /// If it is not among those that are kept, or if the disk fails.
    pub fn spec(&self, number: u64) -> Result<(v1::Spec, Vec<v1::Override>), StoreError> {
        let (mut parts, undone, kept) = self.read(|transaction| {
            let kept = range(&transaction.open_table(REVISIONS)?)?;
            let (mut parts, mut undone) = (BTreeMap::new(), Vec::new());
            if kept.as_ref().is_some_and(|kept| kept.contains(&number)) {
                for entry in transaction.open_table(PARTS)?.iter()? {
                    let (key, content) = entry?;
                    let (kind, name) = key.value();
                    parts.insert((kind, name.to_owned()), content.value().to_vec());
                }
                for entry in transaction.open_table(UNDO)?.range(number + 1..)?.rev() {
                    let (undone_number, undo) = entry?;
                    undone.push((undone_number.value(), undo.value().to_vec()));
                }
            }
            Ok((parts, undone, kept))
        })?;
        if kept.as_ref().is_none_or(|kept| !kept.contains(&number)) {
            return Err(StoreError::NoSuchRevision { number, kept });
        }
        for (number, undo) in undone {
            let v1::Delta { changed, gone, .. } =
                self.decode(&undo, || format!("what leads back from revision {number}"))?;
            for v1::ResourceName { kind, name } in gone {
                parts.remove(&(kind, name));
            }
            for v1::Resource { kind, name, content } in changed {
                parts.insert((kind, name), content.to_vec());
            }
        }
        let (mut spec, mut overrides) = (v1::Spec::default(), Vec::new());
        for ((kind, name), content) in &parts {
            let what = || format!("{name} of revision {number}");
            match Kind::try_from(*kind) {
                Ok(Kind::Listener) => spec.listeners.push(self.decode(content, what)?),
                Ok(Kind::Route) => spec.routes.push(self.decode(content, what)?),
                Ok(Kind::BackendSet) => spec.backend_sets.push(self.decode(content, what)?),
                Ok(Kind::Certificate) => spec.certificates.push(self.decode(content, what)?),
                Ok(Kind::Override) => overrides.push(self.decode(content, what)?),
                _ => return Err(self.unreadable(what(), &format!("it is of kind {kind}"))),
            }
        }
        Ok((spec, overrides))
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

/// Puts its parts in place of what was there, and remembers that.
fn put_revision(
    transaction: &WriteTransaction,
    Revision { about, parts }: &Revision,
) -> Result<(), Error> {
    let mut current = transaction.open_table(PARTS)?;
    let mut back = v1::Delta::default();
    for Part { kind, name, content } in parts {
        let key = (i32::from(*kind), name.as_str());
        let old = match content {
            Some(content) => current.insert(key, content.as_slice())?,
            None => current.remove(key)?,
        };
        let old = old.map(|old| Bytes::copy_from_slice(old.value()));
        let (kind, name) = (key.0, name.clone());
        match old {
            Some(content) => back.changed.push(v1::Resource { kind, name, content }),
            None => back.gone.push(v1::ResourceName { kind, name }),
        }
    }
    let (about_bytes, back) = (about.encode_to_vec(), back.encode_to_vec());
    let mut revisions = transaction.open_table(REVISIONS)?;
    let mut undo = transaction.open_table(UNDO)?;
    let mut meta = transaction.open_table(META)?;
    let mut bytes = meta.get(META_UNDO_BYTES)?.map_or(0, |bytes| bytes.value());
    bytes += (about_bytes.len() + back.len()) as u64;
    revisions.insert(about.revision, about_bytes.as_slice())?;
    undo.insert(about.revision, back.as_slice())?;
    loop {
        let oldest = revisions.first()?.map(|(number, _)| number.value());
        let is_surplus = |oldest: &u64| {
            oldest + HISTORY <= about.revision || bytes > HISTORY_BYTES && *oldest < about.revision
        };
        let Some(oldest) = oldest.filter(is_surplus) else { break };
        for removed in [revisions.remove(oldest)?, undo.remove(oldest)?].into_iter().flatten() {
            bytes = bytes.saturating_sub(removed.value().len() as u64);
        }
    }
    meta.insert(META_UNDO_BYTES, bytes)?;
    drop((meta, revisions));
    sweep_keys(transaction)
}

/// Makes differences of whole states. Whether old ones would be accepted today is not asked.
fn convert(transaction: &WriteTransaction) -> Result<(), Error> {
    tracing::info!("the store is of a former format; it is converted");
    let corrupted = |what: &dyn std::fmt::Display| Error::Corrupted(what.to_string());
    let mut numbers = Vec::new();
    for entry in transaction.open_table(REVISIONS)?.iter()? {
        numbers.push(entry?.0.value());
    }
    let mut former = BTreeMap::new();
    for number in &numbers {
        let (about, spec) = {
            let abouts = transaction.open_table(REVISIONS)?;
            let specs = transaction.open_table(SPECS)?;
            let about = abouts.get(number)?.map(|about| about.value().to_vec());
            let spec = specs.get(number)?.map(|spec| spec.value().to_vec());
            about.zip(spec).ok_or_else(|| corrupted(&format!("revision {number} has no state")))?
        };
        let about = v1::Revision::decode(&*about).map_err(|error| corrupted(&error))?;
        let spec = v1::Spec::decode(&*spec).map_err(|error| corrupted(&error))?;
        let next = by_key(&spec);
        let changed = next.iter().filter(|(key, content)| former.get(*key) != Some(*content));
        let part = |(kind, name): &(i32, String), content| {
            let kind = Kind::try_from(*kind).unwrap_or_default();
            Part { kind, name: name.clone(), content }
        };
        let changed = changed.map(|(key, content)| part(key, Some(content.clone())));
        let gone = former.keys().filter(|key| !next.contains_key(*key));
        let parts = changed.chain(gone.map(|key| part(key, None))).collect();
        put_revision(transaction, &Revision { about, parts })?;
        former = next;
    }
    transaction.open_table(META)?.insert(META_MATERIALS, numbers.last().copied().unwrap_or(0))?;
    transaction.delete_table(SPECS)?;
    Ok(())
}

fn by_key(spec: &v1::Spec) -> BTreeMap<(i32, String), Vec<u8>> {
    let v1::Spec { listeners, routes, backend_sets, certificates } = spec;
    let key = |kind: Kind, name: &String| (i32::from(kind), name.clone());
    let listeners =
        listeners.iter().map(|part| (key(Kind::Listener, &part.name), part.encode_to_vec()));
    let routes = routes.iter().map(|part| (key(Kind::Route, &part.name), part.encode_to_vec()));
    let sets =
        backend_sets.iter().map(|part| (key(Kind::BackendSet, &part.name), part.encode_to_vec()));
    let certificates =
        certificates.iter().map(|part| (key(Kind::Certificate, &part.name), part.encode_to_vec()));
    listeners.chain(routes).chain(sets).chain(certificates).collect()
}

/// Drops the keys that no revision needs any more.
fn sweep_keys(transaction: &WriteTransaction) -> Result<(), Error> {
    let oldest = transaction.open_table(REVISIONS)?.first()?.map(|(oldest, _)| oldest.value());
    let current = transaction.open_table(META)?.get(META_MATERIALS)?.map(|last| last.value());
    let oldest = oldest.unwrap_or(0).min(current.unwrap_or(0));
    let (mut needed, mut surplus) = (transaction.open_table(NEEDED)?, Vec::new());
    for entry in needed.iter()? {
        let (id, last) = entry?;
        if last.value() < oldest {
            surplus.push(id.value().to_owned());
        }
    }
    let mut table = transaction.open_table(MATERIALS)?;
    for id in surplus {
        needed.remove(id.as_str())?;
        table.remove(id.as_str())?;
    }
    Ok(())
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
    let mut meta = transaction.open_table(META)?;
    let former = meta.insert(META_MATERIALS, revision)?.map_or(0, |former| former.value());
    {
        // What was needed since then was needed until now.
        let mut needed = transaction.open_table(NEEDED)?;
        let mut lasted = Vec::new();
        for entry in needed.iter()? {
            let (id, last) = entry?;
            if last.value() >= former {
                lasted.push(id.value().to_owned());
            }
        }
        for id in lasted {
            needed.insert(id.as_str(), revision.saturating_sub(1))?;
        }
    }
    drop(meta);
    insert_materials(transaction, materials, revision)?;
    sweep_keys(transaction)?;
    let mut table = transaction.open_table(MATERIALS)?;
    let needed = transaction.open_table(NEEDED)?;
    table.retain(|id, _| {
        let is_kept = materials.contains_key(id) || id == MaterialId::tickets().as_str();
        is_kept || matches!(needed.get(id), Ok(Some(_)))
    })?;
    Ok(())
}

#[cfg(test)]
mod tests;
