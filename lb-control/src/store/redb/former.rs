//! The former layout, with all of each revision's state.

use std::collections::BTreeMap;

use ::redb::{Error, ReadableTable, TableDefinition, WriteTransaction};
use lb_proto::v1;
use prost::Message;
use v1::Kind;

use super::{
    tables::{META, META_MATERIALS, REVISIONS},
    undo::put_revision,
};
use crate::store::{Part, Revision};

pub const FORMER_FORMAT: u64 = 1;
pub const SPECS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("specs");

/// Makes differences of whole states. Whether old ones would be accepted today is not asked.
pub fn convert(transaction: &WriteTransaction) -> Result<(), Error> {
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
