//! What failures in a row do.

use super::*;

/// Two backends, of which the second one has done well.
fn with_a_good_peer(ejector: &Ejector) -> Vec<Arc<Backend>> {
    let backends = backends(ejector, 2);
    succeed(&backends[1], 10, 0);
    backends
}

#[test]
fn five_failures_in_a_row_eject_and_a_success_starts_over() {
    let ejector = ejector(50);
    let backends = with_a_good_peer(&ejector);
    let state = &backends[0].live.outlier;
    let fail = || fail_once(&ejector, &backends, 0, Failure::Timeout, 1_000);

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
    let ejector = ejector(50);
    let backends = backends(&ejector, 2);
    let fail = |now| {
        succeed(&backends[1], 1, now);
        fail_once(&ejector, &backends, 0, Failure::Timeout, now)
    };
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
    let mut ejector = ejector(50);
    ejector.policy.min_requests = NonZeroU32::MAX;
    let backends = with_a_good_peer(&ejector);
    for _ in 0..100 {
        for failure in [Failure::Reset, Failure::Reset, Failure::Reset, Failure::Reset] {
            assert_eq!(fail_once(&ejector, &backends, 0, failure, 5), None);
        }
        assert_eq!(fail_once(&ejector, &backends, 0, Failure::Status, 5), None);
    }
}

/// Four clients that asked for it in a loop ejected two of four healthy backends.
#[test]
fn a_row_that_all_have_alike_ejects_nobody() {
    for failure in [Failure::Reset, Failure::Timeout] {
        for n in [2, 3, 4, 10] {
            let ejector = ejector(100);
            let backends = backends(&ejector, n);
            backends.iter().for_each(|backend| succeed(backend, 50, 0));
            for now in 0..200 {
                for i in 0..n {
                    let ejection = fail_once(&ejector, &backends, i, failure, now);
                    assert_eq!(ejection, None, "{n} backends, {failure}, {now} ms");
                }
            }
        }
    }
}

/// Nobody else has been asked of late.
#[test]
fn a_row_with_nothing_to_compare_it_with_ejects_only_who_cannot_be_connected_to() {
    let ejector = ejector(50);
    let silent = backends(&ejector, 2);
    let fail = |failure| (0..100).any(|_| fail_once(&ejector, &silent, 0, failure, 0).is_some());
    assert!(!fail(Failure::Reset));
    silent[0].live.outlier.record_success(0);
    let failures: Vec<_> =
        (0..5).map(|_| fail_once(&ejector, &silent, 0, Failure::Connect, 0)).collect();
    assert!(failures[4].is_some() && failures[..4] == [None; 4], "{failures:?}");
}

/// They are no peers for each other, and half of the set's failures are no chance either.
#[test]
fn backends_that_fall_silent_together_go_as_soon_as_one_alone_would() {
    let ejector = ejector(50);
    let backends = backends(&ejector, 4);
    backends.iter().for_each(|backend| succeed(backend, 1_000, 0));
    let mut failures = 0;
    while ejected(&backends, 100) != [0, 1] {
        for i in [0, 1] {
            fail_once(&ejector, &backends, i, Failure::Reset, 100);
        }
        [2, 3].iter().for_each(|i| succeed(&backends[*i], 1, 100));
        failures += 1;
        assert!(failures <= 5, "it takes too long");
    }
    assert_eq!(failures, 5);
}

#[test]
fn a_client_that_ends_all_its_requests_at_once_has_given_up_once() {
    let ejector = ejector(50);
    let backends = backends(&ejector, 2);
    let give_up = |now| {
        succeed(&backends[1], 1, now);
        fail_once(&ejector, &backends, 0, Failure::GivenUp, now)
    };
    for _ in 0..100 {
        assert_eq!(give_up(7), None);
    }
    for now in [1_007, 2_007, 3_007, 4_006] {
        assert_eq!(give_up(now), None, "{now}");
    }
    let ejection = give_up(4_007).expect("the fifth");
    assert_eq!(ejection.failure.to_string(), "clients gave up");
}

/// One URL that always fails is one backend's alone there, and would go on to the next.
#[test]
fn under_consistent_hashing_each_key_counts_once_in_a_row() {
    let mut ejector = ejector(50);
    ejector.compares = false;
    let backends = with_a_good_peer(&ejector);
    succeed(&backends[1], 100, 0);
    let mut rng = fastrand::Rng::with_seed(1);
    let mut fail = |failure, key| {
        let key = Key::of(key);
        ejector.record_failure(&backends, &backends[0], failure, key, 0, &mut rng)
    };
    for request in 0..100 {
        assert_eq!(fail(Failure::Reset, request % 4), None);
    }
    assert!(fail(Failure::Reset, 4).is_some(), "the fifth key");

    let mut fail = |key| {
        let key = Key::of(key);
        ejector.record_failure(&backends, &backends[1], Failure::Connect, key, 0, &mut rng)
    };
    backends[0].live.outlier.eject(Failure::Reset, 0);
    for _ in 0..4 {
        assert_eq!(fail(1), None);
    }
    assert!(fail(1).is_some(), "that it cannot be connected to is no key's doing");
}
