//! The proxies of the fleet: who is connected, what each runs, and what it reported.
//!
//! Pure. A connection is told from an earlier one of the same proxy by its [`ConnectionId`], so
//! what a replaced connection still says changes nothing.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::Duration,
};

use lb_common::{
    id::{BackendName, BackendSetName, ProxyId},
    snapshot::{SnapshotId, Version},
};
use lb_proto::v1;
use tokio::sync::oneshot;

use crate::timestamp;

/// So many proxies may be connected at a time.
const MOST_CONNECTED: usize = 10_000;
/// So many others stay listed.
const MOST_DISCONNECTED: usize = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(pub u64);

/// What a proxy says about itself when it connects.
#[derive(Clone, Debug)]
pub struct Hello {
    pub zone: String,
    pub build: String,
    pub address: Option<SocketAddr>,
    pub running: Option<SnapshotId>,
}

/// Why the controller ends a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By a newer connection with the same proxy id.
    Replaced {
        by: Option<SocketAddr>,
    },
    TooMany,
}

/// Ends a connection.
pub type End = oneshot::Sender<Ended>;

/// What a proxy sees of its backends; what is not in it is idle.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub version: Version,
    pub backends: HashMap<(BackendSetName, BackendName), Load>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    pub in_flight: u64,
    /// Why the proxy keeps it out by itself, if it does.
    pub ejection: Option<String>,
}

/// What all connected proxies report about one backend.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetLoad {
    pub in_flight: u64,
    pub ejections: Vec<v1::LocalEjection>,
}

/// How far a backend has emptied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Emptying {
    pub in_flight: u64,
    /// Connected proxies that still send it new requests.
    pub waiting_for: Vec<String>,
    /// Nobody sends it anything and nobody waits for it.
    pub empty: bool,
}

#[derive(Debug, Default)]
pub struct Proxies {
    by_id: BTreeMap<ProxyId, Proxy>,
}

#[derive(Debug)]
struct Proxy {
    hello: Hello,
    connection: Option<(ConnectionId, End)>,
    connected_since: Duration,
    disconnected_since: Option<Duration>,
    applied_at: Option<Duration>,
    rejection: String,
    report: Report,
}

// === impl Proxies ===

impl Proxies {
    /// Takes a connection in. Returns the connection that has to end for it, or itself if there
    /// are too many.
    pub fn connect(
        &mut self,
        id: &ProxyId,
        connection: (ConnectionId, End),
        hello: Hello,
        wall: Duration,
    ) -> Option<(End, Ended)> {
        let old = self.by_id.get_mut(id).and_then(|proxy| proxy.connection.take());
        if old.is_none() && self.connected().count() >= MOST_CONNECTED {
            return Some((connection.1, Ended::TooMany));
        }
        let by = hello.address;
        let proxy = Proxy {
            applied_at: self.by_id.get(id).and_then(|proxy| proxy.applied_at),
            hello,
            connection: Some(connection),
            connected_since: wall,
            disconnected_since: None,
            rejection: String::new(),
            report: Report::default(),
        };
        self.by_id.insert(id.clone(), proxy);
        old.map(|(_, end)| (end, Ended::Replaced { by }))
    }

    /// Returns whether this was the proxy's connection.
    pub fn disconnect(&mut self, id: &ProxyId, connection: ConnectionId, wall: Duration) -> bool {
        let Some(proxy) = self.current(id, connection) else { return false };
        proxy.connection = None;
        proxy.disconnected_since = Some(wall);
        proxy.report = Report::default();
        let gone = self.by_id.iter().filter_map(|(id, p)| Some((p.disconnected_since?, id)));
        if gone.clone().count() > MOST_DISCONNECTED
            && let Some(oldest) = gone.min().map(|(_, id)| id.clone())
        {
            self.by_id.remove(&oldest);
        }
        true
    }

    /// Returns whether this is news.
    pub fn applied(
        &mut self,
        id: &ProxyId,
        connection: ConnectionId,
        snapshot: SnapshotId,
        wall: Duration,
    ) -> bool {
        let Some(proxy) = self.current(id, connection) else { return false };
        proxy.hello.running = Some(snapshot);
        proxy.applied_at = Some(wall);
        proxy.rejection.clear();
        true
    }

    /// Returns whether this is news.
    pub fn rejected(&mut self, id: &ProxyId, connection: ConnectionId, reason: &str) -> bool {
        let Some(proxy) = self.current(id, connection) else { return false };
        proxy.rejection = reason.into();
        true
    }

    pub fn report(&mut self, id: &ProxyId, connection: ConnectionId, report: Report) {
        if let Some(proxy) = self.current(id, connection) {
            proxy.report = report;
        }
    }

    /// All that are known, and whether each runs `current`.
    pub fn list(&self, current: SnapshotId) -> Vec<v1::Proxy> {
        self.by_id.iter().map(|(id, proxy)| proxy.describe(id, current)).collect()
    }

    /// How many are connected, and how many of them run `current`.
    pub fn count(&self, current: SnapshotId) -> (usize, usize) {
        let in_sync = self.connected().filter(|(_, proxy)| proxy.hello.running == Some(current));
        (self.connected().count(), in_sync.count())
    }

    /// What is reported about all backends that are not idle, over the whole fleet.
    pub fn load(&self) -> HashMap<&(BackendSetName, BackendName), FleetLoad> {
        let mut total: HashMap<_, FleetLoad> = HashMap::new();
        for (id, proxy) in self.connected() {
            for (backend, load) in &proxy.report.backends {
                let entry = total.entry(backend).or_default();
                entry.in_flight = entry.in_flight.saturating_add(load.in_flight);
                entry.ejections.extend(load.ejection.as_ref().map(|reason| v1::LocalEjection {
                    proxy_id: id.to_string(),
                    reason: reason.clone(),
                }));
            }
        }
        total
    }

    /// How far a backend has emptied that gets nothing new since version `since`. A count made
    /// under an older version does not prove anything: a request could have come after it.
    pub fn emptying(&self, backend: &(BackendSetName, BackendName), since: Version) -> Emptying {
        let mut emptying = Emptying { empty: true, ..Emptying::default() };
        for (id, proxy) in self.connected() {
            if proxy.hello.running.is_none_or(|running| running.version < since) {
                emptying.waiting_for.push(id.to_string());
            }
            let load = proxy.report.backends.get(backend).map_or(0, |load| load.in_flight);
            emptying.in_flight = emptying.in_flight.saturating_add(load);
            emptying.empty &= proxy.report.version >= since;
        }
        emptying.empty &= emptying.in_flight == 0 && emptying.waiting_for.is_empty();
        emptying
    }

    fn connected(&self) -> impl Iterator<Item = (&ProxyId, &Proxy)> {
        self.by_id.iter().filter(|(_, proxy)| proxy.connection.is_some())
    }

    fn current(&mut self, id: &ProxyId, connection: ConnectionId) -> Option<&mut Proxy> {
        let proxy = self.by_id.get_mut(id)?;
        let is_current = proxy.connection.as_ref().is_some_and(|(own, _)| *own == connection);
        is_current.then_some(proxy)
    }
}

// === impl Proxy ===

impl Proxy {
    fn describe(&self, id: &ProxyId, current: SnapshotId) -> v1::Proxy {
        let connected = self.connection.is_some();
        let running = self.hello.running.unwrap_or_default();
        v1::Proxy {
            id: id.to_string(),
            zone: self.hello.zone.clone(),
            address: self.hello.address.map(|address| address.to_string()).unwrap_or_default(),
            build: self.hello.build.clone(),
            connected,
            connected_since: Some(timestamp(self.connected_since)),
            disconnected_since: self.disconnected_since.map(timestamp),
            epoch: running.version.epoch,
            version: running.version.version,
            hash: self.hello.running.map(|id| id.digest.to_string()).unwrap_or_default(),
            in_sync: connected && running == current,
            applied_at: self.applied_at.map(timestamp),
            rejection: self.rejection.clone(),
            load: None,
            connections: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_common::snapshot::Digest;

    use super::*;

    const WALL: Duration = Duration::from_secs(1_700_000_000);

    fn proxy(id: impl std::fmt::Display) -> ProxyId {
        ProxyId::new(&id.to_string()).expect("a valid id")
    }

    fn snapshot(version: u64) -> SnapshotId {
        SnapshotId { version: Version { epoch: 1, version }, digest: Digest(version) }
    }

    fn backend() -> (BackendSetName, BackendName) {
        let name = "one";
        (
            BackendSetName::new("app").expect("a valid name"),
            BackendName::new(name).expect("a valid name"),
        )
    }

    fn report(version: u64, in_flight: u64) -> Report {
        let load = Load { in_flight, ejection: (in_flight == 0).then(|| "5xx".into()) };
        Report { version: snapshot(version).version, backends: [(backend(), load)].into() }
    }

    fn connect(proxies: &mut Proxies, id: &str, connection: u64) -> Option<Ended> {
        let hello = Hello { zone: "z".into(), build: "b".into(), address: None, running: None };
        let (end, _) = oneshot::channel();
        let ended = proxies.connect(&proxy(id), (ConnectionId(connection), end), hello, WALL);
        ended.map(|(_, why)| why)
    }

    fn lists(proxies: &Proxies) -> Vec<(String, bool, bool)> {
        let listed = proxies.list(snapshot(2)).into_iter();
        listed.map(|proxy| (proxy.id, proxy.connected, proxy.in_sync)).collect()
    }

    #[test]
    fn the_newer_of_two_connections_counts_and_the_older_is_ended() {
        let mut proxies = Proxies::default();
        assert_eq!(connect(&mut proxies, "p", 1), None);
        assert_eq!(connect(&mut proxies, "p", 2), Some(Ended::Replaced { by: None }));
        assert!(!proxies.applied(&proxy("p"), ConnectionId(1), snapshot(2), WALL));
        assert!(!proxies.disconnect(&proxy("p"), ConnectionId(1), WALL));
        assert_eq!(lists(&proxies), [("p".into(), true, false)]);
        assert!(proxies.applied(&proxy("p"), ConnectionId(2), snapshot(2), WALL));
        assert_eq!(lists(&proxies), [("p".into(), true, true)]);
    }

    #[test]
    fn a_rejection_is_remembered_until_something_is_applied() {
        let mut proxies = Proxies::default();
        connect(&mut proxies, "p", 1);
        proxies.rejected(&proxy("p"), ConnectionId(1), "too odd");
        assert_eq!(proxies.list(snapshot(2))[0].rejection, "too odd");
        proxies.applied(&proxy("p"), ConnectionId(1), snapshot(2), WALL);
        assert_eq!(proxies.list(snapshot(2))[0].rejection, "");
    }

    #[test]
    fn load_is_of_connected_proxies_as_they_last_reported() {
        let mut proxies = Proxies::default();
        for (id, connection) in [("a", 1), ("b", 2), ("c", 3)] {
            connect(&mut proxies, id, connection);
            proxies.report(&proxy(id), ConnectionId(connection), report(1, 100));
            proxies.report(&proxy(id), ConnectionId(connection), report(1, connection - 1));
        }
        proxies.disconnect(&proxy("c"), ConnectionId(3), WALL);
        let ejections = vec![v1::LocalEjection { proxy_id: "a".into(), reason: "5xx".into() }];
        let expected = FleetLoad { in_flight: 1, ejections };
        assert_eq!(proxies.load()[&backend()], expected);
    }

    #[test]
    fn a_backend_is_empty_once_everyone_said_so_under_the_drain() {
        let mut proxies = Proxies::default();
        let since = snapshot(2).version;
        let seen = |proxies: &Proxies| {
            let Emptying { in_flight, waiting_for, empty } = proxies.emptying(&backend(), since);
            (in_flight, waiting_for.join(" "), empty)
        };
        assert_eq!(seen(&proxies), (0, String::new(), true), "nobody is there");
        connect(&mut proxies, "a", 1);
        connect(&mut proxies, "b", 2);
        let (a, b) = (proxy("a"), proxy("b"));
        proxies.report(&a, ConnectionId(1), report(1, 3));
        assert_eq!(seen(&proxies), (3, "a b".into(), false));
        proxies.applied(&a, ConnectionId(1), snapshot(2), WALL);
        proxies.applied(&b, ConnectionId(2), snapshot(3), WALL);
        proxies.report(&a, ConnectionId(1), report(1, 0));
        proxies.report(&b, ConnectionId(2), report(3, 0));
        assert_eq!(seen(&proxies), (0, String::new(), false), "a's count is from before");
        proxies.report(&a, ConnectionId(1), report(2, 1));
        assert_eq!(seen(&proxies), (1, String::new(), false));
        proxies.report(&a, ConnectionId(1), report(2, 0));
        assert_eq!(seen(&proxies), (0, String::new(), true));
    }

    #[test]
    fn the_oldest_of_too_many_disconnected_proxies_is_forgotten() {
        let mut proxies = Proxies::default();
        for i in 0..=MOST_DISCONNECTED as u64 {
            connect(&mut proxies, &i.to_string(), i);
            let wall = WALL + Duration::from_secs(i);
            assert!(proxies.disconnect(&proxy(i), ConnectionId(i), wall));
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
}
