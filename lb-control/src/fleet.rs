//! `lb.v1.Fleet`: what operators ask for, in the terms of the controller.

use std::{pin::Pin, time::Duration};

use futures_util::{StreamExt, stream};
use lb_common::{
    clock,
    drain::Drain,
    id::{BackendName, BackendSetName},
    material::Materials,
    snapshot::Version,
    spec::BackendState,
};
use lb_proto::{MAX_MESSAGE_BYTES, duration, encode, error::Problems, parse, v1};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status};
use v1::fleet_server::{Fleet, FleetServer};

use crate::{
    asked::{Asked, Setting, To},
    backup::BackupError,
    controller::{Applied, Change, Refused},
    desired::Batch,
    explain::Explainer,
    owner::{Handle, Terms},
    store::{StoreError, StoredState},
    trace::Call,
};

const DEFAULT_HISTORY: usize = 50;
const DEFAULT_DRAIN: Duration = Duration::from_secs(60);
const MOST_DRAIN: Duration = Duration::from_secs(24 * 3600);
/// How often a drain is looked at, and how often at least it is told.
const DRAIN_LOOK: Duration = Duration::from_millis(100);
const DRAIN_TELL: Duration = Duration::from_secs(1);
const MOST_COMMENT: usize = 1024;
/// The header that says who calls.
const AUTHOR: &str = "lb-author";
/// In characters.
const MOST_AUTHOR: usize = 100;
/// Status messages travel in a header, and clients refuse large ones.
const MOST_MESSAGE: usize = 3000;

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
pub struct Service {
    handle: Handle,
    drain: Drain,
    explainer: Explainer,
}

/// A drain that is told to whoever asked for it.
struct Draining {
    handle: Handle,
    drain: Drain,
    backend: (BackendSetName, BackendName),
    revision: u64,
    since: Version,
    deadline: Duration,
}

pub fn server(handle: Handle, drain: Drain) -> FleetServer<Service> {
    FleetServer::new(Service::new(handle, drain))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// The only place where a refusal becomes a status.
pub fn status(refused: Refused) -> Status {
    let message = limit(refused.to_string());
    match refused {
        Refused::Invalid(_) => Status::invalid_argument(message),
        Refused::NotFound(_) => Status::not_found(message),
        Refused::Stale { .. } => Status::aborted(message),
        Refused::Busy => Status::resource_exhausted(message),
        Refused::Store(error) => Status::new(store_code(&error), message),
        Refused::Unknown(_) => Status::unknown(message),
        Refused::Unsettled | Refused::NoLead | Refused::Ending => Status::unavailable(message),
    }
}

fn store_status(error: StoreError) -> Status {
    Status::new(store_code(&error), limit(error.to_string()))
}

fn store_code(error: &StoreError) -> Code {
    match error {
        StoreError::NoSuchRevision { .. } => Code::NotFound,
        StoreError::Unreadable { .. } => Code::DataLoss,
        // Another controller has written; what is asked of that one may go through.
        StoreError::Fenced { .. } => Code::FailedPrecondition,
        StoreError::Conflict { .. } => Code::Aborted,
        StoreError::Unknown { .. } => Code::Unknown,
        StoreError::Directory { .. }
        | StoreError::InUse { .. }
        | StoreError::Open { .. }
        | StoreError::Failed { .. } => Code::Unavailable,
    }
}

// === impl Service ===

#[tonic::async_trait]
impl Fleet for Service {
    type WatchStream = Streamed<v1::Event>;
    type DrainBackendStream = Streamed<v1::DrainProgress>;

    async fn apply(
        &self,
        request: Request<v1::ApplyRequest>,
    ) -> Result<Response<v1::ApplyResponse>, Status> {
        let (call, by) = self.begin("Apply", &request);
        call.end(self.apply_batch(request.into_inner(), by).await)
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        let (revision, StoredState { spec, overrides }) = match request.into_inner().revision {
            Some(revision) => (revision, self.stored(revision).await?),
            None => {
                let (revision, Asked { spec, overrides }) =
                    self.handle.look(|controller| controller.asked()).await.map_err(status)?;
                let (spec, overrides) = (encode::spec(&spec), encode::overrides(&overrides));
                (revision, StoredState { spec, overrides })
            }
        };
        Ok(Response::new(v1::GetResponse { revision, spec: Some(spec), overrides }))
    }

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        let v1::HistoryRequest { limit, before } = request.into_inner();
        let limit = match limit {
            0 => DEFAULT_HISTORY,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let revisions = self.handle.history(before, limit).await.map_err(store_status)?;
        Ok(Response::new(v1::HistoryResponse { revisions }))
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> Result<Response<v1::ApplyResponse>, Status> {
        let (call, by) = self.begin("Rollback", &request);
        call.end(self.roll_back(request.into_inner(), by).await)
    }

    async fn watch(
        &self,
        _: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut drain = self.drain.clone();
        let events = self.handle.watch().map(Ok);
        let end = stream::once(async { Err(status(Refused::Ending)) });
        let events = events.take_until(async move { drain.started().await }).chain(end);
        Ok(Response::new(Box::pin(events)))
    }

    async fn list_proxies(
        &self,
        _: Request<v1::ListProxiesRequest>,
    ) -> Result<Response<v1::ListProxiesResponse>, Status> {
        let listed = self.handle.look(|controller| controller.proxies()).await;
        listed.map(Response::new).map_err(status)
    }

    async fn list_backends(
        &self,
        request: Request<v1::ListBackendsRequest>,
    ) -> Result<Response<v1::ListBackendsResponse>, Status> {
        let set = request.into_inner().backend_set;
        let listed = self.handle.look(move |controller| {
            let only = Some(set.as_str()).filter(|set| !set.is_empty());
            controller.list_backends(only).map_err(Refused::NotFound)
        });
        listed.await.and_then(|listed| listed).map(Response::new).map_err(status)
    }

    async fn list_certificates(
        &self,
        _: Request<v1::ListCertificatesRequest>,
    ) -> Result<Response<v1::ListCertificatesResponse>, Status> {
        let listed = self.handle.look(|controller| controller.list_certificates()).await;
        listed.map(Response::new).map_err(status)
    }

    async fn drain_backend(
        &self,
        request: Request<v1::DrainBackendRequest>,
    ) -> Result<Response<Self::DrainBackendStream>, Status> {
        // The call's span ends when the backend gets nothing new; how it empties is told after.
        let (call, by) = self.begin("DrainBackend", &request);
        call.end(self.drain_one(request.into_inner(), by).await)
    }

    async fn undrain_backend(
        &self,
        request: Request<v1::UndrainBackendRequest>,
    ) -> Result<Response<v1::ApplyResponse>, Status> {
        let (call, by) = self.begin("UndrainBackend", &request);
        let v1::UndrainBackendRequest { backend_set, backend, comment } = request.into_inner();
        let result = async {
            let comment =
                checked_comment(comment, || format!("undrain {backend} of {backend_set}"))?;
            let change = Change::Undrain { backend_set, backend };
            self.mutate(change, Terms { comment, ..by }).await
        };
        call.end(result.await)
    }

    async fn set_backend(
        &self,
        request: Request<v1::SetBackendRequest>,
    ) -> Result<Response<v1::ApplyResponse>, Status> {
        let (call, by) = self.begin("SetBackend", &request);
        call.end(self.set_one(request.into_inner(), by).await)
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let explained = self.explainer.explain(&self.handle, request.into_inner()).await;
        explained.map(Response::new).map_err(status)
    }

    async fn backup(
        &self,
        _: Request<v1::BackupRequest>,
    ) -> Result<Response<v1::BackupResponse>, Status> {
        let written = self.handle.back_up().await;
        written.map(Response::new).map_err(|error| match error {
            BackupError::NoDirectory => Status::failed_precondition(error.to_string()),
            BackupError::TooMany { .. } | BackupError::Busy => {
                Status::resource_exhausted(error.to_string())
            }
            BackupError::Write { .. } => Status::unavailable(error.to_string()),
            BackupError::Store(error) => store_status(error),
        })
    }
}

impl Service {
    pub fn new(handle: Handle, drain: Drain) -> Self {
        Self { handle, drain, explainer: Explainer::default() }
    }

    /// The call, and the terms on which it changes something.
    fn begin<T>(&self, method: &'static str, request: &Request<T>) -> (Call, Terms) {
        let call = Call::begin(self.handle.trace_ratio(), method, request);
        let terms = Terms { author: author(request), cause: call.context(), ..Terms::default() };
        (call, terms)
    }

    async fn apply_batch(
        &self,
        mut request: v1::ApplyRequest,
        by: Terms,
    ) -> Result<Response<v1::ApplyResponse>, Status> {
        let terms = Terms {
            expected_revision: request.expected_revision,
            dry_run: request.dry_run,
            comment: checked_comment(std::mem::take(&mut request.comment), String::new)?,
            ..by
        };
        let batch = Batch::parse(request).map_err(|problems| status(Refused::Invalid(problems)))?;
        self.mutate(Change::Batch(Box::new(batch)), terms).await
    }

    async fn roll_back(
        &self,
        request: v1::RollbackRequest,
        by: Terms,
    ) -> Result<Response<v1::ApplyResponse>, Status> {
        let v1::RollbackRequest { revision, expected_revision, dry_run, comment } = request;
        let comment = checked_comment(comment, || format!("rollback to {revision}"))?;
        let state =
            parse::desired_state(&self.stored(revision).await?.spec).map_err(|problems| {
                Status::data_loss(limit(format!("revision {revision} is not valid: {problems}")))
            })?;
        let terms = Terms { expected_revision, dry_run, comment, ..by };
        self.mutate(Change::Batch(Box::new(Batch::replace(state, Materials::new()))), terms).await
    }

    async fn drain_one(
        &self,
        request: v1::DrainBackendRequest,
        by: Terms,
    ) -> Result<Response<Streamed<v1::DrainProgress>>, Status> {
        let v1::DrainBackendRequest { backend_set, backend, deadline, comment } = request;
        let comment = checked_comment(comment, || format!("drain {backend} of {backend_set}"))?;
        let deadline = drain_deadline(deadline)?;
        let invalid = |field: &str, error| Status::invalid_argument(format!("{field}: {error}"));
        let names = (
            BackendSetName::new(&backend_set).map_err(|error| invalid("backend_set", error))?,
            BackendName::new(&backend).map_err(|error| invalid("backend", error))?,
        );
        let state = To::Be(BackendState::Draining);
        let change = Change::Set(Setting { backend_set, backend, weight: To::Stay, state });
        let applied = self.handle.mutate(change, Terms { comment, ..by }).await.map_err(status)?;
        let Applied { revision, version, .. } = applied;
        let draining = Draining {
            handle: self.handle.clone(),
            drain: self.drain.clone(),
            backend: names,
            revision,
            since: version,
            deadline,
        };
        let (progress, stream) = mpsc::channel(1);
        tokio::spawn(draining.tell(progress));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn set_one(
        &self,
        request: v1::SetBackendRequest,
        by: Terms,
    ) -> Result<Response<v1::ApplyResponse>, Status> {
        let v1::SetBackendRequest { backend_set, backend, comment, .. } = &request;
        let name = format!("{backend} of {backend_set}");
        let comment = checked_comment(comment.clone(), || format!("set {name}"))?;
        let setting =
            parse_setting(&request).map_err(|problems| status(Refused::Invalid(problems)))?;
        let v1::SetBackendRequest { expected_revision, dry_run, .. } = request;
        let terms = Terms { expected_revision, dry_run, comment, ..by };
        self.mutate(Change::Set(setting), terms).await
    }

    async fn mutate(
        &self,
        change: Change,
        terms: Terms,
    ) -> Result<Response<v1::ApplyResponse>, Status> {
        let dry_run = terms.dry_run;
        let applied = self.handle.mutate(change, terms).await.map_err(status)?;
        let Applied { revision, changes, .. } = applied;
        Ok(Response::new(v1::ApplyResponse { revision, changes, dry_run }))
    }

    async fn stored(&self, revision: u64) -> Result<StoredState, Status> {
        self.handle.state(revision).await.map_err(store_status)
    }
}

// === impl Draining ===

impl Draining {
    async fn tell(mut self, progress: mpsc::Sender<Result<v1::DrainProgress, Status>>) {
        let started = clock::now();
        let mut told = None;
        loop {
            let now = clock::now();
            let elapsed = now - started;
            let (message, last) = match self.look(elapsed).await {
                Ok(message) => {
                    let last = message.drained || message.deadline_passed;
                    (Ok(message), last)
                }
                Err(status) => (Err(status), true),
            };
            let news = message.as_ref().map(|m| (m.in_flight, m.waiting_for.clone())).ok();
            let old =
                told.as_ref().is_none_or(|(at, seen)| now - *at >= DRAIN_TELL || *seen != news);
            if last || old {
                if progress.send(message).await.is_err() || last {
                    return;
                }
                told = Some((now, news));
            }
            tokio::select! {
                () = tokio::time::sleep(DRAIN_LOOK.min(self.deadline.saturating_sub(elapsed))) => {}
                () = progress.closed() => return,
                () = self.drain.started() => {
                    let _ = progress.send(Err(status(Refused::Ending))).await;
                    return;
                }
            }
        }
    }

    async fn look(&self, elapsed: Duration) -> Result<v1::DrainProgress, Status> {
        let (backend, since) = (self.backend.clone(), self.since);
        let looked = self.handle.look(move |controller| controller.emptying(&backend, since));
        let Some(emptying) = looked.await.map_err(status)? else {
            let (set, backend) = &self.backend;
            return Err(Status::aborted(format!(
                "backend_sets[{set}].backends[{backend}]: is not draining any more"
            )));
        };
        Ok(v1::DrainProgress {
            revision: self.revision,
            in_flight: emptying.in_flight,
            waiting_for: emptying.waiting_for,
            elapsed: Some(duration::to_wire(elapsed)),
            drained: emptying.empty,
            deadline_passed: !emptying.empty && elapsed >= self.deadline,
        })
    }
}

fn drain_deadline(wire: Option<prost_types::Duration>) -> Result<Duration, Status> {
    let Some(wire) = wire else { return Ok(DEFAULT_DRAIN) };
    let invalid = |message: String| Status::invalid_argument(format!("deadline: {message}"));
    let deadline = duration::from_wire(wire).map_err(invalid)?;
    if deadline > MOST_DRAIN {
        let given = duration::format(deadline);
        return Err(invalid(format!("{given:?} is not valid; give something up to 24h")));
    }
    Ok(deadline)
}

/// Who calls, in his own words. Nobody has proven anything yet.
fn author<T>(request: &Request<T>) -> String {
    let told = request.metadata().get(AUTHOR).and_then(|author| author.to_str().ok());
    match told.filter(|author| !author.is_empty()) {
        Some(author) => author.chars().take(MOST_AUTHOR).collect(),
        None => request.remote_addr().map(|peer| peer.ip().to_string()).unwrap_or_default(),
    }
}

fn parse_setting(request: &v1::SetBackendRequest) -> Result<Setting, Problems> {
    let v1::SetBackendRequest { backend_set, backend, weight, state, .. } = request;
    let mut problems = Problems::default();
    for (field, is_given, resets) in [
        ("weight", weight.is_some(), request.reset_weight),
        ("state", !state.is_empty(), request.reset_state),
    ] {
        if is_given && resets {
            problems
                .add(format!("reset_{field}"), format!("cannot be with {field}; give one of them"));
        }
    }
    let wire = v1::Override {
        backend_set: backend_set.clone(),
        backend: backend.clone(),
        weight: *weight,
        state: state.clone(),
        ..<_>::default()
    };
    let parsed = parse::overrides(&[wire], &mut problems);
    let parsed = problems.or(parsed)?;
    let by_hand = parsed.values().next().and_then(|of_set| of_set.values().next());
    Ok(Setting {
        backend_set: backend_set.clone(),
        backend: backend.clone(),
        weight: to(by_hand.and_then(|by_hand| by_hand.weight), request.reset_weight),
        state: to(by_hand.and_then(|by_hand| by_hand.state), request.reset_state),
    })
}

fn to<T>(given: Option<T>, resets: bool) -> To<T> {
    match given {
        Some(value) => To::Be(value),
        None if resets => To::Reset,
        None => To::Stay,
    }
}

fn checked_comment(given: String, default: impl FnOnce() -> String) -> Result<String, Status> {
    if given.len() > MOST_COMMENT {
        let message = format!("comment: is longer than {MOST_COMMENT} bytes");
        return Err(Status::invalid_argument(message));
    }
    Ok(if given.is_empty() { default() } else { given })
}

/// Cuts a message that lists very many problems, at the end of one of them.
fn limit(mut message: String) -> String {
    if message.len() > MOST_MESSAGE {
        let all = message.lines().count();
        message.truncate(message.floor_char_boundary(MOST_MESSAGE));
        if let Some(end) = message.rfind('\n') {
            message.truncate(end);
        }
        let rest = all - message.lines().count();
        message.push_str(&format!("\n... and {rest} more"));
    }
    message
}
