//! What is to be sent to a controller, bounded however slowly it reads: a later answer or report
//! takes the place of the one that still waits.

use std::time::{Duration, Instant};

use lb_proto::v1::{self, proxy_message::Message};

/// One place for each kind of message.
#[derive(Debug, Default)]
pub struct Outbox {
    applied: Option<v1::Applied>,
    rejected: Option<v1::Rejected>,
    problems: Option<v1::Problems>,
    report: Option<v1::Report>,
}

/// Decides when a report is worth sending, and when it has totals.
///
/// The first one of a stream always is: what is counted from then on, the controller can tell only
/// by what was counted before. Totals go out about once a second while they grow, and once more
/// when they have stopped, so that a pause can be told from a report that was held up.
#[derive(Debug, Default)]
pub struct Reporter {
    last: Option<Sent>,
}

#[derive(Debug)]
struct Sent {
    backends: Vec<v1::BackendReport>,
    at: Instant,
    totals: Counted,
    totals_at: Instant,
    /// The totals were others than those before.
    grew: bool,
}

/// What tells whether totals differ: they only grow, so their sum does if any of them does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counted {
    sum: u64,
    connections: u64,
}

/// How often a report that stays the same is repeated: what remains of ejections goes stale.
const REFRESH: Duration = Duration::from_secs(2);
/// A little less than the second, because it is looked at in steps.
const TOTALS_INTERVAL: Duration = Duration::from_millis(900);

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

    /// Whether a report with totals waits.
    pub fn has_totals(&self) -> bool {
        self.report.as_ref().is_some_and(|report| report.totals.is_some())
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

// === impl Reporter ===

impl Reporter {
    /// Whether the next report is to have totals.
    pub fn wants_totals(&self, now: Instant) -> bool {
        let since = |sent: &Sent| now.saturating_duration_since(sent.totals_at);
        self.last.as_ref().is_none_or(|sent| since(sent) >= TOTALS_INTERVAL)
    }

    /// Whether `report` says something that the ones before did not.
    pub fn is_due(&self, report: &v1::Report, now: Instant) -> bool {
        let Some(last) = &self.last else { return true };
        let is_old = now.saturating_duration_since(last.at) >= REFRESH;
        !says_the_same(&last.backends, &report.backends)
            || is_old && news(&report.backends).next().is_some()
            || counted(report).is_some_and(|totals| last.grew || totals != last.totals)
    }

    pub fn reported(&mut self, report: &v1::Report, now: Instant) {
        let last = self.last.take();
        let before = last.as_ref().map(|last| (last.totals, last.totals_at, last.grew));
        let (totals, totals_at, grew) = match (counted(report), before) {
            (Some(totals), Some((before, ..))) => (totals, now, totals != before),
            (Some(totals), None) => (totals, now, false),
            (None, Some(before)) => before,
            (None, None) => (Counted { sum: 0, connections: 0 }, now, false),
        };
        let backends = report.backends.clone();
        self.last = Some(Sent { backends, at: now, totals, totals_at, grew });
    }
}

fn counted(report: &v1::Report) -> Option<Counted> {
    let own = report.totals.as_ref()?;
    let backends = report.backends.iter().filter_map(|backend| backend.totals.as_ref());
    let counts = backends
        .chain([own])
        .flat_map(|totals| totals.latency.iter().copied().chain([totals.requests, totals.errors]));
    let sum = counts.fold(0, u64::wrapping_add);
    Some(Counted { sum, connections: report.connections })
}

type News<'a> = (&'a str, &'a str, u64, Option<&'a str>);

/// What is new at once when it changes: not the time that remains of an ejection, which runs down
/// by itself, and not the totals.
fn news(backends: &[v1::BackendReport]) -> impl Iterator<Item = News<'_>> {
    let busy = backends.iter().filter(|report| report.in_flight > 0 || report.ejection.is_some());
    busy.map(|report| {
        let ejected = report.ejection.as_ref().map(|ejection| ejection.reason.as_str());
        (report.backend_set.as_str(), report.backend.as_str(), report.in_flight, ejected)
    })
}

fn says_the_same(a: &[v1::BackendReport], b: &[v1::BackendReport]) -> bool {
    news(a).eq(news(b))
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

    /// Whether `seen` is due some milliseconds after `last`.
    #[track_caller]
    fn check(last: &[v1::BackendReport], seen: &[v1::BackendReport], since: u64, due: bool) {
        let start = lb_common::clock::now();
        let of = |backends: &[v1::BackendReport]| v1::Report {
            backends: backends.to_vec(),
            ..v1::Report::default()
        };
        let mut reporter = Reporter::default();
        reporter.reported(&of(last), start);
        let now = start + Duration::from_millis(since);
        assert_eq!(reporter.is_due(&of(seen), now), due, "{last:?} then {seen:?}");
    }

    #[test]
    fn a_report_is_due_when_it_has_news() {
        let busy = |in_flight| [backend(in_flight, None)];
        let ejected = |remaining| [backend(0, Some(("5 failures", remaining)))];
        check(&[], &[], 9000, false);
        check(&[], &busy(1), 0, true);
        check(&busy(1), &busy(1), 1999, false);
        check(&busy(1), &busy(1), 2000, true);
        check(&busy(1), &busy(2), 0, true);
        check(&busy(1), &[], 0, true);
        check(&busy(0), &[], 9000, false);
        check(&ejected(9), &ejected(8), 1000, false);
        check(&ejected(9), &busy(0), 0, true);
    }

    #[test]
    fn totals_go_out_once_a_second_while_they_grow_and_once_more() {
        let start = lb_common::clock::now();
        let mut reporter = Reporter::default();
        let mut sent = Vec::new();
        // Looked at five times a second: a request each time in the first three seconds.
        for look in 0..50u64 {
            let now = start + Duration::from_millis(200 * look);
            let requests = look.min(15);
            let totals = v1::Totals { requests, ..v1::Totals::default() };
            let totals = reporter.wants_totals(now).then_some(totals);
            let report = v1::Report { totals, ..v1::Report::default() };
            if reporter.is_due(&report, now) {
                reporter.reported(&report, now);
                sent.push((look, requests));
            }
        }
        assert_eq!(sent, [(0, 0), (5, 5), (10, 10), (15, 15), (20, 15)]);
    }

    #[test]
    fn a_stream_begins_with_the_totals() {
        let reporter = Reporter::default();
        let now = lb_common::clock::now();
        assert!(reporter.wants_totals(now) && reporter.is_due(&v1::Report::default(), now));
        let mut outbox = Outbox::default();
        assert!(!outbox.has_totals());
        outbox.report(v1::Report { totals: Some(<_>::default()), ..v1::Report::default() });
        assert!(outbox.has_totals(), "and what takes its place has them too");
    }
}
