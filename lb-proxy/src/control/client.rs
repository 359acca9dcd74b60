//! The stream to one of several controllers, opened again for as long as the proxy lives.
//!
//! The first controller is drawn, so that a fleet spreads; each failure leads to the next one,
//! after a wait with full jitter. The waits start over once a stream has worked: it delivered an
//! update that was taken, or it lasted. Of several controllers, one all of whose updates are refused is left.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use http::Uri;
use lb_common::{backoff::Backoff, clock, drain::Drain};
use lb_proto::{
    MAX_MESSAGE_BYTES,
    parts::{Assembly, TooLarge},
    v1::{self, discovery_client::DiscoveryClient, proxy_message::Message},
};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};
use tracing::{info, warn};

use super::{
    Control, Install, Problems, Settings,
    outbox::Outbox,
    reporter::Reporter,
    status::{Connection, StreamError},
};

pub struct Follower<'a, I> {
    settings: Settings,
    control: Control<'a, I>,
    /// Why the disk has an older snapshot, while it has.
    of_disk: watch::Receiver<Option<String>>,
    /// Since a stream worked.
    failures: u32,
    /// When a failure was logged last; `None` while streams work.
    complained: Option<Instant>,
}

/// Why a stream did not open, or ended before the drain.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("could not connect: {}", causes(.0))]
    Connect(tonic::transport::Error),
    #[error("the controller did not answer within {ANSWER_TIMEOUT:?}")]
    Silent,
    #[error("the stream broke: {:?}: {}", .0.code(), .0.message())]
    Broken(#[from] tonic::Status),
    #[error("the controller ended the stream")]
    Ended,
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error("what it sends is refused, and there are others to ask")]
    Refused,
}

const BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_secs(5) };
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// From the first look-up of the controller's address to the head of its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A stream that lasted this long has worked, even if there was nothing to say.
const LASTED: Duration = Duration::from_secs(10);
const REPORT_INTERVAL: Duration = Duration::from_millis(200);
/// How long a controller has to end its side of a stream that this side has ended.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);
/// What has a problem if the disk has an older snapshot than the one that runs.
const LAST_GOOD: &str = "last_known_good";

// === impl Follower ===

impl<'a, I: Install> Follower<'a, I> {
    pub fn new(
        settings: Settings,
        control: Control<'a, I>,
        of_disk: watch::Receiver<Option<String>>,
    ) -> Self {
        Self { settings, control, of_disk, failures: 0, complained: None }
    }

    /// Until the drain starts.
    pub async fn run(mut self, mut drain: Drain) {
        let controllers = self.settings.controllers.clone();
        if controllers.is_empty() {
            return drain.started().await;
        }
        let first = self.settings.rng.usize(..controllers.len());
        for controller in controllers.iter().cycle().skip(first) {
            match self.session(controller, &mut drain).await {
                Ok(()) => return,
                Err(error) => self.lost(controller, &error),
            }
            let delay = BACKOFF.delay(self.failures, &mut self.settings.rng);
            self.failures = self.failures.saturating_add(1);
            tokio::select! {
                () = sleep(delay) => {}
                () = drain.started() => return,
            }
        }
    }

    /// One stream, from hello to the end. Only a drain ends it without an error.
    async fn session(&mut self, controller: &Uri, drain: &mut Drain) -> Result<(), SessionError> {
        let (outgoing, messages) = mpsc::channel(1);
        outgoing.try_send(self.hello()).expect("an empty channel takes one message");
        let mut updates = tokio::select! {
            updates = timeout(ANSWER_TIMEOUT, open(controller, messages)) => {
                updates.unwrap_or(Err(SessionError::Silent))?
            }
            () = drain.started() => return Ok(()),
        };
        let opened = clock::now();
        let connection =
            Connection::Connected { controller: controller.clone(), since: clock::wall() };
        self.control.status.send_modify(|status| {
            status.counts.streams += 1;
            status.connection = connection;
        });

        let mut outbox = Outbox::default();
        let mut installed = self.control.install.problems();
        let mut of_disk = self.of_disk.clone();
        let all = |installed: &mut watch::Receiver<Problems>,
                   of_disk: &mut watch::Receiver<Option<String>>| {
            let mut problems = installed.borrow_and_update().clone();
            let of_disk = of_disk.borrow_and_update().clone();
            problems.extend(of_disk.map(|why| (LAST_GOOD.to_owned(), why)));
            to_wire(&problems)
        };
        let known = all(&mut installed, &mut of_disk);
        if !known.problems.is_empty() {
            outbox.problems(known);
        }
        let mut reporter = Reporter::default();
        let mut tick = interval(REPORT_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut worked, mut is_refused) = (false, false);
        let mut assembly = Assembly::default();
        loop {
            tokio::select! {
                () = drain.started() => break,
                update = updates.message() => {
                    let part = update?.ok_or(SessionError::Ended)?;
                    let Some(update) = assembly.take(part)? else { continue };
                    let answer = self.control.take(&update);
                    let applied = answer.is_ok();
                    // Who hears that it is applied is to know already what of it lacks.
                    if installed.has_changed().is_ok_and(|has_changed| has_changed) {
                        outbox.problems(all(&mut installed, &mut of_disk));
                    }
                    outbox.answer(answer);
                    is_refused = !applied;
                    if applied {
                        self.works(controller, &mut worked);
                        self.report(&mut outbox, &mut reporter);
                    }
                }
                Ok(()) = installed.changed() => {
                    outbox.problems(all(&mut installed, &mut of_disk));
                }
                Ok(()) = of_disk.changed() => {
                    outbox.problems(all(&mut installed, &mut of_disk));
                }
                // An error says that nobody reads, and then `updates` ends too.
                Ok(permit) = outgoing.reserve(), if !outbox.is_empty() => {
                    if let Some(message) = outbox.pop() {
                        permit.send(message);
                    }
                }
                _ = tick.tick() => {
                    self.report(&mut outbox, &mut reporter);
                    if clock::now() - opened >= LASTED {
                        // Of one that sends nothing that can be taken, another one may be the one that leads.
                        let is_useless = is_refused && !worked;
                        if is_useless && self.settings.controllers.len() > 1 {
                            return Err(SessionError::Refused);
                        }
                        if !is_useless {
                            self.works(controller, &mut worked);
                        }
                    }
                }
            }
        }
        drop(outgoing);
        let ended = async { while let Ok(Some(_)) = updates.message().await {} };
        // A controller that does not end its side is left as it is.
        let _ = timeout(CLOSE_TIMEOUT, ended).await;
        let connection = Connection::Lost { since: clock::wall() };
        self.control.status.send_modify(|status| status.connection = connection);
        Ok(())
    }

    fn hello(&self) -> v1::ProxyMessage {
        let hello = v1::Hello {
            proxy_id: self.settings.proxy_id.to_string(),
            zone: self.settings.zone.clone(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            running: self.control.running(),
            revision: self.control.revision(),
        };
        v1::ProxyMessage { message: Some(Message::Hello(hello)) }
    }

    fn report(&mut self, outbox: &mut Outbox, reporter: &mut Reporter) {
        if outbox.has_report() {
            return;
        }
        let now = clock::now();
        let seen = self.control.install.look(reporter.wants_totals(now));
        if let Some(report) = reporter.next(seen, self.control.running(), now) {
            outbox.report(report);
        }
    }

    fn works(&mut self, controller: &Uri, worked: &mut bool) {
        if !*worked {
            *worked = true;
            self.failures = 0;
            self.complained = None;
            info!(%controller, "following a controller");
        }
    }

    fn lost(&mut self, controller: &Uri, error: &SessionError) {
        let (now, wall) = (clock::now(), clock::wall());
        let message = error.to_string();
        if self.complained.is_none_or(|at| now - at >= COMPLAINT_INTERVAL) {
            self.complained = Some(now);
            warn!(%controller, "{message}; what runs runs on, and the next controller is asked");
        }
        self.control.status.send_modify(|status| {
            status.counts.failures += 1;
            if status.connection.is_connected() {
                status.connection = Connection::Lost { since: wall };
            }
            status.last_error =
                Some(StreamError { controller: controller.clone(), message, at: wall });
        });
    }
}

fn to_wire(problems: &Problems) -> v1::Problems {
    let problem = |(resource, reason): (&String, &String)| v1::Problem {
        resource: resource.clone(),
        reason: reason.clone(),
    };
    v1::Problems { problems: problems.iter().map(problem).collect() }
}

async fn open(
    controller: &Uri,
    messages: mpsc::Receiver<v1::ProxyMessage>,
) -> Result<Streaming<v1::Update>, SessionError> {
    let endpoint = Endpoint::from(controller.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect().await.map_err(SessionError::Connect)?;
    let mut client = DiscoveryClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    Ok(client.subscribe(ReceiverStream::new(messages)).await?.into_inner())
}

/// An error and what led to it, because tonic's own text is only "transport error".
fn causes(error: &dyn Error) -> String {
    let first = error.source().unwrap_or(error);
    let mut text = first.to_string();
    let mut source = first.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
