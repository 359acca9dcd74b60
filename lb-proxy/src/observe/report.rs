//! What a proxy tells its controller about its traffic: what goes on now, and all it has counted.
//!
//! Everything is read from what is counted anyway, so a report costs requests nothing.
//!
//! # Invariant
//!
//! Counts never go down while the proxy lives, whatever happens to the routes they were made on.

use std::sync::Arc;

use lb_proto::v1;
use lb_routing::{millis::Millis, outlier::Ejection};

use crate::{
    metrics::{RouteMetrics, Sharded, WorkerMetrics},
    table::{Route, RoutingTable},
};

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
pub fn report(
    table: &RoutingTable,
    workers: &Sharded<WorkerMetrics>,
    past: &mut Past,
    totals: bool,
    now: Millis,
) -> v1::Report {
    let mut backends = Vec::new();
    for (name, set) in table.backend_sets() {
        for (backend, metrics) in set.counted() {
            let in_flight = backend.live.in_flight();
            let ejection = backend.live.outlier.ejection(now);
            let totals = totals.then(|| trimmed(metrics.totals()));
            let is_used = totals.as_ref().is_some_and(|totals| totals.requests > 0);
            if in_flight > 0 || ejection.is_some() || is_used {
                backends.push(v1::BackendReport {
                    backend_set: name.to_string(),
                    backend: backend.name.to_string(),
                    in_flight,
                    ejection: ejection.map(to_wire),
                    totals,
                });
            }
        }
    }
    // The order of a hash map differs between two calls; equal reports are to be equal.
    backends.sort_by(|a, b| (&a.backend_set, &a.backend).cmp(&(&b.backend_set, &b.backend)));
    let accepted = workers.sum(|shard| &shard.connections_accepted);
    let closed = workers.sum(|shard| &shard.connections_closed);
    v1::Report {
        backends,
        snapshot: None,
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

fn to_wire(ejection: Ejection) -> v1::Ejection {
    // Whole seconds, so that a report does not differ at each look.
    let seconds: Millis = ejection.remaining.div_ceil(1_000);
    v1::Ejection {
        reason: ejection.failure.to_string(),
        remaining: Some(prost_types::Duration {
            seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
            nanos: 0,
        }),
    }
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
        let now = report(&table, &workers, &mut past, false, 0);
        assert_eq!(now, v1::Report { connections: 2, ..v1::Report::default() });
        let all = report(&table, &workers, &mut past, true, 0);
        assert_eq!(all.totals, Some(v1::Totals::default()));
        let [backend] = &all.backends[..] else { panic!("one was used: {all:?}") };
        let expected = v1::Totals { requests: 2, errors: 1, latency: vec![0, 1] };
        assert_eq!((backend.backend.as_str(), &backend.totals), ("one", &Some(expected)));
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
        let totals = |past: &mut Past| report(&next, &workers, past, true, 0).totals;
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
