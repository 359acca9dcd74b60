//! Controllers and proxies of different builds understand each other.
//!
//! `sessions/` has what earlier builds said to each other, a directory for each: what their controller said is
//! put to today's proxy, and what their proxy said to today's controller. A session of today is recorded and
//! put to both, too. With `LB_SESSIONS=NAME` it is kept under that name: whoever changes what is said on the
//! wire does so before, and never changes one that is there.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use integration_tests::{
    backend::Backend,
    binaries::binary,
    eventually::{PATIENCE, eventually, holds, within},
    fleet::Fleet,
    ports::Port,
    process::Process,
};
use lb_proto::v1::{self, proxy_message::Message};
use prost::bytes::Bytes;

#[path = "mixed_builds/wire.rs"]
mod wire;

use wire::{Controller, Heard, Relay};

/// What one controller and one proxy said to each other.
#[derive(Clone, Debug, Default)]
struct Session {
    updates: Vec<v1::Update>,
    messages: Vec<v1::ProxyMessage>,
}

fn sessions() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/sessions"))
}

// === impl Session ===

impl Session {
    fn read(name: &str) -> Self {
        let dir = sessions().join(name);
        Self { updates: read(&dir.join("updates")), messages: read(&dir.join("messages")) }
    }

    fn write(&self, name: &str) {
        let dir = sessions().join(name);
        fs::create_dir(&dir).expect("no session is written over");
        fs::write(dir.join("updates"), encoded(&self.updates)).expect("it is written");
        fs::write(dir.join("messages"), encoded(&self.messages)).expect("it is written");
    }

    /// Today's proxy takes each update, and ends with what the last one says.
    async fn is_understood_by_a_proxy(&self) {
        let mut controller = Controller::start().await;
        let dir = tempfile::tempdir().expect("the system has a place for temporary files");
        let _proxy = proxy(dir.path(), "today", controller.address());
        assert!(!self.updates.is_empty());
        for update in &self.updates {
            controller.say(update.clone()).await;
            let applied = loop {
                match controller.hears().await {
                    Message::Applied(applied) => break applied,
                    Message::Rejected(rejected) => panic!("{rejected:?} of {update:?}"),
                    _ => {}
                }
            };
            assert_eq!(applied.snapshot, update.snapshot);
        }
    }

    /// Today's controller knows the proxy, and what it said.
    async fn is_understood_by_a_controller(&self) {
        let fleet = Fleet::empty().await;
        let Some(Message::Hello(hello)) = &self.messages[0].message else {
            panic!("a session begins with a hello");
        };
        let mut applied = self.messages.iter().filter_map(|message| match &message.message {
            Some(Message::Applied(applied)) => applied.snapshot,
            _ => None,
        });
        let last = applied.next_back().expect("it applied something");
        let _stream = wire::repeat(fleet.controller.grpc(), self.messages.clone()).await;
        eventually("the controller knows what the proxy runs", async || {
            let list = fleet.list_proxies().await?;
            let proxy = list.proxies.iter().find(|proxy| proxy.id == hello.proxy_id);
            let proxy = proxy.ok_or_else(|| format!("{list:?}"))?;
            let runs = (proxy.epoch, proxy.version) == (last.epoch, last.version);
            holds(runs && proxy.connected && proxy.build == hello.build, || format!("{proxy:?}"))
        })
        .await;
    }
}

fn read<M: prost::Message + Default>(path: &Path) -> Vec<M> {
    let mut bytes =
        Bytes::from(fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        messages.push(M::decode_length_delimited(&mut bytes).expect("it is whole"));
    }
    messages
}

fn encoded<M: prost::Message>(messages: &[M]) -> Vec<u8> {
    messages.iter().flat_map(|message| message.encode_length_delimited_to_vec()).collect()
}

/// Of much that can be said: kinds of listeners and routes, a weight, a drain, health, a listener that cannot be
/// opened, what goes and comes again.
async fn record() -> Session {
    let fleet = Fleet::empty().await;
    let mut relay = Relay::start(fleet.controller.grpc()).await;
    let backend = Backend::named("here").await;
    let _proxy = proxy(fleet.dir(), "p1", relay.address());
    apply(&fleet, &spec(backend.address(), "")).await;
    fleet.backend_is(backend.address(), "healthy", |status| status.health == 1).await;
    let weight = v1::SetBackendRequest {
        backend_set: "app".into(),
        backend: "one".into(),
        weight: Some(7),
        ..v1::SetBackendRequest::default()
    };
    let mut api = fleet.api().await;
    api.set_backend(weight).await.expect("it is there");
    let drain = v1::DrainBackendRequest {
        backend_set: "app".into(),
        backend: "two".into(),
        ..v1::DrainBackendRequest::default()
    };
    let mut drained = api.drain_backend(drain).await.expect("it is there").into_inner();
    while drained.message().await.expect("it goes on").is_some_and(|told| !told.drained) {}
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let more = format!(
        "[[listeners]]\nname = 'taken'\naddress = '{}'\n",
        taken.local_addr().expect("it is bound")
    );
    let lacks = apply(&fleet, &spec(backend.address(), &more)).await;
    assert_eq!(lacks.problems.len(), 1, "{lacks:?}");
    apply(&fleet, "backend_sets = [{ name = 'other' }]").await;
    apply(&fleet, &spec(backend.address(), "")).await;
    within(PATIENCE, "what was said", relay.heard(|heard| heard.updates.len() >= 6)).await
}

fn proxy(dir: &Path, id: &str, controller: SocketAddr) -> Process {
    let (admin, web) = (Port::reserve(), Port::reserve());
    let args = [
        format!("--id={id}"),
        format!("--control=http://{controller}"),
        format!("--admin={}", admin.address()),
        format!("--listen=web={}", web.address()),
        format!("--data-dir={}", dir.join(format!("{id}-data")).display()),
    ];
    Process::start(dir, id, &binary("lb-proxy"), &args)
}

/// Waits until the proxy runs it, and returns what it says.
async fn apply(fleet: &Fleet, spec: &str) -> v1::Proxy {
    let applied = fleet.api().await.apply(replacing(spec)).await;
    let revision = applied.expect("it is valid").into_inner().revision;
    eventually("the proxy runs it", async || {
        let list = fleet.list_proxies().await?;
        let proxy = list.proxies.first().filter(|proxy| proxy.revision >= revision);
        proxy.cloned().ok_or_else(|| format!("{list:?}"))
    })
    .await
}

fn spec(backend: SocketAddr, more: &str) -> String {
    format!(
        "{more}
         [[listeners]]
         name = 'web'
         address = '127.0.0.1:1'
         [[routes]]
         name = 'app'
         match = {{ host = 'example.com', path_prefix = '/', headers = {{ x-a = '*' }} }}
         forward = [{{ backend_set = 'app', weight = 9 }}, {{ backend_set = 'other', weight = 1 }}]
         retry = {{ attempts = 3, on = ['connect-failure', '5xx'] }}
         [[routes]]
         name = 'moved'
         redirect = {{ status = 308, scheme = 'https' }}
         [[routes]]
         name = 'robots'
         match = {{ path = '/robots.txt' }}
         answer = {{ status = 200, body = 'no' }}
         [[backend_sets]]
         name = 'app'
         balance = 'consistent_hash'
         health_check = {{ interval = '50ms', unhealthy_after = 1, prove_first = true }}
         backends = [
           {{ name = 'one', address = '{backend}' }},
           {{ name = 'two', address = '127.0.0.1:1', weight = 2 }},
         ]
         [[backend_sets]]
         name = 'other'"
    )
}

fn replacing(spec: &str) -> v1::ApplyRequest {
    let spec = lb_proto::file::parse(spec).unwrap_or_else(|errors| panic!("{errors}"));
    let v1::Spec { listeners, routes, backend_sets, certificates } = spec;
    let replace_all = true;
    v1::ApplyRequest {
        listeners,
        routes,
        backend_sets,
        certificates,
        replace_all,
        ..<_>::default()
    }
}

#[tokio::test]
async fn what_todays_builds_say_is_understood_when_it_is_said_again() {
    let session = record().await;
    session.is_understood_by_a_proxy().await;
    session.is_understood_by_a_controller().await;
    if let Ok(name) = std::env::var("LB_SESSIONS") {
        session.write(&name);
    }
}

#[tokio::test]
async fn what_earlier_builds_said_is_understood_today() {
    let names = fs::read_dir(sessions()).expect("there are sessions");
    let names: Vec<_> = names
        .map(|entry| entry.expect("it can be listed").file_name().into_string().expect("text"))
        .collect();
    assert!(!names.is_empty(), "LB_SESSIONS=NAME keeps one");
    for name in names {
        println!("{name}");
        let session = Session::read(&name);
        session.is_understood_by_a_proxy().await;
        session.is_understood_by_a_controller().await;
    }
}

impl From<Heard> for Session {
    fn from(Heard { updates, messages }: Heard) -> Self {
        Self { updates, messages }
    }
}
