//! All that is in a store, out of it and into a new one.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use ::redb::{
    DatabaseError, Error, ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction,
};
use lb_common::{material::MaterialId, secret::Secret};
use prost::{DecodeError, Message};

use super::{
    disk::{self, FILE},
    tables::{
        FORMAT, HEALTH, MATERIALS, META, META_EPOCH, META_FILE_DIGEST, META_FORMAT, META_MATERIALS,
        META_UNDO_BYTES, NEEDED, PARTS, REVISIONS, UNDO,
    },
};
use crate::{
    backup::RestoreError,
    store::{Contents, KeptMaterial, KeptRevision, StoreError},
};
use lb_proto::v1;

/// One that is being made.
const UNFINISHED: &str = "control.redb.unfinished";

/// As it is at one moment.
pub fn read(transaction: &ReadTransaction) -> Result<Contents, Error> {
    let corrupted = |error: DecodeError| Error::Corrupted(error.to_string());
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
    let undo = transaction.open_table(UNDO)?;
    for entry in transaction.open_table(REVISIONS)?.iter()? {
        let (number, about) = entry?;
        let about = v1::Revision::decode(about.value()).map_err(corrupted)?;
        let back = undo.get(number.value())?;
        let back = back.map_or(Ok(v1::Delta::default()), |back| v1::Delta::decode(back.value()));
        contents.revisions.push(KeptRevision { about, back: back.map_err(corrupted)? });
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
    for entry in transaction.open_table(HEALTH)?.iter()? {
        contents.health.push(v1::BackendStatus::decode(entry?.1.value()).map_err(corrupted)?);
    }
    Ok(contents)
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
    fs::create_dir_all(directory).map_err(cannot(directory))?;
    let is_taken = fs::exists(&path).map_err(cannot(&path))?;
    // It is held until the other one is in its place, so that no controller starts on it meanwhile.
    let former = match is_taken.then(|| disk::open_file(&path, false)) {
        Some(Err(DatabaseError::DatabaseAlreadyOpen)) => {
            return Err(StoreError::InUse { path }.into());
        }
        // One that cannot be read is what backups are for.
        Some(Err(_)) | None => None,
        Some(Ok(former)) => Some(former),
    };
    if is_taken && !replace {
        return Err(RestoreError::Taken { path });
    }
    let known = former.as_ref().and_then(|former| {
        let transaction = former.begin_read().ok()?;
        let epoch = transaction.open_table(META).ok()?.get(META_EPOCH).ok()??.value();
        Some(epoch)
    });
    contents.epoch = contents.epoch.max(known.unwrap_or(0));

    let unfinished = directory.join(UNFINISHED);
    make(&unfinished, &contents)?;
    let put_in_place = || {
        let aside = is_taken.then(|| directory.join(format!("{FILE}.before-{stamp}")));
        match &aside {
            Some(aside) => {
                fs::hard_link(&path, aside)?;
                fs::rename(&unfinished, &path)?;
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
    let aside = put_in_place().map_err(cannot(&path))?;
    drop(former);
    Ok(aside)
}

fn make(path: &Path, contents: &Contents) -> Result<(), RestoreError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(RestoreError::Write { path: path.into(), source });
        }
        _ => {}
    }
    let made = || -> Result<(), Error> {
        let database = disk::open_file(path, true)?;
        let transaction = database.begin_write()?;
        write(&transaction, contents)?;
        transaction.commit()?;
        Ok(database.close()?)
    };
    let failed = |source| StoreError::Failed { path: path.into(), source: Box::new(source) };
    Ok(made().map_err(failed)?)
}
