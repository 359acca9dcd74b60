//! Both ends of the stream between controllers and proxies, and a place between them that hears all.

use std::{net::SocketAddr, pin::Pin, sync::Arc};

use integration_tests::eventually::{PATIENCE, within};
use lb_proto::{
    MAX_MESSAGE_BYTES,
    v1::{
        self,
        discovery_client::DiscoveryClient,
        discovery_server::{Discovery, DiscoveryServer},
        proxy_message::Message,
    },
};
use tokio::{
    net::TcpListener,
    sync::{Mutex, mpsc, watch},
    task::JoinSet,
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Endpoint, Server, server::TcpIncoming},
};

type Updates = Pin<Box<dyn Stream<Item = Result<v1::Update, Status>> + Send>>;

/// A controller that says what it is told to, to one proxy.
pub struct Controller {
    address: SocketAddr,
    say: mpsc::Sender<Result<v1::Update, Status>>,
    heard: mpsc::Receiver<v1::ProxyMessage>,
    _serving: JoinSet<()>,
}

struct Script {
    updates: Mutex<Option<mpsc::Receiver<Result<v1::Update, Status>>>>,
    heard: mpsc::Sender<v1::ProxyMessage>,
}

/// What was said so far.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    pub updates: Vec<v1::Update>,
    pub messages: Vec<v1::ProxyMessage>,
}

/// A way to a controller that remembers what goes over it.
pub struct Relay {
    address: SocketAddr,
    heard: watch::Receiver<Heard>,
    _serving: JoinSet<()>,
}

struct Between {
    controller: SocketAddr,
    heard: Arc<watch::Sender<Heard>>,
}

// === impl Controller ===

impl Controller {
    pub async fn start() -> Self {
        let (say, updates) = mpsc::channel(1);
        let (sender, heard) = mpsc::channel(1024);
        let script = Script { updates: Mutex::new(Some(updates)), heard: sender };
        let (address, serving) = serve(script).await;
        Self { address, say, heard, _serving: serving }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub async fn say(&self, update: v1::Update) {
        self.say.send(Ok(update)).await.expect("the proxy is there");
    }

    /// What the proxy says next.
    pub async fn hears(&mut self) -> Message {
        let next = within(PATIENCE, "the proxy says something", self.heard.recv()).await;
        next.expect("it goes on").message.expect("it is of a known kind")
    }
}

#[tonic::async_trait]
impl Discovery for Script {
    type SubscribeStream = Updates;

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::ProxyMessage>>,
    ) -> Result<Response<Updates>, Status> {
        let mut messages = request.into_inner();
        let heard = self.heard.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                if heard.send(message).await.is_err() {
                    return;
                }
            }
        });
        let updates = self.updates.lock().await.take();
        let updates = updates.ok_or_else(|| Status::unavailable("this is for one stream"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(updates))))
    }
}

// === impl Relay ===

impl Relay {
    pub async fn start(controller: SocketAddr) -> Self {
        let heard = Arc::new(watch::Sender::new(Heard::default()));
        let receiver = heard.subscribe();
        let (address, serving) = serve(Between { controller, heard }).await;
        Self { address, heard: receiver, _serving: serving }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was said, once there is enough.
    pub async fn heard<T: From<Heard>>(&mut self, is_enough: impl FnMut(&Heard) -> bool) -> T {
        self.heard.wait_for(is_enough).await.expect("it goes on").clone().into()
    }
}

#[tonic::async_trait]
impl Discovery for Between {
    type SubscribeStream = Updates;

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::ProxyMessage>>,
    ) -> Result<Response<Updates>, Status> {
        let mut messages = request.into_inner();
        let (pass, passed) = mpsc::channel(1);
        let heard = Arc::clone(&self.heard);
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                heard.send_modify(|heard| heard.messages.push(message.clone()));
                if pass.send(message).await.is_err() {
                    return;
                }
            }
        });
        let updates = client(self.controller).await.subscribe(ReceiverStream::new(passed)).await?;
        let heard = Arc::clone(&self.heard);
        let updates = updates.into_inner().map(move |update| {
            if let Ok(update) = &update {
                heard.send_modify(|heard| heard.updates.push(update.clone()));
            }
            update
        });
        Ok(Response::new(Box::pin(updates)))
    }
}

async fn serve(service: impl Discovery) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let service = DiscoveryServer::new(service);
        let served = Server::builder().add_service(service);
        served.serve_with_incoming(TcpIncoming::from(listener)).await.expect("it serves");
    });
    (address, serving)
}

async fn client(controller: SocketAddr) -> DiscoveryClient<tonic::transport::Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{controller}")).expect("it is a URI");
    let channel = endpoint.connect().await.expect("the controller is there");
    DiscoveryClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// Says these to a controller. It is connected until what is returned is dropped.
pub async fn repeat(controller: SocketAddr, messages: Vec<v1::ProxyMessage>) -> JoinSet<()> {
    let (say, said) = mpsc::channel(1);
    let mut updates =
        client(controller).await.subscribe(ReceiverStream::new(said)).await.expect("is answered");
    let mut task = JoinSet::new();
    task.spawn(async move {
        for message in messages {
            say.send(message).await.expect("the controller listens");
        }
        while let Ok(Some(_)) = updates.get_mut().message().await {}
    });
    task
}
