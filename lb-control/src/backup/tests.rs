use std::{
    future::{pending, ready},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use lb_common::{material::MaterialId, secret::Secret};
use lb_proto::encode;
use prost::Message;
use v1::Kind;

use super::{format::FormatError, *};
use crate::{
    desired::tests::{APP, state},
    store::{
        Accepted, Head, KeptMaterial, KeptRevision, Part, Revision, Store, StoreError, Verdict,
        redb::Redb,
    },
};

/// With three revisions, the key of the second one, and a verdict.
async fn stored(store: &Redb) {
    let term = store.campaign(50, None).await.expect("it leads");
    let spec = encode::spec(&state(APP));
    for number in 1..=3 {
        let part = |kind, name: &str, content| Part { kind, name: name.into(), content };
        let mut parts = vec![part(Kind::Route, &format!("gone-{number}"), None)];
        if number == 1 {
            let sets = spec
                .backend_sets
                .iter()
                .map(|set| (Kind::BackendSet, &set.name, set.encode_to_vec()));
            let routes =
                spec.routes.iter().map(|route| (Kind::Route, &route.name, route.encode_to_vec()));
            let listeners =
                spec.listeners.iter().map(|one| (Kind::Listener, &one.name, one.encode_to_vec()));
            let all = sets.chain(routes).chain(listeners);
            parts.extend(all.map(|(kind, name, content)| part(kind, name, Some(content))));
        }
        let about = v1::Revision { revision: number, comment: "why".into(), ..<_>::default() };
        let materials = (number != 3).then(|| {
            let id = if number == 2 { "key:2" } else { "file:/a" };
            [(MaterialId::of(id), Secret::new(b"very secret".to_vec()))].into_iter().collect()
        });
        let revision = Some(Box::new(Revision { about, parts }));
        let accepted = Accepted { revision, materials, file_digest: Some(7) };
        let file_digest = (number > 1).then_some(7);
        store
            .commit(term, Head { revision: number - 1, file_digest }, accepted)
            .await
            .expect("commits");
    }
    let status =
        v1::BackendStatus { backend_set: "app".into(), backend: "one".into(), ..<_>::default() };
    let verdict = Verdict {
        backend_set: lb_common::id::BackendSetName::new("app").expect("a name"),
        backend: lb_common::id::BackendName::new("one").expect("a name"),
        status: Some(status),
    };
    store.put_verdicts(term, vec![verdict]).await.expect("commits");
}

async fn contents() -> Contents {
    let store = Redb::in_memory().expect("opens");
    stored(&store).await;
    store.contents().await.expect("reads")
}

const WALL: Duration = Duration::from_secs(1_800_000_000);

fn time() -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 }
}

#[tokio::test]
async fn a_backup_has_all_that_the_store_has() {
    let contents = contents().await;
    assert_eq!((contents.epoch, contents.revision(), contents.file_digest), (50, 3, Some(7)));
    assert_eq!((contents.materials.len(), contents.health.len()), (1, 1));
    assert_eq!(contents.materials[0].needed, Some(2));
    let bytes = format::encode(&contents, time());
    assert_eq!(format::decode(&bytes, WALL).expect("is whole"), contents);
    let empty = Contents { epoch: 1, ..Contents::default() };
    assert_eq!(format::decode(&format::encode(&empty, time()), WALL).expect("is whole"), empty);
}

#[tokio::test]
async fn nothing_but_a_whole_backup_is_taken_for_one() {
    let bytes = format::encode(&contents().await, time());
    for len in 0..bytes.len() {
        let error = format::decode(&bytes[..len], WALL).expect_err("it is cut off");
        let is_told = match error {
            FormatError::Other | FormatError::Later => len < "lb backup 1\n".len(),
            FormatError::CutOff { .. } => true,
            _ => false,
        };
        assert!(is_told, "{len}: {error}");
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            format::decode(&damaged, WALL).map(drop).expect_err("a bit is another one");
        }
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(format::decode(&longer, WALL), Err(FormatError::Damaged(_))));
    let later = [b"lb backup 2\n", &bytes[12..]].concat();
    assert!(matches!(format::decode(&later, WALL), Err(FormatError::Later)));
}

#[tokio::test]
async fn what_no_controller_could_start_from_is_refused_by_name() {
    let whole = contents().await;
    let refused = |contents: Contents| {
        let bytes = format::encode(&contents, time());
        format::decode(&bytes, WALL).expect_err("it is wrong").to_string()
    };
    let mut wrong = whole.clone();
    wrong.revisions.remove(1);
    assert_eq!(refused(wrong), "it is damaged: revisions are missing");
    let mut wrong = whole.clone();
    wrong.parts[0].content = vec![0xff].into();
    assert!(refused(wrong).contains("of the current state: "));
    let mut wrong = whole.clone();
    wrong.revisions[1].back.changed =
        vec![v1::Resource { kind: 99, name: "x".into(), content: Default::default() }];
    assert_eq!(refused(wrong), "x of what leads back from revision 2: it is of kind 99");
    let latest = u64::try_from((WALL + crate::controller::lead::FAR).as_millis()).expect("fits");
    let refused_far = refused(Contents { epoch: latest, ..whole.clone() });
    assert!(refused_far.contains("is years from now"), "{refused_far}");
    let bytes = format::encode(&Contents { epoch: latest - 1, ..whole.clone() }, time());
    format::decode(&bytes, WALL).expect("a clock may be wrong");
    let mut wrong = whole.clone();
    for (kept, number) in wrong.revisions.iter_mut().zip(i64::MAX as u64 - 1..) {
        kept.about.revision = number;
    }
    assert_eq!(refused(wrong), "it is damaged: its revision is out of range");
    let mut wrong = whole;
    wrong.parts.retain(|part| part.kind() != Kind::BackendSet);
    assert!(refused(wrong).contains("the state in it is not valid: "));
}

#[test]
fn keys_are_not_printed() {
    let content = Secret::new(b"very secret".to_vec());
    let material = KeptMaterial { id: MaterialId::of("key:1"), content, needed: Some(1) };
    let kept = KeptRevision::default();
    let contents =
        Contents { materials: vec![material], revisions: vec![kept], ..Contents::default() };
    let record = v1::BackupMaterial { content: "very secret".into(), ..<_>::default() };
    let printed = format!("{contents:?} {record:?}");
    assert!(printed.contains("key:1") && !printed.contains("secret\""), "{printed}");
    assert!(!printed.contains(&format!("{:?}", b"very secret")), "{printed}");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[tokio::test]
async fn a_backup_is_whole_private_and_beside_the_store() {
    let directory = tempfile::tempdir().expect("a directory");
    let backups = Backups::of(directory.path());
    let contents = contents().await;
    let directory = directory.path().join("backups");
    fs::create_dir(&directory).expect("it is ours");
    fs::write(directory.join(UNFINISHED), "half of one").expect("it is ours");
    let v1::BackupResponse { path, revision, bytes } =
        backups.write(ready(Ok(contents.clone()))).await.expect("writes");
    let path = Path::new(&path);
    assert_eq!((mode(path), mode(&directory)), (0o600, 0o700));
    let read = fs::read(path).expect("it is there");
    assert_eq!((read.len() as u64, revision), (bytes, 3));
    assert_eq!(format::decode(&read, WALL).expect("is whole"), contents);
    let names: Vec<_> = fs::read_dir(&directory).expect("it is ours").collect();
    assert_eq!(names.len(), 1, "{names:?}");

    for n in 1..MOST {
        fs::write(directory.join(format!("{n}{SUFFIX}")), "").expect("it is ours");
    }
    let unread = async { panic!("there is no place for it") };
    let error = backups.write(unread).await.expect_err("there are too many");
    assert!(matches!(error, BackupError::TooMany { .. }), "{error}");
}

#[tokio::test]
async fn one_backup_is_read_at_a_time_and_one_more_may_wait() {
    let directory = tempfile::tempdir().expect("a directory");
    let backups = Backups::of(directory.path());
    let (go_on, turn) = tokio::sync::oneshot::channel();
    let read = AtomicBool::new(false);
    let first = backups.write(async {
        turn.await.expect("it is let go on");
        read.store(true, Relaxed);
        Ok(contents().await)
    });
    let second = backups.write(async {
        assert!(read.load(Relaxed), "the first one is not through");
        Ok(Contents { epoch: 1, ..Contents::default() })
    });
    let third = async {
        let error = backups.write(pending()).await.expect_err("two are too many");
        assert!(matches!(error, BackupError::Busy), "{error}");
        go_on.send(()).expect("the first one waits");
    };
    let (first, second, ()) = tokio::join!(biased; first, second, third);
    assert_eq!((first.expect("writes").revision, second.expect("writes").revision), (3, 0));
}

#[tokio::test]
async fn nothing_unfinished_is_left_by_a_backup_that_fails() {
    let directory = tempfile::tempdir().expect("a directory");
    let name = format!("lb-{}-revision-3{SUFFIX}", stamp(WALL));
    fs::create_dir(directory.path().join(&name)).expect("it is ours");
    put(directory.path(), &contents().await, WALL).expect_err("something is in the way");
    assert!(!fs::exists(directory.path().join(UNFINISHED)).expect("it is ours"));
}

#[test]
fn the_time_is_in_the_name() {
    assert_eq!(stamp(Duration::from_millis(1_795_716_901_999)), "20261126T181501Z");
}

#[tokio::test]
async fn what_was_restored_is_what_was_backed_up_with_a_later_epoch() {
    let directory = tempfile::tempdir().expect("a directory");
    let contents = contents().await;
    let file = directory.path().join("a.backup");
    fs::write(&file, format::encode(&contents, time())).expect("it is ours");
    let data = directory.path().join("data");
    let done = restore(&file, &data, false).expect("restores");
    assert_eq!((done.revision, done.aside), (3, None));
    let taken = restore(&file, &data, false).expect_err("there is one");
    assert!(matches!(taken, RestoreError::Taken { .. }), "{taken}");

    let store = Redb::open(data.clone()).await.expect("opens");
    let restored = store.contents().await.expect("reads");
    assert!(restored.epoch > 1_700_000_000_000, "the time of day: {}", restored.epoch);
    assert_eq!(restored, Contents { epoch: restored.epoch, ..contents.clone() });
    let far = store.campaign(restored.epoch + 1_000_000, None).await.expect("it leads");
    let used = restore(&file, &data, true).expect_err("it is used");
    assert!(matches!(used, RestoreError::Store(StoreError::InUse { .. })), "{used}");
    drop(store);

    let done = restore(&file, &data, true).expect("restores");
    let aside = done.aside.expect("it is kept");
    assert_eq!((mode(&aside), mode(&data.join("control.redb"))), (0o600, 0o600));
    let store = Redb::open(data.clone()).await.expect("opens");
    assert_eq!(store.load().await.expect("loads").epoch, far.epoch, "as late as what was there");
    assert_eq!(fs::read_dir(&data).expect("it is ours").count(), 2);

    fs::write(&file, "no backup").expect("it is ours");
    drop(store);
    restore(&file, &data, true).expect_err("it is none");
    assert_eq!(fs::read_dir(&data).expect("it is ours").count(), 2, "nothing was touched");
}

#[tokio::test]
async fn a_store_that_cannot_be_read_is_replaced_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("a.backup");
    fs::write(&file, format::encode(&contents().await, time())).expect("it is ours");
    fs::write(directory.path().join("control.redb"), "no database").expect("it is ours");
    let done = restore(&file, directory.path(), true).expect("restores");
    let aside = fs::read_to_string(done.aside.expect("it is kept")).expect("it is there");
    assert_eq!(aside, "no database");
    Redb::open(directory.path().into()).await.expect("opens");
}
