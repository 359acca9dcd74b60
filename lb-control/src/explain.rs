//! `Fleet.Explain`: what the fleet would do with a request or a connection, and why.
//!
//! ```text
//!   asked ─► listener ─► read ─► admit ─► route ─► backend sets ─► picks
//!                     lb_http┘   └────────── lb_routing ──────────────┘
//! ```
//!
//! Of a connection to a tcp listener nothing is read: its client says whom it wants.
//!
//! The decisions are made by the code that proxies run, on the snapshot that they are to run. What
//! is added here is who asked for what (`asked`), the snapshot in the form that decides
//! (`compiled`), and the words (`verdict`, `outcome`); the controller adds what only it knows: why a
//! backend is unhealthy, and what proxies report.
//!
//! # Invariants
//!
//! - An answer is about one snapshot. What proxies report may be a moment newer.
//! - A snapshot is compiled once, by the first who asks, and off the runtime's threads: nobody's
//!   traffic or update waits for an explanation.

mod asked;
mod compiled;
mod connection;
mod listener;
mod outcome;
mod request;
mod verdict;

use std::sync::{Arc, Mutex, PoisonError};

use lb_common::{
    id::ListenerName,
    snapshot::Snapshot,
    spec::{self, DesiredState},
};
use lb_proto::v1;

use self::{
    asked::{Asked, What},
    compiled::Compiled,
    outcome::Statuses,
    verdict::Taken,
};
use crate::{controller::Refused, owner::Handle};

/// Explains by the current snapshot. Clones share what is compiled.
#[derive(Clone, Debug, Default)]
pub struct Explainer {
    /// Of the snapshot that was last asked about. A mutex, because it is compiled by whoever comes
    /// first while the others wait for it; those are people, and their threads may block.
    compiled: Arc<Mutex<Option<Arc<Compiled>>>>,
}

/// What is asked about, on the listener that takes it.
enum Question {
    Request(request::Question),
    Connection(connection::Question),
}

// === impl Explainer ===

impl Explainer {
    /// # Errors
    /// If the question makes no sense, or the controller is ending.
    pub async fn explain(
        &self,
        handle: &Handle,
        request: v1::ExplainRequest,
    ) -> Result<v1::ExplainResponse, Refused> {
        let asked = Asked::parse(request).map_err(Refused::Invalid)?;
        let snapshot = handle.publisher().snapshot();
        let question = Question::new(asked, &snapshot)?;
        let explainer = self.clone();
        let (compiled, question, sets) = blocking(move || {
            let compiled = explainer.compiled(&snapshot);
            let sets = question.backend_sets(&compiled);
            (compiled, question, sets)
        })
        .await?;
        let statuses = handle.look(move |controller| {
            // A set that is gone already has nothing to report.
            let of = |set: &spec::WeightedBackendSet| {
                controller.backends(Some(set.backend_set.as_str())).unwrap_or_default()
            };
            (Statuses::new(sets.iter().flat_map(of)), controller.elsewhere())
        });
        let (statuses, elsewhere) = statuses.await?;
        // Tables for consistent hashing are built when they are first asked.
        let answer = blocking(move || question.answer(&compiled, &statuses)).await?;
        Ok(v1::ExplainResponse { elsewhere, ..answer })
    }

    fn compiled(&self, snapshot: &Arc<Snapshot>) -> Arc<Compiled> {
        // What a panic left behind is complete, or absent.
        let mut last = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(compiled) if compiled.snapshot.id == snapshot.id => Arc::clone(compiled),
            former => {
                let compiled = Arc::new(Compiled::new(snapshot, former.as_deref()));
                *last = Some(Arc::clone(&compiled));
                compiled
            }
        }
    }
}

// === impl Question ===

impl Question {
    fn new(asked: Asked, snapshot: &Snapshot) -> Result<Self, Refused> {
        let found = listener::find(&snapshot.desired.listeners, &asked);
        let (listener, why) = found.map_err(Refused::Invalid)?;
        let taken = Taken { listener, why, from: asked.from };
        Ok(match asked.what {
            What::Request(head) => Self::Request(request::Question::new(&head, taken)),
            What::Connection(hello) => {
                Self::Connection(connection::Question::new(hello, taken, &snapshot.desired))
            }
        })
    }

    /// The sets that it may go to.
    fn backend_sets(&self, compiled: &Compiled) -> Vec<spec::WeightedBackendSet> {
        match self {
            Self::Request(request) => request
                .route(compiled)
                .map(|route| route.backend_sets().to_vec())
                .unwrap_or_default(),
            Self::Connection(connection) => connection.backend_sets(compiled),
        }
    }

    fn answer(&self, compiled: &Compiled, statuses: &Statuses) -> v1::ExplainResponse {
        let (taken, client, mut routes, outcome) = match self {
            Self::Request(request) => (
                &request.taken,
                request.client(),
                request.verdicts(compiled),
                request.outcome(compiled, statuses),
            ),
            Self::Connection(connection) => (
                &connection.taken,
                connection.client(),
                connection.verdicts(compiled),
                connection.outcome(compiled, statuses),
            ),
        };
        let Snapshot { id, revision, .. } = *compiled.snapshot;
        routes.extend(elsewhere(&taken.listener, &compiled.snapshot.desired));
        v1::ExplainResponse {
            // Of the fleet, and not of the question.
            elsewhere: Vec::new(),
            epoch: id.version.epoch,
            version: id.version.version,
            revision,
            hash: id.digest.to_string(),
            listener: taken.listener.name.to_string(),
            listener_why: taken.why.clone(),
            client: client.to_string(),
            routes,
            outcome: Some(outcome),
        }
    }
}

/// Routes of other listeners.
fn elsewhere(
    listener: &spec::Listener,
    desired: &DesiredState,
) -> impl Iterator<Item = v1::RouteVerdict> {
    let routes = desired.routes.values().filter(|route| !route.serves(listener));
    routes.map(|route| {
        let names = route.listeners.iter().map(ListenerName::as_str);
        let serves = match route.listeners.is_empty() {
            true => "all http listeners".into(),
            false => names.collect::<Vec<_>>().join(", "),
        };
        v1::RouteVerdict {
            route: route.name.to_string(),
            why: format!("listeners: serves {serves}, not {}", listener.name),
            ..v1::RouteVerdict::default()
        }
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refused> {
    // Nothing but the end of the runtime cuts it off.
    tokio::task::spawn_blocking(work).await.map_err(|_| Refused::Ending)
}

#[cfg(test)]
mod tests;
