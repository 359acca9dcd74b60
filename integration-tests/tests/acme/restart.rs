//! What a controller has begun and had, one that starts again goes on with.

use integration_tests::{
    backend::Backend,
    curl,
    eventually::{eventually, holds},
    pebble::Options,
};

use super::{PLACES, certificate_is, fleet, issued, orders, site, state};

#[tokio::test]
async fn a_controller_that_starts_again_orders_nothing_that_it_has() {
    let (mut fleet, pebble) = fleet(Options::default()).await;
    let backend = Backend::named("here").await;
    let site = site(&["site"], backend.address());
    let first = pebble.entry("site", &["one.test"], "");
    fleet.apply(&format!("{first}{site}")).await;
    let before = issued(&fleet, "site").await;
    fleet.controller.kill();
    fleet.controller.start_again().await;
    // It says so only once it has looked whether there is something to do.
    let after = issued(&fleet, "site").await;
    assert_eq!(after.fingerprint, before.fingerprint);
    assert_eq!(after.acme.map(|acme| acme.next), before.acme.map(|acme| acme.next));
    let root = pebble.root().await;
    for place in PLACES {
        let answer = curl::https(pebble.tls(place), "one.test", "/", &root, &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.log);
    }
    // And it still has its account.
    let second = pebble.entry("other", &["two.test"], "");
    fleet.apply(&format!("{first}{second}{site}")).await;
    issued(&fleet, "other").await;
    assert_eq!(orders(&fleet, "issued").await, 1);
    let log = fleet.controller.process.log();
    assert_eq!(log.matches("account made at a CA").count(), 1);
}

#[tokio::test]
async fn an_order_that_was_under_way_is_gone_on_with() {
    let (mut fleet, pebble) = fleet(Options { sleep: 5, ..<_>::default() }).await;
    let backend = Backend::named("here").await;
    let ordered = pebble.entry("site", &["one.test", "two.test"], "challenge = 'http-01'");
    fleet.apply(&format!("{ordered}{}", site(&["site"], backend.address()))).await;
    certificate_is(&fleet, "site", "ordered", |status| state(status) == "ordering").await;
    eventually("proxies have what they answer", async || {
        let log = fleet.controller.process.log();
        holds(log.contains("the CA may look"), || "nothing is said of it".into())
    })
    .await;
    fleet.controller.kill();
    fleet.controller.start_again().await;
    issued(&fleet, "site").await;
    let log = fleet.controller.process.log();
    assert_eq!(log.matches("order begun at a CA").count(), 1, "{log}");
    assert_eq!(log.matches("going on with an order").count(), 1, "{log}");
}
