use std::{num::NonZeroU32, thread};

use super::*;
use crate::balance::fixture;

fn ejector(max_percent: u32) -> Ejector {
    let policy = OutlierEjection {
        consecutive_failures: NonZeroU32::new(5).expect("not 0"),
        interval: Duration::from_secs(10),
        min_requests: NonZeroU32::new(20).expect("not 0"),
        failure_percent: 50,
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

/// Each open backend answers so many requests in turn, one each 100 ms; `is_5xx` says how. Returns
/// those that are out afterwards.
fn serve(
    ejector: &Ejector,
    backends: &[Arc<Backend>],
    requests: u64,
    seed: u64,
    mut is_5xx: impl FnMut(usize, &mut fastrand::Rng) -> bool,
) -> Vec<usize> {
    let mut rng = fastrand::Rng::with_seed(seed);
    for now in (0..requests).map(|request| request * 100) {
        for (i, backend) in backends.iter().enumerate().filter(|(_, b)| b.is_open(now)) {
            if is_5xx(i, &mut rng) {
                ejector.record_failure(backends, backend, Failure::Status, now, &mut rng);
            } else {
                backend.live.outlier.record_success(now);
            }
        }
    }
    ejected(backends, requests * 100)
}

/// Gives a backend that many 5xx, or fewer if it is ejected by one.
fn fail_with_5xx(
    ejector: &Ejector,
    backend: &Backend,
    backends: &[Arc<Backend>],
    failures: usize,
    now: Millis,
) -> bool {
    let mut rng = fastrand::Rng::with_seed(now);
    let mut fail =
        || ejector.record_failure(backends, backend, Failure::Status, now, &mut rng).is_some();
    (0..failures).any(|_| fail())
}

/// Fails a backend until it is ejected, or five times.
fn fail(ejector: &Ejector, backends: &[Arc<Backend>], i: usize, now: Millis) -> Option<Millis> {
    let mut rng = fastrand::Rng::with_seed(now);
    let mut fail =
        || ejector.record_failure(backends, &backends[i], Failure::Connect, now, &mut rng);
    (0..5).find_map(|_| fail()).map(|ejection| ejection.remaining)
}

fn ejected(backends: &[Arc<Backend>], now: Millis) -> Vec<usize> {
    (0..backends.len()).filter(|i| backends[*i].live.outlier.is_ejected(now)).collect()
}

#[test]
fn five_failures_in_a_row_eject_and_a_success_starts_over() {
    let (ejector, backends) = (ejector(50), fixture::backends(&[1, 1]));
    let state = &backends[0].live.outlier;
    let mut rng = fastrand::Rng::with_seed(1);
    let mut fail =
        || ejector.record_failure(&backends, &backends[0], Failure::Timeout, 1_000, &mut rng);

    for _ in 0..4 {
        assert_eq!(fail(), None);
    }
    state.record_success(1_000);
    for _ in 0..4 {
        assert_eq!(fail(), None);
    }
    let ejection = fail().expect("the fifth in a row");
    assert!((9_000..=10_000).contains(&ejection.remaining), "{ejection:?}");
    assert_eq!(ejection.failure.to_string(), "timeout");
    assert_eq!(state.ejection(1_000), Some(ejection));

    let end = 1_000 + ejection.remaining;
    assert_eq!(state.ejection(end - 1).map(|e| e.remaining), Some(1));
    assert!(state.is_ejected(end - 1) && !state.is_ejected(end));
    assert_eq!(state.ejection(end), None);
}

/// Clients that end their event streams never clear a streak, for one.
#[test]
fn failures_that_are_far_apart_are_not_in_a_row() {
    let (ejector, backends) = (ejector(50), fixture::backends(&[1, 1]));
    let mut rng = fastrand::Rng::with_seed(1);
    let mut fail =
        |now| ejector.record_failure(&backends, &backends[0], Failure::Timeout, now, &mut rng);
    for failure in 0..50 {
        assert_eq!(fail(failure * 10_001), None);
    }
    for failure in 0..4 {
        assert_eq!(fail(1_000_000 + failure * 10_000), None);
    }
    assert!(fail(1_040_000).is_some());
}

/// It shows that the backend is there; and mixed with an outage of what is behind all backends,
/// a reset now and then would eject half of them.
#[test]
fn a_5xx_ends_a_row_of_failures_and_makes_none() {
    let ejector = ejector(50);
    let backends = backends(&ejector, 2);
    let mut rng = fastrand::Rng::with_seed(1);
    let mut fail = |failure| ejector.record_failure(&backends, &backends[0], failure, 5, &mut rng);
    for _ in 0..100 {
        for failure in [Failure::Reset, Failure::Reset, Failure::Reset, Failure::Reset] {
            assert_eq!(fail(failure), None);
        }
        assert_eq!(fail(Failure::Status), None);
    }
}

#[test]
fn a_backend_that_answers_with_5xx_where_its_peers_do_not_is_ejected() {
    for n in [2, 4, 30] {
        let ejector = ejector(50);
        let backends = backends(&ejector, n);
        assert_eq!(serve(&ejector, &backends, 19, 1, |i, _| i == 1), [0; 0], "{n}: not yet");
        assert_eq!(serve(&ejector, &backends, 25, 1, |i, _| i == 1), [1], "{n}");
        let ejection = backends[1].live.outlier.ejection(2_500).expect("it is out");
        assert_eq!(ejection.failure.to_string(), "5xx");
    }
    // And one of which two of three answers are.
    let ejector = ejector(50);
    let backends = backends(&ejector, 4);
    assert_eq!(serve(&ejector, &backends, 100, 1, |i, rng| i == 2 && rng.u8(..3) < 2), [2]);
}

#[test]
fn bad_backends_are_ejected_though_they_are_the_most() {
    let ejector = ejector(75);
    let backends = backends(&ejector, 4);
    assert_eq!(serve(&ejector, &backends, 100, 1, |i, _| i != 2), [0, 1, 3]);
}

/// Four clients that asked for it in a loop ejected two of four healthy backends.
#[test]
fn one_url_that_always_fails_ejects_nobody_however_often_it_is_asked_for() {
    for n in [2, 3, 4, 10] {
        for percent in [5, 20, 35, 50, 65, 80, 95, 100] {
            for seed in 0..20 {
                let ejector = ejector(100);
                let backends = backends(&ejector, n);
                let is_5xx = |_, rng: &mut fastrand::Rng| rng.u32(..100) < percent;
                let out = serve(&ejector, &backends, 600, seed, is_5xx);
                assert_eq!(out, [0; 0], "{n} backends, {percent}%, seed {seed}");
            }
        }
    }
}

#[test]
fn a_backend_without_peers_stays_however_it_answers() {
    let ejector = ejector(100);
    let one = backends(&ejector, 1);
    assert_eq!(serve(&ejector, &one, 200, 1, |_, _| true), [0; 0]);
    // Nor does a peer count that is out, or that has answered too little.
    for (answers, until, is_ejected) in [(5, 0, true), (5, 1_000_000, false), (4, 0, false)] {
        let two = backends(&ejector, 2);
        fixture::eject(&two[1], until);
        for _ in 0..answers {
            two[1].live.outlier.record_success(0);
        }
        let fail = |failures| fail_with_5xx(&ejector, &two[0], &two, failures, 0);
        assert_eq!(fail(100), is_ejected, "{answers}, {until}");
    }
}

#[test]
fn a_backend_is_compared_with_the_others_and_not_with_itself() {
    let ejector = ejector(50);
    let backends = backends(&ejector, 2);
    for (backend, answers) in [(0, 36), (1, 30)] {
        (0..answers).for_each(|_| backends[backend].live.outlier.record_success(0));
    }
    // 60% of 90 answers, and 45% of all.
    assert!(fail_with_5xx(&ejector, &backends[0], &backends, 54, 0));
}

#[test]
fn a_backend_that_is_no_worse_than_others_is_let_be_for_a_while() {
    let ejector = ejector(50);
    let backends = backends(&ejector, 2);
    let fail =
        |i: usize, failures, now| fail_with_5xx(&ejector, &backends[i], &backends, failures, now);
    assert!(!fail(1, 20, 0) && !fail(0, 20, 0));
    (0..1_000).for_each(|_| backends[1].live.outlier.record_success(0));
    assert!(!fail(0, 10, 311), "a 32nd of the interval has not passed");
    assert!(fail(0, 1, 312));
}

#[test]
fn answers_are_judged_within_the_interval_only() {
    let ejector = ejector(50);
    let backends = backends(&ejector, 2);
    // 19 answers in 10 s.
    for request in 0..100 {
        let now = request * 527;
        backends[1].live.outlier.record_success(now);
        let mut rng = fastrand::Rng::with_seed(1);
        let failure = Failure::Status;
        let ejection = ejector.record_failure(&backends, &backends[0], failure, now, &mut rng);
        assert_eq!(ejection, None, "request {request}");
    }
}

#[test]
fn a_backend_that_returns_is_judged_by_new_answers() {
    let mut ejector = ejector(50);
    ejector.policy.base_time = Duration::from_secs(1);
    let backends = backends(&ejector, 2);
    assert_eq!(serve(&ejector, &backends, 20, 1, |i, _| i == 1), [1]);
    let returns = 2_000 + 1_000;
    assert!(!fail_with_5xx(&ejector, &backends[1], &backends, 19, returns));
    assert!(fail_with_5xx(&ejector, &backends[1], &backends, 1, returns));
}

#[test]
fn under_consistent_hashing_no_5xx_ejects_because_each_backend_has_its_own_requests() {
    let set = |balance: &str| {
        let toml = format!("[[backend_sets]]\nname = 'a'\nbalance = '{balance}'\n");
        Arc::clone(&crate::fixture::desired(&toml).backend_sets["a"])
    };
    for (balance, expected) in [("consistent_hash", vec![]), ("random", vec![1])] {
        let ejector = Ejector::of(&set(balance), None).expect("is on by default");
        let backends = backends(&ejector, 4);
        assert_eq!(serve(&ejector, &backends, 50, 1, |i, _| i == 1), expected, "{balance}");
        assert!(fail(&ejector, &backends, 2, 5_000).is_some(), "what gives no answer goes");
    }
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
    let rng = &mut fastrand::Rng::with_seed(1);
    let after = ejector.record_failure(&backends, &backends[0], Failure::Reset, time, rng);
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
