use lb_common::id::{BackendName, BackendSetName};
use lb_proto::v1::Kind;

use super::{former::SPECS, *};
use crate::store::{HISTORY, HISTORY_BYTES, Part, Revision};

impl Tables {
    fn begin(&self) -> (Term, Stored) {
        let term = self.campaign(1, None).expect("it leads");
        (term, self.load().expect("loads"))
    }

    /// As whoever leads, after whatever is there.
    fn put(&self, revision: Option<Revision>, materials: Option<&Materials>, digest: Option<u64>) {
        let (revision, materials) = (revision.map(Box::new), materials.cloned());
        let accepted = Accepted { revision, materials, file_digest: digest };
        let head = self.probe(self.term()).expect("it works");
        self.commit(self.term(), head, &accepted).expect("commits");
    }

    fn term(&self) -> Term {
        Term { epoch: self.load().expect("loads").epoch }
    }
}

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
    let store = Tables::open(directory.path()).expect("opens");
    let (term, stored) = store.begin();
    assert_eq!((term.epoch, stored), (1, Stored { epoch: 1, ..<_>::default() }));
    store.put(Some(revision(1)), None, Some(77));
    store.put(Some(revision(2)), None, None);
    let verdict = |backend: &str, status| Verdict {
        backend_set: BackendSetName::new("app").expect("a name"),
        backend: BackendName::new(backend).expect("a name"),
        status,
    };
    let other = Some(v1::BackendStatus::default());
    store
        .put_verdicts(term, &[verdict("gone", other.clone()), verdict("one", other)])
        .expect("commits");
    let news = [verdict("gone", None), verdict("one", Some(health.clone()))];
    store.put_verdicts(term, &news).expect("replaces");
    drop(store);

    let store = Tables::open(directory.path()).expect("opens again");
    let (_, stored) = store.begin();
    let expected = Stored {
        epoch: 2,
        revision: 2,
        state: StoredState { spec: spec(2), overrides: vec![] },
        file_digest: Some(77),
        health: vec![health],
        materials: Materials::new(),
    };
    assert_eq!(stored, expected);
    assert_eq!(store.state(1).expect("is kept").spec, spec(1));
}

fn materials(ids: &[&str]) -> Materials {
    let content = |id: &str| Secret::new(format!("of {id}").into());
    ids.iter().map(|id| (MaterialId::of(id), content(id))).collect()
}

#[test]
fn what_a_revision_needs_is_kept_with_it_and_a_key_as_long_as_one_can_be_returned_to() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Tables::open(directory.path()).expect("opens");
    let commit = |number, ids: &[&str]| {
        store.put(Some(revision(number)), Some(&materials(ids)), None);
    };
    let kept = || {
        let stored = store.load().expect("loads").materials;
        stored.keys().map(ToString::to_string).collect::<Vec<_>>()
    };
    commit(1, &["file:/a", "key:1"]);
    store.put_materials(store.term(), &materials(&["tickets"])).expect("commits");
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
    let store = Tables::in_memory().expect("opens");
    let commit = |number, ids: &[&str]| {
        store.put(Some(revision(number)), Some(&materials(ids)), None);
    };
    commit(1, &[]);
    let issued = materials(&["acme:a", "acme-order:a"]);
    store.put_materials(store.term(), &issued).expect("commits");
    commit(2, &[]);
    let ids = [MaterialId::of("acme:a"), MaterialId::of("acme-order:a")];
    let kept = || store.materials(&ids).expect("reads").len();
    assert_eq!(kept(), 2, "who returns to revision 1 has it again");
    commit(HISTORY + 1, &[]);
    assert_eq!(kept(), 0);
}

#[test]
fn history_is_newest_first_and_in_pages() {
    let store = Tables::in_memory().expect("opens");
    for number in 1..=5 {
        store.put(Some(revision(number)), None, None);
    }
    let page = |before, limit| numbers(&store.history(before, limit).expect("reads"));
    assert_eq!(page(None, 2), [5, 4]);
    assert_eq!(page(Some(4), 2), [3, 2]);
    assert_eq!(page(Some(2), 9), [1]);
    assert_eq!(page(Some(1), 9), [0; 0]);
}

#[test]
fn the_oldest_revision_goes_when_there_are_too_many() {
    let store = Tables::in_memory().expect("opens");
    for number in 1..=HISTORY + 1 {
        store.put(Some(revision(number)), None, None);
    }
    let error = store.state(1).expect_err("it is gone");
    assert_eq!(error.to_string(), "there is no revision 1; there are 2 to 1001");
    assert_eq!(store.state(2).expect("is kept").spec, spec(2));
}

#[test]
fn an_empty_store_says_that_it_has_no_revisions() {
    let store = Tables::in_memory().expect("opens");
    let error = store.state(7).expect_err("there is none");
    assert_eq!(error.to_string(), "there is no revision 7; there are none yet");
}

#[test]
fn a_key_is_kept_for_as_long_as_revisions_that_said_nothing_of_it_needed_it() {
    let store = Tables::in_memory().expect("opens");
    let commit = |number, ids: Option<&[&str]>| {
        let materials = ids.map(materials);
        store.put(Some(revision(number)), materials.as_ref(), None);
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
    let store = Tables::in_memory().expect("opens");
    let heavy = |number: u64| {
        let name = format!("{number}-{}", "x".repeat(HISTORY_BYTES as usize / 10));
        let content = v1::BackendSet { balance: name, ..set(1) }.encode_to_vec();
        let parts =
            vec![Part { kind: Kind::BackendSet, name: "set-1".into(), content: Some(content) }];
        Revision { parts, ..revision(number) }
    };
    for number in 1..=20 {
        store.put(Some(heavy(number)), None, None);
    }
    let kept = numbers(&store.history(None, 100).expect("reads"));
    assert_eq!((kept.first(), kept.last()), (Some(&20), Some(&12)), "each weighs a tenth");
    let StoredState { spec, .. } = store.state(12).expect("is kept");
    assert!(spec.backend_sets[0].balance.starts_with("12-"));
    assert!(store.state(11).is_err());
}

#[test]
fn a_store_of_the_former_format_is_taken_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Tables::open(directory.path()).expect("opens");
    let written = store.0.write(
        |_| Ok(None),
        |transaction| {
            transaction.open_table(META)?.insert(META_FORMAT, FORMER_FORMAT)?;
            for number in 3..=5 {
                let about = revision(number).about.encode_to_vec();
                transaction.open_table(REVISIONS)?.insert(number, about.as_slice())?;
                let spec = spec(number).encode_to_vec();
                transaction.open_table(SPECS)?.insert(number, spec.as_slice())?;
            }
            Ok(())
        },
    );
    written.expect("is written");
    drop(store);
    for _ in 0..2 {
        let store = Tables::open(directory.path()).expect("opens");
        let (_, stored) = store.begin();
        assert_eq!((stored.revision, stored.state.spec), (5, spec(5)));
        for number in 3..=5 {
            assert_eq!(store.state(number).expect("is kept").spec, spec(number));
        }
        assert_eq!(numbers(&store.history(None, 9).expect("reads")), [5, 4, 3]);
        assert!(store.state(2).is_err());
    }
}

#[test]
fn a_store_of_a_later_format_is_left_as_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Tables::open(directory.path()).expect("opens");
    let written = store.0.write(
        |_| Ok(None),
        |transaction| {
            transaction.open_table(META)?.insert(META_FORMAT, FORMAT + 1)?;
            Ok(())
        },
    );
    written.expect("is written");
    let refused = store.campaign(1, None).expect_err("it is not known").to_string();
    drop(store);
    let opened = Tables::open(directory.path()).map(drop).expect_err("it is not known").to_string();
    let why = format!("it is {}, and this version knows {FORMAT}", FORMAT + 1);
    assert!(refused.contains(&why) && opened.contains(&why), "{refused} {opened}");
}
