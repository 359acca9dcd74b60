use std::{num::NonZeroU32, thread, time::Duration};

use super::*;
use crate::balance::fixture;

mod rows;
mod shares;

fn ejector(max_percent: u32) -> Ejector {
    let policy = OutlierEjection {
        consecutive_failures: NonZeroU32::new(5).expect("not 0"),
        interval: Duration::from_secs(10),
        min_requests: NonZeroU32::new(20).expect("not 0"),
        failure_percent: 5,
        base_time: Duration::from_secs(10),
        max_time: Duration::from_secs(25),
        max_percent,
    };
    Ejector::new(&policy, None)
}

/// Backends whose answers are counted.
fn backends(ejector: &Ejector, n: usize) -> Vec<Arc<Backend>> {
    let backends = fixture::backends(&vec![1; n]);
    ejector.settle(&backends, 0);
    backends
}

fn succeed(backend: &Backend, times: usize, now: Millis) {
    (0..times).for_each(|_| backend.live.outlier.record_success(now));
}

/// A request of some key fails on a backend.
fn fail_once(
    ejector: &Ejector,
    backends: &[Arc<Backend>],
    i: usize,
    failure: Failure,
    now: Millis,
) -> Option<Ejection> {
    let rng = &mut fastrand::Rng::with_seed(now);
    ejector.record_failure(backends, &backends[i], failure, Key::default(), now, rng)
}

/// Fails to be connected to until it is ejected, or five times.
fn fail(ejector: &Ejector, backends: &[Arc<Backend>], i: usize, now: Millis) -> Option<Millis> {
    let fail = || fail_once(ejector, backends, i, Failure::Connect, now);
    (0..5).find_map(|_| fail()).map(|ejection| ejection.remaining)
}

fn ejected(backends: &[Arc<Backend>], now: Millis) -> Vec<usize> {
    (0..backends.len()).filter(|i| backends[*i].live.outlier.is_ejected(now)).collect()
}

#[test]
fn each_ejection_that_follows_another_is_longer_up_to_the_maximum() {
    let (ejector, backends) = (ejector(50), fixture::backends(&[1, 1]));
    let mut now = 5;
    for longest in [10_000, 20_000, 25_000, 25_000] {
        let time = fail(&ejector, &backends, 0, now).expect("it may be ejected");
        assert!((longest * 9 / 10..=longest).contains(&time), "{time} of {longest}");
        now += time;
    }
}

#[test]
fn time_spent_in_the_set_is_forgiving() {
    let (ejector, backends) = (ejector(50), fixture::backends(&[1, 1]));
    let mut now = 5;
    for _ in 0..2 {
        now += fail(&ejector, &backends, 0, now).expect("it may be ejected");
    }
    // Two in a row; one is forgiven after 10 s.
    now += 10_500;
    let time = fail(&ejector, &backends, 0, now).expect("it may be ejected");
    assert!((18_000..=20_000).contains(&time), "{time}");
    now += time + 1_000_000;
    let time = fail(&ejector, &backends, 0, now).expect("it may be ejected");
    assert!((9_000..=10_000).contains(&time), "{time}");
}

#[test]
fn failures_of_requests_from_before_the_ejection_do_not_count() {
    let (ejector, backends) = (ejector(50), fixture::backends(&[1, 1]));
    let time = fail(&ejector, &backends, 0, 0).expect("it may be ejected");
    assert_eq!(fail(&ejector, &backends, 0, 1), None, "it is out already");
    let after = fail_once(&ejector, &backends, 0, Failure::Connect, time);
    assert_eq!(after, None, "the count starts at zero");
}

#[test]
fn the_ejected_share_is_bounded() {
    #[rustfmt::skip]
    let cases = [
        // usable, percent, how many of them go when all fail
        (1, 100, 0),
        (2, 0,   0),
        (2, 10,  1),
        (2, 50,  1),
        (2, 100, 2),
        (10, 50, 5),
        (10, 99, 9),
        (5, 100, 5),
    ];
    for (n, percent, expected) in cases {
        let (ejector, backends) = (ejector(percent), fixture::backends(&vec![1; n]));
        for _ in 0..3 {
            for i in 0..n {
                fail(&ejector, &backends, i, 0);
            }
        }
        assert_eq!(ejected(&backends, 1).len(), expected, "{n} at {percent}%");
    }
}

#[test]
fn backends_that_are_out_anyway_do_not_raise_the_limit() {
    let (ejector, backends) = (ejector(50), fixture::with_usable(&[1; 10], |i| i < 4));
    for i in 0..4 {
        fail(&ejector, &backends, i, 0);
    }
    assert_eq!(ejected(&backends, 1), [0, 1], "half of four");
}

/// Nor one backend twice, which would count as two in a row.
#[test]
fn workers_do_not_eject_past_the_limit_together() {
    for round in 0..100 {
        let (ejector, backends) = (ejector(50), fixture::backends(&[1; 8]));
        let worker = |worker: usize| {
            let fail = |turn| fail(&ejector, &backends, (worker / 2 + turn) % 8, round);
            (0..8).filter_map(fail).count()
        };
        let ejections: usize = thread::scope(|scope| {
            let workers: Vec<_> = (0..8).map(|i| scope.spawn(move || worker(i))).collect();
            workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
        });
        let out = ejected(&backends, round + 1).len();
        assert!((1..=4).contains(&out), "{out} of 8, round {round}");
        assert_eq!(ejections, out, "round {round}");
    }
}

/// Two of four are ejected, and then the controller takes the other two out.
#[test]
fn a_new_table_does_not_leave_a_set_with_ejected_backends_only() {
    let (ejector, backends) = (ejector(50), fixture::backends(&[1; 4]));
    fail(&ejector, &backends, 1, 0).expect("one of four may go");
    fail(&ejector, &backends, 2, 5_000).expect("two of four may go");

    let next = fixture::next_table(&backends, |i| i == 1 || i == 2);
    Ejector::new(&ejector.policy, Some(&ejector)).settle(&next, 5_001);
    assert_eq!(ejected(&next, 5_001), [2], "the one that would return first is back");
    ejector.settle(&backends, 5_001);
    assert_eq!(ejected(&backends, 5_001), [2], "what the limit allows stays out");
}
