//! The file that a proxy starts from while no controller answers.
//!
//! ```text
//!   "lb last-known-good 2\n" | frame: a whole snapshot | frame: what led on from it | ...
//!   frame: payload length, u64 LE | crc32 of the payload, u32 LE | payload, an encoded `lb.v1.Update`
//! ```
//!
//! A change costs the disk what changed: it is appended, until that is as much as the snapshot was. The
//! checksums find a disk's faults, and the snapshots' own digests find ours. A file whose snapshot is
//! wrong in any way is refused whole and left for people to look at; the next snapshot of a controller
//! replaces it. Behind that, what is before the first frame that is wrong counts: as a rule the last write was
//! cut off.
//!
//! # Invariants
//!
//! - The file has one whole snapshot at any time: it is written beside, synced, and renamed.
//! - One process a directory, by an advisory lock.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use lb_common::{clock, map::Change};
use lb_proto::{
    MAX_MESSAGE_BYTES,
    resources::Key,
    update::{self, Sealed, UpdateError},
    v1::{self, Kind},
};
use prost::Message;
use tokio::{
    sync::watch,
    task,
    time::{sleep, sleep_until},
};
use tracing::{info, warn};

use super::status::{ControlStatus, LastGoodStatus};

/// The data directory, held by this process until it is dropped.
#[derive(Debug)]
pub struct LastGood {
    dir: PathBuf,
    file: PathBuf,
    /// Unless the last write failed; then the next one is whole.
    written: Option<Written>,
    _lock: File,
}

/// What this process has put into the file.
#[derive(Debug)]
struct Written {
    newest: Sealed,
    /// Bytes of the whole snapshot, and of what was appended to it.
    whole: usize,
    appended: usize,
}

/// What a file has.
#[derive(Debug)]
pub struct Found {
    pub sealed: Sealed,
    /// Why what is behind that does not count.
    pub cut: Option<Problem>,
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
    #[error("does not begin with a whole snapshot")]
    NotWhole,
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
}

const MAGIC: &str = "lb last-known-good ";
const FORMAT: &str = "2";
const FRAME_BYTES: usize = size_of::<u64>() + size_of::<u32>();
const MAX_FILE_BYTES: usize = 3 * MAX_MESSAGE_BYTES;
/// So much is appended to any snapshot, however small, before it is written again.
const MIN_APPENDED: usize = 64 * 1024;

/// From one write to the next: each waits for the disk, and updates may be many.
const PAUSE: Duration = Duration::from_secs(1);

/// From a failed write to the next one, unless there is another snapshot before.
const RETRY: Duration = Duration::from_secs(5);

/// Writes what comes, one snapshot at a time and only the newest, until the sender is gone and the
/// last one was tried. `problem` is why the disk has an older one, while it has.
pub async fn keep(
    mut last_good: LastGood,
    mut newest: watch::Receiver<Option<Sealed>>,
    status: &watch::Sender<ControlStatus>,
    problem: watch::Sender<Option<String>>,
) {
    let (mut failing, mut tried) = (false, None);
    loop {
        let good = newest.borrow_and_update().clone();
        let Some(good) = good.filter(|good| tried != Some(good.snapshot.id)) else {
            match newest.changed().await {
                Ok(()) => continue,
                Err(_) => return,
            }
        };
        let (id, next) = (good.snapshot.id, clock::now() + PAUSE);
        tried = Some(id);
        let writing = task::spawn_blocking(move || {
            let result = last_good.write(&good);
            (last_good, result)
        });
        let result = match writing.await {
            Ok((file, result)) => {
                last_good = file;
                result
            }
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
        let why = match &outcome {
            LastGoodStatus::WriteFailed { reason, .. } => Some(reason.clone()),
            _ => None,
        };
        failing = why.is_some();
        problem.send_if_modified(|told| std::mem::replace(told, why.clone()) != why);
        status.send_modify(|status| status.last_good = outcome);
        if failing {
            tried = None;
            tokio::select! {
                () = sleep(RETRY) => {}
                changed = newest.changed() => if changed.is_err() {
                    return;
                },
            }
        }
        // The last one waits for nothing.
        let is_over = async { while newest.changed().await.is_ok() {} };
        tokio::select! {
            () = sleep_until(next.into()) => {}
            () = is_over => {}
        }
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
        let (dir, file) = (dir.into(), dir.join("last-known-good"));
        let last_good = Self { dir, file, written: None, _lock: lock };
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
    /// If there is one, and it does not begin with a snapshot as it was written.
    pub fn read(&self) -> Result<Option<Found>, ReadError> {
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
    /// If it did not get there; what the file had before still counts.
    pub fn write(&mut self, good: &Sealed) -> Result<(), WriteError> {
        // Where that fails, the file may be gone, or end in the midst of it.
        if let Some(written) = self.written.take()
            && let Some(frame) = written.next(good)
            && self.append(&frame).is_ok()
        {
            let appended = written.appended + frame.len();
            self.written = Some(Written { newest: good.clone(), appended, ..written });
            return Ok(());
        }
        let content = v1::update::Content::Full(good.resources.encode());
        let frame = frame(good, content)?;
        self.replace(&frame).map_err(|source| {
            // A part of a snapshot is of no use, and the space may be.
            let _ = fs::remove_file(self.temporary());
            WriteError::Io { file: self.file.clone(), source }
        })?;
        self.written = Some(Written { newest: good.clone(), whole: frame.len(), appended: 0 });
        Ok(())
    }

    fn replace(&self, frame: &[u8]) -> io::Result<()> {
        let temporary = self.temporary();
        let mut file = private().truncate(true).open(&temporary)?;
        file.write_all(format!("{MAGIC}{FORMAT}\n").as_bytes())?;
        file.write_all(frame)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.file)?;
        File::open(&self.dir)?.sync_all()
    }

    fn append(&self, frame: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).open(&self.file)?;
        file.write_all(frame)?;
        file.sync_data()
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

impl Written {
    /// What leads on to that; nothing, if all of it is to be written. What was secret and is replaced does
    /// not stay in the file.
    fn next(&self, good: &Sealed) -> Option<Vec<u8>> {
        let is_secret = |change: Change<'_, Key, _>| change.key.kind == i32::from(Kind::Material);
        if self.newest.resources.changes(&good.resources).any(is_secret) {
            return None;
        }
        let delta = self.newest.delta(good).encode_to_vec();
        let frame = frame(good, v1::update::Content::Delta(delta.into())).ok()?;
        (self.appended + frame.len() <= self.whole.max(MIN_APPENDED)).then_some(frame)
    }
}

fn frame(good: &Sealed, content: v1::update::Content) -> Result<Vec<u8>, WriteError> {
    let payload = v1::Update {
        snapshot: Some(update::snapshot_id(good.snapshot.id)),
        revision: good.snapshot.revision,
        content: Some(content),
    };
    let payload = payload.encode_to_vec();
    if payload.len() > MAX_MESSAGE_BYTES {
        return Err(WriteError::TooLarge(payload.len()));
    }
    let mut bytes = Vec::with_capacity(FRAME_BYTES + payload.len());
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
    bytes.extend_from_slice(&payload);
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<Found, Problem> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(Problem::TooLarge);
    }
    let mut rest = after_header(bytes)?;
    let update = next_update(&mut rest, bytes.len())?;
    let Some(v1::update::Content::Full(_)) = &update.content else { return Err(Problem::NotWhole) };
    let mut sealed = followed(&Sealed::default(), update)?;
    while !rest.is_empty() {
        let next = next_update(&mut rest, bytes.len()).and_then(|next| followed(&sealed, next));
        match next {
            Ok(next) => sealed = next,
            Err(problem) => return Ok(Found { sealed, cut: Some(problem) }),
        }
    }
    Ok(Found { sealed, cut: None })
}

fn after_header(bytes: &[u8]) -> Result<&[u8], Problem> {
    let cut = || Problem::Truncated {
        expected: (MAGIC.len() + FORMAT.len() + 1 + FRAME_BYTES) as u64,
        actual: bytes.len() as u64,
    };
    let Some(rest) = bytes.strip_prefix(MAGIC.as_bytes()) else {
        return Err(if MAGIC.as_bytes().starts_with(bytes) { cut() } else { Problem::Foreign });
    };
    let line = rest.iter().take(16).position(|byte| *byte == b'\n').ok_or_else(cut)?;
    if rest[..line] != *FORMAT.as_bytes() {
        return Err(Problem::OtherFormat(String::from_utf8_lossy(&rest[..line]).into()));
    }
    Ok(&rest[line + 1..])
}

/// What the next frame announces, and nothing less; `all` is how long the file is.
fn next_update(rest: &mut &[u8], all: usize) -> Result<v1::Update, Problem> {
    let (at, actual) = ((all - rest.len()) as u64, all as u64);
    let cut = |length: u64| Problem::Truncated {
        expected: at.saturating_add(FRAME_BYTES as u64).saturating_add(length),
        actual,
    };
    let (length, behind) = rest.split_first_chunk().ok_or_else(|| cut(0))?;
    let (checksum, behind) = behind.split_first_chunk().ok_or_else(|| cut(0))?;
    let length = u64::from_le_bytes(*length);
    let payload = usize::try_from(length).ok().and_then(|length| behind.split_at_checked(length));
    let (payload, behind) = payload.ok_or_else(|| cut(length))?;
    let (announced, actual) = (u32::from_le_bytes(*checksum), crc32fast::hash(payload));
    if announced != actual {
        return Err(Problem::Checksum { announced, actual });
    }
    *rest = behind;
    v1::Update::decode(payload).map_err(Problem::Undecodable)
}

fn followed(base: &Sealed, update: v1::Update) -> Result<Sealed, Problem> {
    let id = update.snapshot.as_ref().map(update::parse_snapshot_id).ok_or(Problem::Unnamed)?;
    let followed = match &update.content {
        Some(v1::update::Content::Full(bytes)) => Sealed::open(id, update.revision, bytes),
        Some(v1::update::Content::Delta(bytes)) => base.follow(id, update.revision, bytes),
        Some(v1::update::Content::Part(_)) | None => Err(UpdateError::Empty),
    };
    followed.map_err(Problem::Invalid)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use lb_common::{
        material::{MaterialId, Materials},
        secret::Secret,
        snapshot::{Digest, Snapshot, SnapshotId, Version},
    };
    use lb_proto::{file, parse, update::Content};
    use tempfile::TempDir;

    use super::*;

    /// Versions differ in a weight.
    fn good(version: u64) -> Sealed {
        let text = format!(
            "backend_sets = [{{ name = 'app', backends = [
                 {{ address = '127.0.0.1:1', weight = {version} }}
             ] }}]"
        );
        let spec = file::parse(&text).unwrap_or_else(|errors| panic!("{errors}"));
        let desired = parse::desired_state(&spec).unwrap_or_else(|problems| panic!("{problems}"));
        Sealed::new(Version { epoch: 1, version }, 7, Content::of(desired))
    }

    fn written(versions: &[u64]) -> (TempDir, LastGood) {
        let dir = tempfile::tempdir().expect("a directory");
        let mut last_good = LastGood::open(&dir.path().join("a/b")).expect("a new directory");
        for version in versions {
            last_good.write(&good(*version)).expect("it is writable");
        }
        (dir, last_good)
    }

    fn bytes(versions: &[u64]) -> Vec<u8> {
        fs::read(written(versions).1.path()).expect("it was written")
    }

    #[test]
    fn what_is_written_is_read_back_and_only_the_owner_may() {
        let (_dir, mut last_good) = written(&[]);
        assert!(last_good.read().expect("no file is normal").is_none());
        for version in 1..4 {
            let good = good(version);
            last_good.write(&good).expect("a writable directory");
            let Found { sealed, cut } = last_good.read().expect("it is well").expect("it is there");
            assert!(cut.is_none(), "{cut:?}");
            assert_eq!(sealed.snapshot.id, good.snapshot.id);
            assert_eq!(sealed.snapshot.members, good.snapshot.members);
        }
        let mode = fs::metadata(last_good.path()).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!last_good.temporary().exists());
    }

    #[test]
    fn a_file_that_somebody_took_away_is_there_again_with_the_next_write() {
        let (_dir, mut last_good) = written(&[1, 2]);
        fs::remove_file(last_good.path()).expect("it was written");
        last_good.write(&good(3)).expect("it is made anew");
        let read = last_good.read().expect("it is well").expect("it is there");
        assert_eq!(read.sealed.snapshot.id, good(3).snapshot.id);
    }

    #[test]
    fn what_is_appended_never_grows_beyond_what_it_leads_on_from() {
        let (_dir, mut last_good) = written(&[1]);
        let mut longest = 0;
        for version in 2..3_000 {
            last_good.write(&good(version)).expect("a writable directory");
            let length = fs::metadata(last_good.path()).expect("it is there").len();
            longest = longest.max(length);
        }
        assert!((60_000..70_000).contains(&longest), "{longest}");
        let read = last_good.read().expect("it is well").expect("it is there");
        assert_eq!(read.sealed.snapshot.id, good(2_999).snapshot.id);
    }

    #[test]
    fn a_key_that_is_replaced_does_not_stay_in_the_file() {
        let (_dir, mut last_good) = written(&[1]);
        let with = |version: u64, key: &str| {
            let Snapshot { desired, members, .. } = Snapshot::clone(&good(1).snapshot);
            let key = Secret::new(key.as_bytes().to_vec());
            let materials = Materials::unit(MaterialId::tickets(), key);
            let content = Content { desired, members, materials, ..Content::default() };
            Sealed::new(Version { epoch: 1, version }, 7, content)
        };
        for (version, key) in [(2, "first secret"), (3, "second secret")] {
            last_good.write(&with(version, key)).expect("a writable directory");
        }
        let bytes = fs::read(last_good.path()).expect("it was written");
        let has = |key: &str| bytes.windows(key.len()).any(|part| part == key.as_bytes());
        assert!(has("second secret") && !has("first secret"));
    }

    #[test]
    fn a_file_that_was_cut_off_is_what_it_was_before_or_is_refused() {
        let (first, all) = (bytes(&[1]), bytes(&[1, 2, 3]));
        let second = bytes(&[1, 2]).len();
        assert!(all.starts_with(&first));
        for length in 0..all.len() {
            match decode(&all[..length]) {
                Err(Problem::Truncated { .. }) => assert!(length < first.len(), "{length}"),
                Err(other) => panic!("{length}: {other}"),
                Ok(Found { sealed, cut }) => {
                    let whole = [first.len(), second].into_iter().rposition(|end| end <= length);
                    let version = whole.expect("all of a snapshot") as u64 + 1;
                    assert_eq!(sealed.snapshot.id, good(version).snapshot.id, "{length}");
                    let is_whole = [first.len(), second].contains(&length);
                    assert_eq!(cut.is_none(), is_whole, "{length}");
                }
            }
        }
    }

    #[test]
    fn a_flipped_bit_never_makes_another_snapshot() {
        let (first, all) = (bytes(&[1]).len(), bytes(&[1, 2]));
        for bit in 0..all.len() * 8 {
            let mut bytes = all.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            match decode(&bytes) {
                Err(_) => assert!(bit / 8 < first, "bit {bit}"),
                Ok(Found { sealed, cut }) => {
                    assert!(cut.is_some() && first <= bit / 8, "bit {bit}");
                    assert_eq!(sealed.snapshot.id, good(1).snapshot.id, "bit {bit}");
                }
            }
        }
    }

    #[test]
    fn a_refusal_says_what_is_wrong() {
        let good = good(1);
        let bytes = bytes(&[1]);
        let id = SnapshotId { digest: Digest(1), ..good.snapshot.id };
        let snapshot = Snapshot { id, ..Snapshot::clone(&good.snapshot) };
        let lie = Sealed { snapshot: snapshot.into(), resources: good.resources.clone() };
        let header = format!("{MAGIC}{FORMAT}\n").into_bytes();
        let file = |sealed, content| {
            let frame = frame(sealed, content).expect("it is small");
            [header.clone(), frame].concat()
        };
        let full = || v1::update::Content::Full(good.resources.encode());
        let delta = Sealed::default().delta(&good).encode_to_vec();
        let mut flipped = bytes.clone();
        *flipped.last_mut().expect("it is not empty") ^= 1;
        #[rustfmt::skip]
        let cases = [
            (vec![],                                    "is truncated: it has 0 of "),
            (b"{\"json\": true}".to_vec(),              "is not a last-known-good file"),
            (b"lb last-known-good 1\nwhatever".to_vec(), "is of format \"1\", and this proxy reads format \"2\""),
            (bytes[..bytes.len() - 1].to_vec(),         "is truncated: it has "),
            (flipped,                                   "checksum is "),
            (file(&lie, full()),                        "its content is not valid here: the content's digest is "),
            (file(&good, v1::update::Content::Delta(delta.into())), "does not begin with a whole snapshot"),
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
