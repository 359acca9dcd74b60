//! What revisions need besides themselves, and for how long.

use ::redb::{Error, ReadableTable, WriteTransaction};
use lb_common::material::{MaterialId, Materials};

use super::tables::{MATERIALS, META, META_MATERIALS, NEEDED, REVISIONS};

/// Drops the keys that no revision needs any more.
pub fn sweep_keys(transaction: &WriteTransaction) -> Result<(), Error> {
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

pub fn insert_materials(
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
pub fn put_materials(
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
