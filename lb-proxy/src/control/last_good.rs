//! The file that a proxy starts from while no controller answers.
//!
//! ```text
//!   "lb last-known-good 1\n" | payload length, u64 LE | crc32 of the payload, u32 LE | payload
//! ```
//!
//! The payload is an encoded `lb.v1.LastKnownGood`. The checksum finds a disk's faults, and the
//! snapshot's own digest finds ours. A file that is wrong in any way is refused whole and left for
//! people to look at; the next snapshot of a controller replaces it.
//!
//! # Invariants
//!
//! - The file is always one whole snapshot: it is written beside, synced, and renamed.
//! - One process a directory, by an advisory lock.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use lb_common::{
    clock,
    snapshot::{Snapshot, SnapshotId},
};
use lb_proto::{
    MAX_MESSAGE_BYTES,
    update::{self, UpdateError},
    v1,
};
use prost::{Message, bytes::Bytes};
use tokio::{sync::watch, task};
use tracing::{info, warn};

use super::status::{ControlStatus, LastGoodStatus};

/// The data directory, held by this process until it is dropped.
#[derive(Debug)]
pub struct LastGood {
    dir: PathBuf,
    file: PathBuf,
    _lock: File,
}

/// A snapshot as it is written.
#[derive(Clone, Debug)]
pub struct Good {
    pub id: SnapshotId,
    pub revision: u64,
    /// An encoded [`v1::Snapshot`].
    pub content: Bytes,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot write to the data directory {}: {source}", dir.display())]
    Unwritable { dir: PathBuf, source: io::Error },
    #[error(
        "another process uses the data directory {}; give each proxy one of its own",
        dir.display()
    )]
    InUse { dir: PathBuf },
}

/// Which file is not used, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct ReadError {
    pub file: PathBuf,
    #[source]
    pub problem: Problem,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge,
    #[error("is not a last-known-good file: it does not begin with {MAGIC:?}")]
    Foreign,
    #[error("is of format {0:?}, and this proxy reads format {FORMAT:?}")]
    OtherFormat(String),
    #[error("is truncated: it has {actual} of {expected} bytes")]
    Truncated { expected: u64, actual: u64 },
    #[error("has {extra} bytes after its end")]
    TrailingBytes { extra: u64 },
    #[error("checksum is {announced:08x}, and its content has {actual:08x}")]
    Checksum { announced: u32, actual: u32 },
    #[error("its content does not decode: {0}")]
    Undecodable(prost::DecodeError),
    #[error("it does not say which snapshot it has")]
    Unnamed,
    /// What an old or a foreign proxy took for valid.
    #[error("its content is not valid here: {0}")]
    Invalid(UpdateError),
}

/// Why a snapshot did not get onto the disk.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("cannot write {}: {source}", file.display())]
    Io { file: PathBuf, source: io::Error },
    #[error("the snapshot has {0} bytes, and {MAX_MESSAGE_BYTES} is the limit")]
    TooLarge(usize),
    #[error("the snapshot does not decode: {0}")]
    Undecodable(#[from] prost::DecodeError),
}

const MAGIC: &str = "lb last-known-good ";
const FORMAT: &str = "1";
const HEADER_BYTES: usize = MAGIC.len() + FORMAT.len() + 1 + size_of::<u64>() + size_of::<u32>();
const MAX_FILE_BYTES: usize = HEADER_BYTES + MAX_MESSAGE_BYTES;

/// Writes what comes, one snapshot at a time and only the newest, until the sender is gone and the
/// last one is on disk. A failure is not tried again before the next snapshot.
pub async fn keep(
    last_good: LastGood,
    mut newest: watch::Receiver<Option<Good>>,
    status: &watch::Sender<ControlStatus>,
) {
    let last_good = Arc::new(last_good);
    let mut failing = false;
    while newest.changed().await.is_ok() {
        let Some(good) = newest.borrow_and_update().clone() else { continue };
        let (id, file) = (good.id, Arc::clone(&last_good));
        let result = match task::spawn_blocking(move || file.write(&good)).await {
            Ok(result) => result,
            Err(error) => return warn!("snapshots are no longer written to disk: {error}"),
        };
        let at = clock::wall();
        let outcome = match result {
            Ok(()) => LastGoodStatus::Written { snapshot: id, at },
            Err(error) => LastGoodStatus::WriteFailed { reason: error.to_string(), at },
        };
        match &outcome {
            LastGoodStatus::WriteFailed { reason, .. } if !failing => {
                warn!("{reason}; a restart would start from an older snapshot");
            }
            LastGoodStatus::Written { .. } if failing => info!("snapshots are on disk again"),
            _ => {}
        }
        failing = matches!(outcome, LastGoodStatus::WriteFailed { .. });
        status.send_modify(|status| status.last_good = outcome);
    }
}

// === impl LastGood ===

impl LastGood {
    /// Creates the directory if there is none.
    ///
    /// # Errors
    /// If this process cannot write to it, or another one uses it.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let unwritable = |source| OpenError::Unwritable { dir: dir.into(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unwritable)?;
        let lock = private().open(dir.join("lock")).map_err(unwritable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { dir: dir.into() }),
            Err(TryLockError::Error(source)) => return Err(unwritable(source)),
        }
        let last_good = Self { dir: dir.into(), file: dir.join("last-known-good"), _lock: lock };
        // Finds out now what would otherwise show at the first snapshot.
        let temporary = last_good.temporary();
        private().open(&temporary).map_err(unwritable)?;
        fs::remove_file(&temporary).map_err(unwritable)?;
        Ok(last_good)
    }

    pub fn path(&self) -> &Path {
        &self.file
    }

    /// `None` if there is no file.
    ///
    /// # Errors
    /// If there is one and it is not, from end to end, what was written.
    pub fn read(&self) -> Result<Option<Snapshot>, ReadError> {
        let error = |problem| ReadError { file: self.file.clone(), problem };
        let file = match File::open(&self.file) {
            Ok(file) => file,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(other) => return Err(error(other.into())),
        };
        let mut bytes = Vec::new();
        // One byte more tells a file of the greatest size from a larger one.
        let mut file = file.take(MAX_FILE_BYTES as u64 + 1);
        file.read_to_end(&mut bytes).map_err(|source| error(source.into()))?;
        decode(&bytes).map(Some).map_err(error)
    }

    /// Blocks until the snapshot is safely on disk.
    ///
    /// # Errors
    /// If it did not get there; the file is then what it was.
    pub fn write(&self, good: &Good) -> Result<(), WriteError> {
        let bytes = encode(good)?;
        self.replace(&bytes).map_err(|source| {
            // A part of a snapshot is of no use, and the space may be.
            let _ = fs::remove_file(self.temporary());
            WriteError::Io { file: self.file.clone(), source }
        })
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.temporary();
        let mut file = private().truncate(true).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.file)?;
        File::open(&self.dir)?.sync_all()
    }

    fn temporary(&self) -> PathBuf {
        self.dir.join("last-known-good.tmp")
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    options
}

fn encode(good: &Good) -> Result<Vec<u8>, WriteError> {
    let payload = v1::LastKnownGood {
        snapshot: Some(update::snapshot_id(good.id)),
        revision: good.revision,
        content: Some(v1::Snapshot::decode(good.content.clone())?),
    };
    let payload = payload.encode_to_vec();
    if payload.len() > MAX_MESSAGE_BYTES {
        return Err(WriteError::TooLarge(payload.len()));
    }
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(format!("{MAGIC}{FORMAT}\n").as_bytes());
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
    bytes.extend_from_slice(&payload);
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<Snapshot, Problem> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(Problem::TooLarge);
    }
    let payload = payload_of(bytes)?;
    let wire = v1::LastKnownGood::decode(payload).map_err(Problem::Undecodable)?;
    let id = wire.snapshot.as_ref().map(update::parse_snapshot_id).ok_or(Problem::Unnamed)?;
    let content = wire.content.unwrap_or_default().encode_to_vec();
    let sealed = update::open(id, wire.revision, &content).map_err(Problem::Invalid)?;
    Ok(sealed.snapshot)
}

/// What the header announces, and nothing less or more.
fn payload_of(bytes: &[u8]) -> Result<&[u8], Problem> {
    let actual = bytes.len() as u64;
    let cut = Problem::Truncated { expected: HEADER_BYTES as u64, actual };
    let Some(rest) = bytes.strip_prefix(MAGIC.as_bytes()) else {
        return Err(if MAGIC.as_bytes().starts_with(bytes) { cut } else { Problem::Foreign });
    };
    let Some(line) = rest.iter().take(16).position(|byte| *byte == b'\n') else {
        return Err(cut);
    };
    if rest[..line] != *FORMAT.as_bytes() {
        return Err(Problem::OtherFormat(String::from_utf8_lossy(&rest[..line]).into()));
    }
    let Some((length, rest)) = rest[line + 1..].split_first_chunk() else { return Err(cut) };
    let Some((checksum, payload)) = rest.split_first_chunk() else { return Err(cut) };

    let (length, has) = (u64::from_le_bytes(*length), payload.len() as u64);
    if has < length {
        let expected = length.saturating_add(HEADER_BYTES as u64);
        return Err(Problem::Truncated { expected, actual });
    }
    if has > length {
        return Err(Problem::TrailingBytes { extra: has - length });
    }
    let (announced, actual) = (u32::from_le_bytes(*checksum), crc32fast::hash(payload));
    if announced != actual {
        return Err(Problem::Checksum { announced, actual });
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use lb_common::snapshot::{Digest, Version};
    use lb_proto::{file, parse, update::Content};

    use super::*;

    fn good(version: u64) -> (Snapshot, Good) {
        let text = "backend_sets = [{ name = 'app', backends = [{ address = '127.0.0.1:1' }] }]";
        let spec = file::parse(text).unwrap_or_else(|errors| panic!("{errors}"));
        let desired = parse::desired_state(&spec).unwrap_or_else(|problems| panic!("{problems}"));
        let version = Version { epoch: 1, version };
        let content = Content { desired, ..Content::default() };
        let sealed = update::seal(version, 7, content);
        let good = Good { id: sealed.snapshot.id, revision: 7, content: sealed.bytes };
        (sealed.snapshot, good)
    }

    #[test]
    fn what_is_written_is_read_back_and_only_the_owner_may() {
        let dir = tempfile::tempdir().expect("a directory");
        let last_good = LastGood::open(&dir.path().join("a/b")).expect("a new directory");
        assert_eq!(last_good.read().expect("no file is normal"), None);
        for version in 1..3 {
            let (snapshot, good) = good(version);
            last_good.write(&good).expect("a writable directory");
            assert_eq!(last_good.read().expect("what was written"), Some(snapshot));
        }
        let mode = fs::metadata(last_good.path()).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!last_good.temporary().exists());
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_refused() {
        let bytes = encode(&good(1).1).expect("it is small");
        assert!(decode(&bytes).is_ok());
        for length in 0..bytes.len() {
            let refused = decode(&bytes[..length]);
            assert!(matches!(refused, Err(Problem::Truncated { .. })), "{length}: {refused:?}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_refusal_says_what_is_wrong() {
        let (_, good) = good(1);
        let bytes = encode(&good).expect("it is small");
        let lie = Good { id: SnapshotId { digest: Digest(1), ..good.id }, ..good };
        let mut flipped = bytes.clone();
        *flipped.last_mut().expect("it is not empty") ^= 1;
        #[rustfmt::skip]
        let cases = [
            (vec![],                                    "is truncated: it has 0 of "),
            (b"{\"json\": true}".to_vec(),              "is not a last-known-good file"),
            (b"lb last-known-good 2\nwhatever".to_vec(), "is of format \"2\", and this proxy reads format \"1\""),
            (bytes[..bytes.len() - 1].to_vec(),         "is truncated: it has "),
            ([&bytes[..], b"xy"].concat(),              "has 2 bytes after its end"),
            (flipped,                                   "checksum is "),
            (encode(&lie).expect("it is small"),        "its content is not valid here: the content's digest is "),
        ];
        for (bytes, expected) in cases {
            let refused = decode(&bytes).expect_err(expected).to_string();
            assert!(refused.starts_with(expected), "{refused}");
        }
    }

    #[test]
    fn a_directory_has_one_owner_and_is_writable() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = LastGood::open(dir.path()).expect("a new directory");
        let second = LastGood::open(dir.path()).expect_err("it is taken").to_string();
        assert!(second.starts_with("another process uses the data directory /"), "{second}");
        drop(first);
        LastGood::open(dir.path()).expect("it is free again");

        let file = dir.path().join("lock");
        let refused = LastGood::open(&file).expect_err("it is no directory").to_string();
        assert!(refused.starts_with("cannot write to the data directory /"), "{refused}");
    }
}
