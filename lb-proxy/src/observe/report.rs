//! What there is to tell a controller of a proxy's traffic: what goes on now, and all it has counted.
//!
//! Everything is read from what is counted anyway, so a look costs requests nothing.
//!
//! # Invariant
//!
//! Counts never go down while the proxy lives, whatever happens to the routes they were made on.

use std::sync::Arc;

use lb_common::id::{BackendName, BackendSetName};
use lb_proto::v1;
use lb_routing::millis::Millis;

use crate::{
    metrics::{RouteMetrics, Sharded, WorkerMetrics},
    table::{Route, RoutingTable},
};

pub type Key = (BackendSetName, BackendName);

/// What one look sees.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// That are busy; with totals, all that were used.
    pub backends: Vec<BackendSeen>,
    /// Of clients' requests, since the proxy began.
    pub totals: Option<v1::Totals>,
    pub connections: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct BackendSeen {
    pub key: Key,
    pub in_flight: u64,
    /// Why this proxy keeps it out, if it does.
    pub ejection: Option<String>,
    /// It gets nothing new.
    pub is_leaving: bool,
    /// Of attempts at it, since the proxy began.
    pub totals: Option<v1::Totals>,
}

/// Counts that no table has any more.
#[derive(Debug, Default)]
pub struct Past {
    /// Of routes that are gone, and that nobody follows any more.
    ended: v1::Totals,
    /// Of routes that are gone, and that requests may still follow.
    ending: Vec<Sharded<RouteMetrics>>,
}

impl Past {
    /// Takes over what is counted on routes that are in no table any more.
    pub fn take(&mut self, gone: &[Arc<Route>]) {
        self.ending.extend(gone.iter().map(|route| route.metrics.clone()));
    }

    fn totals(&mut self) -> v1::Totals {
        let Self { ended, ending } = self;
        ending.retain(|metrics| {
            let is_held = metrics.is_shared();
            if !is_held {
                add(ended, &metrics.totals());
            }
            is_held
        });
        let mut totals = ended.clone();
        for metrics in ending {
            add(&mut totals, &metrics.totals());
        }
        totals
    }
}

/// What goes on, with all counts if `totals`.
pub fn look(
    table: &RoutingTable,
    workers: &Sharded<WorkerMetrics>,
    past: &mut Past,
    totals: bool,
    now: Millis,
) -> Seen {
    let mut backends = Vec::new();
    for (name, set) in table.backend_sets() {
        for (backend, metrics) in set.counted() {
            let in_flight = backend.live.in_flight();
            let ejection = backend.live.outlier.ejection(now);
            let totals = totals.then(|| trimmed(metrics.totals()));
            let is_used = totals.as_ref().is_some_and(|totals| totals.requests > 0);
            if in_flight > 0 || ejection.is_some() || is_used {
                backends.push(BackendSeen {
                    key: (name.clone(), backend.name.clone()),
                    in_flight,
                    ejection: ejection.map(|ejection| ejection.failure.to_string()),
                    is_leaving: !backend.member,
                    totals,
                });
            }
        }
    }
    let accepted = workers.sum(|shard| &shard.connections_accepted);
    let closed = workers.sum(|shard| &shard.connections_closed);
    Seen {
        backends,
        totals: totals.then(|| {
            let mut totals = past.totals();
            for route in table.routes.values() {
                add(&mut totals, &route.metrics.totals());
            }
            totals.requests += workers.sum(|shard| &shard.unrouted);
            trimmed(totals)
        }),
        // Two counters, read one after the other.
        connections: accepted.saturating_sub(closed),
    }
}

fn add(sum: &mut v1::Totals, more: &v1::Totals) {
    sum.requests += more.requests;
    sum.errors += more.errors;
    if sum.latency.len() < more.latency.len() {
        sum.latency.resize(more.latency.len(), 0);
    }
    for (sum, more) in sum.latency.iter_mut().zip(&more.latency) {
        *sum += more;
    }
}

/// Buckets at the end that nothing was counted in need not be sent.
fn trimmed(mut totals: v1::Totals) -> v1::Totals {
    let used = totals.latency.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
    totals.latency.truncate(used);
    totals
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;
    use lb_common::snapshot::Version;
    use lb_proto::update::{Content, Sealed};

    use super::*;
    use crate::{fixture, table::Built};

    const STATE: &str = "
        routes = [{ name = 'r', backend_set = 'a' }, { name = 'gone', backend_set = 'a' }]
        [[backend_sets]]
        name = 'a'
        backends = [{ name = 'one', address = '127.0.0.1:1' }, { address = '127.0.0.1:2' }]";

    fn build(text: &str, former: &RoutingTable) -> Built {
        let version = Version { epoch: 1, version: 1 };
        let sealed = Sealed::new(version, 1, Content::of(fixture::desired(text)));
        let mut rng = fastrand::Rng::with_seed(1);
        RoutingTable::build(&sealed.snapshot, former, 1, 0, &mut rng).expect("it can be used")
    }

    fn table(text: &str, former: &RoutingTable) -> RoutingTable {
        build(text, former).table
    }

    fn answered(table: &RoutingTable, route: &str, status: StatusCode) {
        table.routes[route].metrics.of(0).record(status, Duration::from_micros(200));
    }

    #[test]
    fn what_is_idle_is_told_only_with_its_counts() {
        let table = table(STATE, &RoutingTable::default());
        let workers = Sharded::<WorkerMetrics>::new(1);
        let (_, one) = table
            .backend_sets()
            .next()
            .expect("it has one")
            .1
            .counted()
            .next()
            .expect("it has two");
        one.of(0).attempts.increment();
        one.of(0).attempts.increment();
        one.of(0).resets.increment();
        one.of(0).latency.record(Duration::from_micros(200));
        workers.of(0).connections_accepted.add(3);
        workers.of(0).connections_closed.increment();

        let mut past = Past::default();
        let now = look(&table, &workers, &mut past, false, 0);
        assert_eq!(now, Seen { connections: 2, ..Seen::default() });
        let all = look(&table, &workers, &mut past, true, 0);
        assert_eq!(all.totals, Some(v1::Totals::default()));
        let [backend] = &all.backends[..] else { panic!("one was used: {all:?}") };
        let expected = v1::Totals { requests: 2, errors: 1, latency: vec![0, 1] };
        assert_eq!((backend.key.1.as_str(), &backend.totals), ("one", &Some(expected)));
    }

    #[test]
    fn counts_outlive_their_routes_and_what_still_follows_them_counts() {
        let workers = Sharded::<WorkerMetrics>::new(1);
        let (former, mut past) = (table(STATE, &RoutingTable::default()), Past::default());
        answered(&former, "gone", StatusCode::OK);
        answered(&former, "r", StatusCode::BAD_GATEWAY);
        workers.of(0).unrouted.increment();

        let without = STATE.replace(", { name = 'gone', backend_set = 'a' }", "");
        let Built { table: next, gone_routes, .. } = build(&without, &former);
        past.take(&gone_routes);
        drop(gone_routes);
        let totals = |past: &mut Past| look(&next, &workers, past, true, 0).totals;
        let counted = |requests, errors, answers| {
            Some(v1::Totals { requests, errors, latency: vec![0, answers] })
        };
        assert_eq!(totals(&mut past), counted(3, 1, 2));
        answered(&former, "gone", StatusCode::BAD_GATEWAY);
        assert_eq!(totals(&mut past), counted(4, 2, 3));
        drop(former);
        assert_eq!(totals(&mut past), counted(4, 2, 3));
        assert_eq!(past.ending.len(), 0, "nothing is kept of it but the counts");
        assert_eq!(totals(&mut past), counted(4, 2, 3));
    }
}
