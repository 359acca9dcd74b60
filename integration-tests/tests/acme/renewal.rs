//! Certificates do not last.

use std::time::Duration;

use integration_tests::{
    backend::Backend,
    curl,
    eventually::{eventually, holds},
    pebble::Options,
};

use super::{PLACES, certificate_is, fleet, issued, site};

/// Of a certificate, in seconds: a third of it is more than anything here takes.
const VALIDITY: u32 = 30;

#[tokio::test]
async fn a_certificate_is_renewed_and_serves_on_while_its_ca_is_away() {
    let options = Options { validity: Some(VALIDITY), ..<_>::default() };
    let (fleet, mut pebble) = fleet(options).await;
    let backend = Backend::named("here").await;
    let ordered = pebble.entry("site", &["one.test", "two.test"], "email = 'a@b.test'");
    fleet.apply(&format!("{ordered}{}", site(&["site"], backend.address()))).await;
    let first = issued(&fleet, "site").await;
    let next = first.acme.and_then(|acme| acme.next).expect("it is renewed some time");
    let end = first.not_after.expect("it ends");
    let left = Duration::from_secs(u64::try_from(end.seconds - next.seconds).expect("before"));
    let third = Duration::from_secs(u64::from(VALIDITY) / 3);
    assert!((third - Duration::from_secs(1)..third * 3 / 2).contains(&left), "{left:?}");

    let second = certificate_is(&fleet, "site", "renewed", |status| {
        status.fingerprint != first.fingerprint && status.problem.is_empty()
    })
    .await;
    let root = pebble.root().await;
    for place in PLACES {
        eventually("the renewed one is shown", async || {
            let answer = curl::https(pebble.tls(place), "two.test", "/", &root, &[]).await;
            holds(answer.status == 200, || answer.log)
        })
        .await;
    }
    let log = fleet.controller.process.log();
    assert_eq!(log.matches("account made at a CA").count(), 1, "it is used again");

    pebble.process.kill();
    let failing = certificate_is(&fleet, "site", "failing", |status| !status.problem.is_empty());
    let failing = failing.await;
    assert_eq!(failing.fingerprint, second.fingerprint, "what there is stays in force");
    assert!(failing.problem.contains("does not answer"), "{}", failing.problem);
    for place in PLACES {
        let answer = curl::https(pebble.tls(place), "one.test", "/", &root, &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.log);
    }
    assert!(fleet.controller.process.log().contains("a certificate cannot be had"));

    // It has forgotten all accounts, and signs with another root.
    pebble.start_again().await;
    let back = certificate_is(&fleet, "site", "well again", |status| {
        status.fingerprint != second.fingerprint && status.problem.is_empty()
    });
    back.await;
    let root = pebble.root().await;
    for place in PLACES {
        eventually("the one of the new root is shown", async || {
            let answer = curl::https(pebble.tls(place), "one.test", "/", &root, &[]).await;
            holds(answer.status == 200, || answer.log)
        })
        .await;
    }
}
