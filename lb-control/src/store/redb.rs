//! The store in one redb file, or in memory for a controller without a data directory.
//!
//! Values are the API's own messages, so that what is stored follows the same rules of
//! compatibility. The current state is there part by part, and of each revision, besides what it says
//! of itself, what leads back from it.
//!
//! - `tables`: how it is laid out; `former`: how it was.
//! - `disk`: the file, and what becomes of it when the disk fails.
//! - `contents`: all of it, for backups.
//! - `undo`: revisions, and the way back through them; `materials`: what they need besides themselves.

mod contents;
mod disk;
mod former;
mod materials;
mod tables;
mod undo;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ::redb::{Error, ReadTransaction, ReadableTable, WriteTransaction};
use lb_common::{
    material::{MaterialId, Materials},
    secret::Secret,
};
use lb_proto::v1;
use prost::Message;

use self::{
    disk::Disk,
    former::FORMER_FORMAT,
    tables::{
        FORMAT, HEALTH, MATERIALS, META, META_EPOCH, META_FILE_DIGEST, META_FORMAT, NEEDED, PARTS,
        REVISIONS, UNDO,
    },
    undo::{Chain, Unreadable, kept},
};
use super::{Accepted, Contents, Head, Store, StoreError, Stored, StoredState, Term, Verdict};

pub use self::contents::restore;

/// Cheap to clone. Reads never wait for writes.
#[derive(Clone, Debug)]
pub struct Redb(Arc<Tables>);

/// What is done with the file. Calls block: on the disk, and on a write that is under way.
#[derive(Debug)]
struct Tables(Disk);

// === impl Redb ===

impl Redb {
    /// # Errors
    /// If the directory or the file in it cannot be made or read, or if another process has it.
    pub async fn open(directory: PathBuf) -> Result<Self, StoreError> {
        let path = directory.clone();
        let opened = tokio::task::spawn_blocking(move || Tables::open(&directory)).await;
        // redb panics over some files that were damaged.
        let opened = opened.unwrap_or_else(|panic| {
            let (what, why) = ("the store".into(), panic.to_string());
            Err(StoreError::Unreadable { path, what, why })
        });
        opened.map(|tables| Self(Arc::new(tables)))
    }

    /// # Errors
    /// If there is not the memory for it.
    pub fn in_memory() -> Result<Self, StoreError> {
        Tables::in_memory().map(|tables| Self(Arc::new(tables)))
    }

    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Tables) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let tables = Arc::clone(&self.0);
        Self::off(self.0.0.path().into(), move || ask(&tables)).await
    }

    /// Off the runtime's threads.
    async fn off<T: Send + 'static>(
        path: PathBuf,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|error| Err(StoreError::Unknown { path, source: Box::new(error) }))
    }
}

#[tonic::async_trait]
impl Store for Redb {
    async fn campaign(&self, least: u64, knows: Option<Head>) -> Result<Term, StoreError> {
        self.ask(move |tables| tables.campaign(least, knows)).await
    }

    async fn load(&self) -> Result<Stored, StoreError> {
        self.ask(Tables::load).await
    }

    async fn commit(&self, term: Term, knows: Head, accepted: Accepted) -> Result<(), StoreError> {
        self.ask(move |tables| tables.commit(term, knows, &accepted)).await
    }

    async fn put_verdicts(&self, term: Term, verdicts: Vec<Verdict>) -> Result<(), StoreError> {
        self.ask(move |tables| tables.put_verdicts(term, &verdicts)).await
    }

    async fn put_materials(&self, term: Term, materials: Materials) -> Result<(), StoreError> {
        self.ask(move |tables| tables.put_materials(term, &materials)).await
    }

    async fn probe(&self, term: Term) -> Result<Head, StoreError> {
        self.ask(move |tables| tables.probe(term)).await
    }

    async fn materials(&self, ids: Vec<MaterialId>) -> Result<Materials, StoreError> {
        self.ask(move |tables| tables.materials(&ids)).await
    }

    async fn state(&self, revision: u64) -> Result<StoredState, StoreError> {
        self.ask(move |tables| tables.state(revision)).await
    }

    async fn history(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<v1::Revision>, StoreError> {
        self.ask(move |tables| tables.history(before, limit)).await
    }

    async fn contents(&self) -> Result<Contents, StoreError> {
        self.ask(Tables::contents).await
    }
}

// === impl Tables ===

impl Tables {
    fn open(directory: &Path) -> Result<Self, StoreError> {
        let tables = Self(Disk::open(directory)?);
        match tables.prepare() {
            // What is there can be read, and is prepared for who leads then.
            Err(error) if error.is_outage() => Ok(tables),
            prepared => prepared.map(|()| tables),
        }
    }

    fn in_memory() -> Result<Self, StoreError> {
        Self::new(Disk::in_memory()?)
    }

    fn new(disk: Disk) -> Result<Self, StoreError> {
        let tables = Self(disk);
        tables.prepare()?;
        Ok(tables)
    }

    fn prepare(&self) -> Result<(), StoreError> {
        self.0.write(|transaction| self.prepared(transaction), |_| Ok(()))
    }

    /// Makes what is not there yet. Returns why it cannot be used, if so.
    fn prepared(&self, transaction: &WriteTransaction) -> Result<Option<StoreError>, Error> {
        let format = transaction.open_table(META)?.get(META_FORMAT)?.map(|format| format.value());
        transaction.open_table(REVISIONS)?;
        transaction.open_table(PARTS)?;
        transaction.open_table(UNDO)?;
        transaction.open_table(HEALTH)?;
        transaction.open_table(MATERIALS)?;
        transaction.open_table(NEEDED)?;
        match format {
            Some(FORMER_FORMAT) => former::convert(transaction)?,
            Some(FORMAT) | None => {}
            Some(other) => {
                let why = format!("it is {other}, and this version knows {FORMAT}");
                return Ok(Some(self.unreadable("the format".into(), why)));
            }
        }
        transaction.open_table(META)?.insert(META_FORMAT, FORMAT)?;
        Ok(None)
    }

    fn campaign(&self, least: u64, knows: Option<Head>) -> Result<Term, StoreError> {
        let refusal = |transaction: &WriteTransaction| match (self.prepared(transaction)?, knows) {
            (Some(unusable), _) => Ok(Some(unusable)),
            (None, Some(known)) => overtaken(transaction, known),
            (None, None) => Ok(None),
        };
        self.0.write(refusal, |transaction| {
            let mut meta = transaction.open_table(META)?;
            let last = meta.get(META_EPOCH)?.map(|last| last.value());
            let epoch = last.map_or(least, |last| least.max(last.saturating_add(1)));
            meta.insert(META_EPOCH, epoch)?;
            Ok(Term { epoch })
        })
    }

    fn load(&self) -> Result<Stored, StoreError> {
        let read = |transaction: &ReadTransaction| {
            let epoch = transaction.open_table(META)?.get(META_EPOCH)?.map(|epoch| epoch.value());
            let head = head(&transaction.open_table(REVISIONS)?, &transaction.open_table(META)?)?;
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
            let chain = Chain::read(transaction, head.revision)?;
            Ok((epoch.unwrap_or(0), head, health, materials, chain))
        };
        let (epoch, head, health, materials, chain) = self.0.read(read).or_else(|error| {
            // Where the disk takes nothing, a controller starts with what it has.
            if error.is_outage() { self.0.read_copy(read) } else { Err(error) }
        })?;
        let health = health
            .iter()
            .map(|bytes| self.decode(bytes, || "a backend's health".into()))
            .collect::<Result<_, _>>()?;
        let Head { revision, file_digest } = head;
        let state = self.undone(chain, revision)?;
        Ok(Stored { epoch, revision, state, file_digest, health, materials })
    }

    fn commit(&self, term: Term, knows: Head, accepted: &Accepted) -> Result<(), StoreError> {
        let Accepted { revision, materials, file_digest } = accepted;
        let refusal = |transaction: &WriteTransaction| {
            Ok(fenced(transaction, term)?.or(overtaken(transaction, knows)?))
        };
        self.0.write(refusal, |transaction| {
            if let Some(revision) = revision {
                undo::put_revision(transaction, revision)?;
                if let Some(needed) = materials {
                    materials::put_materials(transaction, needed, revision.about.revision)?;
                }
            }
            if let Some(digest) = file_digest {
                transaction.open_table(META)?.insert(META_FILE_DIGEST, digest)?;
            }
            Ok(())
        })
    }

    fn put_materials(&self, term: Term, materials: &Materials) -> Result<(), StoreError> {
        self.lead(term, |transaction| {
            let last = last(&transaction.open_table(REVISIONS)?)?;
            materials::insert_materials(transaction, materials, last)
        })
    }

    fn put_verdicts(&self, term: Term, verdicts: &[Verdict]) -> Result<(), StoreError> {
        self.lead(term, |transaction| {
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

    fn probe(&self, term: Term) -> Result<Head, StoreError> {
        self.lead(term, |transaction| {
            head(&transaction.open_table(REVISIONS)?, &transaction.open_table(META)?)
        })
    }

    fn materials(&self, ids: &[MaterialId]) -> Result<Materials, StoreError> {
        self.0.read(|transaction| {
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

    fn state(&self, number: u64) -> Result<StoredState, StoreError> {
        let read = |transaction: &ReadTransaction| {
            let kept = kept(&transaction.open_table(REVISIONS)?)?;
            if kept.as_ref().is_some_and(|kept| kept.contains(&number)) {
                return Ok(Ok(Chain::read(transaction, number)?));
            }
            Ok(Err(StoreError::NoSuchRevision { number, kept }))
        };
        self.undone(self.0.read(read)??, number)
    }

    fn history(&self, before: Option<u64>, limit: usize) -> Result<Vec<v1::Revision>, StoreError> {
        let entries = self.0.read(|transaction| {
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

    fn contents(&self) -> Result<Contents, StoreError> {
        self.0
            .read(contents::read)?
            .decode()
            .map_err(|Unreadable { what, why }| self.unreadable(what, why))
    }

    fn undone(&self, chain: Chain, revision: u64) -> Result<StoredState, StoreError> {
        let spec = chain.state();
        spec.map_err(|Unreadable { what, why }| {
            self.unreadable(format!("{what} of revision {revision}"), why)
        })
    }

    fn unreadable(&self, what: String, why: String) -> StoreError {
        StoreError::Unreadable { path: self.0.path().into(), what, why }
    }

    fn decode<M: Message + Default>(
        &self,
        bytes: &[u8],
        what: impl FnOnce() -> String,
    ) -> Result<M, StoreError> {
        M::decode(bytes).map_err(|error| self.unreadable(what(), error.to_string()))
    }

    /// Only for who leads for this term.
    fn lead<T>(
        &self,
        term: Term,
        f: impl FnOnce(&WriteTransaction) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        self.0.write(|transaction| fenced(transaction, term), f)
    }
}

fn fenced(transaction: &WriteTransaction, term: Term) -> Result<Option<StoreError>, Error> {
    let leads = transaction.open_table(META)?.get(META_EPOCH)?.map_or(0, |epoch| epoch.value());
    let fenced = StoreError::Fenced { epoch: term.epoch, leads };
    Ok((leads != term.epoch).then_some(fenced))
}

fn overtaken(transaction: &WriteTransaction, known: Head) -> Result<Option<StoreError>, Error> {
    let current = head(&transaction.open_table(REVISIONS)?, &transaction.open_table(META)?)?;
    Ok((current != known).then_some(StoreError::Conflict { known, current }))
}

fn head(
    revisions: &impl ReadableTable<u64, &'static [u8]>,
    meta: &impl ReadableTable<&'static str, u64>,
) -> Result<Head, Error> {
    let file_digest = meta.get(META_FILE_DIGEST)?.map(|digest| digest.value());
    Ok(Head { revision: last(revisions)?, file_digest })
}

/// The last revision's number; 0 before the first one.
fn last(revisions: &impl ReadableTable<u64, &'static [u8]>) -> Result<u64, Error> {
    Ok(revisions.last()?.map_or(0, |(last, _)| last.value()))
}

#[cfg(test)]
mod tests;
