//! `Fleet.Explain`: what the fleet would do with a request, and why.
//!
//! ```text
//!   asked ─► listener ─► read ─► admit ─► route ─► backend sets ─► picks
//!                     lb_http┘   └────────── lb_routing ──────────────┘
//! ```
//!
//! The decisions are made by the code that proxies run, on the snapshot that they are to run. What
//! is added here is who asked for what (`asked`), the snapshot in the form that decides
//! (`compiled`), and the words (`outcome`); the controller adds what only it knows: why a
//! backend is unhealthy, and what proxies report.
//!
//! # Invariants
//!
//! - An answer is about one snapshot. What proxies report may be a moment newer.
//! - A snapshot is compiled once, by the first who asks, and off the runtime's threads: nobody's
//!   traffic or update waits for an explanation.

mod asked;
mod compiled;
mod listener;
mod outcome;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use lb_common::{
    id::{ListenerName, RouteName},
    snapshot::Snapshot,
    spec::{self, Scheme},
};
use lb_http::message::Request;
use lb_proto::v1;
use lb_routing::{
    admit::admit,
    origin::Origin,
    redirect::TO_HTTPS,
    refusal::Refusal,
    route::{Standing, Subject, Verdict},
};

use self::{asked::Asked, compiled::Compiled, outcome::Statuses};
use crate::{controller::Refused, owner::Handle};

/// Explains by the current snapshot. Clones share what is compiled.
#[derive(Clone, Debug, Default)]
pub struct Explainer {
    /// Of the snapshot that was last asked about. A mutex, because it is compiled by whoever comes
    /// first while the others wait for it; those are people, and their threads may block.
    compiled: Arc<Mutex<Option<Arc<Compiled>>>>,
}

/// A request on the listener that takes it.
struct Question {
    request: Request,
    /// Who is connected.
    from: IpAddr,
    listener: Arc<spec::Listener>,
    /// Why that listener.
    why: String,
    /// Whether it is a request that is forwarded.
    admitted: Result<(), Refusal>,
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
        let question = Question::new(&asked, &snapshot)?;
        let explainer = self.clone();
        let (compiled, question, sets) = blocking(move || {
            let compiled = explainer.compiled(&snapshot);
            let route = question.route(&compiled);
            let sets = route.map(|route| route.backend_sets().to_vec()).unwrap_or_default();
            (compiled, question, sets)
        })
        .await?;
        let statuses = handle.look(move |controller| {
            // A set that is gone already has nothing to report.
            let of = |set: &spec::WeightedBackendSet| {
                controller.backends(Some(set.backend_set.as_str())).unwrap_or_default()
            };
            Statuses::new(sets.iter().flat_map(of))
        });
        let statuses = statuses.await?;
        // Tables for consistent hashing are built when they are first asked.
        blocking(move || question.answer(&compiled, &statuses)).await
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
    fn new(asked: &Asked, snapshot: &Snapshot) -> Result<Self, Refused> {
        let found = listener::find(&snapshot.desired.listeners, asked);
        let (listener, why) = found.map_err(Refused::Invalid)?;
        let (request, read) = asked.read(&listener);
        let admitted = read.map_err(Refusal::Request).and_then(|()| admit(&request));
        Ok(Self { request, from: asked.from, listener, why, admitted })
    }

    /// Who the request is from.
    fn origin(&self) -> Origin<'_> {
        let listener = &self.listener;
        let (trusted, header) = (&listener.trusted_proxies, listener.forwarded_header);
        let from = self.from.to_canonical();
        Origin::of(&self.request, from, listener.scheme(), trusted, header)
    }

    /// What is matched of the request.
    fn subject<'a>(&'a self, scratch: &'a mut Vec<u8>) -> Subject<'a> {
        let normalization = self.listener.path_normalization;
        Subject::of(&self.request, self.origin().address, normalization, scratch)
    }

    /// Whether it is to come with TLS first.
    fn goes_to_https(&self) -> bool {
        self.listener.redirect_to_https && self.origin().scheme == Scheme::Http
    }

    /// The route that takes it, if one does.
    fn route<'a>(&self, compiled: &'a Compiled) -> Option<&'a Arc<spec::Route>> {
        self.admitted.as_ref().ok().filter(|()| !self.goes_to_https())?;
        compiled.routes(&self.listener.name).find(&self.subject(&mut Vec::new()))
    }

    fn answer(&self, compiled: &Compiled, statuses: &Statuses) -> v1::ExplainResponse {
        let Snapshot { id, revision, .. } = *compiled.snapshot;
        let outcome = match (&self.admitted, self.route(compiled)) {
            (Err(refusal), _) => outcome::refusal(refusal),
            (Ok(()), _) if self.goes_to_https() => outcome::redirect(&TO_HTTPS, self),
            (Ok(()), None) => outcome::refusal(&Refusal::NoRoute),
            (Ok(()), Some(route)) => outcome::of(route, self, compiled, statuses),
        };
        v1::ExplainResponse {
            epoch: id.version.epoch,
            version: id.version.version,
            revision,
            hash: id.digest.to_string(),
            listener: self.listener.name.to_string(),
            listener_why: self.why.clone(),
            routes: self.verdicts(compiled),
            outcome: Some(outcome),
        }
    }

    fn verdicts(&self, compiled: &Compiled) -> Vec<v1::RouteVerdict> {
        let (listener, mut scratch) = (&self.listener.name, Vec::new());
        let subject = self.subject(&mut scratch);
        let verdicts = compiled.routes(listener).explain(&subject);
        let matching = verdicts.iter().filter(|v| !matches!(v.standing, Standing::Mismatched(_)));
        let (chosen, matching) = (matching.clone().next(), matching.count());
        let chosen = chosen.map(|verdict| &verdict.route.name);
        let here = verdicts.iter().map(|verdict| match &self.admitted {
            Ok(()) if self.goes_to_https() => v1::RouteVerdict {
                route: verdict.route.name.to_string(),
                why: "not asked, because the listener redirects to https".into(),
                ..v1::RouteVerdict::default()
            },
            Ok(()) => wire(verdict, chosen, matching),
            Err(refusal) => v1::RouteVerdict {
                route: verdict.route.name.to_string(),
                why: format!("not asked, because the request is refused: {refusal}"),
                ..v1::RouteVerdict::default()
            },
        });
        let routes = compiled.snapshot.desired.routes.values();
        let elsewhere = routes.filter(|route| !route.serves(&self.listener)).map(|route| {
            let serves: Vec<_> = route.listeners.iter().map(ListenerName::as_str).collect();
            v1::RouteVerdict {
                route: route.name.to_string(),
                why: format!("listeners: serves {}, not {}", serves.join(", "), listener),
                ..v1::RouteVerdict::default()
            }
        });
        here.chain(elsewhere).collect()
    }
}

fn wire<R>(
    verdict: &Verdict<'_, R>,
    chosen: Option<&RouteName>,
    matching: usize,
) -> v1::RouteVerdict {
    let why = match &verdict.standing {
        Standing::Chosen if matching == 1 => "the only one that matches".into(),
        Standing::Chosen => format!("the most specific of {matching} that match"),
        Standing::Surpassed => {
            format!("less specific than {}", chosen.map_or("another", RouteName::as_str))
        }
        Standing::Mismatched(reasons) => {
            let reasons: Vec<_> = reasons.iter().map(ToString::to_string).collect();
            reasons.join("; ")
        }
    };
    v1::RouteVerdict {
        route: verdict.route.name.to_string(),
        chosen: matches!(verdict.standing, Standing::Chosen),
        matches: !matches!(verdict.standing, Standing::Mismatched(_)),
        why,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refused> {
    // Nothing but the end of the runtime cuts it off.
    tokio::task::spawn_blocking(work).await.map_err(|_| Refused::Ending)
}

#[cfg(test)]
mod tests;
