//! All that is in a store, out of it and into a new one.

use std::{
    fs::{self, File, Metadata, TryLockError},
    io,
    os::unix::fs::{MetadataExt, fchown, lchown},
    path::{Path, PathBuf},
};

use ::redb::{
    Database, DatabaseError, Error, ReadTransaction, ReadableDatabase, ReadableTable,
    WriteTransaction,
};
use lb_common::{material::MaterialId, secret::Secret};
use prost::Message;

use super::{
    disk::{self, FILE},
    tables::{
        FORMAT, HEALTH, MATERIALS, META, META_EPOCH, META_FILE_DIGEST, META_FORMAT, META_MATERIALS,
        META_UNDO_BYTES, NEEDED, PARTS, REVISIONS, UNDO,
    },
    undo::Unreadable,
};
use crate::{
    backup::RestoreError,
    store::{Contents, KeptMaterial, KeptRevision, StoreError},
};
use lb_proto::v1;

/// One that is being made.
const UNFINISHED: &str = "control.redb.unfinished";

/// As it is in the file.
pub struct Encoded {
    /// But for what follows.
    contents: Contents,
    revisions: Vec<EncodedRevision>,
    health: Vec<Vec<u8>>,
}

struct EncodedRevision {
    number: u64,
    about: Vec<u8>,
    back: Vec<u8>,
}

/// The store that was there before, which no controller can open as long as this is there.
enum Former {
    None,
    Readable(Database),
    /// That is what backups are for.
    Unreadable {
        _lock: File,
    },
}

/// As it is at one moment.
pub fn read(transaction: &ReadTransaction) -> Result<Encoded, Error> {
    let meta = transaction.open_table(META)?;
    let number = |key: &str| Ok::<_, Error>(meta.get(key)?.map(|value| value.value()));
    let mut contents = Contents {
        epoch: number(META_EPOCH)?.unwrap_or(0),
        file_digest: number(META_FILE_DIGEST)?,
        materials_revision: number(META_MATERIALS)?.unwrap_or(0),
        ..Contents::default()
    };
    for entry in transaction.open_table(PARTS)?.iter()? {
        let (key, content) = entry?;
        let (kind, name) = key.value();
        let content = content.value().to_vec().into();
        contents.parts.push(v1::Resource { kind, name: name.to_owned(), content });
    }
    let (undo, mut revisions) = (transaction.open_table(UNDO)?, Vec::new());
    for entry in transaction.open_table(REVISIONS)?.iter()? {
        let (number, about) = entry?;
        let (number, about) = (number.value(), about.value().to_vec());
        let back = undo.get(number)?.map(|back| back.value().to_vec()).unwrap_or_default();
        revisions.push(EncodedRevision { number, about, back });
    }
    let needed = transaction.open_table(NEEDED)?;
    for entry in transaction.open_table(MATERIALS)?.iter()? {
        let (id, content) = entry?;
        contents.materials.push(KeptMaterial {
            id: MaterialId::of(id.value()),
            content: Secret::new(content.value().to_vec()),
            needed: needed.get(id.value())?.map(|needed| needed.value()),
        });
    }
    let mut health = Vec::new();
    for entry in transaction.open_table(HEALTH)?.iter()? {
        health.push(entry?.1.value().to_vec());
    }
    Ok(Encoded { contents, revisions, health })
}

/// Into an empty store.
fn write(transaction: &WriteTransaction, contents: &Contents) -> Result<(), Error> {
    let Contents { epoch, file_digest, parts, revisions, materials, materials_revision, health } =
        contents;
    let mut meta = transaction.open_table(META)?;
    meta.insert(META_FORMAT, FORMAT)?;
    meta.insert(META_EPOCH, epoch)?;
    meta.insert(META_MATERIALS, materials_revision)?;
    if let Some(digest) = file_digest {
        meta.insert(META_FILE_DIGEST, digest)?;
    }
    let mut table = transaction.open_table(PARTS)?;
    for v1::Resource { kind, name, content } in parts {
        table.insert((*kind, name.as_str()), &**content)?;
    }
    let (mut abouts, mut undo) =
        (transaction.open_table(REVISIONS)?, transaction.open_table(UNDO)?);
    let mut undo_bytes = 0;
    for KeptRevision { about, back } in revisions {
        let (about_bytes, back) = (about.encode_to_vec(), back.encode_to_vec());
        undo_bytes += (about_bytes.len() + back.len()) as u64;
        abouts.insert(about.revision, about_bytes.as_slice())?;
        undo.insert(about.revision, back.as_slice())?;
    }
    meta.insert(META_UNDO_BYTES, undo_bytes)?;
    let (mut table, mut last) =
        (transaction.open_table(MATERIALS)?, transaction.open_table(NEEDED)?);
    for KeptMaterial { id, content, needed } in materials {
        table.insert(id.as_str(), content.reveal())?;
        if let Some(needed) = needed {
            last.insert(id.as_str(), needed)?;
        }
    }
    let mut table = transaction.open_table(HEALTH)?;
    for status in health {
        let key = (status.backend_set.as_str(), status.backend.as_str());
        table.insert(key, status.encode_to_vec().as_slice())?;
    }
    Ok(())
}

/// Makes a store of these in a directory. One that is there is kept aside, under a name that ends with
/// `stamp`, if it is to be replaced; returns where.
///
/// # Errors
/// If there is one that is in use, or not to be replaced, or if the disk fails.
pub fn restore(
    directory: &Path,
    mut contents: Contents,
    replace: bool,
    stamp: &str,
) -> Result<Option<PathBuf>, RestoreError> {
    let path = directory.join(FILE);
    let cannot = |path: &Path| {
        let path = path.to_path_buf();
        move |source| RestoreError::Write { path, source }
    };
    make_directory(directory).map_err(cannot(directory))?;
    let is_taken = fs::exists(&path).map_err(cannot(&path))?;
    // It is held until the other one is in its place, so that no controller starts on it meanwhile.
    let former = if is_taken { Former::open(&path)? } else { Former::None };
    if is_taken && !replace {
        return Err(RestoreError::Taken { path });
    }
    contents.epoch = contents.epoch.max(former.epoch().unwrap_or(0));

    let unfinished = directory.join(UNFINISHED);
    let like = if is_taken { &path } else { directory };
    let put_in_place = || {
        let aside = is_taken.then(|| directory.join(format!("{FILE}.before-{stamp}")));
        match &aside {
            Some(aside) => {
                fs::hard_link(&path, aside)?;
                fs::rename(&unfinished, &path).inspect_err(|_| drop(fs::remove_file(aside)))?;
            }
            // Fails if a controller has made one meanwhile.
            None => {
                fs::hard_link(&unfinished, &path)?;
                fs::remove_file(&unfinished)?;
            }
        }
        File::open(directory)?.sync_all()?;
        Ok(aside)
    };
    let made = make(&unfinished, &contents, like);
    let done = made.and_then(|()| put_in_place().map_err(cannot(&path)));
    if done.is_err() {
        // The disk may be full of it.
        let _ = fs::remove_file(&unfinished);
    }
    drop(former);
    done
}

/// Those that are missing belong to whoever the one that they are in belongs to.
fn make_directory(directory: &Path) -> io::Result<()> {
    let is_missing = |ancestor: &&Path| fs::metadata(ancestor).is_err();
    let missing: Vec<_> = directory.ancestors().take_while(is_missing).collect();
    fs::create_dir_all(directory)?;
    // The uppermost first. A relative one has an empty ancestor, which is no directory's name.
    for made in missing.into_iter().rev().filter(|made| !made.as_os_str().is_empty()) {
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
        let like = fs::metadata(parent.unwrap_or(Path::new(".")))?;
        give(&like, &fs::symlink_metadata(made)?, |uid, gid| lchown(made, uid, gid))?;
    }
    Ok(())
}

/// Whoever restores may be root, and the controller another user, who is to be able to open what only its
/// owner may read.
fn give(
    like: &Metadata,
    is: &Metadata,
    chown: impl FnOnce(Option<u32>, Option<u32>) -> io::Result<()>,
) -> io::Result<()> {
    match like.uid() == is.uid() {
        true => Ok(()),
        false => chown(Some(like.uid()), Some(like.gid())),
    }
}

/// For whoever the file or directory `like` belongs to.
fn make(path: &Path, contents: &Contents, like: &Path) -> Result<(), RestoreError> {
    let new_file = || {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk::new_file(path)?;
        give(&fs::metadata(like)?, &file.metadata()?, |uid, gid| fchown(&file, uid, gid))?;
        Ok(file)
    };
    let file = new_file().map_err(|source| RestoreError::Write { path: path.into(), source })?;
    let made = || -> Result<(), Error> {
        let database = disk::database(file)?;
        let transaction = database.begin_write()?;
        write(&transaction, contents)?;
        transaction.commit()?;
        Ok(database.close()?)
    };
    let failed = |source| StoreError::Failed { path: path.into(), source: Box::new(source) };
    Ok(made().map_err(failed)?)
}

// === impl Encoded, Former ===

impl Encoded {
    pub fn decode(self) -> Result<Contents, Unreadable> {
        fn decoded<M: Message + Default>(bytes: &[u8], what: String) -> Result<M, Unreadable> {
            M::decode(bytes).map_err(|error| Unreadable { what, why: error.to_string() })
        }
        let Self { mut contents, revisions, health } = self;
        for EncodedRevision { number, about, back } in revisions {
            let about = decoded(&about, format!("revision {number}"))?;
            let back = decoded(&back, format!("what leads back from revision {number}"))?;
            contents.revisions.push(KeptRevision { about, back });
        }
        for status in health {
            contents.health.push(decoded(&status, "a backend's health".into())?);
        }
        Ok(contents)
    }
}

impl Former {
    fn open(path: &Path) -> Result<Self, RestoreError> {
        match disk::open_file(path) {
            Ok(database) => Ok(Self::Readable(database)),
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                Err(StoreError::InUse { path: path.into() }.into())
            }
            Err(_) => Self::lock(path),
        }
    }

    /// Whatever is wrong with it: as long as it cannot be locked, a controller may run on it.
    fn lock(path: &Path) -> Result<Self, RestoreError> {
        let cannot = |source| RestoreError::Read { path: path.into(), source };
        let file = File::open(path).map_err(cannot)?;
        match file.try_lock() {
            Ok(()) => Ok(Self::Unreadable { _lock: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.into() }.into()),
            Err(TryLockError::Error(source)) => Err(cannot(source)),
        }
    }

    /// The latest one that anybody led for, if it can be read.
    fn epoch(&self) -> Option<u64> {
        let Self::Readable(former) = self else { return None };
        let transaction = former.begin_read().ok()?;
        let epoch = transaction.open_table(META).ok()?.get(META_EPOCH).ok()??.value();
        Some(epoch)
    }
}

#[cfg(test)]
mod tests;
