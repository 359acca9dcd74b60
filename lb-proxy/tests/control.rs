//! The control stream against scripted controllers, over real gRPC.

#[path = "control/fixture.rs"]
mod fixture;

use std::{fs, process::Command};

use lb_common::snapshot::{Digest, SnapshotId};
use lb_proto::v1::{self, proxy_message::Message, update::Content};
use lb_proxy::control::status::{Connection, LastGoodStatus};
use tokio::{net::unix::pipe::OpenOptions, time::timeout};
use tonic::Status;

use self::fixture::{
    Controller, PATIENCE, Proxy, delta, dir, dir_with, full, seal, sealed, update, wire,
};

#[tokio::test]
async fn control_takes_a_full_snapshot_and_then_deltas() {
    let (dir, mut controller) = (dir(), Controller::start().await);
    let mut proxy = Proxy::start(dir.path(), &[&controller]);
    let (mut session, running) = controller.hello().await;
    assert_eq!(running, None);

    let states = [sealed(1, 1, "a"), sealed(2, 2, "b"), sealed(3, 2, "b")];
    session.applies(full(&states[0])).await;
    session.applies(delta(&states[0], &states[1])).await;
    session.applies(delta(&states[1], &states[2])).await;
    // Again, as a controller does that missed the answer.
    session.applies(delta(&states[1], &states[2])).await;

    assert_eq!(proxy.installed(), states.each_ref().map(|state| state.snapshot.id));
    proxy.written(states[2].snapshot.id).await;
    let status = proxy.status.borrow().clone();
    let running = status.running.expect("it runs the last one");
    assert_eq!((running.id, running.revision), (states[2].snapshot.id, 2));
    let connected = |uri| matches!(status.connection, Connection::Connected { controller, .. } if controller == uri);
    assert!(connected(controller.uri()));
    proxy.stop().await;
    let end = timeout(PATIENCE, async {
        while session.from_proxy.message().await?.is_some() {}
        Ok::<_, Status>(())
    });
    end.await.expect("the stream ends").expect("it ends cleanly");
}

#[tokio::test]
async fn control_refuses_what_is_wrong_and_goes_on() {
    let (dir, mut controller) = (dir(), Controller::start().await);
    let proxy = Proxy::start(dir.path(), &[&controller]);
    let (mut session, _) = controller.hello().await;
    let first = sealed(5, 5, "a");
    session.applies(full(&first)).await;

    let next = sealed(6, 6, "b");
    let lie = SnapshotId { digest: Digest(1), ..next.snapshot.id };
    let gone = seal(6, 5, "backend_sets = [{ name = 'app' }]");
    let elsewhere = sealed(4, 4, "z");
    let garbage = || Content::Full(b"\xff\xff\xff".as_slice().into());
    #[rustfmt::skip]
    let cases = [
        (v1::Update { snapshot: wire(lie), ..full(&next) }, "",                 "the content's digest is"),
        (full(&sealed(4, 6, "b")),                          "",                 "1.4 is not after 1.5, which runs here"),
        (full(&sealed(5, 6, "b")),                          "",                 "1.5 is not after 1.5, which runs here"),
        (full(&sealed(6, 6, "taken")),                      "listeners[taken]", "address in use"),
        (delta(&elsewhere, &next),                          "",                 "the delta starts from"),
        (update(&next, garbage()),                          "",                 "the update does not decode"),
        (v1::Update { content: None, ..full(&next) },       "",                 "the update has no content"),
        (full(&gone),                                       "listeners",        "the controller has no listeners at its revision 5, and this proxy has some at 1.5"),
    ];
    for (update, resource, reason) in cases {
        let rejected = session.rejects(update).await;
        assert_eq!(rejected.0, resource, "{rejected:?}");
        assert!(rejected.1.starts_with(reason), "{rejected:?}");
        let status = proxy.status.borrow().clone();
        assert_eq!(status.running.expect("the old one serves on").id, first.snapshot.id);
        let last = status.last_rejection.expect("it is known");
        assert_eq!((last.resource, last.reason), rejected);
    }
    // The same emptiness as a later change is an operator's wish.
    session.applies(full(&next)).await;
    session.applies(full(&seal(7, 7, ""))).await;
    assert_eq!(proxy.installed().len(), 3);
    proxy.stop().await;
}

#[tokio::test]
async fn control_goes_to_the_next_controller_when_one_dies_and_says_what_runs() {
    let dir = dir();
    let mut controllers = [Controller::start().await, Controller::start().await];
    let mut proxy = Proxy::start(dir.path(), &controllers.each_ref());
    let state = sealed(1, 1, "a");
    let first = timeout(PATIENCE, async {
        let [a, b] = &mut controllers;
        tokio::select! {
            session = a.hello() => (0, session),
            session = b.hello() => (1, session),
        }
    });
    let (first, (mut session, _)) = first.await.expect("one of them is asked");
    session.applies(full(&state)).await;

    let [a, b] = controllers;
    let (mut dead, mut other) = if first == 0 { (a, b) } else { (b, a) };
    dead.close().await;
    drop(session);

    let (mut session, running) = other.hello().await;
    assert_eq!(running, Some(state.snapshot.id));
    session.applies(full(&state)).await;
    session.applies(delta(&state, &sealed(2, 2, "b"))).await;
    proxy.until("it says why", |status| status.last_error.is_some()).await;
    assert_eq!(proxy.installed().len(), 2, "what ran was not disturbed");
    proxy.stop().await;
}

#[tokio::test]
async fn control_starts_from_the_last_known_good_snapshot_without_a_controller() {
    let state = sealed(3, 9, "a");
    let dir = dir_with(&state);
    let mut controller = Controller::start().await;

    let mut dead = Controller::start().await;
    dead.close().await;
    let mut proxy = Proxy::start(dir.path(), &[&dead]);
    proxy.until("it serves", |status| status.running.is_some()).await;
    proxy.until("nobody is there", |status| status.last_error.is_some()).await;
    assert_eq!(proxy.installed(), [state.snapshot.id]);
    let error = proxy.status.borrow().last_error.clone().expect("just seen").message;
    assert!(error.contains("Connection refused"), "{error}");
    proxy.stop().await;

    // A restart with a controller goes on from there.
    let proxy = Proxy::start(dir.path(), &[&controller]);
    let (mut session, running) = controller.hello().await;
    assert_eq!(running, Some(state.snapshot.id));
    session.applies(delta(&state, &sealed(4, 10, "b"))).await;
    proxy.stop().await;
}

#[tokio::test]
async fn control_refuses_a_damaged_last_known_good_file_and_replaces_it() {
    let state = sealed(3, 9, "a");
    let taken = sealed(3, 9, "taken");
    let whole = dir_with(&state);
    let bytes = fs::read(whole.path().join("last-known-good")).expect("it was written");
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 4;
    let mut later = bytes.clone();
    later[19] = b'3';
    #[rustfmt::skip]
    let cases = [
        (bytes[..bytes.len() - 1].to_vec(), "is truncated: it has "),
        (flipped,                           "checksum is "),
        (later,                             "is of format \"3\""),
        (b"something else".to_vec(),        "is not a last-known-good file"),
    ];
    for (bytes, expected) in cases {
        let (dir, mut controller) = (dir(), Controller::start().await);
        let file = dir.path().join("last-known-good");
        fs::write(&file, &bytes).expect("a writable directory");

        let mut proxy = Proxy::start(dir.path(), &[&controller]);
        let (mut session, running) = controller.hello().await;
        assert_eq!(running, None);
        let reason = match &proxy.status.borrow().last_good {
            LastGoodStatus::Refused { reason } => reason.clone(),
            other => panic!("{expected}: {other:?}"),
        };
        assert!(reason.starts_with(&format!("{}: {expected}", file.display())), "{reason}");
        session.rejects(full(&taken)).await;
        assert_eq!(fs::read(&file).expect("it is left there"), bytes);

        session.applies(full(&state)).await;
        proxy.written(state.snapshot.id).await;
        proxy.stop().await;
        let proxy = Proxy::start(dir.path(), &[&controller]);
        assert_eq!(controller.hello().await.1, Some(state.snapshot.id));
        proxy.stop().await;
    }
}

#[tokio::test]
async fn control_waits_for_another_snapshot_when_the_file_cannot_be_served_here() {
    let dir = dir_with(&sealed(3, 9, "taken"));
    let mut controller = Controller::start().await;
    let proxy = Proxy::start(dir.path(), &[&controller]);
    let (mut session, running) = controller.hello().await;
    assert_eq!(running, None);
    let refused = matches!(
        &proxy.status.borrow().last_good,
        LastGoodStatus::Refused { reason } if reason.ends_with("listeners[taken]: address in use")
    );
    assert!(refused);
    session.applies(full(&sealed(4, 10, "a"))).await;
    proxy.stop().await;
}

#[tokio::test]
async fn control_is_not_held_up_by_a_slow_disk() {
    let (dir, mut controller) = (dir(), Controller::start().await);
    let mut proxy = Proxy::start(dir.path(), &[&controller]);
    let (mut session, _) = controller.hello().await;
    // A pipe that nobody empties is a disk that takes for ever.
    let pipe = dir.path().join("last-known-good.tmp");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo is there");
    assert!(made.success());
    let disk = OpenOptions::new().read_write(true).open_receiver(&pipe).expect("a pipe");

    let address = |n| format!("{{ address = '10.0.{}.{}:1' }}", n / 256, n % 256);
    let addresses: Vec<_> = (0..10_000).map(address).collect();
    let larger_than_a_pipe =
        format!("backend_sets = [{{ name = 'app', backends = [{}] }}]", addresses.join(","));
    session.applies(full(&seal(1, 1, &larger_than_a_pipe))).await;
    timeout(PATIENCE, disk.readable()).await.expect("it is written").expect("the pipe is open");
    let later = [sealed(2, 2, "a"), sealed(3, 3, "b"), sealed(4, 4, "c")];
    for state in &later {
        session.applies(full(state)).await;
    }
    assert_eq!(proxy.status.borrow().last_good, LastGoodStatus::Absent);

    // The disk fails, and the next thing that it is given is the newest.
    drop(disk);
    proxy.written(later[2].snapshot.id).await;
    proxy.stop().await;
}

#[tokio::test]
async fn control_is_not_held_up_by_a_controller_that_does_not_read() {
    const UPDATES: u64 = 200;
    let (dir, mut controller) = (dir(), Controller::start().await);
    // One report fills the window of the stream.
    let mut proxy = Proxy::with(dir.path(), &[&controller], 100_000);
    let (mut session, _) = controller.hello().await;
    for version in 1..=UPDATES {
        session.send(full(&sealed(version, version, "a"))).await;
    }
    let last = sealed(UPDATES, UPDATES, "a").snapshot.id;
    proxy
        .until("it runs the last one", |status| status.running.is_some_and(|r| r.id == last))
        .await;
    proxy.written(last).await;

    let mut queued = 0;
    while session.next().await
        != Message::Applied(v1::Applied { snapshot: wire(last), revision: UPDATES })
    {
        queued += 1;
    }
    assert!(queued < 20, "{queued} messages were queued");
    proxy.stop().await;
}

#[tokio::test]
async fn control_reports_what_it_sees_with_the_snapshot_it_runs() {
    let (dir, mut controller) = (dir(), Controller::start().await);
    let proxy = Proxy::with(dir.path(), &[&controller], 3);
    let (mut session, _) = controller.hello().await;
    let state = sealed(1, 1, "a");
    session.applies(full(&state)).await;
    let Message::Report(after) = session.next().await else { panic!("a report comes next") };
    assert_eq!(after.snapshot, wire(state.snapshot.id));
    let Message::Report(later) = session.next().await else { panic!("it changed meanwhile") };
    assert!(after.backends[0].in_flight < later.backends[0].in_flight);
    proxy.stop().await;
}
