//! What is to be sent to a controller, bounded however slowly it reads: a later answer or report
//! takes the place of the one that still waits.

use std::time::{Duration, Instant};

use lb_proto::v1::{self, proxy_message::Message};

/// One place for each kind of message.
#[derive(Debug, Default)]
pub struct Outbox {
    applied: Option<v1::Applied>,
    rejected: Option<v1::Rejected>,
    report: Option<v1::Report>,
}

/// Decides when a report is worth sending. A new stream starts from a controller that takes
/// everything for idle.
#[derive(Debug)]
pub struct Reporter {
    last: Vec<v1::BackendReport>,
    at: Instant,
}

/// How often a report that stays the same is repeated: what remains of ejections goes stale.
const REFRESH: Duration = Duration::from_secs(2);

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

    pub fn report(&mut self, report: v1::Report) {
        self.report = Some(report);
    }

    pub fn is_empty(&self) -> bool {
        self.applied.is_none() && self.rejected.is_none() && self.report.is_none()
    }

    /// Answers first, in the order in which they were given.
    pub fn pop(&mut self) -> Option<v1::ProxyMessage> {
        let applied = self.applied.take().map(Message::Applied);
        let message = applied
            .or_else(|| self.rejected.take().map(Message::Rejected))
            .or_else(|| self.report.take().map(Message::Report));
        message.map(|message| v1::ProxyMessage { message: Some(message) })
    }
}

// === impl Reporter ===

impl Reporter {
    pub fn new(now: Instant) -> Self {
        Self { last: Vec::new(), at: now }
    }

    /// Whether `backends` says something that the last report did not.
    pub fn is_due(&self, backends: &[v1::BackendReport], now: Instant) -> bool {
        !says_the_same(&self.last, backends)
            || !backends.is_empty() && now.saturating_duration_since(self.at) >= REFRESH
    }

    pub fn reported(&mut self, backends: &[v1::BackendReport], now: Instant) {
        backends.clone_into(&mut self.last);
        self.at = now;
    }
}

/// The time that remains of an ejection runs down by itself, which is no news.
fn says_the_same(a: &[v1::BackendReport], b: &[v1::BackendReport]) -> bool {
    let news = |report: &v1::BackendReport| {
        let ejected = report.ejection.as_ref().map(|ejection| ejection.reason.clone());
        (report.backend_set.clone(), report.backend.clone(), report.in_flight, ejected)
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| news(a) == news(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(in_flight: u64, ejection: Option<(&str, i64)>) -> v1::BackendReport {
        v1::BackendReport {
            backend_set: "app".into(),
            backend: "one".into(),
            in_flight,
            ejection: ejection.map(|(reason, seconds)| v1::Ejection {
                reason: reason.into(),
                remaining: Some(prost_types::Duration { seconds, nanos: 0 }),
            }),
            totals: None,
        }
    }

    fn id(version: u64) -> Option<v1::SnapshotId> {
        Some(v1::SnapshotId { version, ..v1::SnapshotId::default() })
    }

    #[test]
    fn what_waits_is_replaced_and_never_queued() {
        let applied = |version| v1::Applied { snapshot: id(version) };
        let rejected = |version| v1::Rejected { snapshot: id(version), ..v1::Rejected::default() };
        let report = |version| v1::Report { snapshot: id(version), ..v1::Report::default() };

        let mut outbox = Outbox::default();
        outbox.answer(Err(rejected(1)));
        for version in 2..100 {
            outbox.answer(Ok(applied(version)));
            outbox.report(report(version));
        }
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

    #[test]
    fn a_report_is_due_when_it_has_news() {
        let start = lb_common::clock::now();
        let ejected = |remaining| vec![backend(0, Some(("5 failures", remaining)))];
        #[rustfmt::skip]
        let cases = [
            // last, now, milliseconds since, due
            (vec![],               vec![],               9000, false),
            (vec![],               vec![backend(1, None)],  0, true),
            (vec![backend(1, None)], vec![backend(1, None)], 1999, false),
            (vec![backend(1, None)], vec![backend(1, None)], 2000, true),
            (vec![backend(1, None)], vec![backend(2, None)],    0, true),
            (vec![backend(1, None)], vec![],                    0, true),
            (ejected(9),             ejected(8),             1000, false),
            (ejected(9),             vec![backend(0, None)],    0, true),
        ];
        for (last, seen, since, due) in cases {
            let mut reporter = Reporter::new(start);
            reporter.reported(&last, start);
            let now = start + Duration::from_millis(since);
            assert_eq!(reporter.is_due(&seen, now), due, "{last:?} then {seen:?}");
        }
    }
}
