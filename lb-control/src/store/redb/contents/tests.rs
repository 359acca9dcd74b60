use std::os::unix::fs::PermissionsExt;

use rustix::process::geteuid;

use super::{super::Tables, *};

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("it is ours");
    let name = |entry: io::Result<fs::DirEntry>| entry.expect("reads").file_name();
    let mut names: Vec<_> =
        entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_store_whose_owner_runs_is_found_to_be_in_use_also_if_it_cannot_be_opened() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Tables::open(directory.path()).expect("opens");
    let path = directory.path().join(FILE);
    let is_used = |result| matches!(result, Err(RestoreError::Store(StoreError::InUse { .. })));
    assert!(is_used(Former::lock(&path)));
    assert!(is_used(Former::open(&path)));
    drop(store);
    fs::write(&path, "no database").expect("it is ours");
    let _held = Former::open(&path).expect("nobody runs");
    assert!(is_used(Former::open(&path)), "it is held");
}

#[test]
fn a_former_store_that_can_be_neither_opened_nor_locked_is_not_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(FILE);
    std::os::unix::fs::symlink(&path, &path).expect("it is ours");
    let error = Former::open(&path).map(drop).expect_err("it leads nowhere");
    assert!(matches!(error, RestoreError::Read { .. }), "{error}");
}

#[test]
fn nothing_unfinished_is_left_by_a_restore_that_fails() {
    let directory = tempfile::tempdir().expect("a directory");
    let restore = || restore(directory.path(), Contents::default(), true, "now");
    restore().expect("restores");
    let aside = format!("{FILE}.before-now");
    fs::write(directory.path().join(&aside), "in the way").expect("it is ours");
    restore().expect_err("something is in the way");
    assert_eq!(names(directory.path()), [FILE, &aside]);
}

/// A dynamic user's, as root restores it. Who is not root gives nothing to anybody.
#[test]
fn a_store_belongs_to_whom_the_former_one_or_else_the_directory_belongs_to() {
    let directory = tempfile::tempdir().expect("a directory");
    let is_root = geteuid().is_root();
    let (service, other) =
        if is_root { (61_234, 61_235) } else { (geteuid().as_raw(), geteuid().as_raw()) };
    let give = |path: &Path, uid| {
        if is_root {
            lchown(path, Some(uid), Some(uid)).expect("root may");
        }
    };
    let owner = |path: &Path| fs::metadata(path).expect("it is there").uid();
    give(directory.path(), service);
    let data = directory.path().join("made/data");
    let restore = || restore(&data, Contents::default(), true, "now").expect("restores");
    restore();
    let path = data.join(FILE);
    for made in [&path, &data, &directory.path().join("made")] {
        assert_eq!(owner(made), service, "{made:?}");
    }
    assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
    give(&path, other);
    restore();
    assert_eq!((owner(&path), owner(&data)), (other, service));
}

#[test]
fn what_does_not_decode_is_no_fault_of_the_disk() {
    let store = Tables::in_memory().expect("opens");
    let junk = [0xff].as_slice();
    let write = |junk: &[u8]| {
        store.0.write(
            |_| Ok(None),
            |transaction| {
                transaction.open_table(REVISIONS)?.insert(1, junk)?;
                Ok(())
            },
        )
    };
    write(junk).expect("is written");
    let error = store.contents().expect_err("it does not decode");
    assert!(matches!(error, StoreError::Unreadable { .. }), "{error}");
    assert!(error.to_string().contains("revision 1"), "{error}");
    write(&[]).expect("the store was not closed");
    store.contents().expect("it decodes");
}
