//! `lb.v1.Discovery`: one task a connected proxy, which sends it what [`Session`] says and tells
//! the controller what it answers.
//!
//! A task holds at most one update that its proxy has not read, and nobody waits for a task but
//! its proxy.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lb_common::{
    clock,
    drain::Drain,
    id::{BackendName, BackendSetName, ProxyId},
};
use lb_proto::{MAX_MESSAGE_BYTES, parts, update::parse_snapshot_id, v1};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use v1::{
    discovery_server::{Discovery, DiscoveryServer},
    proxy_message::Message,
};

use crate::{
    controller::{Event, ProxyEvent},
    fleet::status,
    owner::Handle,
    proxies::{BackendLoad, ConnectionId, Ended, Hello, Refusal, Report},
    session::{Next, Session},
    trace::Delivery,
    traffic::Increase,
};

const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a proxy that does not read may keep the reason for its connection's end waiting.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
/// Of texts that a proxy sends for people to read, in bytes.
const MOST_TEXT: usize = 1024;
const MOST_PROBLEMS: usize = 100;

type Updates = mpsc::Sender<Result<v1::Update, Status>>;

#[derive(Clone)]
pub struct Service {
    handle: Handle,
    drain: Drain,
    last_connection: Arc<AtomicU64>,
}

/// One proxy's connection.
struct Connection {
    id: ProxyId,
    connection: ConnectionId,
    handle: Handle,
    session: Session,
    /// The last update that was sent, if it is of a trace and not answered yet.
    delivery: Option<Delivery>,
    /// What of the update that is being sent is not sent yet.
    parts: VecDeque<v1::Update>,
}

pub fn server(handle: Handle, drain: Drain) -> DiscoveryServer<Service> {
    let last_connection = Arc::default();
    DiscoveryServer::new(Service { handle, drain, last_connection })
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

// === impl Service ===

#[tonic::async_trait]
impl Discovery for Service {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<v1::Update, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::ProxyMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let address = request.remote_addr();
        let (updates, stream) = mpsc::channel(1);
        let service = self.clone();
        tokio::spawn(async move {
            if let Err(status) = service.serve(request.into_inner(), &updates, address).await {
                let goodbye = updates.send(Err(status));
                let _ = tokio::time::timeout(GOODBYE_TIMEOUT, goodbye).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

impl Service {
    async fn serve(
        mut self,
        mut inbound: Streaming<v1::ProxyMessage>,
        updates: &Updates,
        address: Option<SocketAddr>,
    ) -> Result<(), Status> {
        let hello = tokio::select! {
            hello = tokio::time::timeout(HELLO_TIMEOUT, inbound.message()) => hello,
            () = updates.closed() => return Ok(()),
            () = self.drain.started() => return Err(ending()),
        };
        let hello = hello
            .map_err(|_| Status::deadline_exceeded(format!("no hello within {HELLO_TIMEOUT:?}")))?;
        let Some(Message::Hello(hello)) = hello?.and_then(|message| message.message) else {
            return Err(Status::invalid_argument("the first message is to be a hello"));
        };
        let (id, hello) = parse_hello(hello, address)?;
        let connection = ConnectionId(self.last_connection.fetch_add(1, Ordering::Relaxed));
        let mut connection = Connection {
            id,
            connection,
            session: Session::new(hello.running, hello.revision),
            delivery: None,
            parts: VecDeque::new(),
            handle: self.handle.clone(),
        };
        let (end, ended) = oneshot::channel();
        connection.say(ProxyEvent::Connected { hello, end }).await?;
        let result = connection.converse(&mut inbound, updates, ended, &mut self.drain).await;
        // Also after it was replaced; the controller knows whose word counts.
        connection.say(ProxyEvent::Disconnected).await?;
        result
    }
}

// === impl Connection ===

impl Connection {
    async fn converse(
        &mut self,
        inbound: &mut Streaming<v1::ProxyMessage>,
        updates: &Updates,
        mut ended: oneshot::Receiver<Ended>,
        drain: &mut Drain,
    ) -> Result<(), Status> {
        let mut published = self.handle.publisher().subscribe();
        // What was published before it came does not wait for it.
        let before = published.borrow().id();
        loop {
            let current = Arc::clone(&published.borrow_and_update());
            let offers = current.offers(self.session.revision());
            let next = self.session.next(&offers, clock::now());
            let is_sending = !self.parts.is_empty();
            tokio::select! {
                message = inbound.message() => match message? {
                    Some(message) => self.answered(message).await?,
                    None => return Ok(()),
                },
                Ok(()) = published.changed() => {}
                // Ready at once, unless the proxy has not read the last one; then what is sent is
                // what is current when it has.
                Ok(permit) = updates.reserve(), if is_sending || matches!(next, Next::Send { .. }) => {
                    if let Next::Send { id, base } = next && !is_sending {
                        let (update, full) = current.update(id, base);
                        self.session.sent(id, update.revision, &offers, full, clock::now());
                        self.parts = parts::cut(update);
                        self.delivery = current
                            .cause()
                            .filter(|_| current.id() != before)
                            .map(|cause| Delivery::begin(cause, &self.id, id.version, full));
                    }
                    if let Some(part) = self.parts.pop_front() {
                        permit.send(Ok(part));
                    }
                    if self.parts.is_empty() {
                        self.session.is_sent(clock::now());
                    }
                }
                () = wait(next) => {}
                why = &mut ended => return Err(match why {
                    Ok(why) => self.status_of(&why),
                    Err(_) => ending(),
                }),
                () = updates.closed() => return Ok(()),
                () = drain.started() => return Err(ending()),
            }
        }
    }

    async fn answered(&mut self, message: v1::ProxyMessage) -> Result<(), Status> {
        match message.message {
            Some(Message::Applied(applied)) => {
                let snapshot = snapshot_of(applied.snapshot)?;
                self.session.applied(snapshot, applied.revision, clock::now());
                if let Some(delivery) = self.delivery.take_if(|sent| sent.is_of(snapshot)) {
                    delivery.applied();
                }
                let revision = self.session.revision();
                self.say(ProxyEvent::Applied { snapshot, revision }).await
            }
            Some(Message::Rejected(rejected)) => {
                let snapshot = snapshot_of(rejected.snapshot)?;
                let refused = self.session.rejected(snapshot, clock::now());
                let runs = self.session.revision();
                let refusal = refused.map(|revision| Refusal { revision, runs });
                let v1::Rejected { resource, reason, .. } = rejected;
                let reason = if resource.is_empty() || reason.starts_with(&resource) {
                    reason
                } else {
                    format!("{resource}: {reason}")
                };
                if let Some(delivery) = self.delivery.take_if(|sent| sent.is_of(snapshot)) {
                    delivery.rejected(&reason);
                }
                self.say(ProxyEvent::Rejected { snapshot, reason: cut(reason), refusal }).await
            }
            Some(Message::Report(report)) => {
                self.say(ProxyEvent::Reported(parse_report(report))).await
            }
            Some(Message::Problems(v1::Problems { problems })) => {
                let problem = |v1::Problem { resource, reason }: v1::Problem| v1::Problem {
                    resource: cut(resource),
                    reason: cut(reason),
                };
                let problems = problems.into_iter().take(MOST_PROBLEMS).map(problem).collect();
                self.say(ProxyEvent::Problems(problems)).await
            }
            Some(Message::Hello(_)) => Err(Status::invalid_argument("there was a hello already")),
            // Of a newer proxy.
            None => Ok(()),
        }
    }

    async fn say(&self, said: ProxyEvent) -> Result<(), Status> {
        let Self { id, connection, .. } = self;
        let event = Event::Proxy { id: id.clone(), connection: *connection, said };
        self.handle.send(event).await.map_err(status)
    }

    fn status_of(&self, why: &Ended) -> Status {
        let id = &self.id;
        match why {
            Ended::Replaced { by } => {
                let by = by.map(|by| format!(" from {by}")).unwrap_or_default();
                Status::aborted(format!(
                    "replaced by a newer connection{by} with the same proxy id {id:?}; each proxy \
                     needs an id of its own"
                ))
            }
            Ended::TooMany => Status::resource_exhausted("too many proxies are connected"),
        }
    }
}

async fn wait(next: Next) {
    match next {
        Next::WaitUntil(deadline) => tokio::time::sleep_until(deadline.into()).await,
        Next::Nothing | Next::Send { .. } => std::future::pending().await,
    }
}

fn ending() -> Status {
    Status::unavailable("the controller is shutting down")
}

fn snapshot_of(wire: Option<v1::SnapshotId>) -> Result<lb_common::snapshot::SnapshotId, Status> {
    let missing = || Status::invalid_argument("snapshot: is missing; say which one it is about");
    wire.as_ref().map(parse_snapshot_id).ok_or_else(missing)
}

fn parse_hello(hello: v1::Hello, address: Option<SocketAddr>) -> Result<(ProxyId, Hello), Status> {
    let v1::Hello { proxy_id, zone, build, running, revision } = hello;
    let id = ProxyId::new(&proxy_id)
        .map_err(|error| Status::invalid_argument(format!("hello.proxy_id: {error}")))?;
    let running = running.as_ref().map(parse_snapshot_id);
    Ok((id, Hello { zone: cut(zone), build: cut(build), address, running, revision }))
}

/// What has no valid name is nobody's backend.
fn parse_report(report: v1::Report) -> Report {
    let v1::Report { backends, snapshot, more, connections, partial: is_partial } = report;
    let version = snapshot.as_ref().map(parse_snapshot_id).unwrap_or_default().version;
    let mut report = Report { version, connections, is_partial, ..Report::default() };
    let mut increase = more.map(|own| Increase { own, ..Increase::default() });
    for entry in backends {
        let Ok(set) = BackendSetName::new(&entry.backend_set) else { continue };
        let Ok(backend) = BackendName::new(&entry.backend) else { continue };
        let key = (set, backend);
        if let (Some(increase), Some(more)) = (&mut increase, entry.more) {
            increase.backends.push((key.clone(), more));
        }
        let load = BackendLoad { in_flight: entry.in_flight, ejection: entry.ejection.map(cut) };
        report.backends.push((key, load));
    }
    Report { increase, ..report }
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MOST_TEXT));
    text
}
