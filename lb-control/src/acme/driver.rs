//! What begins orders that are due, a few at a time, and takes what comes of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use lb_common::{
    clock,
    id::CertificateName,
    material::{MaterialId, Materials},
    spec::{Acme, Challenge},
};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use super::{
    Seen,
    account::Accounts,
    challenge,
    failure::Failure,
    ledger::{News, Standing, State},
    material,
    order::{Issued, Order},
    plan::{Ordered, Plan},
    record::{self, Record},
    schedule,
};
use crate::{
    controller::{Controller, Event, Refused},
    owner::Handle,
};

/// Proxies need a moment to come back to a controller that starts; before that, nothing is ordered.
const SETTLED_AFTER: Duration = Duration::from_secs(5);
/// How often the time is looked at, whatever is due next: clocks are set.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// The same while something is due and cannot begin.
const WAIT_INTERVAL: Duration = Duration::from_secs(1);
/// So many orders may be under way.
const MOST_ORDERS: usize = 4;

/// Orders what is due, for ever.
pub async fn drive(handle: Handle) {
    let mut driver = Driver {
        handle,
        accounts: Accounts::default(),
        rng: fastrand::Rng::new(),
        settled: clock::now() + SETTLED_AFTER,
        running: BTreeMap::new(),
        orders: JoinSet::new(),
        told: BTreeMap::new(),
    };
    // It ends with the controller.
    let _ = driver.run().await;
}

struct Driver {
    handle: Handle,
    accounts: Accounts,
    rng: fastrand::Rng,
    settled: Instant,
    running: BTreeMap<CertificateName, Running>,
    orders: JoinSet<Result<Issued, Failure>>,
    /// What was said of each.
    told: BTreeMap<CertificateName, Standing>,
}

/// An order that is under way.
struct Running {
    acme: Acme,
    /// [`record::asked`] when it began.
    asked: String,
    task: AbortHandle,
    standing: Standing,
}

impl Driver {
    async fn run(&mut self) -> Result<(), Refused> {
        let mut published = self.handle.publisher().subscribe();
        loop {
            let seen = self.handle.look(Controller::orders).await?;
            let wait = self.turn(&seen, clock::wall()).await?;
            tokio::select! {
                Some(ended) = self.orders.join_next_with_id() => self.ended(ended).await?,
                Ok(()) = published.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Begins and ends what there is to. Returns for how long nothing more is to be done.
    async fn turn(&mut self, seen: &Seen, wall: Duration) -> Result<Duration, Refused> {
        for (name, running) in &self.running {
            let wanted = seen.certificates.iter().find(|ordered| ordered.spec.name == *name);
            if wanted.and_then(|ordered| ordered.spec.acme()) != Some(&running.acme) {
                running.task.abort();
            }
        }
        let names: BTreeSet<_> =
            seen.certificates.iter().map(|ordered| &ordered.spec.name).collect();
        self.told.retain(|name, _| names.contains(name));
        let mut wait = LOOK_INTERVAL;
        for ordered in &seen.certificates {
            let Some(acme) = ordered.spec.acme() else { continue };
            let standing = match self.running.get(&ordered.spec.name) {
                Some(running) => running.standing.clone(),
                None => self.stand(ordered, acme, seen, wall, &mut wait),
            };
            self.tell(&ordered.spec.name, standing).await?;
        }
        Ok(wait)
    }

    /// How a certificate stands of which no order is under way; one begins if it is due.
    fn stand(
        &mut self,
        ordered: &Ordered,
        acme: &Acme,
        seen: &Seen,
        wall: Duration,
        wait: &mut Duration,
    ) -> Standing {
        let plan = Plan::new(ordered, acme, wall);
        let Record { failures, reason, .. } = &plan.record;
        let mut standing = Standing {
            state: if *failures > 0 { State::Failed } else { State::Issued },
            challenge: self.told.get(&ordered.spec.name).and_then(|told| told.challenge),
            next: Some(plan.due),
            failures: *failures,
            reason: reason.clone(),
        };
        if wall < plan.due {
            *wait = (*wait).min(plan.due - wall);
            return standing;
        }
        standing.next = None;
        let chosen = challenge::choose(acme.challenge, &seen.challenges, *failures);
        let is_taken = |running: &Running| {
            running.acme.domains.iter().any(|domain| acme.domains.contains(domain))
        };
        let in_the_way = match chosen {
            Err(missing) => Some(missing),
            Ok(_) if clock::now() < self.settled => Some(""),
            Ok(_) if seen.connected == 0 => Some("no proxy is connected that could answer the CA"),
            Ok(_) if MOST_ORDERS <= self.running.len() => Some(""),
            Ok(_) if self.running.values().any(is_taken) => Some(""),
            Ok(_) => None,
        };
        match (chosen, in_the_way) {
            (Ok(challenge), None) => {
                standing.state = if plan.is_it { State::Renewing } else { State::Ordering };
                standing.challenge = Some(challenge);
                self.begin(ordered, acme, challenge, plan.record, standing.clone());
            }
            (_, in_the_way) => {
                *wait = (*wait).min(WAIT_INTERVAL);
                standing.state = State::Waiting;
                if let Some(missing) = in_the_way.filter(|missing| !missing.is_empty()) {
                    standing.reason = missing.into();
                }
            }
        }
        standing
    }

    fn begin(
        &mut self,
        ordered: &Ordered,
        acme: &Acme,
        challenge: Challenge,
        record: Record,
        standing: Standing,
    ) {
        let name = &ordered.spec.name;
        let domains = acme.domains.join(", ");
        let (directory, by) = (&acme.directory, challenge.as_str());
        tracing::info!(certificate = %name, domains, directory, challenge = by, "ordering a certificate");
        let order = Order {
            certificate: name.clone(),
            acme: acme.clone(),
            challenge,
            record,
            handle: self.handle.clone(),
            accounts: self.accounts.clone(),
        };
        let asked = order.record.asked.clone();
        let task = self.orders.spawn(order.run());
        let running = Running { acme: acme.clone(), asked, task, standing };
        self.running.insert(name.clone(), running);
    }

    async fn ended(
        &mut self,
        ended: Result<(Id, Result<Issued, Failure>), JoinError>,
    ) -> Result<(), Refused> {
        let (id, result) = match ended {
            Ok((id, result)) => (id, Some(result)),
            Err(error) if error.is_cancelled() => (error.id(), None),
            // A panic is a bug, but must not leave a certificate without orders for ever.
            Err(error) => (error.id(), Some(Err(Failure::new("the order itself failed")))),
        };
        let name = self.running.iter().find(|(_, running)| running.task.id() == id);
        let Some(name) = name.map(|(name, _)| name.clone()) else { return Ok(()) };
        let Some(Running { acme, asked, .. }) = self.running.remove(&name) else { return Ok(()) };
        self.say(&name, News::Answers(Materials::new())).await?;
        let Some(result) = result else { return Ok(()) };
        self.say(&name, News::Ended { is_issued: result.is_ok() }).await?;
        let seen = self.handle.look(Controller::orders).await?;
        // What is wanted now may be something else, which this says nothing of.
        let is_it =
            |ordered: &&Ordered| ordered.spec.name == name && ordered.spec.acme() == Some(&acme);
        let Some(ordered) = seen.certificates.iter().find(is_it) else { return Ok(()) };
        let record = Plan::new(ordered, &acme, clock::wall()).record;
        let materials = match result {
            Ok(issued) => self.succeeded(&name, &acme, record, issued),
            // Its CA's certificate or its account's key is another one by now.
            Err(_) if record.asked != asked => return Ok(()),
            Err(failure) => self.failed(ordered, record, failure),
        };
        material::keep(&self.handle, materials).await
    }

    fn succeeded(
        &self,
        name: &CertificateName,
        acme: &Acme,
        record: Record,
        Issued { pem, facts }: Issued,
    ) -> Materials {
        let until = crate::timestamp(facts.not_after);
        tracing::info!(certificate = %name, issuer = facts.issuer, %until, "certificate issued");
        let (issued_for, asked) = (record::target(acme), record.asked);
        let mut record = Record { issued_for, asked, ..Record::default() };
        record.set_next_try(clock::wall() + schedule::rest(&facts));
        let id = MaterialId::acme_order(name);
        Materials::from_iter([(MaterialId::acme(name), pem), (id, record.to_secret())])
    }

    fn failed(&mut self, ordered: &Ordered, mut record: Record, failure: Failure) -> Materials {
        let Failure { reason, wait, is_open, .. } = failure;
        let name = &ordered.spec.name;
        record.failures = record.failures.saturating_add(1);
        let pause = schedule::pause(record.failures, ordered.facts.as_ref(), wait, &mut self.rng);
        let (failures, next_try) = (record.failures, clock::wall() + pause);
        let next = crate::timestamp(next_try);
        tracing::warn!(certificate = %name, reason, failures, %next, "a certificate cannot be had");
        record.reason = reason;
        record.set_next_try(next_try);
        record.open = record.open.filter(|_| is_open);
        Materials::unit(MaterialId::acme_order(name), record.to_secret())
    }

    /// Says how it stands, if that is news.
    async fn tell(&mut self, name: &CertificateName, standing: Standing) -> Result<(), Refused> {
        if self.told.get(name) == Some(&standing) {
            return Ok(());
        }
        self.told.insert(name.clone(), standing.clone());
        self.say(name, News::Stands(standing)).await
    }

    async fn say(&self, name: &CertificateName, what: News) -> Result<(), Refused> {
        self.handle.send(Event::Ordered { certificate: name.clone(), what }).await
    }
}
