//! How the controller is with its store: what it does while that fails, how it finds out what became of a
//! change, and how it comes to lead for a later epoch.
//!
//! A write that needs the store's lead waits for a new epoch, and a new epoch waits for the writes that are
//! under way: what they were written for would not hold any more.

use std::time::{Duration, Instant};

use lb_common::snapshot::Version;

use super::{Controller, Effect, Moment, Refused, Reply, Unknown, Writing, storing::Step};
use crate::store::{Head, StoreError, Term, Verdict};

/// How long one who asked for a change waits to hear what became of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What could not be written, and why.
#[derive(Debug)]
pub struct Unwritten<T> {
    pub values: T,
    pub error: StoreError,
}

impl Controller {
    /// Why the store fails, if it does.
    pub fn store_problem(&self) -> Option<&str> {
        self.outage.why()
    }

    /// For which this controller leads.
    pub(super) fn term(&self) -> Term {
        Term { epoch: self.current().version.epoch }
    }

    /// What was written last, as far as this controller knows.
    pub(super) fn head(&self) -> Head {
        Head { revision: self.revision, file_digest: self.file_digest }
    }

    /// It could not be written for which epoch this controller leads: that is to be done once the store works.
    pub fn lead_later(&mut self, why: String) {
        self.outage.failed(why, self.moment.now);
        self.lead.want(self.term().epoch + 1);
    }

    pub(super) fn store_due(&self) -> Option<Instant> {
        self.outage.due()
    }

    /// Whether a change may be begun.
    pub(super) fn may_begin(&self) -> bool {
        self.writing.is_none() && self.lead.is_settled() && !self.storing.is_busy()
    }

    /// Whether what waits for the store waits for it to work again.
    pub(super) fn is_stuck(&self) -> bool {
        let waits = match &self.writing {
            Some(writing) => writing.unknown.is_some(),
            None => !self.lead.is_settled(),
        };
        self.outage.is_on() && waits
    }

    /// Says why nothing is begun.
    pub(super) fn refuse_stuck(&mut self, reply: Reply) {
        let refused = match &self.writing {
            Some(_) => Refused::Unsettled,
            None => Refused::NoLead,
        };
        self.answer(reply, Err(refused));
    }

    pub(super) fn store_failed(&mut self, error: &StoreError, moment: Moment) {
        if let StoreError::Fenced { epoch, .. } = error
            && (*epoch != self.term().epoch || self.lead.is_in_doubt())
        {
            // It was asked before this controller led anew. If another one did, the next answer says so.
            return;
        }
        if error.is_overtaken() {
            self.effects.push(Effect::Yield(error.to_string()));
        } else if error.is_outage() {
            self.store_fails(error.to_string(), moment);
        }
    }

    pub(super) fn store_fails(&mut self, why: String, moment: Moment) {
        if self.outage.failed(why.clone(), moment.now) {
            self.effects.push(Effect::StoreFails(why));
            self.store_materials();
        }
    }

    pub(super) fn store_worked(&mut self, moment: Moment) {
        if let Some(after) = self.outage.worked(moment.now) {
            self.effects.push(Effect::StoreWorks { after });
            self.store_health();
            self.store_materials();
        }
    }

    pub(super) fn store_probed(
        &mut self,
        number: u64,
        result: Result<Head, StoreError>,
        moment: Moment,
    ) {
        let unknown = self.writing.as_ref().and_then(|writing| writing.unknown.as_ref());
        match result {
            // What it found was there before the change, or not yet: another one is to look again.
            Ok(_) if unknown.is_some_and(|unknown| number <= unknown.probes) => {
                self.outage.tried(moment.now);
            }
            Ok(head) => {
                self.find_out(head, moment);
                self.store_worked(moment);
            }
            Err(error) => {
                self.store_failed(&error, moment);
                self.outage.tried(moment.now);
            }
        }
    }

    /// Now it is known what the store has.
    fn find_out(&mut self, head: Head, moment: Moment) {
        let unknown = self.writing.as_mut().and_then(|writing| writing.unknown.take());
        let (Some(Unknown { error, .. }), Some(writing)) = (unknown, &self.writing) else { return };
        let is_there = match &writing.next {
            Some(next) => head.revision == next.about.revision,
            None => head.file_digest == writing.file_digest,
        };
        let result = if is_there { Ok(()) } else { Err(error.unwritten()) };
        self.conclude(result, moment);
    }

    /// Whoever asked waits for it for a while.
    pub(super) fn unknown(&mut self, error: StoreError, moment: Moment) {
        if let Some(writing) = &mut self.writing {
            let (since, probes) = (moment.now, self.store_probes);
            writing.unknown = Some(Unknown { error, since, probes });
        }
    }

    /// Tries the store if that is due, lets nobody wait too long for it, and asks for a later epoch if
    /// that is needed and nothing is under way.
    pub(super) fn attend_store(&mut self, moment: Moment) {
        if self.is_stuck() {
            while let Some(mutation) = self.waiting.pop_front() {
                self.refuse_stuck(mutation.reply);
            }
        }
        if let Some(Writing { unknown: Some(Unknown { error, since, .. }), reply, .. }) =
            &mut self.writing
            && moment.now >= *since + PATIENCE
            && let Some(reply) = reply.take()
        {
            let why = error.to_string();
            self.answer(reply, Err(Refused::Unknown(why)));
        }
        let is_idle = self.writing.is_none() && !self.is_health_written && !self.storing.is_busy();
        let is_due = self.outage.start(moment.now);
        if is_idle && (is_due || !self.outage.is_on()) {
            // What did not reach the store last time may be there: a probe would be another one's.
            if let Some(least) = self.lead.ask() {
                return self.effects.push(Effect::Campaign { least, knows: self.head() });
            }
        }
        if is_due {
            self.store_probes += 1;
            let (term, number) = (self.term(), self.store_probes);
            self.effects.push(Effect::ProbeStore { term, number });
        }
    }

    pub(super) fn led(&mut self, result: Result<Term, StoreError>, moment: Moment) {
        match result {
            Ok(Term { epoch }) => {
                self.lead.done(epoch);
                // The same, for another epoch.
                self.publish_from(Version { epoch, version: 0 }, None);
                self.effects.push(Effect::LeadsFor { epoch });
                self.store_worked(moment);
                self.go_on(moment);
            }
            // This controller ends, and asks for nothing more.
            Err(error) if error.is_overtaken() => self.store_failed(&error, moment),
            Err(error) => {
                self.lead.failed();
                self.store_failed(&error, moment);
                self.outage.tried(moment.now);
            }
        }
    }

    pub(super) fn go_on(&mut self, moment: Moment) {
        while self.may_begin()
            && let Some(mutation) = self.waiting.pop_front()
        {
            // Who does not wait any more does not expect a change any more.
            if !mutation.reply.is_closed() {
                self.begin(mutation, moment);
            }
        }
        self.store_health();
        self.store_materials();
    }

    /// Whether what came by itself may be written now.
    fn may_store(&self) -> bool {
        !self.outage.is_on() && self.lead.is_settled()
    }

    /// One write at a time; what is decided meanwhile goes with the next one.
    pub(super) fn store_health(&mut self) {
        if !self.is_health_written && self.may_store() {
            let verdicts = self.health.unstored();
            if !verdicts.is_empty() {
                self.is_health_written = true;
                self.effects.push(Effect::CommitHealth { term: self.term(), verdicts });
            }
        }
    }

    pub(super) fn health_committed(
        &mut self,
        result: Result<(), Unwritten<Vec<Verdict>>>,
        moment: Moment,
    ) {
        self.is_health_written = false;
        if let Err(Unwritten { values, error }) = result {
            self.store_failed(&error, moment);
            self.health.put_back(values);
        }
        self.store_health();
    }

    pub(super) fn store_materials(&mut self) {
        // A store that fails is no reason to wait.
        if self.outage.is_on() {
            let asked = self.storing.give_up();
            self.tell(asked);
        }
        if self.writing.is_some() || !self.may_store() {
            return;
        }
        match self.storing.step() {
            Step::Nothing => {}
            Step::Write(materials) => {
                self.effects.push(Effect::CommitMaterials { term: self.term(), materials });
            }
            Step::Tell(kept) => self.tell(kept),
        }
    }
}
