//! The file that a backup is: see `lb/v1/backup.proto`.
//!
//! It is read to its end, and all of it decoded and parsed, before anything is made of it.

use std::time::Duration;

use lb_common::{material::MaterialId, secret::Secret};
use lb_proto::{error::Problems, parse, v1};
use prost::{DecodeError, Message, bytes::Bytes, encoding::decode_varint};
use v1::backup_record::Record;

use crate::{
    controller::lead,
    store::{Contents, KeptMaterial, KeptRevision, StoredState, add_part},
};

/// What the file begins with. The number grows with what older programs would misread.
const FIRST_LINE: &[u8] = b"lb backup 1\n";
const ANY_FIRST_LINE: &[u8] = b"lb backup ";

/// Why a file is no backup to restore.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    #[error("it is not a backup; lb backup makes one")]
    Other,
    #[error("it is of a later version of lb, which this one cannot read; restore it with that one")]
    Later,
    #[error("it is cut off after record {records}")]
    CutOff { records: u64 },
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    #[error("record {record} does not decode: {source}")]
    Undecodable {
        record: u64,
        #[source]
        source: DecodeError,
    },
    #[error("{what}: {why}")]
    Wrong { what: String, why: String },
    #[error(
        "its epoch, {0}, is years from now; it is no controller's, or this host's clock is wrong"
    )]
    Far(u64),
    #[error("the state in it is not valid: {0}")]
    Invalid(#[source] Problems),
}

/// Records, one after the other.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    records: u64,
}

pub fn encode(contents: &Contents, time: prost_types::Timestamp) -> Vec<u8> {
    let Contents { epoch, file_digest, parts, revisions, materials, materials_revision, health } =
        contents;
    let head = v1::BackupHead {
        time: Some(time),
        revision: contents.revision(),
        epoch: *epoch,
        file_digest: *file_digest,
        materials_revision: *materials_revision,
    };
    let parts = parts.iter().cloned().map(Record::Part);
    let revisions = revisions.iter().map(|KeptRevision { about, back }| {
        let (about, back) = (Some(about.clone()), Some(back.clone()));
        Record::Revision(v1::BackupRevision { about, back })
    });
    let materials = materials.iter().map(|KeptMaterial { id, content, needed }| {
        let content = Bytes::copy_from_slice(content.reveal());
        Record::Material(v1::BackupMaterial { id: id.to_string(), content, needed: *needed })
    });
    let health = health.iter().cloned().map(Record::Health);
    let all = [Record::Head(head)].into_iter().chain(parts).chain(revisions).chain(materials);
    let mut bytes = FIRST_LINE.to_vec();
    let mut records = 0;
    for record in all.chain(health) {
        put(&mut bytes, record);
        records += 1;
    }
    let end = encoded_end(records, &bytes);
    bytes.extend(end);
    bytes
}

fn encoded_end(records: u64, before: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let end = v1::BackupEnd { records, crc32: crc32fast::hash(before) };
    put(&mut bytes, Record::End(end));
    bytes
}

fn put(bytes: &mut Vec<u8>, record: Record) {
    let record = v1::BackupRecord { record: Some(record) };
    bytes.extend(record.encode_length_delimited_to_vec());
}

/// All of it, checked, at this time of day.
///
/// # Errors
/// What is wrong with it.
pub fn decode(bytes: &[u8], wall: Duration) -> Result<Contents, FormatError> {
    if !bytes.starts_with(FIRST_LINE) {
        let later = bytes.starts_with(ANY_FIRST_LINE);
        return Err(if later { FormatError::Later } else { FormatError::Other });
    }
    let mut reader = Reader { bytes, at: FIRST_LINE.len(), records: 0 };
    let (head, _) = reader.next()?;
    let Record::Head(head) = head else {
        return Err(FormatError::Damaged("it does not begin with its head"));
    };
    let v1::BackupHead { revision, epoch, file_digest, materials_revision, time: _ } = head;
    let mut contents = Contents { epoch, file_digest, materials_revision, ..Contents::default() };
    let end = loop {
        let (record, at) = reader.next()?;
        match record {
            Record::Head(_) => return Err(FormatError::Damaged("it has two heads")),
            Record::Part(part) => contents.parts.push(part),
            Record::Revision(v1::BackupRevision { about, back }) => {
                let (about, back) = (about.unwrap_or_default(), back.unwrap_or_default());
                contents.revisions.push(KeptRevision { about, back });
            }
            Record::Material(v1::BackupMaterial { id, content, needed }) => {
                let (id, content) = (MaterialId::of(&id), Secret::new(content.to_vec()));
                contents.materials.push(KeptMaterial { id, content, needed });
            }
            Record::Health(status) => contents.health.push(status),
            Record::End(_) => break at,
        }
    };
    if reader.at != bytes.len() {
        return Err(FormatError::Damaged("something follows its end"));
    }
    // Byte by byte, because nothing else covers the end itself.
    let (before, end) = bytes.split_at(end);
    if end != encoded_end(reader.records - 1, before) {
        return Err(FormatError::Damaged("its checksum is another one"));
    }
    // Nobody follows such a one, and there are later ones to come.
    if lead::is_far(epoch, wall) {
        return Err(FormatError::Far(epoch));
    }
    check(&contents, revision)?;
    Ok(contents)
}

/// Whether a controller could start from it.
fn check(contents: &Contents, revision: u64) -> Result<(), FormatError> {
    // Each has a next one, however long they go on.
    if i64::try_from(revision).is_err() {
        return Err(FormatError::Damaged("its revision is out of range"));
    }
    let numbers = contents.revisions.iter().map(|kept| kept.about.revision);
    let count = contents.revisions.len() as u64;
    if !numbers.eq((revision + 1).saturating_sub(count)..=revision) && count > 0
        || contents.revision() != revision
    {
        return Err(FormatError::Damaged("revisions are missing"));
    }
    let mut state = StoredState::default();
    for part in &contents.parts {
        add(&mut state, part, "the current state")?;
    }
    // Whether old ones would be accepted today is not asked.
    let mut old = StoredState::default();
    for KeptRevision { about, back } in &contents.revisions {
        for part in &back.changed {
            add(&mut old, part, &format!("what leads back from revision {}", about.revision))?;
        }
    }
    let mut problems = Problems::default();
    parse::overrides(&state.overrides, &mut problems);
    problems
        .or(())
        .and_then(|()| parse::desired_state(&state.spec))
        .map(drop)
        .map_err(FormatError::Invalid)
}

fn add(state: &mut StoredState, part: &v1::Resource, of: &str) -> Result<(), FormatError> {
    let v1::Resource { kind, name, content } = part;
    let wrong = |why| FormatError::Wrong { what: format!("{name} of {of}"), why };
    match add_part(state, *kind, content) {
        Ok(true) => Ok(()),
        Ok(false) => Err(wrong(format!("it is of kind {kind}"))),
        Err(error) => Err(wrong(error.to_string())),
    }
}

// === impl Reader ===

impl Reader<'_> {
    /// The next record, and where it begins.
    fn next(&mut self) -> Result<(Record, usize), FormatError> {
        let before = self.at;
        let cut_off = FormatError::CutOff { records: self.records };
        let mut rest = &self.bytes[self.at..];
        let len = decode_varint(&mut rest).ok().and_then(|len| usize::try_from(len).ok());
        let Some(record) = len.and_then(|len| rest.get(..len)) else { return Err(cut_off) };
        self.at = self.bytes.len() - rest.len() + record.len();
        self.records += 1;
        let undecodable = |source| FormatError::Undecodable { record: self.records, source };
        let v1::BackupRecord { record } = v1::BackupRecord::decode(record).map_err(undecodable)?;
        // Of a kind that came later.
        record.map(|record| (record, before)).ok_or(FormatError::Later)
    }
}
