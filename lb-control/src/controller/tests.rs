use std::collections::HashMap;

use lb_common::{
    id::{BackendName, BackendSetName},
    snapshot::Digest,
    spec::BackendState,
};
use lb_proto::encode;

use super::*;
use crate::{
    asked::To,
    desired::tests::{APP, request, state},
    health::Outcome,
    proxies::BackendLoad,
    store::StoredState,
};

/// A controller whose effects are kept until a test looks at them; answers arrive at once.
struct Fixture {
    controller: Controller,
    moment: Moment,
    effects: Vec<Effect>,
    /// Probes that were started.
    jobs: Vec<Job>,
}

type Answer = oneshot::Receiver<Result<Applied, Refused>>;

/// With a health check that one failure decides.
const CHECKED: &str = r#"
    backend_sets = [{
      name = "app", health_check = { unhealthy_after = 1, healthy_after = 1 },
      backends = [{ name = "one", address = "1.1.1.1:1" }, { name = "two", address = "1.1.1.1:2" }],
    }]
"#;

impl Fixture {
    fn new(text: &str) -> Self {
        let stored = Stored { epoch: 3, revision: 7, state: stored_state(text), ..<_>::default() };
        let wall = Duration::from_secs(1_700_000_000);
        let moment = Moment { now: lb_common::clock::now(), wall };
        let rng = fastrand::Rng::with_seed(1);
        let (controller, first) =
            Controller::new(stored, rng, moment).expect("the stored state is valid");
        assert_eq!(first.snapshot.id.version, Version { epoch: 3, version: 1 });
        Self { controller, moment, effects: Vec::new(), jobs: Vec::new() }
    }

    /// It is quiet before.
    fn apply(&mut self, events: impl IntoIterator<Item = Event>) {
        self.moment.now += PACE;
        self.hasten(events);
    }

    /// Right after what was before.
    fn hasten(&mut self, events: impl IntoIterator<Item = Event>) {
        for effect in self.controller.apply(events, self.moment) {
            match effect {
                Effect::Answer(reply, result) => drop(reply.send(result)),
                Effect::Probe(job) => self.jobs.push(job),
                other => self.effects.push(other),
            }
        }
    }

    fn mutate(&mut self, mutation: impl FnOnce(Reply) -> Mutation) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.apply([Event::Mutate(Box::new(mutation(reply)))]);
        answer
    }

    fn request(&mut self, request: v1::ApplyRequest) -> Answer {
        self.mutate(|reply| Mutation {
            expected_revision: request.expected_revision,
            dry_run: request.dry_run,
            comment: String::new(),
            author: "ann".into(),
            file_digest: None,
            found: Found::default(),
            cause: None,
            reply,
            change: Change::Batch(Box::new(Batch::parse(request).expect("is valid by itself"))),
        })
    }

    /// Adds an empty backend set.
    fn add_set(&mut self, name: &str) -> Answer {
        self.request(add(name))
    }

    fn apply_file(&mut self, name: &str, digest: u64) -> Answer {
        let change = Change::Batch(Box::new(Batch::parse(add(name)).expect("is valid")));
        let (expected_revision, comment) = (None, String::new());
        let file_digest = Some(digest);
        self.mutate(|reply| Mutation {
            change,
            expected_revision,
            dry_run: false,
            comment,
            author: "ann".into(),
            file_digest,
            found: Found::default(),
            cause: None,
            reply,
        })
    }

    fn drain(&mut self, backend: &str) -> Answer {
        let change = Change::Set(Setting {
            backend_set: "app".into(),
            backend: backend.into(),
            weight: To::Stay,
            state: To::Be(BackendState::Draining),
        });
        self.mutate(|reply| Mutation {
            change,
            expected_revision: None,
            dry_run: false,
            comment: String::new(),
            author: "ann".into(),
            file_digest: None,
            found: Found::default(),
            cause: None,
            reply,
        })
    }

    fn commit(&mut self, result: Result<(), StoreError>) {
        self.apply([Event::Committed { result, took: Duration::from_millis(1) }]);
    }

    /// The outcomes of the probes that were started, by the backend's address.
    fn outcomes(&mut self, outcomes: &[(&str, Outcome)]) -> Vec<Event> {
        let outcomes: HashMap<_, _> = outcomes.iter().copied().collect();
        let jobs = self.jobs.drain(..).map(|job| {
            let outcome = Some(outcomes[job.address.to_string().as_str()]);
            let finding = Finding { outcome, detail: "said so".into(), took: Duration::ZERO };
            Event::Probed { id: job.id, late: Duration::ZERO, finding }
        });
        jobs.collect()
    }

    /// Lets the next probes become due.
    fn wake(&mut self) {
        self.moment.now += Duration::from_secs(10);
        self.apply([]);
    }

    fn proxy(&mut self, connection: u64, said: ProxyEvent) {
        let id = ProxyId::new("p").expect("a valid id");
        self.apply([Event::Proxy { id, connection: ConnectionId(connection), said }]);
    }

    fn connect(&mut self, connection: u64) -> oneshot::Receiver<Ended> {
        let (end, ended) = oneshot::channel();
        let (zone, build) = Default::default();
        let hello = Hello { zone, build, address: None, running: None, revision: 0 };
        self.proxy(connection, ProxyEvent::Connected { hello, end });
        ended
    }

    /// What was to be done since the last look, probes left out.
    fn seen(&mut self) -> Vec<String> {
        self.effects.drain(..).map(|effect| describe(&effect)).collect()
    }
}

fn stored_state(text: &str) -> StoredState {
    StoredState { spec: encode::spec(&state(text)), overrides: vec![] }
}

fn add(name: &str) -> v1::ApplyRequest {
    request(&format!(r#"{{"backend_sets": [{{"name": "{name}"}}]}}"#))
}

fn describe(effect: &Effect) -> String {
    match effect {
        Effect::Commit { accepted: Accepted { revision: Some(revision), .. }, .. } => {
            format!("commit {}", revision.about.revision)
        }
        Effect::Commit { accepted: Accepted { revision: None, .. }, .. } => "commit file".into(),
        Effect::CommitHealth { verdicts, .. } => format!("commit health of {}", verdicts.len()),
        Effect::CommitMaterials { materials, .. } => {
            format!("commit {:?}", Vec::from_iter(materials.keys()))
        }
        Effect::ProbeStore { term, .. } => format!("probe store as {}", term.epoch),
        Effect::Campaign { least, .. } => format!("campaign for {least}"),
        Effect::Yield(_) => "yield".into(),
        Effect::StoreFails(_) => "store fails".into(),
        Effect::StoreWorks { .. } => "store works".into(),
        Effect::LeadsFor { epoch } => format!("leads for {epoch}"),
        Effect::Tell(kept) => format!("tell {}", kept.len()),
        Effect::Publish { publication, .. } => {
            let Publication { current: sealed, tracks, .. } = &**publication;
            let unhealthy = sealed.snapshot.unhealthy.iter().map(|(_, names)| names.len());
            let version = sealed.snapshot.id.version;
            let tracks = tracks.iter().map(|track| {
                let Snapshot { id, revision, .. } = &*track.snapshot;
                format!(", and {revision} as {}", id.version)
            });
            let tracks: String = tracks.collect();
            format!("publish {version} with {} unhealthy{tracks}", unhealthy.sum::<usize>())
        }
        Effect::Announce(event) => match &event.event {
            Some(News::Revision(about)) => format!("tell revision {}", about.revision),
            Some(News::Health(change)) => format!("tell {} {:?}", change.backend, change.health()),
            Some(News::Proxy(change)) => format!("tell {} {}", change.proxy_id, change.what),
            other => format!("tell {other:?}"),
        },
        Effect::Answer(..) | Effect::Probe(_) => unreachable!("these are kept elsewhere"),
        Effect::Recall(revision) => format!("recall {revision}"),
        Effect::End(_, why) => format!("end {why:?}"),
    }
}

fn failed() -> StoreError {
    StoreError::Failed { path: "x".into(), source: "the disk is full".into() }
}

/// The answer, if there is one.
fn answered(answer: &mut Answer) -> Option<Result<Applied, Refused>> {
    answer.try_recv().ok()
}

#[track_caller]
fn accepted(answer: &mut Answer) -> Applied {
    match answered(answer) {
        Some(Ok(applied)) => applied,
        other => panic!("not accepted: {other:?}"),
    }
}

#[track_caller]
fn refused(answer: &mut Answer) -> String {
    match answered(answer) {
        Some(Err(refused)) => refused.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_change_is_published_and_acknowledged_only_after_it_is_stored() {
    let mut f = Fixture::new(APP);
    let mut answer = f.add_set("new");
    assert_eq!(f.seen(), ["commit 8"]);
    assert!(answered(&mut answer).is_none());
    assert_eq!(f.controller.asked().0, 7);
    f.commit(Ok(()));
    assert_eq!(f.seen(), ["publish 3.2 with 0 unhealthy", "tell revision 8"]);
    let applied = accepted(&mut answer);
    assert_eq!((applied.revision, applied.version.version), (8, 2));
    assert_eq!(applied.changes[0].field, "backend_sets[new]");
}

#[test]
fn a_change_that_cannot_be_stored_is_not_in_force() {
    let mut f = Fixture::new(APP);
    let before = f.controller.asked();
    let mut answer = f.add_set("new");
    f.seen();
    f.commit(Err(failed()));
    assert!(refused(&mut answer).contains("not in force"));
    assert_eq!((f.seen(), f.controller.asked()), (vec!["store fails".into()], before));
    let mut answer = f.add_set("new");
    f.commit(Ok(()));
    assert_eq!(accepted(&mut answer).revision, 8);
}

#[test]
fn changes_wait_for_the_one_that_is_being_written_and_then_follow_in_order() {
    let mut f = Fixture::new(APP);
    let mut answers: Vec<_> = ["a", "b", "c"].map(|name| f.add_set(name)).into();
    assert_eq!(f.seen(), ["commit 8"]);
    f.commit(Ok(()));
    f.commit(Ok(()));
    let revisions: Vec<_> =
        answers[..2].iter_mut().map(|answer| accepted(answer).revision).collect();
    assert_eq!(revisions, [8, 9]);
    assert!(answered(&mut answers[2]).is_none());
}

#[test]
fn a_waiting_change_is_held_against_the_state_that_it_meets() {
    let mut f = Fixture::new(APP);
    let mut first = f.add_set("a");
    let mut stale = f.request(v1::ApplyRequest { expected_revision: Some(7), ..add("b") });
    let mut same = f.add_set("a");
    f.commit(Ok(()));
    assert_eq!(accepted(&mut first).revision, 8);
    let message = "expected_revision: 7 is not current; the current revision is 8";
    assert_eq!(refused(&mut stale), message);
    let unchanged = accepted(&mut same);
    assert_eq!((unchanged.revision, unchanged.changes), (8, vec![]));
}

#[test]
fn too_many_waiting_changes_are_refused() {
    let mut f = Fixture::new(APP);
    let mut answers: Vec<_> =
        (0..MOST_WAITING + 2).map(|i| f.add_set(&format!("set-{i}"))).collect();
    assert!(answered(&mut answers[MOST_WAITING]).is_none());
    assert!(refused(&mut answers[MOST_WAITING + 1]).contains("try again"));
}

#[test]
fn waiting_changes_take_no_more_than_so_many_bytes() {
    let mut f = Fixture::new(APP);
    let large = |name: &str| {
        let comment = "x".repeat((64 << 20) - 1024);
        v1::ApplyRequest { comment, ..add(name) }
    };
    let mut answers: Vec<_> =
        ["written", "waits", "waits-too", "refused"].map(|name| f.request(large(name))).into();
    assert!(refused(&mut answers[3]).contains("try again"));
    let mut small = f.add_set("small");
    for answer in answers[..3].iter_mut().chain([&mut small]) {
        assert!(answered(answer).is_none());
    }
}

#[test]
fn a_state_that_no_proxy_could_be_sent_is_refused_when_it_is_asked_for() {
    let mut f = Fixture::new(APP);
    let route = |name: &str, length: usize| v1::Route {
        name: name.into(),
        answer: Some(v1::Answer { status: 200, body: "x".repeat(length), ..<_>::default() }),
        ..<_>::default()
    };
    let most = MAX_MESSAGE_BYTES - ROOM;
    let mut asked = |length| {
        let routes = vec![route("large", length)];
        f.request(v1::ApplyRequest { dry_run: true, routes, ..<_>::default() })
    };
    accepted(&mut asked(most - 1024));
    let why = refused(&mut asked(most));
    assert!(why.starts_with("the state as a whole: takes "), "{why}");
    assert!(why.contains(&format!("and {most} is the most; make it smaller")), "{why}");
}

#[test]
fn a_dry_run_says_the_same_and_changes_nothing_even_while_another_change_is_written() {
    let mut f = Fixture::new(APP);
    let mut real = f.add_set("new");
    let mut dry = f.request(v1::ApplyRequest { dry_run: true, ..add("new") });
    let dry = accepted(&mut dry);
    assert_eq!((dry.revision, f.seen()), (7, vec!["commit 8".into()]));
    f.commit(Ok(()));
    assert_eq!(accepted(&mut real).changes, dry.changes);
}

#[test]
fn a_change_that_does_not_change_anything_is_not_written() {
    let mut f = Fixture::new(APP);
    let mut answer = f.add_set("spare");
    let applied = accepted(&mut answer);
    assert_eq!((applied.revision, applied.changes, f.seen()), (7, vec![], vec![]));
}

#[test]
fn a_file_is_remembered_even_if_it_changes_nothing() {
    let mut f = Fixture::new(APP);
    let mut answer = f.apply_file("spare", 99);
    assert_eq!(f.seen(), ["commit file"]);
    f.commit(Ok(()));
    assert_eq!((accepted(&mut answer).revision, f.seen()), (7, vec![]));
    assert_eq!(f.controller.file_digest(), Some(99));
    let mut again = f.apply_file("spare", 99);
    assert_eq!((accepted(&mut again).revision, f.seen()), (7, vec![]));
    let mut other = f.add_set("new");
    f.commit(Ok(()));
    accepted(&mut other);
    assert_eq!(f.controller.file_digest(), Some(99), "other changes leave it");
}

#[test]
fn health_is_published_while_a_change_is_being_written() {
    let mut f = Fixture::new(CHECKED);
    f.wake();
    let mut answer = f.add_set("new");
    for event in f.outcomes(&[("1.1.1.1:1", Outcome::Fail), ("1.1.1.1:2", Outcome::Pass)]) {
        f.apply([event]);
    }
    let expected = [
        "commit 8",
        "tell one Unhealthy",
        "publish 3.2 with 1 unhealthy",
        "commit health of 1",
        "tell two Healthy",
    ];
    assert_eq!(f.seen(), expected, "and a first pass is no new snapshot");
    f.commit(Ok(()));
    assert_eq!(f.seen(), ["publish 3.3 with 1 unhealthy", "tell revision 8"]);
    assert_eq!(accepted(&mut answer).version.version, 3);
}

#[test]
fn a_storm_is_published_once_in_a_while_and_acknowledged_with_that() {
    let mut f = Fixture::new(APP);
    let mut first = f.add_set("a");
    f.commit(Ok(()));
    assert_eq!(accepted(&mut first).version.version, 2);
    f.seen();
    let (mut second, mut third) = (f.add_set("b"), f.add_set("c"));
    let committed = || Event::Committed { result: Ok(()), took: Duration::from_millis(1) };
    // The second one waited for the pace; the third comes in the same moment as its publication.
    f.hasten([committed()]);
    accepted(&mut second);
    f.hasten([committed()]);
    assert!(answered(&mut third).is_none());
    assert_eq!(f.controller.next_due(), Some(f.moment.now + PACE));
    f.apply([]);
    assert_eq!(accepted(&mut third).version.version, 4);
    let seen = f.seen();
    assert_eq!(seen[seen.len() - 2..], ["publish 3.4 with 0 unhealthy", "tell revision 10"]);
}

/// Proxies are told what was asked for by its revision; what is set by hand makes revisions, too.
#[test]
fn a_publication_says_which_revision_asked_for_what_is_in_it() {
    let mut f = Fixture::new(APP);
    f.add_set("a");
    f.commit(Ok(()));
    f.drain("1.1.1.1:1");
    f.commit(Ok(()));
    let asked = f.effects.iter().filter_map(|effect| match effect {
        Effect::Publish { publication, .. } => Some(publication.spec),
        _ => None,
    });
    assert_eq!(asked.collect::<Vec<_>>(), [8, 8]);
    assert_eq!(f.controller.revision, 9);
}

#[test]
fn who_asks_again_for_what_is_not_published_yet_waits_for_it() {
    let mut f = Fixture::new(CHECKED);
    let (mut first, mut second) = (f.drain("one"), f.drain("one"));
    let committed = || Event::Committed { result: Ok(()), took: Duration::from_millis(1) };
    f.apply([committed()]);
    let (first, second) = (accepted(&mut first), accepted(&mut second));
    assert_eq!((first.version.version, second.version.version), (2, 2));
    assert_eq!((second.revision, second.changes.len()), (8, 0));
}

#[test]
fn a_revision_that_changes_nothing_in_force_is_known_to_proxies_all_the_same() {
    let mut f = Fixture::new(APP);
    let weight = |weight| {
        move |reply| Mutation {
            change: Change::Set(Setting {
                backend_set: "app".into(),
                backend: "1.1.1.1:1".into(),
                weight,
                state: To::Stay,
            }),
            expected_revision: None,
            dry_run: false,
            comment: String::new(),
            author: "ann".into(),
            file_digest: None,
            found: Found::default(),
            cause: None,
            reply,
        }
    };
    let mut answer = f.mutate(weight(To::Be(1)));
    f.commit(Ok(()));
    assert_eq!(accepted(&mut answer).revision, 8);
    assert_eq!(f.controller.published.snapshot.revision, 8);
}

#[test]
fn flips_that_come_together_are_published_together() {
    let mut f = Fixture::new(CHECKED);
    f.wake();
    let events = f.outcomes(&[("1.1.1.1:1", Outcome::Fail), ("1.1.1.1:2", Outcome::Pass)]);
    f.apply(events);
    let seen = f.seen();
    assert_eq!(seen[2..], ["publish 3.2 with 1 unhealthy", "commit health of 2"], "{seen:?}");
}

#[test]
fn health_is_stored_by_one_write_at_a_time_and_the_last_word_gets_there() {
    let mut f = Fixture::new(CHECKED);
    f.wake();
    let rounds = [(Outcome::Fail, 1), (Outcome::Pass, 0), (Outcome::Fail, 0)];
    for (outcome, writes) in rounds {
        let events = f.outcomes(&[("1.1.1.1:1", outcome), ("1.1.1.1:2", Outcome::Pass)]);
        f.apply(events);
        let seen = f.seen();
        let begun = seen.iter().filter(|effect| effect.starts_with("commit health")).count();
        assert_eq!(begun, writes, "{seen:?}");
        f.wake();
    }
    let through = || Event::HealthCommitted(Ok(()));
    f.apply([through()]);
    assert_eq!(f.seen(), ["commit health of 1"], "of the other one it has been told");
    f.apply([through()]);
    assert_eq!(f.seen(), [""; 0]);
}

#[test]
fn a_second_connection_of_a_proxy_ends_the_first() {
    let mut f = Fixture::new(APP);
    let _first = f.connect(1);
    let _second = f.connect(2);
    f.proxy(1, ProxyEvent::Applied { snapshot: SnapshotId::default(), revision: 0 });
    f.proxy(1, ProxyEvent::Disconnected);
    let expected = ["tell p connected", "end Replaced { by: None }", "tell p connected"];
    assert_eq!(f.seen(), expected, "what the first still says does not count");
    assert!(f.controller.proxies().proxies[0].connected);
}

#[test]
fn a_proxy_is_in_sync_when_it_runs_exactly_what_is_published() {
    let mut f = Fixture::new(APP);
    let _end = f.connect(1);
    let in_sync = |f: &Fixture| f.controller.proxies().proxies[0].in_sync;
    let published = f.controller.current();
    let altered = SnapshotId { digest: Digest(1), ..published };
    for (snapshot, expected) in [(altered, false), (published, true)] {
        f.proxy(1, ProxyEvent::Applied { snapshot, revision: 0 });
        assert_eq!(in_sync(&f), expected);
    }
    f.add_set("new");
    f.commit(Ok(()));
    assert!(!in_sync(&f));
}

/// Who sees a decision and then that a proxy is in sync may take it that the decision is in force there.
#[test]
fn no_proxy_is_in_sync_while_what_was_decided_is_yet_to_be_published() {
    let mut f = Fixture::new(APP);
    let in_sync = |f: &Fixture| f.controller.proxies().proxies[0].in_sync;
    let _end = f.connect(1);
    f.add_set("a");
    f.commit(Ok(()));
    f.add_set("b");
    let snapshot = f.controller.current();
    let said = ProxyEvent::Applied { snapshot, revision: 8 };
    let id = ProxyId::new("p").expect("a valid id");
    f.hasten([Event::Proxy { id, connection: ConnectionId(1), said }]);
    assert!(in_sync(&f));
    f.moment.now = f.controller.publications[0].1 + PACE / 2;
    f.hasten([Event::Committed { result: Ok(()), took: Duration::from_millis(1) }]);
    assert_eq!(f.controller.current(), snapshot);
    assert!(!in_sync(&f), "it does not run b");
}

#[test]
fn a_push_takes_from_the_publication_or_the_proxys_arrival_until_it_runs_it() {
    let mut f = Fixture::new(APP);
    let pushes = |f: &Fixture| {
        let page = f.controller.metrics().into_text();
        let lines = page.lines().filter_map(|line| line.strip_prefix("lb_control_push_seconds_"));
        lines.filter(|line| !line.starts_with("bucket")).map(str::to_owned).collect::<Vec<_>>()
    };
    f.moment.now += Duration::from_secs(100);
    let _end = f.connect(1);
    f.moment.now += Duration::from_secs(1);
    let published = f.controller.current();
    f.proxy(
        1,
        ProxyEvent::Applied {
            snapshot: SnapshotId { digest: Digest(1), ..published },
            revision: 0,
        },
    );
    assert_eq!(pushes(&f), ["sum 0", "count 0"], "nobody published that");
    f.proxy(1, ProxyEvent::Applied { snapshot: published, revision: 0 });
    f.proxy(1, ProxyEvent::Applied { snapshot: published, revision: 0 });
    assert_eq!(pushes(&f), ["sum 1.04", "count 1"], "it was not there before, and it is told once");
    f.moment.now += Duration::from_secs(10);
    f.add_set("new");
    f.commit(Ok(()));
    f.moment.now += Duration::from_secs(2);
    f.proxy(1, ProxyEvent::Applied { snapshot: f.controller.current(), revision: 0 });
    assert_eq!(pushes(&f), ["sum 3.06", "count 2"]);
}

#[test]
fn what_a_proxy_goes_on_with_is_read_from_the_store_if_it_is_older_than_this_controller() {
    let mut f = Fixture::new(APP);
    let _end = f.connect(1);
    f.proxy(1, ProxyEvent::Applied { snapshot: f.controller.current(), revision: 5 });
    let snapshot = f.controller.current();
    f.seen();
    f.proxy(
        1,
        ProxyEvent::Rejected {
            snapshot,
            reason: "no".into(),
            refusal: Some(Refusal { revision: 7, runs: 5 }),
        },
    );
    assert_eq!(f.seen(), ["recall 5", "tell p rejected"]);
    assert_eq!(f.controller.counters.proxy_rejections, 1);
    let spec = Some((state(APP), Materials::new()));
    f.apply([Event::Recalled { revision: 5, spec }]);
    assert_eq!(f.seen(), ["publish 3.3 with 0 unhealthy, and 5 as 3.2"]);
    // Drains reach it, too.
    let mut answer = f.drain("1.1.1.1:1");
    f.commit(Ok(()));
    assert_eq!(accepted(&mut answer).version.version, 4);
    assert_eq!(f.seen()[1], "publish 3.5 with 0 unhealthy, and 5 as 3.4");
    // It takes what is current after all, and nobody is on the track.
    f.proxy(1, ProxyEvent::Applied { snapshot: f.controller.current(), revision: 8 });
    f.add_set("new");
    f.commit(Ok(()));
    let seen = f.seen();
    assert!(seen.contains(&"publish 3.6 with 0 unhealthy".to_owned()), "{seen:?}");
}

#[test]
fn a_drain_is_a_revision_unless_it_drains_already() {
    let mut f = Fixture::new(CHECKED);
    let mut first = f.drain("one");
    f.commit(Ok(()));
    let mut second = f.drain("one");
    let (first, second) = (accepted(&mut first), accepted(&mut second));
    assert_eq!((first.revision, second.revision), (8, 8));
    assert_eq!(first.version, second.version);
    assert!(refused(&mut f.drain("nine")).contains("there are one, two"));
}

#[test]
fn emptying_is_told_while_the_backend_drains() {
    let mut f = Fixture::new(CHECKED);
    let set = BackendSetName::new("app").expect("a valid name");
    let one = (set, BackendName::new("one").expect("a valid name"));
    assert_eq!(f.controller.emptying(&one, Version::default()), None, "it does not drain");
    let _end = f.connect(1);
    f.proxy(1, ProxyEvent::Applied { snapshot: f.controller.current(), revision: 0 });
    let mut answer = f.drain("one");
    f.commit(Ok(()));
    let since = accepted(&mut answer).version;
    let report = |in_flight| {
        let load = BackendLoad { in_flight, ejection: None };
        let backends = vec![(one.clone(), load)];
        ProxyEvent::Reported(Report { version: since, backends, ..Report::default() })
    };
    f.proxy(1, report(2));
    let emptying = f.controller.emptying(&one, since).expect("it drains");
    assert_eq!((emptying.in_flight, emptying.waiting_for), (2, vec!["p".into()]));
    f.proxy(1, ProxyEvent::Applied { snapshot: f.controller.current(), revision: 0 });
    f.proxy(1, report(0));
    let is_empty = |f: &Fixture| f.controller.emptying(&one, since).expect("it drains").empty;
    assert!(!is_empty(&f), "another one may be on its way back");
    f.moment.now += COMING_BACK;
    f.apply([]);
    assert!(is_empty(&f));
    let state = &f.controller.backends(Some("app")).expect("is there")[0];
    assert_eq!((state.state.as_str(), state.in_flight), ("draining", 0));
}

#[test]
fn a_stuck_proxy_lags_from_the_first_snapshot_that_it_missed() {
    let mut fixture = Fixture::new(CHECKED);
    let first = fixture.controller.current();
    let mut published = Vec::new();
    for name in ["a", "b"] {
        fixture.moment.now += Duration::from_secs(20);
        drop(fixture.add_set(name));
        fixture.commit(Ok(()));
        published.push((fixture.controller.current(), fixture.moment.now));
    }
    let [(second, missed), (_, later)] = published[..] else { panic!("two were published") };
    fixture.moment.now += Duration::from_secs(20);
    assert_eq!(fixture.controller.overtaken_at(Some(first)), missed);
    assert_eq!(fixture.controller.overtaken_at(Some(second)), later);
}

/// Material of the controller's own, as orders leave it.
fn account(text: &str) -> Event {
    let secret = lb_common::secret::Secret::new(text.into());
    let materials =
        Materials::unit(MaterialId::acme_account("https://ca.test/dir", "", ""), secret);
    Event::Found(Found { materials, ..Found::default() })
}

const ORDERED: &str = "certificates = [{ name = 'a', acme = { domains = ['a.test'], \
                       directory = 'https://ca.test/dir' } }]";

#[test]
fn material_is_stored_one_write_after_the_other_and_none_beside_a_change() {
    let mut f = Fixture::new(ORDERED);
    let stores = |f: &mut Fixture| {
        let effects = std::mem::take(&mut f.effects).into_iter();
        let contents = effects.filter_map(|effect| match effect {
            Effect::CommitMaterials { materials, .. } => {
                let content = materials.values().next().expect("there is one").reveal().to_vec();
                Some(String::from_utf8(content).expect("a text"))
            }
            _ => None,
        });
        contents.collect::<Vec<_>>()
    };
    f.apply([account("one")]);
    assert_eq!(stores(&mut f), ["one"]);
    f.apply([account("two"), account("three")]);
    assert!(stores(&mut f).is_empty(), "the first one is under way");
    let mut answer = f.add_set("behind");
    f.apply([Event::MaterialsCommitted(Ok(()))]);
    assert!(stores(&mut f).is_empty(), "now the change is");
    f.commit(Ok(()));
    accepted(&mut answer);
    assert_eq!(stores(&mut f), ["three"], "the latest counts");
    f.apply([Event::MaterialsCommitted(Ok(()))]);
    let _answer = f.add_set("new");
    f.apply([account("four")]);
    assert!(stores(&mut f).is_empty(), "a change is under way, which may have an older one");
    f.apply([Event::Committed { result: Ok(()), took: Duration::ZERO }]);
    assert_eq!(stores(&mut f), ["four"]);
}

#[test]
fn who_brings_material_is_told_once_it_is_stored_and_not_by_an_older_write() {
    let mut f = Fixture::new(ORDERED);
    let keep = |text: &str| {
        let Event::Found(Found { materials, .. }) = account(text) else { unreachable!() };
        let (kept, told) = oneshot::channel();
        (Event::Keep { materials, kept }, told)
    };
    let said = |f: &mut Fixture| {
        let effects: Vec<_> = std::mem::take(&mut f.effects);
        let is_about = |effect: &&Effect| {
            matches!(
                effect,
                Effect::Tell(_) | Effect::CommitMaterials { .. } | Effect::Commit { .. }
            )
        };
        effects.iter().filter(is_about).map(describe).collect::<Vec<_>>()
    };
    let _answer = f.add_set("new");
    let (event, _told) = keep("one");
    f.apply([event]);
    assert_eq!(said(&mut f), ["commit 8"], "the change may have an older one");
    f.apply([Event::Committed { result: Ok(()), took: Duration::ZERO }]);
    assert!(said(&mut f)[0].starts_with("commit ["));
    f.apply([Event::MaterialsCommitted(Ok(()))]);
    assert_eq!(said(&mut f), ["tell 1"]);
    let (event, _told) = keep("one");
    f.apply([event]);
    assert_eq!(said(&mut f), ["tell 1"], "it is stored");
}

#[test]
fn what_a_ca_is_answered_is_published_and_taken_back() {
    let mut f = Fixture::new(ORDERED);
    let name = CertificateName::new("a").expect("a name");
    let mut answers = |materials| {
        let what = acme::News::Answers(materials);
        f.apply([Event::Ordered { certificate: name.clone(), what }]);
        f.controller.current().version.version
    };
    let secret = lb_common::secret::Secret::new(b"x".to_vec());
    let some: Materials = Materials::unit(MaterialId::http_01("token"), secret);
    assert_eq!((answers(some.clone()), answers(some)), (2, 2), "once");
    assert_eq!((answers(Materials::new()), answers(Materials::new())), (3, 3));
}

fn unknown() -> StoreError {
    StoreError::Unknown { path: "x".into(), source: "it cannot be read".into() }
}

impl Fixture {
    /// Lets the store be tried.
    fn probe_store(&mut self, result: Result<Head, StoreError>) {
        self.moment.now = self.controller.store_due().expect("the store fails");
        self.apply([]);
        assert_eq!(self.seen().last().expect("it is tried"), "probe store as 3");
        let number = self.controller.store_probes;
        self.apply([Event::StoreProbed { number, result }]);
    }

    fn hello(&mut self, epoch: u64) {
        let version = Version { epoch, version: 9 };
        let running = Some(SnapshotId { version, digest: Digest(1) });
        let (zone, build) = Default::default();
        let hello = Hello { zone, build, address: None, running, revision: 0 };
        self.proxy(1, ProxyEvent::Connected { hello, end: oneshot::channel().0 });
    }
}

#[test]
fn what_became_of_a_change_is_found_out_before_anybody_is_told() {
    for (revision, is_there) in [(7, false), (8, true)] {
        let mut f = Fixture::new(APP);
        let mut answer = f.add_set("new");
        f.commit(Err(unknown()));
        assert_eq!(f.seen(), ["commit 8", "store fails"]);
        f.probe_store(Err(failed()));
        assert!(answered(&mut answer).is_none());
        assert_eq!(f.seen(), [""; 0]);
        f.probe_store(Ok(Head { revision, file_digest: None }));
        assert_eq!(f.controller.asked().0, revision);
        if is_there {
            let told = ["store works", "publish 3.2 with 0 unhealthy", "tell revision 8"];
            assert_eq!(f.seen(), told);
            assert_eq!(accepted(&mut answer).revision, 8);
        } else {
            assert_eq!(f.seen(), ["store works"]);
            assert!(refused(&mut answer).contains("is not in force"));
        }
        let mut next = f.add_set("next");
        f.commit(Ok(()));
        assert_eq!(accepted(&mut next).revision, revision + 1, "changes go on");
    }
}

#[test]
fn a_file_that_was_applied_is_found_by_its_digest() {
    for (digest, is_there) in [(Some(2), true), (Some(1), false), (None, false)] {
        let mut f = Fixture::new("");
        let mut same = f.apply_file("new", 1);
        f.commit(Ok(()));
        accepted(&mut same);
        let mut answer = f.apply_file("new", 2);
        f.commit(Err(unknown()));
        f.seen();
        f.probe_store(Ok(Head { revision: 8, file_digest: digest }));
        assert_eq!(f.controller.file_digest(), Some(if is_there { 2 } else { 1 }));
        assert_eq!(answered(&mut answer).expect("it is known").is_ok(), is_there);
    }
}

#[test]
fn nobody_waits_for_ever_for_a_store_that_fails() {
    let mut f = Fixture::new(APP);
    let mut first = f.add_set("first");
    let mut second = f.add_set("second");
    f.commit(Err(unknown()));
    assert!(refused(&mut second).contains("this one is not in force"));
    assert!(refused(&mut f.add_set("third")).contains("this one is not in force"));
    f.seen();
    while answered_is_open(&mut first) {
        f.probe_store(Err(failed()));
    }
    let waited = f.moment.now;
    f.probe_store(Ok(Head { revision: 8, file_digest: None }));
    assert_eq!(f.controller.asked().0, 8, "it is in force all the same");
    assert!(waited < f.moment.now);
}

/// Whether nobody was told yet; what is told is that nothing is known.
fn answered_is_open(answer: &mut Answer) -> bool {
    match answered(answer) {
        None => true,
        Some(Err(Refused::Unknown(_))) => false,
        Some(other) => panic!("{other:?}"),
    }
}

#[test]
fn what_could_not_be_written_is_written_once_the_store_works() {
    let mut f = Fixture::new(CHECKED);
    f.wake();
    let events = f.outcomes(&[("1.1.1.1:1", Outcome::Fail), ("1.1.1.1:2", Outcome::Pass)]);
    f.apply(events);
    assert_eq!(f.seen().last().expect("it is stored"), "commit health of 2");
    let verdict = |backend: &str| Verdict {
        backend_set: BackendSetName::new("app").expect("a name"),
        backend: BackendName::new(backend).expect("a name"),
        status: None,
    };
    let values = vec![verdict("one"), verdict("two")];
    f.apply([Event::HealthCommitted(Err(Unwritten { values, error: failed() }))]);
    assert_eq!(f.seen(), ["store fails"], "again it would fail again");
    f.probe_store(Ok(Head { revision: 7, file_digest: None }));
    assert_eq!(f.seen(), ["store works", "commit health of 2"]);
}

#[test]
fn who_brings_material_does_not_wait_for_a_store_that_fails() {
    let mut f = Fixture::new(ORDERED);
    f.apply([Event::StoreFailed("full".into())]);
    let Event::Found(Found { materials, .. }) = account("one") else { unreachable!() };
    let (kept, mut told) = oneshot::channel();
    f.apply([Event::Keep { materials, kept }]);
    assert_eq!(f.seen(), ["store fails", "tell 1"]);
    assert!(told.try_recv().is_err(), "the effect is not performed");
    f.probe_store(Ok(Head { revision: 7, file_digest: None }));
    let seen = f.seen();
    assert!(seen[1].contains("acme-account"), "{seen:?}");
}

#[test]
fn who_brings_material_does_not_wait_for_a_change_that_is_not_known_of() {
    let mut f = Fixture::new(ORDERED);
    let keep = || {
        let Event::Found(Found { materials, .. }) = account("one") else { unreachable!() };
        Event::Keep { materials, kept: oneshot::channel().0 }
    };
    let _answer = f.add_set("new");
    f.apply([keep()]);
    f.commit(Err(unknown()));
    assert_eq!(f.seen(), ["commit 8", "store fails", "tell 1"]);
    f.apply([keep()]);
    assert_eq!(f.seen(), ["tell 1"]);
}

/// It may have looked before the change got there.
#[test]
fn a_probe_of_the_store_that_began_before_a_change_does_not_tell_what_became_of_it() {
    let mut f = Fixture::new(APP);
    f.apply([Event::StoreFailed("full".into())]);
    f.moment.now = f.controller.store_due().expect("the store fails");
    f.apply([]);
    let mut answer = f.add_set("new");
    f.commit(Err(unknown()));
    let head = |revision| Ok(Head { revision, file_digest: None });
    f.apply([Event::StoreProbed { number: 1, result: head(7) }]);
    assert_eq!(f.seen(), ["store fails", "probe store as 3", "commit 8"]);
    assert!(answered(&mut answer).is_none());
    f.probe_store(head(8));
    assert_eq!(accepted(&mut answer).revision, 8);
}

#[test]
fn a_change_that_is_stored_ends_an_outage() {
    let mut f = Fixture::new(APP);
    f.apply([Event::StoreFailed("full".into())]);
    assert_eq!(f.controller.store_problem(), Some("full"));
    let _answer = f.add_set("new");
    f.commit(Ok(()));
    assert_eq!(f.controller.store_problem(), None);
    let seen = f.seen();
    assert_eq!(seen[..3], ["store fails", "commit 8", "store works"]);
}

#[test]
fn a_proxy_that_is_ahead_makes_the_controller_lead_for_a_later_epoch() {
    let mut f = Fixture::new(APP);
    let mut answer = f.add_set("new");
    f.hello(40);
    let mut next = f.add_set("next");
    assert_eq!(f.seen(), ["commit 8", "tell p connected"], "one write after the other");
    f.commit(Ok(()));
    let seen = f.seen();
    assert_eq!(seen, ["publish 3.2 with 0 unhealthy", "tell revision 8", "campaign for 41"]);
    assert_eq!(accepted(&mut answer).revision, 8);
    f.apply([Event::Led(Ok(Term { epoch: 41 }))]);
    assert_eq!(f.seen(), ["publish 41.1 with 0 unhealthy", "leads for 41", "commit 9"]);
    f.commit(Ok(()));
    assert_eq!(accepted(&mut next).version, Version { epoch: 41, version: 2 });
}

#[test]
fn a_later_epoch_that_could_not_be_stored_is_asked_for_again() {
    let mut f = Fixture::new(APP);
    f.hello(40);
    assert_eq!(f.seen(), ["tell p connected", "campaign for 41"]);
    f.apply([Event::Led(Err(unknown()))]);
    assert_eq!(f.seen(), ["store fails"]);
    let why = "the store fails, and this controller is to be written down as the one that leads";
    assert!(refused(&mut f.add_set("new")).starts_with(why));
    f.moment.now = f.controller.store_due().expect("the store fails");
    f.apply([]);
    assert_eq!(f.seen(), ["campaign for 41"], "it may lead for that already");
    f.apply([Event::Led(Ok(Term { epoch: 42 }))]);
    assert_eq!(f.seen(), ["publish 42.1 with 0 unhealthy", "leads for 42", "store works"]);
    f.hello(42);
    assert_eq!(f.seen().last().expect("it comes"), "campaign for 43", "9 is later than 1");
}

#[test]
fn a_controller_that_starts_on_a_disk_that_takes_nothing_leads_once_it_does() {
    let mut f = Fixture::new(CHECKED);
    f.controller.lead_later("full".into());
    assert_eq!(f.controller.store_problem(), Some("full"));
    f.wake();
    assert_eq!(f.jobs.len(), 2, "backends are looked after");
    assert_eq!(f.seen(), ["campaign for 4"]);
    let refused = refused(&mut f.add_set("new"));
    assert!(refused.starts_with("the store fails, and this controller is to be"), "{refused}");
    f.apply([Event::Led(Err(failed()))]);
    f.wake();
    assert_eq!(f.seen(), ["campaign for 4"]);
    f.apply([Event::Led(Ok(Term { epoch: 4 }))]);
    assert_eq!(f.seen(), ["publish 4.1 with 0 unhealthy", "leads for 4", "store works"]);
    let mut answer = f.add_set("new");
    f.commit(Ok(()));
    assert_eq!(accepted(&mut answer).version, Version { epoch: 4, version: 2 });
}

/// Its own later epoch fences what was asked before, and nobody else has led.
#[test]
fn a_controller_that_another_one_overtook_ends_and_one_that_leads_anew_does_not() {
    let fenced = |leads| StoreError::Fenced { epoch: 3, leads };
    let mut f = Fixture::new(APP);
    f.apply([Event::StoreFailed("full".into())]);
    f.moment.now = f.controller.store_due().expect("the store fails");
    f.apply([]);
    let mut answer = f.add_set("new");
    f.commit(Ok(()));
    accepted(&mut answer);
    f.hello(40);
    assert_eq!(f.seen().last().expect("it is asked for"), "campaign for 41", "beside the probe");
    f.apply([Event::StoreProbed { number: 1, result: Err(fenced(41)) }]);
    f.apply([Event::Led(Ok(Term { epoch: 41 }))]);
    f.apply([Event::StoreProbed { number: 1, result: Err(fenced(41)) }]);
    assert_eq!(f.seen(), ["publish 41.1 with 0 unhealthy", "leads for 41"]);

    let mut f = Fixture::new(APP);
    let mut answer = f.add_set("new");
    f.commit(Err(fenced(50)));
    assert!(refused(&mut answer).contains("another controller leads, for epoch 50"));
    assert_eq!(f.seen(), ["commit 8", "yield"]);

    let head = |revision| Head { revision, file_digest: None };
    let overtaken = || StoreError::Conflict { known: head(7), current: head(8) };
    let mut f = Fixture::new(APP);
    let _answer = f.add_set("new");
    f.commit(Err(overtaken()));
    assert_eq!(f.seen(), ["commit 8", "yield"]);
    let mut f = Fixture::new(APP);
    f.hello(40);
    f.apply([Event::Led(Err(overtaken()))]);
    assert_eq!(f.seen(), ["tell p connected", "campaign for 41", "yield"]);
}
