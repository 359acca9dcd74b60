//! The chain that leads back from the current state: what each revision replaced.
//!
//! A change costs the disk what it changed, twice, however large the state is.

use std::{collections::BTreeMap, ops::RangeInclusive};

use ::redb::{Error, ReadTransaction, ReadableTable, WriteTransaction};
use lb_proto::v1;
use prost::{Message, bytes::Bytes};

use super::{
    materials::sweep_keys,
    tables::{META, META_UNDO_BYTES, PARTS, REVISIONS, UNDO},
};
use crate::store::{HISTORY, HISTORY_BYTES, Part, Revision, StoredState, add_part};

/// Encoded, by kind and name.
pub type Parts = BTreeMap<(i32, String), Vec<u8>>;

/// What a revision's state is made from.
pub struct Chain {
    /// Of the current state.
    parts: Parts,
    /// What leads back from it, latest first.
    undone: Vec<(u64, Vec<u8>)>,
}

/// Something in the store that does not mean anything.
pub struct Unreadable {
    pub what: String,
    pub why: String,
}

/// Puts its parts in place of what was there, and remembers that.
pub fn put_revision(
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

/// Which revisions are kept.
pub fn kept(
    table: &impl ReadableTable<u64, &'static [u8]>,
) -> Result<Option<RangeInclusive<u64>>, Error> {
    let first = table.first()?.map(|(number, _)| number.value());
    let last = table.last()?.map(|(number, _)| number.value());
    Ok(first.zip(last).map(|(first, last)| first..=last))
}

// === impl Chain ===

impl Chain {
    /// Down to the state of a revision that is kept.
    pub fn read(transaction: &ReadTransaction, number: u64) -> Result<Self, Error> {
        let (mut parts, mut undone) = (Parts::new(), Vec::new());
        for entry in transaction.open_table(PARTS)?.iter()? {
            let (key, content) = entry?;
            let (kind, name) = key.value();
            parts.insert((kind, name.to_owned()), content.value().to_vec());
        }
        for entry in transaction.open_table(UNDO)?.range(number + 1..)?.rev() {
            let (number, undo) = entry?;
            undone.push((number.value(), undo.value().to_vec()));
        }
        Ok(Self { parts, undone })
    }

    /// The state that it ends at.
    pub fn state(self) -> Result<StoredState, Unreadable> {
        let Self { mut parts, undone } = self;
        for (number, undo) in undone {
            let undo = v1::Delta::decode(&*undo).map_err(|error| {
                let what = format!("what leads back from revision {number}");
                Unreadable { what, why: error.to_string() }
            })?;
            let v1::Delta { changed, gone, .. } = undo;
            for v1::ResourceName { kind, name } in gone {
                parts.remove(&(kind, name));
            }
            for v1::Resource { kind, name, content } in changed {
                parts.insert((kind, name), content.to_vec());
            }
        }
        let mut state = StoredState::default();
        for ((kind, name), content) in &parts {
            let unreadable = |why| Unreadable { what: name.clone(), why };
            match add_part(&mut state, *kind, content) {
                Ok(true) => {}
                Ok(false) => return Err(unreadable(format!("it is of kind {kind}"))),
                Err(error) => return Err(unreadable(error.to_string())),
            }
        }
        Ok(state)
    }
}
