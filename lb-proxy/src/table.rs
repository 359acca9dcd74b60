//! The routing table: one snapshot, compiled.
//!
//! Immutable. A new version is a new table, which shares with the one before what did not change
//! and takes over what must outlive a version: live backends, retry budgets, counters.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use lb_common::{
    id::{BackendSetName, ListenerName, RouteName},
    snapshot::Snapshot,
    spec::{self, Action, Protocol},
};
use lb_routing::route::Routes;

use crate::{
    backend_set::BackendSet,
    metrics::{RouteMetrics, Sharded},
    retry::budget::RetryBudget,
};

#[derive(Debug, Default)]
pub struct RoutingTable {
    pub snapshot: Arc<Snapshot>,
    pub listeners: HashMap<ListenerName, Arc<Listener>>,
    pub routes: HashMap<RouteName, Arc<Route>>,
    pub backend_sets: HashMap<BackendSetName, Arc<BackendSet>>,
}

#[derive(Debug)]
pub struct Listener {
    pub spec: Arc<spec::Listener>,
    pub service: Service,
}

/// What is done with what a listener accepts.
#[derive(Debug)]
pub enum Service {
    Http(Box<Routes<Arc<Route>>>),
    Tcp(BackendSetName),
}

/// A route and what it needs while a request follows it.
#[derive(Debug)]
pub struct Route {
    pub spec: Arc<spec::Route>,
    pub target: Target,
    pub budget: Arc<RetryBudget>,
    pub metrics: Arc<Sharded<RouteMetrics>>,
}

#[derive(Debug)]
pub enum Target {
    Forward(Split),
    Redirect(spec::Redirect),
    Answer { answer: spec::Answer, body: Bytes },
}

/// Backend sets by weight.
#[derive(Debug)]
pub struct Split {
    /// Each with the sum of the weights up to and including its own; those of weight 0 are absent.
    sets: Vec<(u64, Arc<BackendSet>)>,
}

impl RoutingTable {
    /// Compiles a snapshot, which is consistent: whatever it names is in it.
    pub fn build(
        snapshot: &Arc<Snapshot>,
        former: &Self,
        workers: usize,
        rng: &mut fastrand::Rng,
    ) -> Self {
        let desired = &snapshot.desired;
        let mut backend_sets = HashMap::with_capacity(desired.backend_sets.len());
        for (name, spec) in &desired.backend_sets {
            let old = former.backend_sets.get(name);
            let unchanged = old.filter(|old| {
                let same_health = snapshot.unhealthy.of(name) == former.snapshot.unhealthy.of(name);
                same_health && Arc::ptr_eq(&old.spec, spec)
            });
            let set = unchanged.cloned().unwrap_or_else(|| {
                let is_healthy = |backend: &_| !snapshot.unhealthy.contains(name, backend);
                let old = old.map(|old| &**old);
                Arc::new(BackendSet::new(spec, is_healthy, old, workers, rng))
            });
            backend_sets.insert(name.clone(), set);
        }
        let routes: HashMap<_, _> = desired
            .routes
            .iter()
            .map(|(name, spec)| {
                let route = Route::new(spec, &backend_sets, former.routes.get(name), workers);
                (name.clone(), Arc::new(route))
            })
            .collect();
        let listeners = desired.listeners.values().map(|listener| {
            let service = match &listener.protocol {
                Protocol::Tcp { backend_set } => Service::Tcp(backend_set.clone()),
                Protocol::Http => {
                    let routes = routes.values().filter(|route| route.spec.serves(&listener.name));
                    let found = |route: &Arc<Route>| (Arc::clone(&route.spec), Arc::clone(route));
                    Service::Http(Box::new(Routes::new(routes.map(found))))
                }
            };
            (listener.name.clone(), Arc::new(Listener { spec: Arc::clone(listener), service }))
        });
        let listeners = listeners.collect();
        Self { snapshot: Arc::clone(snapshot), listeners, routes, backend_sets }
    }

    /// What says which backends there are: [`lb_routing::backend::Live::id`].
    pub fn live_ids(&self) -> impl Iterator<Item = u64> {
        let backends = self.backend_sets.values().flat_map(|set| &set.backends);
        backends.map(|backend| backend.live.id)
    }
}

impl Route {
    fn new(
        spec: &Arc<spec::Route>,
        backend_sets: &HashMap<BackendSetName, Arc<BackendSet>>,
        former: Option<&Arc<Self>>,
        workers: usize,
    ) -> Self {
        let target = match &spec.action {
            Action::Forward(sets) => Target::Forward(Split::new(sets, backend_sets)),
            Action::Redirect(redirect) => Target::Redirect(redirect.clone()),
            Action::Answer(answer) => Target::Answer {
                body: Bytes::copy_from_slice(answer.body.as_bytes()),
                answer: answer.clone(),
            },
        };
        let percent = spec.retry.budget_percent;
        let same_budget = former.filter(|old| old.spec.retry.budget_percent == percent);
        Self {
            spec: Arc::clone(spec),
            target,
            budget: match same_budget {
                Some(old) => Arc::clone(&old.budget),
                None => Arc::new(RetryBudget::new(percent)),
            },
            metrics: match former {
                Some(old) => Arc::clone(&old.metrics),
                None => Arc::new(Sharded::new(workers)),
            },
        }
    }
}

impl Split {
    fn new(
        sets: &[spec::WeightedBackendSet],
        backend_sets: &HashMap<BackendSetName, Arc<BackendSet>>,
    ) -> Self {
        let mut sum = 0;
        let sets = sets
            .iter()
            .filter(|set| set.weight > 0)
            .filter_map(|set| {
                sum += u64::from(set.weight);
                Some((sum, Arc::clone(backend_sets.get(&set.backend_set)?)))
            })
            .collect();
        Self { sets }
    }

    pub fn choose(&self, rng: &mut fastrand::Rng) -> &Arc<BackendSet> {
        let sets = &self.sets[..];
        if let [(_, only)] = sets {
            return only;
        }
        let total = sets.last().map_or(1, |(sum, _)| *sum);
        let ticket = rng.u64(..total);
        &sets[sets.partition_point(|(sum, _)| *sum <= ticket)].1
    }
}

#[cfg(test)]
mod tests {
    use lb_common::snapshot::{UnhealthyBackends, Version};
    use lb_proto::update::seal;

    use super::*;
    use crate::fixture;

    fn table(version: u64, text: &str, former: &RoutingTable) -> RoutingTable {
        let version = Version { epoch: 1, version };
        let desired = fixture::desired(text);
        let sealed = seal(version, 1, desired, UnhealthyBackends::default());
        RoutingTable::build(&Arc::new(sealed.snapshot), former, 1, &mut fastrand::Rng::with_seed(1))
    }

    const TWO: &str = "
        routes = [{ name = 'r', backend_set = 'a' }]
        [[backend_sets]]
        name = 'a'
        backends = [{ address = '127.0.0.1:1' }, { address = '127.0.0.1:2' }]";

    #[test]
    fn what_is_live_of_a_backend_outlives_every_change_but_its_address() {
        let first = table(1, TWO, &RoutingTable::default());
        let changed = TWO.replace("'127.0.0.1:1' }", "'127.0.0.1:1', weight = 9 }");
        let changed = changed.replace("127.0.0.1:2", "127.0.0.1:3");
        let second = table(2, &changed, &first);
        let live =
            |table: &RoutingTable, i: usize| Arc::clone(&table.backend_sets["a"].backends[i].live);
        assert!(Arc::ptr_eq(&live(&first, 0), &live(&second, 0)), "a weight is nothing to it");
        assert!(!Arc::ptr_eq(&live(&first, 1), &live(&second, 1)), "an address is another server");
        let budget = |table: &RoutingTable| Arc::clone(&table.routes["r"].budget);
        assert!(Arc::ptr_eq(&budget(&first), &budget(&second)));
    }

    #[test]
    fn a_split_goes_by_weight() {
        let table = table(
            1,
            "
            backend_sets = [{ name = 'a' }, { name = 'b' }, { name = 'none' }]
            [[routes]]
            name = 'r'
            forward = [
                { backend_set = 'none', weight = 0 },
                { backend_set = 'a', weight = 9 },
                { backend_set = 'b' },
            ]",
            &RoutingTable::default(),
        );
        let Target::Forward(split) = &table.routes["r"].target else { panic!("it forwards") };
        let mut rng = fastrand::Rng::with_seed(7);
        let chosen: Vec<_> =
            (0..10_000).map(|_| split.choose(&mut rng).spec.name.to_string()).collect();
        let of = |name: &str| chosen.iter().filter(|chosen| *chosen == name).count();
        assert_eq!(of("a") + of("b"), 10_000);
        assert!((8_800..9_200).contains(&of("a")), "{}", of("a"));
    }
}
