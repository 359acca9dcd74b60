//! What a controller is told of this proxy's traffic: what changed since it was told last, by the same
//! stream.
//!
//! What people wait for goes at once: an ejection, and how a backend empties that gets nothing new. All
//! else goes about once a second, and a bounded part of it at a time; what is left out of one report is in
//! a later one. So a report costs what happened, and not how many backends there are.
//!
//! Counts are told by how much they grew, and that begins with the stream: what was counted before, nobody
//! who listens now could place in time.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use lb_proto::v1;

use crate::observe::report::{BackendSeen, Key, Seen};

/// A little less than the second, because it is looked at in steps.
const INTERVAL: Duration = Duration::from_millis(900);
/// So many backends are in one report at the most.
const MOST: usize = 1_000;

/// What one stream was told.
#[derive(Debug, Default)]
pub struct Reporter {
    backends: HashMap<Key, Told>,
    /// Of these, who has requests in flight or is ejected.
    busy: HashSet<Key>,
    last: Option<Last>,
    /// The last one that fit into a report that not all fit into.
    cursor: Option<Key>,
    looks: u64,
}

#[derive(Debug, Default)]
struct Told {
    load: BackendLoad,
    is_leaving: bool,
    totals: v1::Totals,
    /// The look that saw it last.
    seen: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct BackendLoad {
    in_flight: u64,
    ejection: Option<String>,
}

#[derive(Debug)]
struct Last {
    snapshot: Option<v1::SnapshotId>,
    connections: u64,
    totals: v1::Totals,
    counted_at: Instant,
    /// Counts grew, so that it is to be told once more when they do not: a pause can be told then from a
    /// report that was held up.
    grew: bool,
}

/// One backend's part of a report.
#[derive(Debug)]
struct News {
    key: Key,
    load: BackendLoad,
    totals: Option<v1::Totals>,
    more: Option<v1::Totals>,
    /// Not only counts.
    is_of_load: bool,
    /// Somebody waits for it.
    is_urgent: bool,
    /// The backend gets nothing new.
    is_leaving: bool,
}

// === impl Reporter ===

impl Reporter {
    /// Whether the next look is to be one at counts, too.
    pub fn wants_totals(&self, now: Instant) -> bool {
        let since = |last: &Last| now.saturating_duration_since(last.counted_at);
        self.last.as_ref().is_none_or(|last| since(last) >= INTERVAL)
    }

    /// What is to be reported of this, if anything is.
    pub fn next(
        &mut self,
        seen: Seen,
        snapshot: Option<v1::SnapshotId>,
        now: Instant,
    ) -> Option<v1::Report> {
        let Some(last) = self.last.take() else { return Some(self.begin(seen, snapshot, now)) };
        let Seen { backends, totals, connections } = seen;
        let mut news = self.compare(backends);
        let is_other = last.snapshot != snapshot;
        let Some(totals) = totals else {
            news.retain(|one| one.is_urgent);
            let is_due = is_other || !news.is_empty();
            self.last = Some(last);
            return is_due.then(|| self.report(news, None, snapshot, connections));
        };
        self.forget_unseen();
        let more = growth(&last.totals, &totals);
        let grew = more.is_some() || news.iter().any(|one| one.more.is_some());
        let is_due = is_other || grew || last.grew || !news.is_empty();
        let is_due = is_due || last.connections != connections;
        let before = last.snapshot;
        self.last = Some(Last { snapshot: before, connections, totals, counted_at: now, grew });
        let more = Some(more.unwrap_or_default());
        is_due.then(|| self.report(news, more, snapshot, connections))
    }

    /// The first report: all that goes on. What is counted already is where counts begin.
    fn begin(
        &mut self,
        mut seen: Seen,
        snapshot: Option<v1::SnapshotId>,
        now: Instant,
    ) -> v1::Report {
        for one in &mut seen.backends {
            let totals = one.totals.take().unwrap_or_default();
            self.backends.insert(one.key.clone(), Told { totals, ..Told::default() });
        }
        let Seen { backends, totals, connections } = seen;
        let news = self.compare(backends);
        let totals = totals.unwrap_or_default();
        let nothing = None;
        self.last =
            Some(Last { snapshot: nothing, connections, totals, counted_at: now, grew: false });
        self.report(news, Some(v1::Totals::default()), snapshot, connections)
    }

    /// What differs from what was told.
    fn compare(&mut self, seen: Vec<BackendSeen>) -> Vec<News> {
        let mut news = Vec::new();
        self.looks += 1;
        let mut idle = self.busy.clone();
        for one in seen {
            idle.remove(&one.key);
            let load = BackendLoad { in_flight: one.in_flight, ejection: one.ejection };
            let told = self.backends.entry(one.key.clone()).or_default();
            told.is_leaving = one.is_leaving;
            told.seen = self.looks;
            let is_of_load = load != told.load;
            let is_leaving = one.is_leaving;
            let is_urgent = load.ejection != told.load.ejection || is_of_load && is_leaving;
            let more = one.totals.as_ref().and_then(|totals| growth(&told.totals, totals));
            if is_of_load || more.is_some() {
                let (key, totals) = (one.key, one.totals);
                news.push(News { key, load, totals, more, is_of_load, is_urgent, is_leaving });
            }
        }
        for key in idle {
            let told = self.backends.entry(key.clone()).or_default();
            let is_leaving = told.is_leaving;
            let is_urgent = is_leaving || told.load.ejection.is_some();
            let ((load, totals, more), is_of_load) = (Default::default(), true);
            news.push(News { key, load, totals, more, is_of_load, is_urgent, is_leaving });
        }
        news
    }

    /// After a look at all that was used: what was not seen is gone.
    fn forget_unseen(&mut self) {
        let (busy, looks) = (&self.busy, self.looks);
        self.backends.retain(|key, told| told.seen == looks || busy.contains(key));
    }

    fn report(
        &mut self,
        mut news: Vec<News>,
        more: Option<v1::Totals>,
        snapshot: Option<v1::SnapshotId>,
        connections: u64,
    ) -> v1::Report {
        let mut partial = false;
        if news.len() > MOST {
            let cursor = self.cursor.take();
            // What is waited for comes first, then what goes on, then counts; within each all have their turn.
            let is_past = |key: &Key| cursor.as_ref().is_some_and(|cursor| key <= cursor);
            let place =
                |one: &News| (!one.is_urgent, !one.is_of_load, is_past(&one.key), one.key.clone());
            news.sort_by_cached_key(place);
            partial = news[MOST..].iter().any(|one| one.is_leaving);
            news.truncate(MOST);
            self.cursor = news.last().map(|one| one.key.clone());
        }
        // Until all of it is told, there is more to tell of this snapshot.
        if let Some(last) = self.last.as_mut().filter(|_| !partial) {
            last.snapshot = snapshot;
        }
        let backends = news.into_iter().map(|one| self.tell(one)).collect();
        v1::Report { backends, snapshot, more, connections, partial }
    }

    fn tell(&mut self, news: News) -> v1::BackendReport {
        let News { key, load, totals, more, .. } = news;
        let report = v1::BackendReport {
            backend_set: key.0.to_string(),
            backend: key.1.to_string(),
            in_flight: load.in_flight,
            ejection: load.ejection.clone(),
            more,
        };
        match load == BackendLoad::default() {
            true => self.busy.remove(&key),
            false => self.busy.insert(key.clone()),
        };
        let told = self.backends.entry(key).or_default();
        told.load = load;
        if let Some(totals) = totals {
            told.totals = totals;
        }
        report
    }
}

/// What was counted since, if anything. What went down began anew.
fn growth(before: &v1::Totals, now: &v1::Totals) -> Option<v1::Totals> {
    let began_anew = now.requests < before.requests || now.errors < before.errors;
    let nothing = v1::Totals::default();
    let before = if began_anew { &nothing } else { before };
    let earlier = before.latency.iter().copied().chain(std::iter::repeat(0));
    let latency = now.latency.iter().zip(earlier).map(|(now, before)| now.saturating_sub(before));
    let latency: Vec<_> = latency.collect();
    let requests = now.requests - before.requests;
    let errors = now.errors - before.errors;
    let is_some = requests > 0 || errors > 0 || latency.iter().any(|count| *count > 0);
    is_some.then_some(v1::Totals { requests, errors, latency })
}

#[cfg(test)]
mod tests {
    use lb_common::id::{BackendName, BackendSetName};

    use super::*;

    /// A stream, and what goes on at backends of one set.
    struct Fixture {
        reporter: Reporter,
        now: Instant,
    }

    impl Fixture {
        /// After the first report.
        fn new() -> Self {
            let mut f = Self { reporter: Reporter::default(), now: lb_common::clock::now() };
            assert!(f.reporter.wants_totals(f.now));
            f.look(&[], 100).expect("a stream begins with a report");
            f
        }

        fn look(&mut self, backends: &[BackendSeen], requests: u64) -> Option<v1::Report> {
            let with_totals = self.reporter.wants_totals(self.now);
            let backends = backends.iter().cloned().map(|one| match with_totals {
                true => one,
                false => BackendSeen { totals: None, ..one },
            });
            let totals = with_totals.then(|| totals(requests));
            let seen = Seen { backends: backends.collect(), totals, connections: 3 };
            self.reporter.next(seen, id(1), self.now)
        }

        fn later(&mut self, millis: u64) -> &mut Self {
            self.now += Duration::from_millis(millis);
            self
        }
    }

    fn id(version: u64) -> Option<v1::SnapshotId> {
        Some(v1::SnapshotId { version, ..v1::SnapshotId::default() })
    }

    fn totals(requests: u64) -> v1::Totals {
        v1::Totals { requests, errors: requests / 10, latency: vec![0, requests] }
    }

    fn backend(name: &str, in_flight: u64, requests: u64) -> BackendSeen {
        let set = BackendSetName::new("app").expect("a name");
        BackendSeen {
            key: (set, BackendName::new(name).expect("a name")),
            in_flight,
            ejection: None,
            is_leaving: false,
            totals: Some(totals(requests)),
        }
    }

    /// `name in_flight ejection +requests`
    fn told(report: Option<v1::Report>) -> Option<Vec<String>> {
        let told = |one: &v1::BackendReport| {
            let v1::BackendReport { backend, in_flight, ejection, more, .. } = one;
            let ejection = ejection.as_ref().map(|why| format!(" {why}")).unwrap_or_default();
            let more = more.as_ref().map(|more| format!(" +{}", more.requests));
            format!("{backend} {in_flight}{ejection}{}", more.unwrap_or_default())
        };
        Some(report?.backends.iter().map(told).collect())
    }

    #[test]
    fn a_stream_begins_with_all_that_goes_on_and_with_no_counts() {
        let mut reporter = Reporter::default();
        let backends = vec![backend("one", 2, 50), backend("idle", 0, 7)];
        let seen = Seen { backends, totals: Some(totals(57)), connections: 3 };
        let first = reporter.next(seen, id(1), lb_common::clock::now()).expect("there is one");
        assert_eq!((first.connections, first.more.clone()), (3, Some(v1::Totals::default())));
        assert_eq!(told(Some(first)), Some(vec!["one 2".into()]));
    }

    #[test]
    fn what_changes_goes_once_a_second() {
        let mut f = Fixture::new();
        let busy = [backend("one", 1, 10)];
        assert_eq!(f.later(200).look(&busy, 110), None);
        let report = f.later(700).look(&busy, 110).expect("it is due");
        let growth = v1::Totals { requests: 10, errors: 1, latency: vec![0, 10] };
        assert_eq!(report.more, Some(growth));
        assert_eq!(told(Some(report)), Some(vec!["one 1 +10".into()]));
        assert_eq!(told(f.later(900).look(&busy, 110)), Some(vec![]), "once more");
        assert_eq!(told(f.later(900).look(&busy, 110)), None);
        assert_eq!(
            told(f.later(900).look(&[backend("one", 0, 10)], 110)),
            Some(vec!["one 0".into()])
        );
        assert_eq!(told(f.later(900).look(&[], 110)), None);
    }

    #[test]
    fn what_somebody_waits_for_goes_at_once() {
        let mut f = Fixture::new();
        let ejected = BackendSeen { ejection: Some("5 failures".into()), ..backend("one", 1, 0) };
        assert_eq!(told(f.later(200).look(&[ejected], 100)), Some(vec!["one 1 5 failures".into()]));
        let leaving = |in_flight| BackendSeen { is_leaving: true, ..backend("one", in_flight, 0) };
        assert_eq!(told(f.later(200).look(&[leaving(1)], 100)), Some(vec!["one 1".into()]));
        assert_eq!(told(f.later(200).look(&[leaving(1)], 100)), None);
        assert_eq!(told(f.later(200).look(&[], 100)), Some(vec!["one 0".into()]), "it is empty");
    }

    #[test]
    fn another_snapshot_is_told_at_once_with_who_leaves_under_it() {
        let mut f = Fixture::new();
        let seen = |backends| Seen { backends, totals: None, connections: 3 };
        let now = f.later(200).now;
        let leaving = BackendSeen { is_leaving: true, ..backend("one", 1, 0) };
        let report = f.reporter.next(seen(vec![leaving, backend("two", 1, 0)]), id(2), now);
        assert_eq!(told(report), Some(vec!["one 1".into()]));
        assert_eq!(
            told(f.reporter.next(seen(vec![backend("two", 4, 0)]), id(2), now)),
            Some(vec!["one 0".into()])
        );
        assert_eq!(told(f.reporter.next(seen(vec![backend("two", 5, 0)]), id(2), now)), None);
    }

    #[test]
    fn a_snapshot_is_told_until_all_who_leave_under_it_are() {
        let mut f = Fixture::new();
        let leaving = |i| BackendSeen { is_leaving: true, ..backend(&format!("b{i}"), 1, 0) };
        let seen =
            || Seen { backends: (0..1_001).map(leaving).collect(), totals: None, connections: 3 };
        let now = f.later(200).now;
        let mut next =
            || f.reporter.next(seen(), id(2), now).map(|one| (one.backends.len(), one.partial));
        assert_eq!([next(), next(), next()], [Some((1_000, true)), Some((1, false)), None]);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut f = Fixture::new();
        for i in 0..50 {
            f.later(900).look(&[backend(&format!("b{i}"), 1, 1)], 100);
        }
        f.later(900).look(&[], 100);
        f.later(900).look(&[], 100);
        assert!(f.reporter.backends.is_empty() && f.reporter.busy.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_in_a_later_report_and_loads_go_first() {
        let mut f = Fixture::new();
        let all = |round: u64| -> Vec<_> {
            (0..2_500).map(|i| backend(&format!("b{i:04}"), u64::from(i == 2_400), round)).collect()
        };
        let mut grown = HashMap::<String, u64>::new();
        for round in 1..=3 {
            let report = f.later(900).look(&all(round), 100).expect("it is due");
            assert_eq!(
                (report.backends.len(), report.partial),
                (MOST, false),
                "counts are no state"
            );
            if round == 1 {
                assert_eq!(
                    (report.backends[0].backend.as_str(), report.backends[0].in_flight),
                    ("b2400", 1)
                );
            }
            for one in report.backends {
                *grown.entry(one.backend).or_default() += one.more.map_or(0, |more| more.requests);
            }
        }
        assert_eq!(grown.len(), 2_500, "all had their turn");
        let mut f = Fixture::new();
        let busy: Vec<_> = (0..1_001).map(|i| backend(&format!("b{i:04}"), 1, 0)).collect();
        assert!(
            !f.later(900).look(&busy, 100).expect("it is due").partial,
            "nobody waits for them"
        );
        assert_eq!(told(f.later(900).look(&busy, 100)), Some(vec!["b1000 1".into()]));
    }

    #[test]
    fn counts_that_went_down_began_anew() {
        assert_eq!(growth(&totals(100), &totals(30)), Some(totals(30)));
        assert_eq!(growth(&totals(30), &totals(30)), None);
    }
}
