//! Forwarding: pick a backend, attempt, and attempt again as long as the policy says so and the budget
//! pays.
//!
//! # Invariants
//!
//! - Route and policy come from one table; every further attempt re-reads the backends.
//! - At most one attempt of a request is in flight, and a guard accounts for it until its body ends.

use std::{future::poll_fn, pin::pin, rc::Rc, sync::Arc, task::Poll, time::Duration};

use lb_common::{
    clock,
    spec::{self, PathNormalization},
};
use lb_http::message::Request;
use lb_routing::{balance::hash, hash_key::hash_of, path::normalize, refusal::Refusal};

use super::{
    Next,
    attempt::Attempt,
    deliver::Delivery,
    error::{ClientError, ProxyError},
    sides::{Deadlines, Sides},
    tried::Tried,
    upload::Upload,
};
use crate::{
    downstream::Downstream,
    local::Local,
    observe::record::Record,
    policy::retry::{self, Decision, Outcome},
    table::{Listener, Route, View},
};

/// A client that has ended its side still gets what is under way, as long as that comes within this.
/// Most that do so are gone altogether, which cannot be told from outside.
const HALF_CLOSED: Duration = Duration::from_secs(2);

/// What a request that is forwarded goes by.
pub struct Forward<'a> {
    pub local: &'a Rc<Local>,
    pub route: &'a Arc<Route>,
    pub listener: &'a Listener,
    pub keeps_alive: bool,
}

impl Forward<'_> {
    /// Sends it to a backend of the set in this slot, and passes on what comes back.
    ///
    /// # Errors
    /// Why no backend's response did.
    pub async fn run(
        &self,
        mut view: View,
        mut slot: u32,
        down: &mut Downstream,
        record: &mut Record<'_>,
    ) -> Result<Next, ProxyError> {
        let (local, route) = (self.local, self.route);
        let terms = &route.terms;
        let policy = &terms.retry;
        let mut now = record.started;
        let set = view.set(slot).ok_or(Refusal::NoRoute)?;
        record.forwarded(&set.spec.name);
        let hash = set.hash_key().map_or(0, |(key, function)| {
            let by = |bytes: &[u8]| hash::hash(function, bytes);
            hash_of(key, record.origin.address, record.request, by)
        });
        let name = set.spec.name.clone();
        let mut upload =
            Upload::new(record.request, policy.max_body_bytes, terms.max_request_bytes, now)?;
        let deadlines = Deadlines {
            response: terms.timeout,
            per_try: policy.per_try_timeout,
            body: self.listener.spec.body_timeout,
            stream_idle: terms.stream_idle_timeout,
            write: self.listener.spec.write_timeout,
            half_closed: HALF_CLOSED,
            started: now,
        };
        let target = self.target(record.request);
        let asks_for_upgrade = may_upgrade(record.request, &route.spec);
        route.budget.deposit(local.index, local.millis(now));
        let metrics = route.metrics.of(local.index);

        let mut tried = Tried::default();
        let (mut number, mut interims) = (1, 0);
        loop {
            let pick = tried
                .pick(local, &view, slot, hash, now)
                .ok_or_else(|| Refusal::NoBackend(name.clone()))?;
            record.attempt(&pick, now);
            let target = target.as_deref();
            let spec = &self.listener.spec;
            let forwarding = (spec.forwarded, spec.forwarded_header);
            let attempt =
                Attempt { pick: &pick, target, forwarding, via: terms.via, asks_for_upgrade, now };
            let (upload, interims) = (&mut upload, &mut interims);
            let mut sides = Sides { local, down, upload, deadlines: &deadlines, interims };
            let result = attempt.run(&mut sides, record).await;

            let outcome = match &result {
                Ok(exchange) => Some(Outcome::Status(exchange.response.status)),
                Err(error) => error.outcome(),
            };
            let replayable = sides.upload.is_replayable();
            let method = record.request.method;
            let decision = outcome.map_or(Decision::Deliver, |outcome| {
                retry::decide(policy, &retry::Attempt { method, outcome, number, replayable })
            });
            let wait = match decision {
                Decision::Deliver => None,
                Decision::Retry { paid } => {
                    now = clock::now();
                    let elsewhere = !paid
                        && local.with_rng(|rng| {
                            let cx = tried.context(local, hash, now, rng);
                            view.set(slot).is_some_and(|set| set.has_other(&cx))
                        });
                    let n = u32::from(number) - 1;
                    let wait = local.with_rng(|rng| retry::wait_before(policy, n, rng, elsewhere));
                    // The time for an answer does not run before all of the request has come.
                    let since = sides.upload.completed().unwrap_or(now);
                    let is_late = since + terms.timeout <= now + wait;
                    let is_paid =
                        || !paid || route.budget.try_withdraw(local.index, local.millis(now));
                    match is_late {
                        true => None,
                        false if is_paid() => Some(wait),
                        false => {
                            metrics.budget_exhausted.increment();
                            None
                        }
                    }
                }
            };
            let Some(wait) = wait else {
                let Self { route, listener, keeps_alive, .. } = *self;
                return Delivery { route, listener, keeps_alive }
                    .run(&pick, result, sides, record)
                    .await;
            };
            metrics.retries.increment();
            match result {
                Ok(exchange) => {
                    record.dismissed(exchange.status());
                    exchange.dismiss(local);
                }
                Err(error) => record.failed(error.reason(), &error, true),
            }
            if wait > Duration::ZERO {
                if let Err(gone) = Box::pin(rest(wait, &mut sides)).await {
                    record.moved(sides.upload.received, 0);
                    return Err(gone.into());
                }
                now = clock::now();
            }
            // The backends may have changed meanwhile; the route and its policy stay.
            let current = local.view();
            if let Some(current_slot) = current.slot_of_set(&name) {
                (view, slot) = (current, current_slot);
            }
            number += 1;
        }
    }

    /// What backends get as the target, if that is not what the client sent.
    fn target(&self, request: &Request) -> Option<Vec<u8>> {
        if self.listener.spec.path_normalization != PathNormalization::Forward {
            return None;
        }
        let mut normal = Vec::new();
        let path = normalize(request.path(), &mut normal)?;
        let query = &request.target()[request.path().len()..];
        Some([path, query].concat())
    }
}

/// Waits before the next attempt.
///
/// # Errors
/// If the client is gone.
async fn rest(wait: Duration, sides: &mut Sides<'_>) -> Result<(), ClientError> {
    let mut rest = pin!(tokio::time::sleep(wait));
    poll_fn(|cx| match sides.watch(cx) {
        Ok(()) => rest.as_mut().poll(cx).map(Ok),
        Err(gone) => Poll::Ready(Err(gone)),
    })
    .await
}

/// Whether a request's wish to switch protocols is passed on: its route allows it, and there is no
/// body that would have to come first.
fn may_upgrade(request: &Request, route: &spec::Route) -> bool {
    request.upgrade().is_some_and(|wanted| {
        let is_allowed =
            route.upgrade.iter().any(|protocol| wanted.eq_ignore_ascii_case(protocol.as_bytes()));
        is_allowed && !request.has_body()
    })
}
