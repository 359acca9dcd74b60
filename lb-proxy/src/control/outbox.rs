//! What is to be sent to a controller, bounded however slowly it reads: a later answer takes the place of
//! the one that still waits, and no report is made while one does.

use lb_proto::v1::{self, proxy_message::Message};

/// One place for each kind of message.
#[derive(Debug, Default)]
pub struct Outbox {
    applied: Option<v1::Applied>,
    rejected: Option<v1::Rejected>,
    problems: Option<v1::Problems>,
    report: Option<v1::Report>,
}

// === impl Outbox ===

impl Outbox {
    pub fn answer(&mut self, answer: Result<v1::Applied, v1::Rejected>) {
        match answer {
            Ok(applied) => {
                self.applied = Some(applied);
                // It was overtaken.
                self.rejected = None;
            }
            Err(rejected) => self.rejected = Some(rejected),
        }
    }

    pub fn problems(&mut self, problems: v1::Problems) {
        self.problems = Some(problems);
    }

    pub fn report(&mut self, report: v1::Report) {
        self.report = Some(report);
    }

    /// Whether one waits. What changes meanwhile is for the next.
    pub fn has_report(&self) -> bool {
        self.report.is_some()
    }

    pub fn is_empty(&self) -> bool {
        self.applied.is_none()
            && self.rejected.is_none()
            && self.problems.is_none()
            && self.report.is_none()
    }

    /// What lacks, then answers in the order in which they were given.
    pub fn pop(&mut self) -> Option<v1::ProxyMessage> {
        let problems = self.problems.take().map(Message::Problems);
        let message = problems
            .or_else(|| self.applied.take().map(Message::Applied))
            .or_else(|| self.rejected.take().map(Message::Rejected))
            .or_else(|| self.report.take().map(Message::Report));
        message.map(|message| v1::ProxyMessage { message: Some(message) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(version: u64) -> Option<v1::SnapshotId> {
        Some(v1::SnapshotId { version, ..v1::SnapshotId::default() })
    }

    #[test]
    fn what_waits_is_replaced_and_never_queued() {
        let applied = |version| v1::Applied { snapshot: id(version), revision: version };
        let rejected = |version| v1::Rejected { snapshot: id(version), ..v1::Rejected::default() };
        let report = |version| v1::Report { snapshot: id(version), ..v1::Report::default() };

        let mut outbox = Outbox::default();
        outbox.answer(Err(rejected(1)));
        for version in 2..100 {
            outbox.answer(Ok(applied(version)));
        }
        outbox.report(report(99));
        assert!(outbox.has_report());
        outbox.answer(Err(rejected(100)));

        let messages: Vec<_> =
            std::iter::from_fn(|| outbox.pop()).filter_map(|message| message.message).collect();
        let expected = [
            Message::Applied(applied(99)),
            Message::Rejected(rejected(100)),
            Message::Report(report(99)),
        ];
        assert_eq!(messages, expected);
        assert!(outbox.is_empty());
    }
}
