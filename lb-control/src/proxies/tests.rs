use lb_common::{clock::now, snapshot::Digest};

use super::*;

fn runs(version: u64) -> Runs {
    Runs { snapshot: snapshot(version), revision: 1, is_current: true }
}

/// That is published. Somebody else is at 9.
const LAST: Version = Version { epoch: 1, version: 8 };
const WALL: Duration = Duration::from_secs(1_700_000_000);

fn moment() -> Moment {
    Moment { now: now(), wall: WALL }
}

fn proxy(id: impl std::fmt::Display) -> ProxyId {
    ProxyId::new(&id.to_string()).expect("a valid id")
}

fn snapshot(version: u64) -> SnapshotId {
    SnapshotId { version: Version { epoch: 1, version }, digest: Digest(version.into()) }
}

fn backend() -> (BackendSetName, BackendName) {
    let name = "one";
    (
        BackendSetName::new("app").expect("a valid name"),
        BackendName::new(name).expect("a valid name"),
    )
}

fn report(version: u64, in_flight: u64) -> Report {
    let load = BackendLoad { in_flight, ejection: (in_flight == 0).then(|| "5xx".into()) };
    let backends = vec![(backend(), load)];
    Report { version: snapshot(version).version, backends, ..Report::default() }
}

fn connect(proxies: &mut Proxies, id: &str, connection: u64) -> Option<Ended> {
    let (zone, build) = ("z".into(), "b".into());
    let hello = Hello { zone, build, address: None, running: None, revision: 0 };
    let (end, _) = oneshot::channel();
    let ended = proxies.connect(&proxy(id), (ConnectionId(connection), end), hello, moment());
    ended.map(|(_, why)| why)
}

fn lists(proxies: &Proxies) -> Vec<(String, bool, bool)> {
    let listed = proxies.list(Some(snapshot(2)), now()).into_iter();
    listed.map(|proxy| (proxy.id, proxy.connected, proxy.in_sync)).collect()
}

#[test]
fn the_newer_of_two_connections_counts_and_the_older_is_ended() {
    let mut proxies = Proxies::default();
    assert_eq!(connect(&mut proxies, "p", 1), None);
    assert_eq!(connect(&mut proxies, "p", 2), Some(Ended::Replaced { by: None }));
    assert_eq!(proxies.applied(&proxy("p"), ConnectionId(1), runs(2), WALL), None);
    assert!(!proxies.disconnect(&proxy("p"), ConnectionId(1), moment()));
    assert_eq!(lists(&proxies), [("p".into(), true, false)]);
    let began = proxies.applied(&proxy("p"), ConnectionId(2), runs(2), WALL);
    assert!(matches!(began, Some(Began::New { .. })), "{began:?}");
    assert_eq!(lists(&proxies), [("p".into(), true, true)]);
    let again = proxies.applied(&proxy("p"), ConnectionId(2), runs(2), WALL);
    assert_eq!(again, Some(Began::Same));
}

#[test]
fn a_proxy_lags_from_the_publication_or_from_when_it_came() {
    let mut proxies = Proxies::default();
    connect(&mut proxies, "p", 1);
    let came = proxies.by_id["p"].connected.now;
    let lag = |proxies: &Proxies, published, seconds| {
        let published = came + Duration::from_secs(published);
        let now = came + Duration::from_secs(seconds);
        proxies.metrics(snapshot(2), |_| published, now)[0].lag.as_secs()
    };
    assert_eq!(lag(&proxies, 10, 15), 5);
    assert_eq!(lag(&proxies, 0, 15), 15);
    proxies.by_id.get_mut("p").expect("is there").connected.now += Duration::from_secs(12);
    assert_eq!(lag(&proxies, 10, 15), 3);
    proxies.applied(&proxy("p"), ConnectionId(1), runs(2), WALL);
    assert_eq!(lag(&proxies, 10, 15), 0);
}

#[test]
fn a_rejection_is_remembered_until_something_is_applied() {
    let mut proxies = Proxies::default();
    connect(&mut proxies, "p", 1);
    proxies.rejected(&proxy("p"), ConnectionId(1), "too odd", None);
    assert_eq!(proxies.list(Some(snapshot(2)), now())[0].rejection, "too odd");
    proxies.applied(&proxy("p"), ConnectionId(1), runs(2), WALL);
    assert_eq!(proxies.list(Some(snapshot(2)), now())[0].rejection, "");
}

#[test]
fn load_is_of_connected_proxies_as_they_last_reported() {
    let mut proxies = Proxies::default();
    for (id, connection) in [("a", 1), ("b", 2), ("c", 3)] {
        connect(&mut proxies, id, connection);
        proxies.report(&proxy(id), ConnectionId(connection), report(1, 100), now());
        proxies.report(&proxy(id), ConnectionId(connection), report(1, connection - 1), now());
    }
    proxies.disconnect(&proxy("c"), ConnectionId(3), moment());
    let ejections = vec![v1::LocalEjection { proxy_id: "a".into(), reason: "5xx".into() }];
    let expected = FleetLoad { in_flight: 1, ejections };
    assert_eq!(proxies.load(&backend()), expected);
}

#[test]
fn who_does_not_run_what_is_current_is_told_with_why() {
    let mut proxies = Proxies::default();
    let current = snapshot(2);
    for (i, id) in ["a", "b", "c", "d"].into_iter().enumerate() {
        connect(&mut proxies, id, i as u64);
        if id != "b" {
            proxies.applied(&proxy(id), ConnectionId(i as u64), runs(2), WALL);
        }
    }
    let refusal = Some(Refusal { revision: 4, runs: 3 });
    proxies.rejected(&proxy("b"), ConnectionId(1), "too odd", refusal);
    let problem = v1::Problem { resource: "listeners[web]".into(), reason: "in use".into() };
    proxies.problems(&proxy("c"), ConnectionId(2), vec![problem]);
    proxies.disconnect(&proxy("d"), ConnectionId(3), moment());
    let told = proxies.elsewhere(current).into_iter().map(|one| (one.proxy_id, one.why));
    let expected = [("b", "refused revision 4: too odd"), ("c", "listeners[web]: in use")];
    assert!(told.eq(expected.map(|(id, why)| (id.into(), why.into()))));
}

#[test]
fn what_is_not_told_anew_is_as_it_was_and_a_part_proves_nothing() {
    let mut proxies = Proxies::default();
    connect(&mut proxies, "p", 1);
    let since = snapshot(2).version;
    let tell = |proxies: &mut Proxies, report| {
        proxies.report(&proxy("p"), ConnectionId(1), report, now());
    };
    proxies.applied(&proxy("p"), ConnectionId(1), runs(2), WALL);
    tell(&mut proxies, report(2, 3));
    tell(&mut proxies, Report { version: since, ..Report::default() });
    assert_eq!(proxies.load(&backend()).in_flight, 3);
    let idle = |version, is_partial| Report {
        version,
        backends: vec![(backend(), BackendLoad::default())],
        is_partial,
        ..Report::default()
    };
    let later = snapshot(3).version;
    tell(&mut proxies, idle(later, true));
    assert_eq!(proxies.load(&backend()), FleetLoad::default());
    assert!(!proxies.emptying(&backend(), later, LAST, now()).empty);
    tell(&mut proxies, idle(later, false));
    assert!(proxies.busy.is_empty() && proxies.by_id["p"].told.backends.is_empty());
}

#[test]
fn traffic_is_told_of_connected_proxies_and_begins_anew_with_a_connection() {
    let mut proxies = Proxies::default();
    let start = now();
    let tell = |proxies: &mut Proxies, connection, second, requests| {
        let own = v1::Totals { requests, ..v1::Totals::default() };
        let increase = Some(Increase { own, ..Increase::default() });
        let report = Report { increase, connections: 5, ..report(1, 2) };
        let now = start + Duration::from_secs(second);
        proxies.report(&proxy("p"), ConnectionId(connection), report, now);
    };
    let seen = |proxies: &Proxies, second| {
        let now = start + Duration::from_secs(second);
        let listed = proxies.list(Some(snapshot(2)), now).remove(0);
        let load = listed.load.map(|load| (load.requests_per_second, load.in_flight));
        (load, listed.connections, proxies.fleet_load(now).requests_per_second)
    };
    connect(&mut proxies, "p", 1);
    tell(&mut proxies, 1, 0, 1_000);
    assert_eq!(seen(&proxies, 1), (Some((0.0, 2)), 5, 0.0));
    tell(&mut proxies, 1, 1, 30);
    assert_eq!(seen(&proxies, 3), (Some((10.0, 2)), 5, 10.0));
    proxies.disconnect(&proxy("p"), ConnectionId(1), moment());
    assert_eq!(seen(&proxies, 3), (None, 0, 10.0), "what it did counts until it is past");
    connect(&mut proxies, "p", 2);
    tell(&mut proxies, 2, 4, 10);
    tell(&mut proxies, 2, 5, 0);
    assert_eq!(seen(&proxies, 6), (Some((0.0, 2)), 5, 0.0), "where it begins is no traffic");
}

#[test]
fn a_backend_is_empty_once_everyone_said_so_under_the_drain() {
    let mut proxies = Proxies::default();
    let since = snapshot(2).version;
    let seen = |proxies: &Proxies| {
        let Emptying { in_flight, waiting_for, empty } =
            proxies.emptying(&backend(), since, LAST, now());
        (in_flight, waiting_for.join(" "), empty)
    };
    assert_eq!(seen(&proxies), (0, String::new(), true), "nobody is there");
    connect(&mut proxies, "a", 1);
    connect(&mut proxies, "b", 2);
    let (a, b) = (proxy("a"), proxy("b"));
    assert_eq!(seen(&proxies), (0, String::new(), true), "they run nothing");
    proxies.applied(&a, ConnectionId(1), runs(1), WALL);
    proxies.applied(&b, ConnectionId(2), runs(9), WALL);
    proxies.report(&a, ConnectionId(1), report(1, 3), now());
    assert_eq!(seen(&proxies), (3, "a b".into(), false));
    proxies.applied(&a, ConnectionId(1), runs(2), WALL);
    proxies.applied(&b, ConnectionId(2), runs(3), WALL);
    proxies.report(&a, ConnectionId(1), report(1, 0), now());
    proxies.report(&b, ConnectionId(2), report(3, 0), now());
    assert_eq!(seen(&proxies), (0, String::new(), false), "a's count is from before");
    proxies.report(&a, ConnectionId(1), report(2, 1), now());
    assert_eq!(seen(&proxies), (1, String::new(), false));
    proxies.report(&a, ConnectionId(1), report(2, 0), now());
    assert_eq!(seen(&proxies), (0, String::new(), true));
    let gone = moment();
    proxies.disconnect(&b, ConnectionId(2), gone);
    assert_eq!(seen(&proxies), (0, "b".into(), false), "it may have clients still");
    let later = proxies.emptying(&backend(), since, LAST, gone.now + MISSED_FOR);
    assert!(later.empty, "it is taken to be gone");
}

#[test]
fn the_oldest_of_too_many_disconnected_proxies_is_forgotten() {
    let (mut proxies, start) = (Proxies::default(), moment());
    for i in 0..=MOST_DISCONNECTED as u64 {
        connect(&mut proxies, &i.to_string(), i);
        let moment = Moment { now: start.now + Duration::from_secs(i), ..start };
        assert!(proxies.disconnect(&proxy(i), ConnectionId(i), moment));
    }
    assert_eq!(proxies.by_id.len(), MOST_DISCONNECTED);
    assert!(!proxies.by_id.contains_key("0"));
}

#[test]
fn too_many_connections_are_refused() {
    let mut proxies = Proxies::default();
    for i in 0..MOST_CONNECTED as u64 {
        assert_eq!(connect(&mut proxies, &i.to_string(), i), None);
    }
    assert_eq!(connect(&mut proxies, "more", 0), Some(Ended::TooMany));
    assert_eq!(connect(&mut proxies, "7", 0), Some(Ended::Replaced { by: None }));
}

#[test]
fn who_is_behind_counts_while_connected_and_a_moment_longer() {
    let mut proxies = Proxies::default();
    let gone = moment();
    let behind = |proxies: &Proxies, now| {
        let spread = proxies.behind(snapshot(2).version, LAST, now);
        (spread.connected, spread.behind.join(" "))
    };
    assert_eq!(behind(&proxies, gone.now), (0, String::new()));
    connect(&mut proxies, "a", 1);
    connect(&mut proxies, "b", 2);
    assert_eq!(behind(&proxies, gone.now), (2, "a b".into()));
    proxies.applied(&proxy("a"), ConnectionId(1), runs(3), WALL);
    assert_eq!(behind(&proxies, gone.now), (2, "b".into()));
    proxies.disconnect(&proxy("b"), ConnectionId(2), gone);
    assert_eq!(behind(&proxies, gone.now), (1, "b".into()), "it may come back, with its clients");
    assert_eq!(behind(&proxies, gone.now + MISSED_FOR), (1, String::new()));
}
