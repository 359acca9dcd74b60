//! A controller that does what a test tells it, and a proxy that only follows it.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::Uri;
use lb_common::{
    drain::{self, DrainTrigger},
    id::{BackendName, BackendSetName, ProxyId},
    snapshot::{Snapshot, SnapshotId, Version},
};
use lb_proto::{
    file, parse,
    update::{self, Sealed},
    v1::{
        self,
        discovery_server::{Discovery, DiscoveryServer},
        proxy_message::Message,
        update::Content,
    },
};
use lb_proxy::control::{
    self, BackendSeen, Install, InstallError, Problems, Seen, Settings,
    last_good::LastGood,
    status::{ControlStatus, LastGoodStatus},
};
use prost::Message as _;
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A controller that does what a test tells it.
pub struct Controller {
    address: SocketAddr,
    sessions: mpsc::Receiver<Session>,
    server: JoinHandle<()>,
}

/// One proxy's stream, seen from the controller.
pub struct Session {
    pub from_proxy: Streaming<v1::ProxyMessage>,
    to_proxy: mpsc::Sender<Result<v1::Update, Status>>,
}

struct Subscriptions(mpsc::Sender<Session>);

/// A proxy whose tables are only looked at.
pub struct Proxy {
    pub status: watch::Receiver<ControlStatus>,
    installed: Arc<Mutex<Vec<SnapshotId>>>,
    drain: DrainTrigger,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Table {
    installed: Arc<Mutex<Vec<SnapshotId>>>,
    problems: watch::Sender<Problems>,
    /// Makes no two reports equal, and each of this many bytes.
    report_bytes: usize,
    reports: AtomicU64,
}

impl Controller {
    pub async fn start() -> Self {
        let (sender, sessions) = mpsc::channel(8);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let server = Server::builder()
            .initial_stream_window_size(65_535)
            .add_service(DiscoveryServer::new(Subscriptions(sender)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async { server.await.expect("it serves until it is aborted") });
        Self { address, sessions, server }
    }

    pub fn uri(&self) -> Uri {
        format!("http://{}", self.address).parse().expect("an address makes a URL")
    }

    /// Nobody listens there any more. Streams that are open go on.
    pub async fn close(&mut self) {
        self.server.abort();
        let ended = timeout(PATIENCE, &mut self.server).await.expect("it ends");
        assert!(ended.is_err_and(|error| error.is_cancelled()));
    }

    /// The next stream and the snapshot that its hello says the proxy runs.
    pub async fn hello(&mut self) -> (Session, Option<SnapshotId>) {
        let session = timeout(PATIENCE, self.sessions.recv()).await.expect("a proxy connects");
        let mut session = session.expect("the controller lives");
        let Message::Hello(hello) = session.next().await else { panic!("the first is a hello") };
        assert_eq!((hello.proxy_id.as_str(), hello.zone.as_str()), ("p1", "z"));
        (session, hello.running.as_ref().map(update::parse_snapshot_id))
    }
}

#[tonic::async_trait]
impl Discovery for Subscriptions {
    type SubscribeStream = ReceiverStream<Result<v1::Update, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::ProxyMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (to_proxy, updates) = mpsc::channel(1);
        let session = Session { from_proxy: request.into_inner(), to_proxy };
        self.0.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(updates)))
    }
}

impl Session {
    pub async fn next(&mut self) -> Message {
        let message = timeout(PATIENCE, self.from_proxy.message()).await.expect("in time");
        let message = message.expect("the stream is whole").expect("the stream goes on");
        message.message.expect("a known message")
    }

    async fn answer(&mut self) -> Message {
        loop {
            match self.next().await {
                Message::Report(_) => {}
                answer => return answer,
            }
        }
    }

    pub async fn send(&self, update: v1::Update) {
        let sent = timeout(PATIENCE, self.to_proxy.send(Ok(update))).await;
        sent.expect("the proxy reads").expect("the proxy is connected");
    }

    pub async fn applies(&mut self, update: v1::Update) {
        let applied = v1::Applied { snapshot: update.snapshot, revision: update.revision };
        self.send(update).await;
        assert_eq!(self.answer().await, Message::Applied(applied));
    }

    /// Sends what is to be refused; returns the resource and the reason.
    pub async fn rejects(&mut self, update: v1::Update) -> (String, String) {
        let snapshot = update.snapshot;
        self.send(update).await;
        match self.answer().await {
            Message::Rejected(rejected) => {
                assert_eq!(rejected.snapshot, snapshot);
                (rejected.resource, rejected.reason)
            }
            other => panic!("it is taken: {other:?}"),
        }
    }
}

impl Proxy {
    pub fn start(data_dir: &Path, controllers: &[&Controller]) -> Self {
        Self::with(data_dir, controllers, 0)
    }

    pub fn with(data_dir: &Path, controllers: &[&Controller], report_bytes: usize) -> Self {
        let settings = Settings {
            proxy_id: ProxyId::new("p1").expect("a valid name"),
            zone: "z".into(),
            controllers: controllers.iter().map(|controller| controller.uri()).collect(),
            rng: fastrand::Rng::with_seed(1),
        };
        let last_good = LastGood::open(data_dir).expect("a free directory");
        let (sender, status) = watch::channel(ControlStatus::default());
        let (drain, draining) = drain::channel();
        let table = Table { report_bytes, ..Table::default() };
        let installed = Arc::clone(&table.installed);
        let task = tokio::spawn(control::run(settings, last_good, table, sender, draining));
        Self { status, installed, drain, task }
    }

    pub async fn until(&mut self, what: &str, reached: impl FnMut(&ControlStatus) -> bool) {
        let status = timeout(PATIENCE, self.status.wait_for(reached)).await;
        status.expect(what).expect("the proxy lives");
    }

    pub async fn written(&mut self, id: SnapshotId) {
        self.until("it is written to disk", |status| {
            matches!(status.last_good, LastGoodStatus::Written { snapshot, .. } if snapshot == id)
        })
        .await;
    }

    pub fn installed(&self) -> Vec<SnapshotId> {
        self.installed.lock().expect("nobody panicked").clone()
    }

    pub async fn stop(self) {
        self.drain.start();
        timeout(PATIENCE, self.task).await.expect("it ends").expect("it ends in order");
    }
}

impl Install for Table {
    /// Refuses a listener named `taken`.
    fn install(&mut self, snapshot: &Arc<Snapshot>) -> Result<(), InstallError> {
        if snapshot.desired.listeners.contains_key("taken") {
            let (resource, reason) = ("listeners[taken]".into(), "address in use".into());
            return Err(InstallError { resource, reason });
        }
        self.installed.lock().expect("nobody panicked").push(snapshot.id);
        Ok(())
    }

    fn problems(&self) -> watch::Receiver<Problems> {
        self.problems.subscribe()
    }

    fn look(&mut self, _: bool) -> Seen {
        if self.report_bytes == 0 {
            return Seen::default();
        }
        let in_flight = self.reports.fetch_add(1, Relaxed);
        let set = BackendSetName::new("app").expect("a name");
        let backend = |i| BackendSeen {
            key: (set.clone(), BackendName::new(&format!("{i:0100}")).expect("a name")),
            in_flight,
            ejection: None,
            // Who gets nothing new is told of at once.
            is_leaving: true,
            totals: None,
        };
        let backends = (0..self.report_bytes.div_ceil(100)).map(backend).collect();
        Seen { backends, ..Seen::default() }
    }
}

/// A state with one listener of that name and one backend.
pub fn sealed(version: u64, revision: u64, listener: &str) -> Sealed {
    let text = format!(
        "listeners = [{{ name = '{listener}', address = '127.0.0.1:80' }}]
         routes = [{{ name = 'app', backend_set = 'app' }}]
         backend_sets = [{{ name = 'app', backends = [{{ address = '127.0.0.1:1' }}] }}]"
    );
    seal(version, revision, &text)
}

pub fn seal(version: u64, revision: u64, text: &str) -> Sealed {
    let spec = file::parse(text).unwrap_or_else(|errors| panic!("{errors}"));
    let desired = parse::desired_state(&spec).unwrap_or_else(|problems| panic!("{problems}"));
    Sealed::new(Version { epoch: 1, version }, revision, update::Content::of(desired))
}

pub fn full(sealed: &Sealed) -> v1::Update {
    update(sealed, Content::Full(sealed.resources.encode()))
}

pub fn delta(base: &Sealed, next: &Sealed) -> v1::Update {
    update(next, Content::Delta(base.delta(next).encode_to_vec().into()))
}

pub fn update(sealed: &Sealed, content: Content) -> v1::Update {
    let Snapshot { id, revision, .. } = *sealed.snapshot;
    v1::Update { snapshot: wire(id), revision, content: Some(content) }
}

pub fn wire(id: SnapshotId) -> Option<v1::SnapshotId> {
    Some(update::snapshot_id(id))
}

pub fn dir() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

/// A directory with `sealed` as the last-known-good snapshot.
pub fn dir_with(sealed: &Sealed) -> TempDir {
    let dir = dir();
    let mut last_good = LastGood::open(dir.path()).expect("a new directory");
    last_good.write(sealed).expect("it is writable");
    dir
}
