//! The proxies of the fleet: who is connected, what each runs, and what it reported.
//!
//! Pure. A connection is told from an earlier one of the same proxy by its [`ConnectionId`], so
//! what a replaced connection still says changes nothing.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::{Duration, Instant},
};

use lb_common::{
    id::{BackendName, BackendSetName, ProxyId},
    snapshot::{SnapshotId, Version},
};
use lb_proto::v1;
use tokio::sync::oneshot;

use crate::{
    metrics, timestamp,
    traffic::{FleetTraffic, Increase, ProxyTraffic},
};

/// So many proxies may be connected at a time.
const MOST_CONNECTED: usize = 10_000;
/// So many others stay listed.
const MOST_DISCONNECTED: usize = 1_000;

/// A proxy that was disconnected for longer is taken to be gone.
const MISSED_FOR: Duration = Duration::from_secs(30);

/// Now, in both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub now: Instant,
    pub wall: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(pub u64);

/// What a proxy began to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Began {
    /// Something else than before, on a connection of that time.
    New { connected: Instant },
    /// What it ran already.
    Same,
}

/// What a proxy says that it runs.
#[derive(Clone, Copy, Debug)]
pub struct Runs {
    pub snapshot: SnapshotId,
    /// 0 if it is not known.
    pub revision: u64,
    /// It is not kept up to date on an earlier revision, because it refuses what is current.
    pub is_current: bool,
}

/// What a proxy will not run, and what it goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub revision: u64,
    /// 0 if it is not known.
    pub runs: u64,
}

/// What a proxy says about itself when it connects.
#[derive(Clone, Debug)]
pub struct Hello {
    pub zone: String,
    pub build: String,
    pub address: Option<SocketAddr>,
    pub running: Option<SnapshotId>,
    /// Of that; 0 if it is not known.
    pub revision: u64,
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

type Backend = (BackendSetName, BackendName);

/// What a proxy sees of its backends that is other than it told before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub version: Version,
    pub backends: Vec<(Backend, BackendLoad)>,
    /// Not all that changed is in it.
    pub is_partial: bool,
    /// Client connections.
    pub connections: u64,
    /// In some reports only.
    pub increase: Option<Increase>,
}

/// What a proxy has told over its connection.
#[derive(Debug, Default)]
struct Told {
    /// All that it said holds under this version.
    version: Version,
    /// Of those that are not idle.
    backends: HashMap<Backend, BackendLoad>,
    in_flight: u64,
    connections: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackendLoad {
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
    /// Proxies that still send it new requests, or may.
    pub waiting_for: Vec<String>,
    /// Nobody sends it anything and nobody waits for it.
    pub empty: bool,
}

/// How far something has come that was published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    pub connected: usize,
    /// Proxies that do not have it.
    pub behind: Vec<String>,
}

#[derive(Debug, Default)]
pub struct Proxies {
    by_id: BTreeMap<ProxyId, Proxy>,
    traffic: FleetTraffic,
    /// What all connected proxies told, of backends that are not idle.
    busy: HashMap<Backend, Busy>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Busy {
    in_flight: u64,
    /// So many keep it out.
    ejected: usize,
}

#[derive(Debug)]
struct Proxy {
    hello: Hello,
    connection: Option<(ConnectionId, End)>,
    connected: Moment,
    disconnected: Option<Moment>,
    applied_at: Option<Duration>,
    rejection: String,
    /// Of that.
    rejected_revision: u64,
    problems: Vec<v1::Problem>,
    told: Told,
    traffic: ProxyTraffic,
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
        moment: Moment,
    ) -> Option<(End, Ended)> {
        self.forget_load(id);
        let old = self.by_id.get_mut(id).and_then(|proxy| proxy.connection.take());
        if old.is_none() && self.connected().count() >= MOST_CONNECTED {
            return Some((connection.1, Ended::TooMany));
        }
        let by = hello.address;
        let proxy = Proxy {
            applied_at: self.by_id.get(id).and_then(|proxy| proxy.applied_at),
            hello,
            connection: Some(connection),
            connected: moment,
            disconnected: None,
            rejection: String::new(),
            rejected_revision: 0,
            problems: Vec::new(),
            told: Told::default(),
            traffic: ProxyTraffic::default(),
        };
        self.by_id.insert(id.clone(), proxy);
        old.map(|(_, end)| (end, Ended::Replaced { by }))
    }

    /// Returns whether this was the proxy's connection.
    pub fn disconnect(&mut self, id: &ProxyId, connection: ConnectionId, moment: Moment) -> bool {
        let Some(proxy) = self.current(id, connection) else { return false };
        proxy.connection = None;
        proxy.disconnected = Some(moment);
        proxy.traffic = ProxyTraffic::default();
        self.forget_load(id);
        let gone = self.by_id.iter().filter_map(|(id, p)| Some((p.disconnected?.now, id)));
        if gone.clone().count() > MOST_DISCONNECTED
            && let Some(oldest) = gone.min().map(|(_, id)| id.clone())
        {
            self.by_id.remove(&oldest);
        }
        true
    }

    /// Returns what that changed; nothing, if this is not the proxy's connection.
    pub fn applied(
        &mut self,
        id: &ProxyId,
        connection: ConnectionId,
        runs: Runs,
        wall: Duration,
    ) -> Option<Began> {
        let proxy = self.current(id, connection)?;
        let Runs { snapshot, revision, is_current } = runs;
        let before = proxy.hello.running.replace(snapshot);
        proxy.applied_at = Some(wall);
        if is_current {
            proxy.rejection.clear();
            proxy.rejected_revision = 0;
        }
        proxy.hello.revision = revision;
        Some(match before == Some(snapshot) {
            true => Began::Same,
            false => Began::New { connected: proxy.connected.now },
        })
    }

    /// Returns whether this is news.
    pub fn rejected(
        &mut self,
        id: &ProxyId,
        connection: ConnectionId,
        reason: &str,
        refusal: Option<Refusal>,
    ) -> bool {
        let Some(proxy) = self.current(id, connection) else { return false };
        proxy.rejection = reason.into();
        proxy.rejected_revision = refusal.map_or(0, |refusal| refusal.revision);
        true
    }

    /// Whether a proxy refuses what is current and runs that revision.
    pub fn is_followed(&self, revision: u64) -> bool {
        let mut connected = self.connected();
        connected.any(|(_, one)| !one.rejection.is_empty() && one.hello.revision == revision)
    }

    /// Returns them in one text, if they are news.
    pub fn problems(
        &mut self,
        id: &ProxyId,
        connection: ConnectionId,
        problems: Vec<v1::Problem>,
    ) -> Option<String> {
        let proxy = self.current(id, connection)?;
        let is_news = proxy.problems != problems;
        proxy.problems = problems;
        is_news.then(|| told(&proxy.problems))
    }

    pub fn report(&mut self, id: &ProxyId, connection: ConnectionId, report: Report, now: Instant) {
        let Some(proxy) = current(&mut self.by_id, id, connection) else { return };
        let Report { version, backends, is_partial, connections, increase } = report;
        if let Some(increase) = increase {
            self.traffic.report(&mut proxy.traffic, &increase, now);
        }
        for (backend, load) in backends {
            let former = match load == BackendLoad::default() {
                true => proxy.told.backends.remove(&backend),
                false => proxy.told.backends.insert(backend.clone(), load.clone()),
            };
            let former = former.unwrap_or_default();
            proxy.told.in_flight = proxy.told.in_flight.saturating_sub(former.in_flight);
            proxy.told.in_flight = proxy.told.in_flight.saturating_add(load.in_flight);
            settle(&mut self.busy, backend, &former, &load);
        }
        proxy.told.connections = connections;
        if !is_partial {
            proxy.told.version = version;
        }
    }

    /// What a proxy told was of a connection that is no more.
    fn forget_load(&mut self, id: &ProxyId) {
        let Some(proxy) = self.by_id.get_mut(id) else { return };
        for (backend, load) in std::mem::take(&mut proxy.told).backends {
            settle(&mut self.busy, backend, &load, &BackendLoad::default());
        }
    }

    /// All that are known, and whether each runs what is due: none does while that is yet to be published.
    pub fn list(&self, due: Option<SnapshotId>, now: Instant) -> Vec<v1::Proxy> {
        let describe = |(id, proxy): (&ProxyId, &Proxy)| v1::Proxy {
            load: proxy.connection.as_ref().map(|_| v1::Load {
                in_flight: proxy.told.in_flight,
                ..self.traffic.proxy(&proxy.traffic, now)
            }),
            ..proxy.describe(id, due)
        };
        self.by_id.iter().map(describe).collect()
    }

    /// Those that are connected and do not run all of what is current.
    pub fn elsewhere(&self, current: SnapshotId) -> Vec<v1::Elsewhere> {
        let is_elsewhere = |(_, proxy): &(&ProxyId, &Proxy)| {
            proxy.hello.running != Some(current) || !proxy.problems.is_empty()
        };
        let tell = |(id, proxy): (&ProxyId, &Proxy)| v1::Elsewhere {
            proxy_id: id.to_string(),
            revision: proxy.hello.revision,
            why: match proxy.rejection.as_str() {
                "" => told(&proxy.problems),
                why if proxy.rejected_revision == 0 => format!("refused an update: {why}"),
                why => format!("refused revision {}: {why}", proxy.rejected_revision),
            },
        };
        self.connected().filter(is_elsewhere).map(tell).collect()
    }

    /// The traffic of all connected proxies together.
    pub fn fleet_load(&self, now: Instant) -> v1::Load {
        let in_flight = self.connected().map(|(_, proxy)| proxy.told.in_flight);
        let in_flight = in_flight.fold(0, u64::saturating_add);
        v1::Load { in_flight, ..self.traffic.fleet(now) }
    }

    /// The rates and latencies of some backends together; see [`Proxies::load`] for the rest.
    pub fn rates<'a>(
        &self,
        backends: impl IntoIterator<Item = &'a Backend>,
        now: Instant,
    ) -> v1::Load {
        self.traffic.backends(backends, now)
    }

    /// All that are known, as metrics have them. `overtaken` says when the first snapshot was
    /// published that is newer than what a proxy runs.
    pub fn metrics(
        &self,
        current: SnapshotId,
        overtaken: impl Fn(Option<SnapshotId>) -> Instant,
        now: Instant,
    ) -> Vec<metrics::Proxy> {
        let describe = |(id, proxy): (&ProxyId, &Proxy)| {
            let runs_it = proxy.hello.running == Some(current);
            let since = overtaken(proxy.hello.running).max(proxy.connected.now);
            metrics::Proxy {
                id: id.to_string(),
                is_connected: proxy.connection.is_some(),
                is_in_sync: runs_it && proxy.problems.is_empty(),
                is_rejecting: !proxy.rejection.is_empty() || !proxy.problems.is_empty(),
                lag: match runs_it {
                    true => Duration::ZERO,
                    false => now.saturating_duration_since(since),
                },
            }
        };
        self.by_id.iter().map(describe).collect()
    }

    /// What all connected proxies told of a backend.
    pub fn load(&self, backend: &Backend) -> FleetLoad {
        let Some(Busy { in_flight, ejected }) = self.busy.get(backend).copied() else {
            return FleetLoad::default();
        };
        let ejection = |(id, proxy): (&ProxyId, &Proxy)| {
            let reason = proxy.told.backends.get(backend)?.ejection.clone()?;
            Some(v1::LocalEjection { proxy_id: id.to_string(), reason })
        };
        let ejections = match ejected {
            0 => Vec::new(),
            _ => self.connected().filter_map(ejection).collect(),
        };
        FleetLoad { in_flight, ejections }
    }

    /// How far a backend has emptied that gets nothing new since version `since`. A count made
    /// under an older version does not prove anything: a request could have come after it. Nor does the
    /// silence of a proxy that was there a moment ago.
    pub fn emptying(
        &self,
        backend: &Backend,
        since: Version,
        current: Version,
        now: Instant,
    ) -> Emptying {
        let mut emptying = Emptying { empty: true, ..Emptying::default() };
        let missed = self.by_id.iter().filter(|(_, proxy)| proxy.is_missed(now));
        emptying.waiting_for.extend(missed.map(|(id, _)| id.to_string()));
        for (id, proxy) in self.connected() {
            // One that runs nothing sends nothing, and begins with what is current.
            let Some(running) = proxy.hello.running else { continue };
            if !running.version.is_within(since, current) {
                emptying.waiting_for.push(id.to_string());
            }
            let load = proxy.told.backends.get(backend).map_or(0, |load| load.in_flight);
            emptying.in_flight = emptying.in_flight.saturating_add(load);
            emptying.empty &= proxy.told.version.is_within(since, current);
        }
        emptying.empty &= emptying.in_flight == 0 && emptying.waiting_for.is_empty();
        emptying
    }

    /// How many are connected, and who of those does not run version `since` or a later one yet. Who was
    /// connected a moment ago may still have clients.
    pub fn behind(&self, since: Version, current: Version, now: Instant) -> Spread {
        let mut spread = Spread::default();
        for (id, proxy) in &self.by_id {
            let is_connected = proxy.connection.is_some();
            spread.connected += usize::from(is_connected);
            let running = proxy.hello.running;
            let is_behind =
                running.is_none_or(|running| !running.version.is_within(since, current));
            if is_behind && (is_connected || proxy.is_missed(now)) {
                spread.behind.push(id.to_string());
            }
        }
        spread
    }

    fn connected(&self) -> impl Iterator<Item = (&ProxyId, &Proxy)> {
        self.by_id.iter().filter(|(_, proxy)| proxy.connection.is_some())
    }

    fn current(&mut self, id: &ProxyId, connection: ConnectionId) -> Option<&mut Proxy> {
        current(&mut self.by_id, id, connection)
    }
}

fn told(problems: &[v1::Problem]) -> String {
    let texts = problems.iter().map(|one| format!("{}: {}", one.resource, one.reason));
    texts.collect::<Vec<_>>().join("; ")
}

/// Puts what is told of a backend in place of what was.
fn settle(
    busy: &mut HashMap<Backend, Busy>,
    backend: Backend,
    former: &BackendLoad,
    load: &BackendLoad,
) {
    let sum = busy.entry(backend.clone()).or_default();
    let without = sum.in_flight.saturating_sub(former.in_flight);
    sum.in_flight = without.saturating_add(load.in_flight);
    let without = sum.ejected.saturating_sub(usize::from(former.ejection.is_some()));
    sum.ejected = without + usize::from(load.ejection.is_some());
    if *sum == Busy::default() {
        busy.remove(&backend);
    }
}

/// The proxy, if this is its connection.
fn current<'a>(
    by_id: &'a mut BTreeMap<ProxyId, Proxy>,
    id: &ProxyId,
    connection: ConnectionId,
) -> Option<&'a mut Proxy> {
    let proxy = by_id.get_mut(id)?;
    let is_current = proxy.connection.as_ref().is_some_and(|(own, _)| *own == connection);
    is_current.then_some(proxy)
}

// === impl Proxy ===

impl Proxy {
    /// It was connected a moment ago, and may still have clients.
    fn is_missed(&self, now: Instant) -> bool {
        self.disconnected.is_some_and(|since| now < since.now + MISSED_FOR)
    }

    fn describe(&self, id: &ProxyId, due: Option<SnapshotId>) -> v1::Proxy {
        let connected = self.connection.is_some();
        let running = self.hello.running.unwrap_or_default();
        v1::Proxy {
            id: id.to_string(),
            zone: self.hello.zone.clone(),
            address: self.hello.address.map(|address| address.to_string()).unwrap_or_default(),
            build: self.hello.build.clone(),
            connected,
            connected_since: Some(timestamp(self.connected.wall)),
            disconnected_since: self.disconnected.map(|since| timestamp(since.wall)),
            epoch: running.version.epoch,
            version: running.version.version,
            hash: self.hello.running.map(|id| id.digest.to_string()).unwrap_or_default(),
            in_sync: connected && due.is_some_and(|due| running == due) && self.problems.is_empty(),
            applied_at: self.applied_at.map(timestamp),
            rejection: self.rejection.clone(),
            load: None,
            connections: self.told.connections,
            problems: self.problems.clone(),
            revision: self.hello.revision,
            rejected_revision: self.rejected_revision,
        }
    }
}

#[cfg(test)]
mod tests;
