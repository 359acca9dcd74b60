//! What a backend's share of failures does, beside that of its peers.

use super::*;

/// Each open backend answers so many requests in turn, one each 100 ms; `is_5xx` says how. Returns
/// those that are out afterwards.
fn serve(
    ejector: &Ejector,
    backends: &[Arc<Backend>],
    requests: u64,
    seed: u64,
    mut is_5xx: impl FnMut(usize, &mut fastrand::Rng) -> bool,
) -> Vec<usize> {
    let outcome = |i, rng: &mut fastrand::Rng| is_5xx(i, rng).then_some(Failure::Status);
    serve_each(ejector, backends, (requests, 100), seed, outcome)
}

/// The same with failures of any kind, at a pace of so many milliseconds a request.
fn serve_each(
    ejector: &Ejector,
    backends: &[Arc<Backend>],
    (requests, pace): (u64, Millis),
    seed: u64,
    mut outcome: impl FnMut(usize, &mut fastrand::Rng) -> Option<Failure>,
) -> Vec<usize> {
    let mut rng = fastrand::Rng::with_seed(seed);
    for now in (0..requests).map(|request| request * pace) {
        for (i, backend) in backends.iter().enumerate().filter(|(_, b)| b.is_open(now)) {
            match outcome(i, &mut rng) {
                Some(failure) => {
                    let key = Key::default();
                    ejector.record_failure(backends, backend, failure, key, now, &mut rng);
                }
                None => backend.live.outlier.record_success(now),
            }
        }
    }
    ejected(backends, requests * pace)
}

/// Fails with 5xx until it is ejected, or so many times.
fn fail_with_5xx(
    ejector: &Ejector,
    backends: &[Arc<Backend>],
    i: usize,
    failures: usize,
    now: Millis,
) -> bool {
    (0..failures).any(|_| fail_once(ejector, backends, i, Failure::Status, now).is_some())
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
    for failure in [Failure::Status, Failure::Reset, Failure::Timeout] {
        for n in [2, 3, 4, 10, 40] {
            for percent in [1, 5, 10, 20, 35, 50, 65, 80, 95, 100] {
                for seed in 0..10 {
                    let ejector = ejector(100);
                    let backends = backends(&ejector, n);
                    let outcome =
                        |_, rng: &mut fastrand::Rng| (rng.u32(..100) < percent).then_some(failure);
                    let out = serve_each(&ejector, &backends, (2_000, 10), seed, outcome);
                    let case = format!("{n} backends, {failure}, {percent}%, seed {seed}");
                    assert_eq!(out, [0; 0], "{case}");
                }
            }
        }
    }
}

#[test]
fn a_backend_that_fails_one_in_ten_is_ejected_and_its_peers_are_not() {
    let kinds = [Failure::Status, Failure::Reset, Failure::Timeout, Failure::Connect];
    for failure in kinds {
        for n in [2, 3, 4, 10, 40] {
            for seed in 0..20 {
                let ejector = ejector(50);
                let backends = backends(&ejector, n);
                let outcome = |i, rng: &mut fastrand::Rng| {
                    let one_in = if i == 1 { 10 } else { 1_000 };
                    (rng.u32(..one_in) == 0).then_some(failure)
                };
                let out = serve_each(&ejector, &backends, (500, 10), seed, outcome);
                assert_eq!(out, [1], "{n} backends, {failure}, seed {seed}");
            }
        }
    }
}

/// It is back since the outage, and all fail alike since then.
#[test]
fn an_outage_of_what_is_behind_all_ejects_nobody_that_has_just_returned() {
    for seed in 0..20 {
        let ejector = ejector(50);
        let backends = backends(&ejector, 4);
        fixture::eject(&backends[1], 7_500);
        let mut requests = 0;
        let outcome = |_, rng: &mut fastrand::Rng| {
            requests += 1;
            (3 * 750 < requests && rng.bool()).then_some(Failure::Status)
        };
        let out = serve_each(&ejector, &backends, (1_000, 10), seed, outcome);
        assert_eq!(out, [0; 0], "seed {seed}");
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
        succeed(&two[1], answers, 0);
        assert!(!fail_with_5xx(&ejector, &two, 0, 99, 0), "20 were too few, and then it is let be");
        assert_eq!(fail_with_5xx(&ejector, &two, 0, 1, 400), is_ejected, "{answers}, {until}");
    }
}

#[test]
fn a_backend_is_compared_with_the_others_and_not_with_itself() {
    let ejector = ejector(50);
    let backends = backends(&ejector, 2);
    succeed(&backends[0], 36, 0);
    succeed(&backends[1], 30, 0);
    // 60% of 90 answers, and 45% of all.
    assert!(!fail_with_5xx(&ejector, &backends, 0, 53, 0));
    assert!(fail_with_5xx(&ejector, &backends, 0, 1, 400));
}

#[test]
fn a_backend_that_is_no_worse_than_others_is_let_be_for_a_while() {
    let ejector = ejector(50);
    let backends = backends(&ejector, 2);
    let fail = |i, failures, now| fail_with_5xx(&ejector, &backends, i, failures, now);
    assert!(!fail(1, 20, 0) && !fail(0, 20, 0));
    succeed(&backends[1], 1_000, 0);
    assert!(!fail(0, 10, 77), "a 128th of the interval has not passed");
    assert!(fail(0, 1, 78));
}

#[test]
fn answers_are_judged_within_the_interval_only() {
    let ejector = ejector(50);
    let backends = backends(&ejector, 2);
    // 19 answers in 10 s.
    for request in 0..100 {
        let now = request * 527;
        succeed(&backends[1], 1, now);
        let ejection = fail_once(&ejector, &backends, 0, Failure::Status, now);
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
    succeed(&backends[0], 20, returns);
    assert!(!fail_with_5xx(&ejector, &backends, 1, 19, returns));
    assert!(fail_with_5xx(&ejector, &backends, 1, 1, returns));
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
        assert!(fail(&ejector, &backends, 2, 5_000).is_some(), "what cannot be connected to goes");
    }
}
