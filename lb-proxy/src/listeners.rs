//! The sockets that clients connect to, as the snapshot that runs asks for them.
//!
//! One that cannot be opened is no concern of anything else that the snapshot says: it is told, and tried
//! again until it can. A listener that is to move stays where it was until then.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use lb_common::{
    backoff::Backoff,
    clock,
    drain::Drain,
    id::ListenerName,
    inherited,
    map::{Map, changes},
    spec,
};
use tokio::{sync::mpsc, sync::watch, time::sleep_until};

use crate::{control::Problems, net::listen, worker::Command};

/// Where each listener really accepts; the spec may say port 0, and the proxy may override it.
pub type BoundAddresses = Arc<Mutex<BTreeMap<ListenerName, SocketAddr>>>;

/// Shared by who sets what is wanted and who tries again.
pub type Shared = Arc<Mutex<Listeners>>;

#[derive(Debug)]
pub struct Listeners {
    workers: Vec<mpsc::UnboundedSender<Command>>,
    overrides: BTreeMap<ListenerName, SocketAddr>,
    inherited: inherited::Sockets,
    wanted: Map<ListenerName, Arc<spec::Listener>>,
    open: BTreeMap<ListenerName, Open>,
    failed: BTreeMap<ListenerName, Failed>,
    /// A mutex, because the admin port reads it; nobody waits for it on the request path.
    bound: BoundAddresses,
    problems: watch::Sender<Problems>,
    rng: fastrand::Rng,
    drain: Drain,
}

#[derive(Debug)]
struct Open {
    /// As asked for.
    wanted: SocketAddr,
    /// As it came out.
    address: SocketAddr,
}

#[derive(Debug)]
struct Failed {
    wanted: SocketAddr,
    why: String,
    tries: u32,
    next_try: Instant,
}

const BACKOFF: Backoff = Backoff { base: Duration::from_millis(200), max: Duration::from_secs(10) };

/// Tries again what could not be opened, until the drain: workers that drain open nothing more.
pub async fn keep_trying(listeners: Shared) {
    let mut problems = lock(&listeners).problems();
    loop {
        let due = lock(&listeners).next_try();
        tokio::select! {
            () = async { match due {
                Some(due) => sleep_until(due.into()).await,
                None => std::future::pending().await,
            } } => if !lock(&listeners).try_again() { return },
            changed = problems.changed() => if changed.is_err() { return },
        }
    }
}

/// What is behind it is whole after a panic, too.
pub fn lock(listeners: &Shared) -> std::sync::MutexGuard<'_, Listeners> {
    listeners.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Listeners {
    pub fn new(
        workers: Vec<mpsc::UnboundedSender<Command>>,
        overrides: BTreeMap<ListenerName, SocketAddr>,
        inherited: inherited::Sockets,
        bound: BoundAddresses,
        rng: fastrand::Rng,
        drain: Drain,
    ) -> Self {
        Self {
            workers,
            overrides,
            inherited,
            wanted: Map::new(),
            open: BTreeMap::new(),
            failed: BTreeMap::new(),
            bound,
            problems: watch::Sender::new(Problems::new()),
            rng,
            drain,
        }
    }

    pub fn problems(&self) -> watch::Receiver<Problems> {
        self.problems.subscribe()
    }

    /// Opens and closes what it takes; the table that has them is in force.
    pub fn follow(&mut self, wanted: &Map<ListenerName, Arc<spec::Listener>>) {
        let former = std::mem::replace(&mut self.wanted, wanted.clone());
        // Workers that drain open nothing more.
        if self.drain.is_draining() {
            return;
        }
        let changed: Vec<_> = changes(&former, wanted).map(|change| change.key.clone()).collect();
        if changed.is_empty() {
            return;
        }
        for name in changed.iter().filter(|name| !wanted.contains_key(*name)) {
            self.failed.remove(name);
            self.close(name);
        }
        for name in changed.iter().filter(|name| wanted.contains_key(*name)) {
            self.open(name);
        }
        self.settle();
    }

    /// Returns whether there is any use in it.
    fn try_again(&mut self) -> bool {
        if self.drain.is_draining() {
            return false;
        }
        let now = clock::now();
        let due = self.failed.iter().filter(|(_, failed)| failed.next_try <= now);
        for name in due.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.open(&name);
        }
        self.settle();
        true
    }

    fn next_try(&self) -> Option<Instant> {
        self.failed.values().map(|failed| failed.next_try).min()
    }

    fn address_of(&self, name: &ListenerName) -> Option<SocketAddr> {
        let spec = self.wanted.get(name)?;
        Some(*self.overrides.get(name).unwrap_or(&spec.address))
    }

    /// Has a listener accept where it is wanted, unless it does.
    fn open(&mut self, name: &ListenerName) {
        let Some(wanted) = self.address_of(name) else { return };
        // All else that a listener says is read from the table at each connection.
        if self.open.get(name).is_some_and(|open| open.wanted == wanted) {
            self.failed.remove(name);
            return;
        }
        let sockets = match self.inherited.find(name.as_str(), wanted) {
            Some(socket) => listen::share(socket, self.workers.len()),
            None => listen::bind(wanted, self.workers.len()),
        };
        let before = self.failed.remove(name).filter(|before| before.wanted == wanted);
        let sockets = match sockets {
            Ok(sockets) => sockets,
            Err(error) => {
                let why = format!("cannot listen on {wanted}: {error}");
                let tries = before.map_or(0, |before| before.tries + 1);
                if tries == 0 {
                    tracing::warn!(listener = %name, "{why}; it is tried again");
                }
                // At least half of it, so that a busy port is not asked for all the time.
                let pause = BACKOFF.delay(tries, &mut self.rng).max(BACKOFF.base / 2);
                let failed = Failed { wanted, why, tries, next_try: clock::now() + pause };
                self.failed.insert(name.clone(), failed);
                return;
            }
        };
        let address = sockets.first().and_then(|socket| socket.local_addr().ok());
        let open = Open { wanted, address: address.unwrap_or(wanted) };
        tracing::info!(listener = %name, address = %open.address, "listening");
        self.close(name);
        for (worker, socket) in self.workers.iter().zip(sockets) {
            // A worker that is gone is draining; it needs no more commands.
            let _ = worker.send(Command::Open { listener: name.clone(), socket });
        }
        self.open.insert(name.clone(), open);
    }

    fn close(&mut self, name: &ListenerName) {
        if self.open.remove(name).is_some() {
            self.tell_all(|| Command::Close(name.clone()));
        }
    }

    /// Nobody stays where another one is wanted now: they would share its connections. Then tells what
    /// came of it all.
    fn settle(&mut self) {
        let is_in_the_way = |(name, open): (&ListenerName, &Open)| {
            let others = self.wanted.keys().filter(|other| *other != name);
            let mut others = others.filter_map(|other| self.address_of(other));
            let is_in_the_way =
                self.failed.contains_key(name) && others.any(|other| other == open.address);
            is_in_the_way.then(|| name.clone())
        };
        for name in self.open.iter().filter_map(is_in_the_way).collect::<Vec<_>>() {
            self.close(&name);
        }
        let bound = self.open.iter().map(|(name, open)| (name.clone(), open.address)).collect();
        *self.bound.lock().unwrap_or_else(PoisonError::into_inner) = bound;
        let problem = |(name, failed): (&ListenerName, &Failed)| {
            let still = self.open.get(name).map(|open| open.address);
            let still = still.map(|at| format!("; it still listens on {at}")).unwrap_or_default();
            (format!("listeners[{name}]"), format!("{}{still}", failed.why))
        };
        let next: Problems = self.failed.iter().map(problem).collect();
        self.problems.send_if_modified(|problems| {
            let is_news = *problems != next;
            *problems = next;
            is_news
        });
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            // As in `open`.
            let _ = worker.send(command());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::fixture;

    struct Fixture {
        listeners: Shared,
        commands: mpsc::UnboundedReceiver<Command>,
        bound: BoundAddresses,
        problems: watch::Receiver<Problems>,
        drain: lb_common::drain::DrainTrigger,
    }

    impl Fixture {
        fn new() -> Self {
            let (worker, commands) = mpsc::unbounded_channel();
            let (trigger, drain) = lb_common::drain::channel();
            let bound = BoundAddresses::default();
            let rng = fastrand::Rng::with_seed(1);
            let (overrides, inherited) = Default::default();
            let listeners =
                Listeners::new(vec![worker], overrides, inherited, Arc::clone(&bound), rng, drain);
            let problems = listeners.problems();
            let listeners = Arc::new(Mutex::new(listeners));
            Self { listeners, commands, bound, problems, drain: trigger }
        }

        fn follow(&self, wanted: &[(&str, SocketAddr)]) {
            let listeners: Vec<_> = wanted
                .iter()
                .map(|(name, address)| format!("{{ name = '{name}', address = '{address}' }}"))
                .collect();
            let state = fixture::desired(&format!("listeners = [{}]", listeners.join(", ")));
            lock(&self.listeners).follow(&state.listeners);
        }

        fn told(&mut self) -> Vec<String> {
            let commands = std::iter::from_fn(|| self.commands.try_recv().ok());
            commands
                .map(|command| match command {
                    Command::Open { listener, .. } => format!("open {listener}"),
                    Command::Close(listener) => format!("close {listener}"),
                    Command::Drain { .. } => "drain".into(),
                })
                .collect()
        }

        fn bound(&self) -> Vec<(String, SocketAddr)> {
            let bound = self.bound.lock().expect("nobody panicked");
            bound.iter().map(|(name, address)| (name.to_string(), *address)).collect()
        }
    }

    fn any() -> SocketAddr {
        "127.0.0.1:0".parse().expect("an address")
    }

    /// A port that nobody else can share.
    fn taken() -> (TcpListener, SocketAddr) {
        let taken = TcpListener::bind(any()).expect("a free port");
        let address = taken.local_addr().expect("it is bound");
        (taken, address)
    }

    #[tokio::test]
    async fn one_that_cannot_be_opened_is_told_and_the_others_are_opened() {
        let mut f = Fixture::new();
        let (holder, busy) = taken();
        f.follow(&[("busy", busy), ("web", any())]);
        assert_eq!(f.told(), ["open web"]);
        let problems = f.problems.borrow_and_update().clone();
        let [(resource, why)] = &Vec::from_iter(problems)[..] else { panic!("one of them") };
        assert_eq!(resource, "listeners[busy]");
        assert!(why.starts_with(&format!("cannot listen on {busy}: ")), "{why}");
        assert_eq!(f.bound().len(), 1);

        let trying = tokio::spawn(keep_trying(Arc::clone(&f.listeners)));
        drop(holder);
        f.problems.changed().await.expect("it goes on");
        assert!(f.problems.borrow_and_update().is_empty());
        assert_eq!(f.told(), ["open busy"]);
        assert!(f.bound().contains(&("busy".into(), busy)));
        trying.abort();
    }

    #[tokio::test]
    async fn one_that_is_to_move_stays_where_it_is_until_it_can() {
        let mut f = Fixture::new();
        f.follow(&[("web", any())]);
        let before = f.bound();
        let (holder, busy) = taken();
        f.follow(&[("web", busy)]);
        assert_eq!((f.told(), f.bound()), (vec!["open web".into()], before.clone()));
        let why = f.problems.borrow_and_update()["listeners[web]"].clone();
        assert!(why.ends_with(&format!("; it still listens on {}", before[0].1)), "{why}");

        let trying = tokio::spawn(keep_trying(Arc::clone(&f.listeners)));
        drop(holder);
        f.problems.changed().await.expect("it goes on");
        assert_eq!(f.told(), ["close web", "open web"]);
        assert_eq!(f.bound(), [("web".into(), busy)]);
        trying.abort();
    }

    #[tokio::test]
    async fn one_that_cannot_move_makes_room_for_another_one_that_is_wanted_there() {
        let mut f = Fixture::new();
        f.follow(&[("b", any())]);
        let (_, first) = f.bound()[0].clone();
        let (_holder, busy) = taken();
        f.follow(&[("b", busy), ("a", first)]);
        assert_eq!(f.told(), ["open b", "open a", "close b"]);
        assert_eq!(f.bound(), [("a".into(), first)]);
        let why = f.problems.borrow_and_update()["listeners[b]"].clone();
        assert!(!why.contains("still"), "{why}");
    }

    #[tokio::test]
    async fn what_lacks_when_a_drain_starts_is_not_told_to_be_mended() {
        let mut f = Fixture::new();
        let (_holder, busy) = taken();
        f.follow(&[("busy", busy)]);
        f.problems.mark_unchanged();
        f.drain.start();
        keep_trying(Arc::clone(&f.listeners)).await;
        assert!(!f.problems.has_changed().expect("it is there"));
        assert_eq!(f.problems.borrow().len(), 1);
    }

    #[tokio::test]
    async fn what_is_wanted_no_more_is_no_problem_any_more() {
        let mut f = Fixture::new();
        let (_holder, busy) = taken();
        f.follow(&[("busy", busy), ("web", any())]);
        f.told();
        f.follow(&[]);
        assert_eq!(f.told(), ["close web"]);
        assert!(f.problems.borrow().is_empty() && f.bound().is_empty());
        assert_eq!(lock(&f.listeners).next_try(), None);
        // And one that is wanted elsewhere now, or here again, is opened.
        f.follow(&[("busy", any())]);
        assert_eq!((f.told(), f.problems.borrow().len()), (vec!["open busy".into()], 0));
    }
}
