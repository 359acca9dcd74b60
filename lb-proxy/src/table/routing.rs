//! A snapshot, compiled.
//!
//! Listeners and backend sets keep their slots from version to version, so that what names them by
//! slot, a route for instance, is shared with the version before as long as it did not change itself.
//! A flip of health costs one new backend set, and nothing else.

use std::{collections::HashMap, rc::Rc, sync::Arc};

use lb_common::{
    id::{BackendSetName, ListenerName, RouteName},
    snapshot::Snapshot,
    spec::{self, DesiredState, Protocol},
};
use lb_routing::{alpn, millis::Millis, route::Routes};

use super::{
    backend_set::BackendSet,
    backend_tls::BackendTls,
    challenges::Challenges,
    listener::{Listener, Presence, Service},
    route::Route,
    tcp::Tcp,
    tls::{self, Certificates, ListenerTls, Unusable},
};
use crate::connections::Terms;

/// A worker's hold on a table: counted by its thread alone.
pub type View = Rc<Arc<RoutingTable>>;

#[derive(Debug, Default)]
pub struct RoutingTable {
    pub snapshot: Arc<Snapshot>,
    pub routes: HashMap<RouteName, Arc<Route>>,
    pub certificates: Certificates,
    /// What CAs are answered, while one may ask.
    pub challenges: Option<Arc<Challenges>>,
    listeners: Vec<Option<Arc<Listener>>>,
    listener_slots: HashMap<ListenerName, u32>,
    /// Of listeners that are gone, while connections that they accepted are open.
    gone: Vec<Arc<Listener>>,
    backend_sets: Vec<Option<Arc<BackendSet>>>,
    set_slots: HashMap<BackendSetName, u32>,
}

impl RoutingTable {
    /// Compiles a snapshot, which is consistent: whatever it names is in it.
    ///
    /// # Errors
    /// If a certificate cannot be used.
    pub fn build(
        snapshot: &Arc<Snapshot>,
        former: &Self,
        workers: usize,
        now: Millis,
        rng: &mut fastrand::Rng,
    ) -> Result<Self, Unusable> {
        let desired = &snapshot.desired;
        let certificates = tls::compile(snapshot, &former.certificates)?;
        let offered = |(name, spec): (&ListenerName, &Arc<spec::Listener>)| {
            let Some(tls) = &spec.tls else { return Ok(None) };
            let old = former.listener_named(name);
            let is_same = old.is_some_and(|old| Arc::ptr_eq(&old.spec, spec));
            let old = old.and_then(|old| old.tls.as_ref());
            let offers = alpn::offered(spec, desired);
            let made = ListenerTls::new(
                spec,
                tls,
                &offers,
                &snapshot.materials,
                &certificates,
                old.filter(|_| is_same),
            )?;
            Ok(Some((name.clone(), made)))
        };
        let offered: Result<Vec<_>, _> = desired.listeners.iter().map(offered).collect();
        let offered: HashMap<_, _> = offered?.into_iter().flatten().collect();
        let spoken = |(name, spec): (&BackendSetName, &Arc<spec::BackendSet>)| {
            let Some(tls) = &spec.tls else { return Ok(None) };
            let old = former.set_named(name).and_then(|old| old.tls());
            let made = BackendTls::new(name, tls, &snapshot.materials, &certificates, old)?;
            Ok(Some((name.clone(), made)))
        };
        let spoken: Result<Vec<_>, _> = desired.backend_sets.iter().map(spoken).collect();
        let spoken: HashMap<_, _> = spoken?.into_iter().flatten().collect();
        let gone = former.gone_by(desired);
        let named = gone.iter().flat_map(|listener| &listener.routes);
        let named: Vec<_> = named.flat_map(|route| route.target.slots()).collect();
        let (backend_sets, set_slots) =
            placed(desired.backend_sets.iter(), &former.set_slots, &named, |name, spec, _| {
                let (old, tls) = (former.set_named(name), spoken.get(name));
                let unchanged = old.filter(|old| {
                    let unhealthy = snapshot.unhealthy.of(name);
                    unhealthy == former.snapshot.unhealthy.of(name)
                        && Arc::ptr_eq(&old.spec, spec)
                        && old.is_spoken_to_by(tls)
                });
                unchanged.cloned().unwrap_or_else(|| {
                    let is_healthy = |backend: &_| !snapshot.unhealthy.contains(name, backend);
                    let old = old.map(|old| &**old);
                    Arc::new(BackendSet::new(spec, tls, is_healthy, old, workers, now, rng))
                })
            });
        let slot_of = |name: &BackendSetName| set_slots.get(name).copied();
        let routes: HashMap<_, _> = desired
            .routes
            .iter()
            .map(|(name, spec)| {
                // They are all of one kind.
                let first = spec.listeners.first().and_then(|name| desired.listeners.get(name));
                let is_tcp = first.is_some_and(|first| first.protocol != Protocol::Http);
                let old = former.routes.get(name);
                (name.clone(), Route::new(spec, slot_of, is_tcp, old, workers))
            })
            .collect();
        let (listeners, listener_slots) =
            placed(desired.listeners.iter(), &former.listener_slots, &[], |name, spec, slot| {
                let tls = offered.get(name).cloned();
                listener(spec, slot, &routes, tls, former.listener_named(name), workers)
            });
        Ok(Self {
            snapshot: Arc::clone(snapshot),
            routes,
            certificates,
            challenges: Challenges::new(&snapshot.materials, former.challenges.as_ref()),
            listeners,
            listener_slots,
            gone,
            backend_sets,
            set_slots,
        })
    }

    /// The listeners that connections may still be of, and that are not among these.
    fn gone_by(&self, desired: &DesiredState) -> Vec<Arc<Listener>> {
        let leaves = |l: &&Arc<Listener>| !desired.listeners.contains_key(&l.spec.name);
        let gone = self.gone.iter().chain(self.listeners().filter(leaves));
        // Every connection holds its listener's presence; the listener itself holds it once.
        gone.filter(|listener| Arc::strong_count(&listener.presence) > 1).cloned().collect()
    }

    pub fn listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.listeners.iter().flatten()
    }

    pub fn listener_named(&self, name: &ListenerName) -> Option<&Arc<Listener>> {
        self.listeners[*self.listener_slots.get(name)? as usize].as_ref()
    }

    pub fn listener_at(&self, slot: u32) -> Option<&Arc<Listener>> {
        self.listeners.get(slot as usize)?.as_ref()
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
        self.backend_sets.iter().flatten().map(|set| (&set.spec.name, set))
    }

    pub fn set(&self, slot: u32) -> Option<&Arc<BackendSet>> {
        self.backend_sets.get(slot as usize)?.as_ref()
    }

    pub fn set_named(&self, name: &BackendSetName) -> Option<&Arc<BackendSet>> {
        self.set(self.slot_of_set(name)?)
    }

    pub fn slot_of_set(&self, name: &BackendSetName) -> Option<u32> {
        self.set_slots.get(name).copied()
    }
}

fn listener(
    spec: &Arc<spec::Listener>,
    slot: u32,
    routes: &HashMap<RouteName, Arc<Route>>,
    tls: Option<Arc<ListenerTls>>,
    former: Option<&Arc<Listener>>,
    workers: usize,
) -> Arc<Listener> {
    let mut serving: Vec<_> =
        routes.values().filter(|route| route.spec.serves(spec)).cloned().collect();
    serving.sort_unstable_by(|a, b| a.spec.name.cmp(&b.spec.name));
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

/// Gives each its slot: the one that it had, or one that is free and that nobody else names.
fn placed<'a, N, S, T>(
    all: impl Iterator<Item = (&'a N, &'a S)> + Clone,
    former: &HashMap<N, u32>,
    named: &[u32],
    mut make: impl FnMut(&N, &'a S, u32) -> T,
) -> (Vec<Option<T>>, HashMap<N, u32>)
where
    N: Clone + Eq + std::hash::Hash + 'a,
    S: 'a,
{
    let mut slots: HashMap<N, u32> =
        all.clone().filter_map(|(name, _)| Some((name.clone(), *former.get(name)?))).collect();
    let mut taken: Vec<bool> = Vec::new();
    for slot in slots.values().chain(named) {
        let slot = *slot as usize;
        if taken.len() <= slot {
            taken.resize(slot + 1, false);
        }
        taken[slot] = true;
    }
    let mut free = 0;
    let mut placed: Vec<Option<T>> = Vec::new();
    for (name, spec) in all {
        let slot = *slots.entry(name.clone()).or_insert_with(|| {
            while taken.get(free).copied().unwrap_or(false) {
                free += 1;
            }
            free += 1;
            u32::try_from(free - 1).expect("a configuration has fewer parts")
        });
        let made = make(name, spec, slot);
        if placed.len() <= slot as usize {
            placed.resize_with(slot as usize + 1, || None);
        }
        placed[slot as usize] = Some(made);
    }
    (placed, slots)
}

#[cfg(test)]
mod tests {
    use lb_common::{
        id::BackendName,
        snapshot::{UnhealthyBackends, Version},
    };
    use lb_proto::update::{Content, seal};

    use super::{super::Target, *};
    use crate::fixture;

    fn table(version: u64, text: &str, former: &RoutingTable) -> RoutingTable {
        let version = Version { epoch: 1, version };
        let desired = fixture::desired(text);
        let sealed = seal(version, 1, Content { desired, ..Content::default() });
        RoutingTable::build(
            &Arc::new(sealed.snapshot),
            former,
            1,
            0,
            &mut fastrand::Rng::with_seed(1),
        )
        .expect("it can be used")
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
            let content = Content { desired: desired.clone(), unhealthy, ..Content::default() };
            let sealed = seal(version, 1, content);
            let mut rng = fastrand::Rng::with_seed(1);
            RoutingTable::build(&Arc::new(sealed.snapshot), former, 1, 0, &mut rng)
                .expect("it can be used")
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
