//! A snapshot, compiled.
//!
//! Listeners and backend sets keep their slots from version to version, so that what names them by
//! slot, a route for instance, is shared with the version before as long as it did not change itself.
//! A flip of health costs one new backend set, and nothing else, however many there are.

use std::{collections::BTreeSet, rc::Rc, sync::Arc};

use lb_common::{
    id::{BackendSetName, ListenerName, RouteName},
    map::{Map, changes, differ},
    snapshot::Snapshot,
    spec::{self, DesiredState, Protocol},
};
use lb_routing::{alpn, millis::Millis, route::Routes};

use super::{
    backend_set::{BackendSet, Parts},
    backend_tls::BackendTls,
    challenges::Challenges,
    listener::{Listener, Presence, Service},
    route::Route,
    slots::Slots,
    tcp::Tcp,
    tls::{self, Certificates, ListenerTls, Unusable},
};
use crate::connections::Terms;

/// A worker's hold on a table: counted by its thread alone.
pub type View = Rc<Arc<RoutingTable>>;

#[derive(Clone, Debug, Default)]
pub struct RoutingTable {
    pub snapshot: Arc<Snapshot>,
    pub routes: Map<RouteName, Arc<Route>>,
    pub certificates: Certificates,
    /// What CAs are answered, while one may ask.
    pub challenges: Option<Arc<Challenges>>,
    listeners: Slots<ListenerName, Listener>,
    /// Of listeners that are gone, while connections that they accepted are open.
    gone: Vec<Arc<Listener>>,
    backend_sets: Slots<BackendSetName, BackendSet>,
}

/// A table, and how it differs from the one before.
#[derive(Debug)]
pub struct Built {
    pub table: RoutingTable,
    /// That were made anew.
    pub backend_sets: Vec<Arc<BackendSet>>,
    /// That it does not have.
    pub gone_routes: Vec<Arc<Route>>,
}

/// The next table on its way.
struct Build<'a> {
    snapshot: &'a Snapshot,
    former: &'a RoutingTable,
    next: RoutingTable,
    workers: usize,
    /// What others are made of is new: a certificate, or what is in a file.
    has_new_material: bool,
    has_new_listeners: bool,
}

impl RoutingTable {
    /// Compiles a snapshot, which is consistent: whatever it names is in it. What did not change is taken
    /// over without a look at it.
    ///
    /// # Errors
    /// If a certificate cannot be used.
    pub fn build(
        snapshot: &Arc<Snapshot>,
        former: &Self,
        workers: usize,
        now: Millis,
        rng: &mut fastrand::Rng,
    ) -> Result<Built, Unusable> {
        let (was, is) = (&former.snapshot, snapshot);
        let mut build = Build {
            snapshot,
            former,
            next: Self { snapshot: Arc::clone(snapshot), ..former.clone() },
            workers,
            has_new_material: differ(&was.materials, &is.materials)
                || differ(&was.desired.certificates, &is.desired.certificates),
            has_new_listeners: differ(&was.desired.listeners, &is.desired.listeners),
        };
        build.certificates()?;
        build.next.gone = former.gone_by(&is.desired);
        let backend_sets = build.backend_sets(now, rng)?;
        let (routes, gone_routes) = build.routes();
        build.listeners(&routes)?;
        Ok(Built { table: build.next, backend_sets, gone_routes })
    }

    /// The listeners that connections may still be of, and that are not among these.
    fn gone_by(&self, desired: &DesiredState) -> Vec<Arc<Listener>> {
        let leaves = |l: &&Arc<Listener>| !desired.listeners.contains_key(&l.spec.name);
        let gone = self.gone.iter().chain(self.listeners().filter(leaves));
        // Every connection holds its listener's presence; the listener itself holds it once.
        gone.filter(|listener| Arc::strong_count(&listener.presence) > 1).cloned().collect()
    }

    /// The places of sets that routes of listeners lead to that are gone.
    fn named_by_gone(&self) -> BTreeSet<u32> {
        let routes = self.gone.iter().flat_map(|listener| &listener.routes);
        routes.flat_map(|route| route.target.slots()).collect()
    }

    pub fn listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.listeners.iter()
    }

    pub fn listener_named(&self, name: &ListenerName) -> Option<&Arc<Listener>> {
        self.listeners.named(name)
    }

    pub fn listener_at(&self, slot: u32) -> Option<&Arc<Listener>> {
        self.listeners.get(slot)
    }

    /// What a connection's listener is now, and whether it is there no more and this is what it was
    /// last.
    pub fn listener_of(&self, presence: &Arc<Presence>) -> Option<(&Arc<Listener>, bool)> {
        let is_it = |listener: &&Arc<Listener>| Arc::ptr_eq(&listener.presence, presence);
        match self.listener_at(presence.slot).filter(is_it) {
            Some(listener) => Some((listener, false)),
            None => self.gone.iter().find(is_it).map(|listener| (listener, true)),
        }
    }

    pub fn backend_sets(&self) -> impl Iterator<Item = (&BackendSetName, &Arc<BackendSet>)> {
        self.backend_sets.iter().map(|set| (&set.spec.name, set))
    }

    pub fn set(&self, slot: u32) -> Option<&Arc<BackendSet>> {
        self.backend_sets.get(slot)
    }

    pub fn set_named(&self, name: &BackendSetName) -> Option<&Arc<BackendSet>> {
        self.backend_sets.named(name)
    }

    pub fn slot_of_set(&self, name: &BackendSetName) -> Option<u32> {
        self.backend_sets.slot_of(name)
    }
}

// === impl Build ===

impl Build<'_> {
    fn certificates(&mut self) -> Result<(), Unusable> {
        if self.has_new_material {
            let materials = &self.snapshot.materials;
            self.next.certificates = tls::compile(self.snapshot, &self.former.certificates)?;
            self.next.challenges = Challenges::new(materials, self.former.challenges.as_ref());
        }
        Ok(())
    }

    /// Returns those that are made anew.
    fn backend_sets(
        &mut self,
        now: Millis,
        rng: &mut fastrand::Rng,
    ) -> Result<Vec<Arc<BackendSet>>, Unusable> {
        let (was, is) = (&self.former.snapshot, self.snapshot);
        let (from, to) = (&was.desired.backend_sets, &is.desired.backend_sets);
        let mut touched: BTreeSet<_> = changes(from, to).map(|change| change.key).collect();
        touched.extend(changes(&was.members, &is.members).map(|change| change.key));
        let (healthy_was, healthy_is) = (was.unhealthy.by_set(), is.unhealthy.by_set());
        touched.extend(changes(healthy_was, healthy_is).map(|change| change.key));
        if self.has_new_material {
            touched.extend(to.iter().filter(|(_, set)| set.tls.is_some()).map(|(name, _)| name));
        }
        for name in touched.iter().filter(|name| !to.contains_key(**name)) {
            self.next.backend_sets.remove(*name);
        }
        // Connections of listeners that are gone may still lead to these places.
        let mut named: Option<BTreeSet<u32>> = None;
        let mut renewed = Vec::new();
        for name in touched {
            let Some(spec) = to.get(name) else { continue };
            let old = self.former.set_named(name);
            let tls = match &spec.tls {
                Some(tls) => {
                    let certificates = &self.next.certificates;
                    let former = old.and_then(|old| old.tls());
                    Some(BackendTls::new(name, tls, &is.materials, certificates, former)?)
                }
                None => None,
            };
            let members = is.members.get(name).cloned().unwrap_or_default();
            let is_as_it_was = old.is_some_and(|old| {
                Arc::ptr_eq(&old.spec, spec)
                    && old.members == members
                    && is.unhealthy.of(name) == was.unhealthy.of(name)
                    && old.is_spoken_to_by(tls.as_ref())
            });
            if is_as_it_was {
                continue;
            }
            let is_healthy = |backend: &_| !is.unhealthy.contains(name, backend);
            let (old, workers) = (old.map(|old| &**old), self.workers);
            let parts = Parts { spec, members, tls: tls.as_ref() };
            let set = BackendSet::new(parts, is_healthy, old, workers, now, rng);
            let set = Arc::new(set);
            let slot = match self.next.slot_of_set(name) {
                Some(slot) => slot,
                None => {
                    let named = named.get_or_insert_with(|| self.next.named_by_gone());
                    self.next.backend_sets.place(name, named)
                }
            };
            self.next.backend_sets.put(slot, Arc::clone(&set));
            renewed.push(set);
        }
        Ok(renewed)
    }

    /// Returns those that are not what they were, as they were and as they are, and those that are gone.
    fn routes(&mut self) -> (Vec<Arc<Route>>, Vec<Arc<Route>>) {
        let (was, desired) = (&self.former.snapshot.desired, &self.snapshot.desired);
        let touched: Vec<_> = if self.has_new_listeners {
            // Whether they take requests or connections is up to their listeners.
            let gone = changes(&was.routes, &desired.routes).filter(|change| change.new.is_none());
            gone.map(|change| change.key).chain(desired.routes.keys()).collect()
        } else {
            changes(&was.routes, &desired.routes).map(|change| change.key).collect()
        };
        let (mut different, mut gone) = (Vec::new(), Vec::new());
        for name in touched {
            let old = self.former.routes.get(name);
            let new = desired.routes.get(name).map(|spec| {
                // They are all of one kind.
                let first = spec.listeners.first().and_then(|name| desired.listeners.get(name));
                let is_tcp = first.is_some_and(|first| first.protocol != Protocol::Http);
                let slot_of = |name: &BackendSetName| self.next.slot_of_set(name);
                Route::new(spec, slot_of, is_tcp, old, self.workers)
            });
            if old.map(Arc::as_ptr) == new.as_ref().map(Arc::as_ptr) {
                continue;
            }
            different.extend(old.cloned());
            different.extend(new.clone());
            match new {
                Some(new) => {
                    self.next.routes.insert(name.clone(), new);
                }
                None => gone.extend(self.next.routes.remove(name)),
            }
        }
        (different, gone)
    }

    /// `routes` are those that are not what they were.
    fn listeners(&mut self, routes: &[Arc<Route>]) -> Result<(), Unusable> {
        let desired = &self.snapshot.desired;
        let was = &self.former.snapshot.desired.listeners;
        for gone in was.keys().filter(|name| !desired.listeners.contains_key(*name)) {
            self.next.listeners.remove(gone);
        }
        for (name, spec) in &desired.listeners {
            let old = self.former.listener_named(name);
            let is_same = old.is_some_and(|old| Arc::ptr_eq(&old.spec, spec));
            let is_touched = !is_same
                || self.has_new_material && spec.tls.is_some()
                || routes.iter().any(|route| route.spec.serves(spec));
            if !is_touched {
                continue;
            }
            let tls = match &spec.tls {
                Some(tls) => {
                    let offers = alpn::offered(spec, desired);
                    let materials = &self.snapshot.materials;
                    let former = old.filter(|_| is_same).and_then(|old| old.tls.as_ref());
                    let certificates = &self.next.certificates;
                    Some(ListenerTls::new(spec, tls, &offers, materials, certificates, former)?)
                }
                None => None,
            };
            let slot = self.next.listeners.place(name, &BTreeSet::new());
            let made = listener(spec, slot, &self.next.routes, tls, old, self.workers);
            self.next.listeners.put(slot, made);
        }
        Ok(())
    }
}

fn listener(
    spec: &Arc<spec::Listener>,
    slot: u32,
    routes: &Map<RouteName, Arc<Route>>,
    tls: Option<Arc<ListenerTls>>,
    former: Option<&Arc<Listener>>,
    workers: usize,
) -> Arc<Listener> {
    let serving: Vec<_> =
        routes.values().filter(|route| route.spec.serves(spec)).cloned().collect();
    let same_routes = |former: &&Arc<Listener>| {
        former.routes.len() == serving.len()
            && former.routes.iter().zip(&serving).all(|(old, new)| Arc::ptr_eq(old, new))
    };
    if let Some(former) = former.filter(same_routes)
        && Arc::ptr_eq(&former.spec, spec)
        && former.tls.as_ref().map(Arc::as_ptr) == tls.as_ref().map(Arc::as_ptr)
    {
        return Arc::clone(former);
    }
    let service = match &spec.protocol {
        Protocol::Tcp { backend_set } => {
            let old = former.and_then(|former| match &former.service {
                Service::Tcp(tcp) => Some(&**tcp),
                Service::Http(_) => None,
            });
            Service::Tcp(Box::new(Tcp::new(&serving, backend_set.as_ref(), old, workers)))
        }
        Protocol::Http => {
            let found = |route: &Arc<Route>| (Arc::clone(&route.spec), Arc::clone(route));
            Service::Http(Box::new(Routes::new(spec.path_normalization, serving.iter().map(found))))
        }
    };
    let (presence, terms) = match former {
        Some(former) => (Arc::clone(&former.presence), former.next_terms(spec, tls.as_deref())),
        None => (Arc::new(Presence::new(spec.name.clone(), slot)), Terms::default()),
    };
    let spec = Arc::clone(spec);
    Arc::new(Listener { spec, service, presence, terms, tls, routes: serving })
}

#[cfg(test)]
mod tests {
    use lb_common::{
        id::BackendName,
        snapshot::{UnhealthyBackends, Version},
    };
    use lb_proto::update::{Content, Sealed};

    use super::{super::Target, *};
    use crate::fixture;

    fn table(version: u64, text: &str, former: &RoutingTable) -> RoutingTable {
        let version = Version { epoch: 1, version };
        let sealed = Sealed::new(version, 1, Content::of(fixture::desired(text)));
        let mut rng = fastrand::Rng::with_seed(1);
        RoutingTable::build(&sealed.snapshot, former, 1, 0, &mut rng).expect("it can be used").table
    }

    fn name(text: &str) -> BackendSetName {
        BackendSetName::new(text).expect("valid")
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
        let live = |table: &RoutingTable, i: usize| {
            Arc::clone(&table.set_named(&name("a")).expect("it is there").backends[i].live)
        };
        assert!(Arc::ptr_eq(&live(&first, 0), &live(&second, 0)), "a weight is nothing to it");
        assert!(!Arc::ptr_eq(&live(&first, 1), &live(&second, 1)), "an address is another server");
        let budget = |table: &RoutingTable| Arc::clone(&table.routes["r"].budget);
        assert!(Arc::ptr_eq(&budget(&first), &budget(&second)));
    }

    #[test]
    fn a_change_of_health_makes_its_own_set_anew_and_nothing_else() {
        let desired = fixture::desired(&format!(
            "listeners = [{{ name = 'web', address = '127.0.0.1:1' }}]
             {TWO}
             [[backend_sets]]
             name = 'b'
             backends = [{{ name = 'one', address = '127.0.0.1:9' }}]"
        ));
        let build = |version, unhealthy, former: &RoutingTable| {
            let version = Version { epoch: 1, version };
            let content = Content { unhealthy, ..Content::of(desired.clone()) };
            let sealed = Sealed::new(version, 1, content);
            let mut rng = fastrand::Rng::with_seed(1);
            let built = RoutingTable::build(&sealed.snapshot, former, 1, 0, &mut rng);
            built.expect("it can be used").table
        };
        let first = build(1, UnhealthyBackends::default(), &RoutingTable::default());
        let mut unhealthy = UnhealthyBackends::default();
        unhealthy.insert(name("b"), BackendName::new("one").expect("valid"));
        let second = build(2, unhealthy, &first);
        assert!(Arc::ptr_eq(&first.routes["r"], &second.routes["r"]));
        let listener = |table: &RoutingTable| {
            let listener = ListenerName::new("web").expect("valid");
            Arc::clone(table.listener_named(&listener).expect("it is there"))
        };
        assert!(Arc::ptr_eq(&listener(&first), &listener(&second)));
        let set = |table: &RoutingTable, of: &str| {
            Arc::clone(table.set_named(&name(of)).expect("it is there"))
        };
        assert!(Arc::ptr_eq(&set(&first, "a"), &set(&second, "a")));
        assert!(!Arc::ptr_eq(&set(&first, "b"), &set(&second, "b")));
    }

    /// A route of a listener that is gone names its set by slot.
    #[test]
    fn the_place_of_a_set_is_no_other_sets_while_a_connection_may_lead_there() {
        let with = |listener: &str, set: &str| {
            format!(
                "listeners = [{{ name = '{listener}', address = '127.0.0.1:1' }}]
                 routes = [{{ name = 'r', backend_set = '{set}' }}]
                 backend_sets = [{{ name = '{set}' }}]"
            )
        };
        let first = table(1, &with("old", "a"), &RoutingTable::default());
        let listener = ListenerName::new("old").expect("valid");
        let old = Arc::clone(first.listener_named(&listener).expect("it is there"));
        let slot = first.slot_of_set(&name("a")).expect("it is there");
        let connection = Arc::clone(&old.presence);
        let second = table(2, &with("new", "b"), &first);
        assert_ne!(second.slot_of_set(&name("b")), Some(slot));
        assert!(second.listener_of(&connection).is_some_and(|(_, is_gone)| is_gone));
        assert!(second.set(slot).is_none());
        drop((old, connection, first));
        let third = table(3, &with("new", "c"), &second);
        assert_eq!(third.slot_of_set(&name("c")), Some(slot), "nobody leads there any more");
    }

    #[test]
    fn connections_outlive_what_lets_nobody_in_by_something_else() {
        let web = |settings: &str| format!("listeners = [{{ name = 'web', {settings} }}]");
        let listener = ListenerName::new("web").expect("valid");
        let first = table(1, &web("address = '127.0.0.1:1'"), &RoutingTable::default());
        let terms = |table: &RoutingTable| table.listener_named(&listener).expect("there").terms;
        for (settings, is_same) in [
            ("address = '127.0.0.1:1', idle_timeout = '1s'", true),
            ("address = '127.0.0.1:1', trusted_proxies = ['10.0.0.0/8']", true),
            (
                "address = '127.0.0.1:1', proxy_protocol = 'optional', trusted_proxies = ['10.0.0.0/8']",
                false,
            ),
        ] {
            let next = table(2, &web(settings), &first);
            assert_eq!(terms(&next) == terms(&first), is_same, "{settings}");
            let trusts = settings.replace("10.0.0.0/8", "10.0.0.0/9");
            let after = table(3, &web(&trusts), &next);
            assert_eq!(terms(&after) == terms(&next), is_same, "{trusts}");
        }
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
        let chosen: Vec<_> = (0..10_000)
            .map(|_| table.set(split.choose(&mut rng)).expect("it is there").spec.name.to_string())
            .collect();
        let of = |name: &str| chosen.iter().filter(|chosen| *chosen == name).count();
        assert_eq!(of("a") + of("b"), 10_000);
        assert!((8_800..9_200).contains(&of("a")), "{}", of("a"));
    }
}
