//! A controller in this process and its clients, over real sockets.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    time::Duration,
};

use lb_common::drain::{self, DrainTrigger};
use lb_control::{Listeners, RunError, Settings, run};
use lb_proto::{
    parts::Assembly,
    v1::{
        self, discovery_client::DiscoveryClient, fleet_client::FleetClient, proxy_message::Message,
        update::Content,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

/// Nothing here takes longer, not even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Control {
    pub grpc: SocketAddr,
    pub admin: SocketAddr,
    trigger: DrainTrigger,
    task: JoinHandle<Result<(), RunError>>,
}

/// What a proxy does on its stream, done by hand.
pub struct Proxy {
    say: mpsc::Sender<v1::ProxyMessage>,
    updates: Streaming<v1::Update>,
    assembly: Assembly,
}

// === impl Control ===

impl Control {
    pub fn start(settings: Settings) -> Self {
        let bind = || TcpListener::bind("127.0.0.1:0").expect("a free port");
        let listeners = Listeners { grpc: bind(), admin: bind() };
        let grpc = listeners.grpc.local_addr().expect("is bound");
        let admin = listeners.admin.local_addr().expect("is bound");
        let (trigger, drain) = drain::channel();
        let task = tokio::spawn(run(settings, listeners, drain));
        Self { grpc, admin, trigger, task }
    }

    pub fn in_memory() -> Self {
        Self::start(Settings::default())
    }

    pub fn stored_in(data_dir: impl Into<PathBuf>) -> Self {
        Self::start(Settings { data_dir: Some(data_dir.into()), ..Settings::default() })
    }

    /// The whole answer of its admin port.
    pub async fn page(&self, path: &str) -> String {
        let exchange = async {
            let mut stream = TcpStream::connect(self.admin).await.expect("listens");
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("reads");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("answers");
            answer
        };
        soon("an answer", exchange).await
    }

    pub async fn channel(&self) -> Channel {
        channel(self.grpc).await
    }

    pub async fn fleet(&self) -> FleetClient<Channel> {
        FleetClient::new(self.channel().await)
    }

    pub async fn proxy(&self, id: &str, running: Option<v1::SnapshotId>) -> Proxy {
        let mut client = DiscoveryClient::new(self.channel().await);
        let (say, messages) = mpsc::channel(16);
        let updates = client.subscribe(ReceiverStream::new(messages)).await.expect("is answered");
        let assembly = Assembly::default();
        let proxy = Proxy { say, updates: updates.into_inner(), assembly };
        proxy
            .say(Message::Hello(v1::Hello { proxy_id: id.into(), running, ..<_>::default() }))
            .await;
        proxy
    }

    pub async fn stop(self) -> Result<(), RunError> {
        self.trigger.start();
        self.ended().await
    }

    pub async fn ended(self) -> Result<(), RunError> {
        soon("the controller ends", self.task).await.expect("does not panic")
    }
}

// === impl Proxy ===

impl Proxy {
    pub async fn say(&self, message: Message) {
        let message = v1::ProxyMessage { message: Some(message) };
        self.say.send(message).await.expect("the stream is open");
    }

    pub async fn applied(&self, snapshot: Option<v1::SnapshotId>) {
        self.say(Message::Applied(v1::Applied { snapshot, ..<_>::default() })).await;
    }

    pub async fn rejected(&self, snapshot: Option<v1::SnapshotId>, reason: &str) {
        let (resource, reason) = (String::new(), reason.into());
        self.say(Message::Rejected(v1::Rejected { snapshot, resource, reason })).await;
    }

    pub async fn report(&self, snapshot: Option<v1::SnapshotId>, in_flight: u64) {
        let backend = v1::BackendReport {
            backend_set: "app".into(),
            backend: "one".into(),
            in_flight,
            ejection: None,
            more: None,
        };
        self.say(Message::Report(v1::Report {
            snapshot,
            backends: vec![backend],
            ..v1::Report::default()
        }))
        .await;
    }

    /// The next update, or how the stream ended.
    pub async fn try_next(&mut self) -> Result<v1::Update, Status> {
        loop {
            let next = soon("an update comes", self.updates.message()).await?;
            let part = next.ok_or_else(|| Status::ok("the stream ended"))?;
            if let Some(update) = self.assembly.take(part).expect("it is not too large") {
                return Ok(update);
            }
        }
    }

    pub async fn next(&mut self) -> v1::Update {
        self.try_next().await.expect("the stream goes on")
    }

    /// The next update, applied; it must lead to `revision` at last.
    pub async fn follow_to(&mut self, revision: u64) -> v1::Update {
        loop {
            let update = self.next().await;
            self.applied(update.snapshot).await;
            if update.revision == revision {
                return update;
            }
        }
    }
}

pub fn is_full(update: &v1::Update) -> bool {
    matches!(update.content, Some(Content::Full(_)))
}

pub async fn channel(address: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("is a URI");
    eventually("the port answers", async || endpoint.connect().await.ok()).await
}

/// Waits for a condition, and not for ever.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(what, wait).await
}

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let result = tokio::time::timeout(PATIENCE, future).await;
    result.unwrap_or_else(|_| panic!("waited {PATIENCE:?}: {what}"))
}

/// An `ApplyRequest` from the JSON of its spec.
pub fn request(spec: &str) -> v1::ApplyRequest {
    let spec: v1::Spec = serde_json::from_str(spec).expect("is a spec");
    let v1::Spec { listeners, routes, backend_sets, certificates } = spec;
    v1::ApplyRequest { listeners, routes, backend_sets, certificates, ..<_>::default() }
}

/// One set of two backends, `one` with this weight.
pub fn app(weight: u32) -> v1::ApplyRequest {
    request(&format!(
        r#"{{"backend_sets": [{{"name": "app", "backends": [
            {{"name": "one", "address": "127.0.0.1:1", "weight": {weight}}},
            {{"name": "two", "address": "127.0.0.1:2"}}]}}]}}"#
    ))
}
