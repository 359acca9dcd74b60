use lb_common::id::{BackendName, BackendSetName};

use super::*;

fn revision(number: u64) -> Revision {
    let about =
        v1::Revision { revision: number, comment: format!("no. {number}"), ..<_>::default() };
    let part = |number: u64| format!("set-{number}");
    let content = set(number).encode_to_vec();
    let parts = vec![
        Part { kind: Kind::BackendSet, name: part(number - 1), content: None },
        Part { kind: Kind::BackendSet, name: part(number), content: Some(content) },
    ];
    Revision { about, parts }
}

fn set(number: u64) -> v1::BackendSet {
    v1::BackendSet { name: format!("set-{number}"), ..<_>::default() }
}

/// The state at a revision.
fn spec(number: u64) -> v1::Spec {
    v1::Spec { backend_sets: vec![set(number)], ..<_>::default() }
}

fn numbers(history: &[v1::Revision]) -> Vec<u64> {
    history.iter().map(|revision| revision.revision).collect()
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let health = v1::BackendStatus {
        backend_set: "app".into(),
        backend: "1.1.1.1:1".into(),
        health: v1::Health::Unhealthy.into(),
        ..<_>::default()
    };
    let store = Store::open(directory.path()).expect("opens");
    assert_eq!(store.begin(1).expect("begins"), Stored { epoch: 1, ..<_>::default() });
    store.commit(Some(&revision(1)), None, Some(77)).expect("commits");
    store.commit(Some(&revision(2)), None, None).expect("commits");
    let verdict = |backend: &str, status| Verdict {
        backend_set: BackendSetName::new("app").expect("a name"),
        backend: BackendName::new(backend).expect("a name"),
        status,
    };
    let other = Some(v1::BackendStatus::default());
    store.commit_health(&[verdict("gone", other.clone()), verdict("one", other)]).expect("commits");
    let news = [verdict("gone", None), verdict("one", Some(health.clone()))];
    store.commit_health(&news).expect("replaces");
    drop(store);

    let store = Store::open(directory.path()).expect("opens again");
    let stored = store.begin(1).expect("begins");
    let expected = Stored {
        overrides: vec![],
        epoch: 2,
        revision: 2,
        spec: spec(2),
        file_digest: Some(77),
        health: vec![health],
        materials: Materials::new(),
    };
    assert_eq!(stored, expected);
    assert_eq!(store.spec(1).expect("is kept").0, spec(1));
}

fn materials(ids: &[&str]) -> Materials {
    let content = |id: &str| Secret::new(format!("of {id}").into());
    ids.iter().map(|id| (MaterialId::of(id), content(id))).collect()
}

#[test]
fn what_a_revision_needs_is_kept_with_it_and_a_key_as_long_as_one_can_be_returned_to() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path()).expect("opens");
    let commit = |number, ids: &[&str]| {
        store.commit(Some(&revision(number)), Some(&materials(ids)), None).expect("commits");
    };
    let kept = || {
        let stored = store.begin(1).expect("begins").materials;
        stored.keys().map(ToString::to_string).collect::<Vec<_>>()
    };
    commit(1, &["file:/a", "key:1"]);
    store.commit_materials(&materials(&["tickets"])).expect("commits");
    commit(2, &["file:/b", "key:2"]);
    assert_eq!(kept(), ["file:/b", "key:1", "key:2", "tickets"]);
    let given = store.materials(&[MaterialId::of("key:1"), MaterialId::of("key:none")]);
    assert_eq!(given.expect("reads"), materials(&["key:1"]));
    commit(HISTORY, &["key:2"]);
    assert_eq!(kept(), ["key:1", "key:2", "tickets"]);
    commit(HISTORY + 1, &["key:2"]);
    assert_eq!(kept(), ["key:2", "tickets"], "revision 1 is gone");
}

#[test]
fn what_was_issued_since_a_revision_is_kept_with_it() {
    let store = Store::in_memory().expect("opens");
    let commit = |number, ids: &[&str]| {
        store.commit(Some(&revision(number)), Some(&materials(ids)), None).expect("commits");
    };
    commit(1, &[]);
    store.commit_materials(&materials(&["acme:a", "acme-order:a"])).expect("commits");
    commit(2, &[]);
    let ids = [MaterialId::of("acme:a"), MaterialId::of("acme-order:a")];
    let kept = || store.materials(&ids).expect("reads").len();
    assert_eq!(kept(), 2, "who returns to revision 1 has it again");
    commit(HISTORY + 1, &[]);
    assert_eq!(kept(), 0);
}

#[test]
fn nobody_else_may_read_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(FILE);
    for before in [None, Some(0o644)] {
        if let Some(mode) = before {
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it is ours");
        }
        drop(Store::open(directory.path()).expect("opens"));
        let mode = fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_second_process_is_told_who_is_in_its_way() {
    let directory = tempfile::tempdir().expect("a directory");
    let _first = Store::open(directory.path()).expect("opens");
    let error = Store::open(directory.path()).expect_err("it is in use");
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("control.redb"), "{error}");
}

#[test]
fn a_file_that_is_something_else_is_refused_by_name() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join(FILE), "not a database, only some text").expect("writes");
    let error = Store::open(directory.path()).expect_err("it is no database");
    assert!(error.to_string().contains("control.redb"), "{error}");
}

#[test]
fn history_is_newest_first_and_in_pages() {
    let store = Store::in_memory().expect("opens");
    for number in 1..=5 {
        store.commit(Some(&revision(number)), None, None).expect("commits");
    }
    let page = |before, limit| numbers(&store.history(before, limit).expect("reads"));
    assert_eq!(page(None, 2), [5, 4]);
    assert_eq!(page(Some(4), 2), [3, 2]);
    assert_eq!(page(Some(2), 9), [1]);
    assert_eq!(page(Some(1), 9), [0; 0]);
}

#[test]
fn the_oldest_revision_goes_when_there_are_too_many() {
    let store = Store::in_memory().expect("opens");
    for number in 1..=HISTORY + 1 {
        store.commit(Some(&revision(number)), None, None).expect("commits");
    }
    let error = store.spec(1).expect_err("it is gone");
    assert_eq!(error.to_string(), "there is no revision 1; there are 2 to 1001");
    assert_eq!(store.spec(2).expect("is kept").0, spec(2));
}

#[test]
fn an_empty_store_says_that_it_has_no_revisions() {
    let store = Store::in_memory().expect("opens");
    let error = store.spec(7).expect_err("there is none");
    assert_eq!(error.to_string(), "there is no revision 7; there are none yet");
}

#[test]
fn a_key_is_kept_for_as_long_as_revisions_that_said_nothing_of_it_needed_it() {
    let store = Store::in_memory().expect("opens");
    let commit = |number, ids: Option<&[&str]>| {
        let materials = ids.map(materials);
        store.commit(Some(&revision(number)), materials.as_ref(), None).expect("commits");
    };
    let is_kept = || !store.materials(&[MaterialId::of("key:1")]).expect("reads").is_empty();
    commit(1, Some(&["key:1"]));
    (2..=900).for_each(|number| commit(number, None));
    commit(901, Some(&[]));
    commit(HISTORY + 899, None);
    assert!(is_kept(), "who returns to revision 900 needs it");
    commit(HISTORY + 900, None);
    assert!(!is_kept());
}

#[test]
fn history_is_bounded_by_what_it_weighs() {
    let store = Store::in_memory().expect("opens");
    let heavy = |number: u64| {
        let name = format!("{number}-{}", "x".repeat(HISTORY_BYTES as usize / 10));
        let content = v1::BackendSet { balance: name, ..set(1) }.encode_to_vec();
        let parts =
            vec![Part { kind: Kind::BackendSet, name: "set-1".into(), content: Some(content) }];
        Revision { parts, ..revision(number) }
    };
    for number in 1..=20 {
        store.commit(Some(&heavy(number)), None, None).expect("commits");
    }
    let kept = numbers(&store.history(None, 100).expect("reads"));
    assert_eq!((kept.first(), kept.last()), (Some(&20), Some(&12)), "each weighs a tenth");
    let (spec, _) = store.spec(12).expect("is kept");
    assert!(spec.backend_sets[0].balance.starts_with("12-"));
    assert!(store.spec(11).is_err());
}

#[test]
fn a_store_of_the_former_format_is_taken_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path()).expect("opens");
    let written = store.write(|transaction| {
        transaction.open_table(META)?.insert(META_FORMAT, FORMER_FORMAT)?;
        for number in 3..=5 {
            let about = revision(number).about.encode_to_vec();
            transaction.open_table(REVISIONS)?.insert(number, about.as_slice())?;
            let spec = spec(number).encode_to_vec();
            transaction.open_table(SPECS)?.insert(number, spec.as_slice())?;
        }
        Ok(())
    });
    written.expect("is written");
    drop(store);
    for _ in 0..2 {
        let store = Store::open(directory.path()).expect("opens");
        let stored = store.begin(1).expect("begins");
        assert_eq!((stored.revision, stored.spec), (5, spec(5)));
        for number in 3..=5 {
            assert_eq!(store.spec(number).expect("is kept").0, spec(number));
        }
        assert_eq!(numbers(&store.history(None, 9).expect("reads")), [5, 4, 3]);
        assert!(store.spec(2).is_err());
    }
}
