//! Disks that fail on demand, and lose what a system only seemed to have written.

use std::sync::{Arc, MutexGuard};

use super::{
    super::{Tables, last, tables::REVISIONS},
    *,
};
use crate::store::{Accepted, Head, Revision, Term};
use lb_proto::v1;

/// What is asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Write,
    Sync,
    Grow,
}

/// A file behind a system's cache.
#[derive(Debug)]
struct Cached {
    file: FileBackend,
    cache: Arc<Mutex<Cache>>,
}

#[derive(Debug, Default)]
struct Cache {
    /// Written since the last sync, in this order.
    dirty: Vec<(u64, Vec<u8>)>,
    /// What a sync that failed could not write: it is shown, and will never be written.
    lost: Vec<(u64, Vec<u8>)>,
    fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug)]
struct Fault {
    ask: Ask,
    errno: i32,
    /// So many go well before it.
    after: u32,
    /// Whether it stays until it is mended.
    stays: bool,
}

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

// === impl Cached, Cache ===

impl Cached {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().expect("nobody panics with it")
    }
}

impl Cache {
    fn ask(&mut self, what: Ask) -> io::Result<()> {
        match &mut self.fault {
            Some(fault) if fault.ask == what && fault.after > 0 => fault.after -= 1,
            Some(fault) if fault.ask == what => {
                let error = io::Error::from_raw_os_error(fault.errno);
                self.fault = self.fault.filter(|fault| fault.stays);
                return Err(error);
            }
            _ => {}
        }
        Ok(())
    }
}

impl StorageBackend for Cached {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)?;
        let cache = self.cache();
        for (at, bytes) in cache.lost.iter().chain(&cache.dirty) {
            let (from, to) =
                (offset.max(*at), (offset + out.len() as u64).min(at + bytes.len() as u64));
            if from < to {
                let of = |start: u64| (from - start) as usize..(to - start) as usize;
                out[of(offset)].copy_from_slice(&bytes[of(*at)]);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.cache().ask(Ask::Grow)?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut cache = self.cache();
        let dirty = std::mem::take(&mut cache.dirty);
        if let Err(error) = cache.ask(Ask::Sync) {
            cache.lost.extend(dirty);
            return Err(error);
        }
        for (offset, bytes) in dirty {
            self.file.write(offset, &bytes)?;
            // Later ones are on the disk, and no earlier one is shown in their place.
            cache.lost.retain(|(at, lost)| (*at, lost.len()) != (offset, bytes.len()));
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut cache = self.cache();
        cache.ask(Ask::Write)?;
        cache.dirty.push((offset, data.to_vec()));
        Ok(())
    }
}

fn open(directory: &Path, cache: &Arc<Mutex<Cache>>) -> Disk {
    let path = directory.join(FILE);
    let cache = Arc::clone(cache);
    let backend =
        move |file| FileBackend::new(file).map(|file| Cached { file, cache: Arc::clone(&cache) });
    let opened = open_again(private(&path, true).expect("it is our directory"), &backend);
    let reopen = {
        let path = path.clone();
        move || reopen(&path, &backend)
    };
    Disk::new(opened, path, Box::new(reopen)).expect("opens")
}

fn change(number: u64) -> Accepted {
    // More than what is free in the file, often.
    let comment = "x".repeat(usize::try_from(number % 7).expect("it is small") * 20_000);
    let about = v1::Revision { revision: number, comment, ..<_>::default() };
    let revision = Some(Box::new(Revision { about, parts: Vec::new() }));
    Accepted { revision, materials: None, file_digest: None }
}

fn at(revision: u64) -> Head {
    Head { revision, file_digest: None }
}

/// Changes one after the other while the disk has a fault, and afterwards.
fn go_through(fault: Fault) {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = Arc::default();
    let tables = Tables::new(open(directory.path(), &cache)).expect("opens");
    let term = tables.campaign(1, None).expect("it leads");
    tables.commit(term, at(0), &change(1)).expect("all is well");
    cache.lock().expect("no panic").fault = Some(fault);
    let mut last = 1;
    for _ in 0..4 {
        match tables.commit(term, at(last), &change(last + 1)) {
            Ok(()) => last += 1,
            Err(StoreError::Failed { .. }) => {}
            Err(StoreError::Unknown { .. }) => {
                cache.lock().expect("no panic").fault = None;
                let found = tables.probe(term).expect("it works").revision;
                assert!([last, last + 1].contains(&found), "{fault:?}: {found} after {last}");
                last = found;
            }
            Err(error) => panic!("{fault:?}: {error}"),
        }
    }
    cache.lock().expect("no panic").fault = None;
    tables
        .commit(term, at(last), &change(last + 1))
        .unwrap_or_else(|error| panic!("{fault:?}: {error}"));
    tables.history(None, 1).unwrap_or_else(|error| panic!("{fault:?}: {error}"));

    // The power fails: what is not on the disk is gone.
    drop(tables);
    *cache.lock().expect("no panic") = Cache::default();
    let tables = Tables::new(open(directory.path(), &cache)).expect("it is as it was");
    let numbers: Vec<_> =
        tables.history(None, 99).expect("reads").iter().map(|about| about.revision).collect();
    assert_eq!(numbers, (1..=last + 1).rev().collect::<Vec<_>>(), "{fault:?}");
    assert_eq!(tables.campaign(1, None).expect("it leads"), Term { epoch: 2 });
}

#[test]
fn a_disk_that_fails_loses_nothing_that_was_acknowledged_and_is_used_again_once_it_works() {
    // A change writes a few pages, and syncs and grows the file once at most, or nearly.
    for (ask, errno, most) in [
        (Ask::Write, ENOSPC, 24),
        (Ask::Write, EIO, 24),
        (Ask::Sync, EIO, 8),
        (Ask::Sync, ENOSPC, 8),
        (Ask::Grow, ENOSPC, 4),
    ] {
        for stays in [false, true] {
            for after in 0..most {
                go_through(Fault { ask, errno, after, stays });
            }
        }
    }
}

/// Its process is started again, and later the power fails.
#[test]
fn what_only_seems_to_be_on_the_disk_is_written_once_more_by_the_next_process() {
    for after in 0..4 {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = Arc::default();
        let tables = Tables::new(open(directory.path(), &cache)).expect("opens");
        let term = tables.campaign(1, None).expect("it leads");
        cache.lock().expect("no panic").fault =
            Some(Fault { ask: Ask::Sync, errno: EIO, after, stays: true });
        let _ = tables.commit(term, at(0), &change(1));
        drop(tables);
        cache.lock().expect("no panic").fault = None;
        let store = open(directory.path(), &cache);
        let shown = |disk: &Disk| {
            let last = disk.read(|transaction| last(&transaction.open_table(REVISIONS)?));
            last.expect("reads")
        };
        let believed = shown(&store);
        // Not in good order, which would write something.
        std::mem::forget(store);
        *cache.lock().expect("no panic") = Cache::default();
        let (path, copy) = (directory.path().join(FILE), directory.path().join("copy"));
        fs::copy(&path, &copy).expect("it is ours");
        fs::rename(&copy, &path).expect("it is ours");
        assert_eq!(shown(&open(directory.path(), &cache)), believed, "{after}");
    }
}

#[test]
fn a_file_that_is_gone_is_not_made_anew_while_the_store_is_used() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = Arc::default();
    let tables = Tables::new(open(directory.path(), &cache)).expect("opens");
    let term = tables.campaign(1, None).expect("it leads");
    let fault = Fault { ask: Ask::Write, errno: EIO, after: 0, stays: true };
    cache.lock().expect("no panic").fault = Some(fault);
    tables.probe(term).expect_err("the disk failed");
    cache.lock().expect("no panic").fault = None;
    fs::rename(directory.path().join(FILE), directory.path().join("moved")).expect("it is ours");
    let error = tables.load().expect_err("the file is gone");
    assert!(matches!(error, StoreError::Failed { .. }), "{error}");
    assert!(!directory.path().join(FILE).exists());
    fs::rename(directory.path().join("moved"), directory.path().join(FILE)).expect("it is ours");
    tables.probe(term).expect("it is back");
}

#[test]
fn another_process_that_took_the_store_meanwhile_leads() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = Arc::default();
    let tables = Tables::new(open(directory.path(), &cache)).expect("opens");
    let term = tables.campaign(1, None).expect("it leads");
    let fault = Fault { ask: Ask::Write, errno: EIO, after: 0, stays: false };
    cache.lock().expect("no panic").fault = Some(fault);
    tables.0.close();
    *cache.lock().expect("no panic") = Cache::default();
    let other = Tables::open(directory.path()).expect("it is free");
    other.campaign(1, None).expect("it leads now");
    drop(other);
    let error = tables.commit(term, at(0), &change(1)).expect_err("the other one led");
    assert!(matches!(error, StoreError::Fenced { epoch: 1, leads: 2 }), "{error}");
}

#[test]
fn nobody_leads_anew_on_a_store_that_has_what_he_does_not_know() {
    let tables = Tables::new(Disk::in_memory().expect("opens")).expect("opens");
    let term = tables.campaign(1, None).expect("it leads");
    tables.commit(term, at(0), &change(1)).expect("commits");
    let file = Accepted { file_digest: Some(7), ..Accepted::default() };
    tables.commit(term, at(1), &file).expect("commits");
    let head = Head { revision: 1, file_digest: Some(7) };
    for known in [at(0), at(1), at(2)] {
        let error = tables.campaign(9, Some(known)).expect_err("it is another one");
        assert!(
            matches!(error, StoreError::Conflict { current, .. } if current == head),
            "{error}"
        );
        let error = tables.commit(term, known, &change(2)).expect_err("it is another one");
        assert!(
            matches!(error, StoreError::Conflict { current, .. } if current == head),
            "{error}"
        );
    }
    assert_eq!(tables.campaign(9, Some(head)).expect("it leads"), Term { epoch: 9 });
}

/// What is written would be where nobody looks for it after a restart.
#[test]
fn a_file_that_was_moved_away_or_replaced_takes_nothing_until_it_is_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let (file, aside) = (directory.path().join(FILE), directory.path().join("aside"));
    let tables = Tables::open(directory.path()).expect("opens");
    let term = tables.campaign(1, None).expect("it leads");
    fs::rename(&file, &aside).expect("it is ours");
    for _ in 0..2 {
        let refused = tables.probe(term).expect_err("it is gone").to_string();
        assert!(refused.contains("moved away or replaced while it was in use"), "{refused}");
        // Somebody starts another one there.
        drop(Tables::open(directory.path()).map(drop));
    }
    fs::rename(&aside, &file).expect("it is ours");
    tables.probe(term).expect("it is back");
}

#[test]
fn an_empty_file_is_not_taken_for_a_new_store() {
    let directory = tempfile::tempdir().expect("a directory");
    File::create(directory.path().join(FILE)).expect("it is ours");
    let refused = Tables::open(directory.path()).map(drop).expect_err("it was cut").to_string();
    assert!(refused.contains("it is empty; bring back a copy of the file"), "{refused}");
}

#[test]
fn nobody_else_may_read_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(FILE);
    for before in [None, Some(0o644)] {
        if let Some(mode) = before {
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it is ours");
        }
        drop(Disk::open(directory.path()).expect("opens"));
        let mode = fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_second_process_is_told_who_is_in_its_way() {
    let directory = tempfile::tempdir().expect("a directory");
    let _first = Disk::open(directory.path()).expect("opens");
    let error = Disk::open(directory.path()).expect_err("it is in use");
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("control.redb"), "{error}");
}

#[test]
fn a_file_that_is_something_else_is_refused_by_name() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join(FILE), "not a database, only some text").expect("writes");
    let error = Disk::open(directory.path()).expect_err("it is no database");
    assert!(error.to_string().contains("control.redb"), "{error}");
}
