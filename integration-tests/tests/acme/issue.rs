//! From `acme = ..` to https.

use integration_tests::{
    backend::Backend,
    certs::Ca,
    client, curl,
    eventually::{eventually, holds},
    fleet::Fleet,
    pebble::{Options, Pebble},
    tls_front::{Terms, TlsFront},
};
use lb_proto::v1::{BackendStatus, Health};

use super::{PLACES, certificate_is, fleet, issued, listed, orders, site, state};

const BOTH: [&str; 2] = ["one.test", "two.test"];

/// The CA comes to both proxies, for a name each, through listeners that have other things to do.
async fn by(challenge: &str) {
    let (fleet, pebble) = fleet(Options::default()).await;
    let (backend, own) = (Backend::named("here").await, Ca::new("a test's"));
    let there = own.sign(&["own.test"]).entry(fleet.dir(), "own");
    let ordered = pebble.entry("site", &BOTH, &format!("challenge = '{challenge}'"));
    let site = site(&["site", "own"], backend.address());
    fleet.apply(&format!("{ordered}{there}{site}")).await;
    // Before there is a certificate, its listener serves those that there are.
    let own = own.write(fleet.dir());
    for place in PLACES {
        let answer = curl::https(pebble.tls(place), "own.test", "/", &own, &[]).await;
        assert_eq!((answer.status, &*answer.body), (200, "here"), "{}", answer.log);
    }
    let status = issued(&fleet, "site").await;
    assert_eq!(status.names, BOTH);
    assert_eq!(status.acme.expect("it is ordered").challenge, challenge);
    let root = pebble.root().await;
    for (place, proxy) in PLACES.into_iter().zip(&fleet.proxies) {
        for host in BOTH {
            let answer = curl::https(pebble.tls(place), host, "/", &root, &[]).await;
            assert_eq!((answer.status, &*answer.body), (200, "here"), "{host}: {}", answer.log);
        }
        let metrics = proxy.metrics().await;
        let answered = metrics.sum("lb_proxy_acme_answers_total", &[("challenge", challenge)]);
        assert!(answered > 0.0, "the CA came to {}", proxy.id);
        assert_eq!(metrics.sum("lb_proxy_acme_answers_total", &[]), answered);
        // What nobody waits for is routed as everything is.
        let path = "/.well-known/acme-challenge/unknown";
        let answer = client::get(pebble.http(place), path).await;
        assert_eq!(answer.status(), 308, "{answer:?}");
    }
    assert_eq!((orders(&fleet, "issued").await, orders(&fleet, "failed").await), (1, 0));
}

#[tokio::test]
async fn a_certificate_is_had_by_http() {
    by("http-01").await;
}

#[tokio::test]
async fn a_certificate_is_had_by_a_handshake() {
    by("tls-alpn-01").await;
}

#[tokio::test]
async fn a_listener_without_any_certificate_yet_refuses_handshakes_and_answers_the_ca() {
    let (fleet, pebble) = fleet(Options { sleep: 3, ..<_>::default() }).await;
    let backend = Backend::named("here").await;
    let ordered = pebble.entry("site", &["one.test"], "challenge = 'tls-alpn-01'");
    fleet.apply(&format!("{ordered}{}", site(&["site"], backend.address()))).await;
    let root = pebble.root().await;
    let answer = curl::https(pebble.tls(PLACES[1]), "one.test", "/", &root, &[]).await;
    assert_eq!((answer.status, answer.code), (0, 35), "no handshake: {}", answer.log);
    issued(&fleet, "site").await;
    eventually("a proxy shows it", async || {
        let answer = curl::https(pebble.tls(PLACES[1]), "one.test", "/", &root, &[]).await;
        holds(answer.status == 200, || answer.log)
    })
    .await;
}

#[tokio::test]
async fn what_is_ordered_is_shown_to_backends_as_soon_as_it_is_issued() {
    let (fleet, pebble) = fleet(Options { sleep: 3, ..<_>::default() }).await;
    let (backend, own) = (Backend::named("here").await, Ca::new("a test's"));
    let root = std::fs::read_to_string(pebble.root().await).expect("it can be read");
    let terms = Terms { clients: Some(&root), ..Terms::default() };
    let front = TlsFront::start(backend.address(), &own.sign(&["app.internal"]), terms).await;
    let ordered = pebble.entry("site", &["one.test"], "challenge = 'http-01'");
    let set = format!(
        "health_check = {{ http = '/', interval = '100ms' }}
         tls = {{ ca = '{}', server_name = 'app.internal', client_certificate = 'site' }}",
        own.write(fleet.dir()).display()
    );
    fleet.apply(&format!("{ordered}{}{set}", site(&["site"], front.address()))).await;
    let is = |health| move |status: &BackendStatus| status.health() == health;
    fleet.backend_is(front.address(), "refusing", is(Health::Unhealthy)).await;
    assert_eq!(front.greetings(), [], "it was shown none");
    issued(&fleet, "site").await;
    fleet.backend_is(front.address(), "content", is(Health::Healthy)).await;
    let root = pebble.root().await;
    for place in PLACES {
        let answer = curl::https(pebble.tls(place), "one.test", "/", &root, &[]).await;
        assert_eq!((answer.status, &*answer.body), (200, "here"), "{}", answer.log);
    }
}

#[tokio::test]
async fn other_domains_are_another_order_and_what_there_is_serves_until_it_is_done() {
    let (fleet, pebble) = fleet(Options::default()).await;
    let backend = Backend::named("here").await;
    let site = site(&["site"], backend.address());
    fleet.apply(&format!("{}{site}", pebble.entry("site", &["one.test"], ""))).await;
    let first = issued(&fleet, "site").await;
    let (root, at) = (pebble.root().await, pebble.tls(PLACES[0]));
    fleet.apply(&format!("{}{site}", pebble.entry("site", &BOTH, ""))).await;
    let answer = curl::https(at, "one.test", "/", &root, &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.log);
    let second = certificate_is(&fleet, "site", "another one", |status| {
        status.fingerprint != first.fingerprint && state(status) == "issued"
    });
    assert_eq!(second.await.names, BOTH);
    fleet.settled(0).await;
    assert_eq!(curl::https(at, "two.test", "/", &root, &[]).await.status, 200);
    // The same ones in another order are the same certificate; and so is one that was gone.
    let third = format!("{}{site}", pebble.entry("site", &["two.test", "one.test"], ""));
    fleet.apply("backend_sets = [{ name = 'app' }]").await;
    fleet.apply(&third).await;
    let after = issued(&fleet, "site").await;
    assert_eq!(after.names, BOTH);
    assert_eq!(orders(&fleet, "issued").await, 2);
}

#[tokio::test]
async fn certificates_with_one_ca_and_address_share_an_account() {
    let (fleet, pebble) = fleet(Options::default()).await;
    let backend = Backend::named("here").await;
    let entries = [("a", "one.test"), ("b", "two.test"), ("c", "two.test")];
    let entries = entries.map(|(name, domain)| pebble.entry(name, &[domain], "email = 'a@b.test'"));
    fleet
        .apply(&format!("{}{}", entries.concat(), site(&["a", "b", "c"], backend.address())))
        .await;
    for name in ["a", "b", "c"] {
        issued(&fleet, name).await;
    }
    let log = fleet.controller.process.log();
    assert_eq!(log.matches("account made at a CA").count(), 1);
}

#[tokio::test]
async fn what_the_ca_cannot_reach_is_told_and_tried_again_later() {
    let (fleet, pebble) = fleet(Options::default()).await;
    let backend = Backend::named("here").await;
    let lost = pebble.entry("lost", &["lost.test"], "challenge = 'http-01'");
    let good = pebble.entry("good", &["one.test"], "");
    pebble.leads("lost.test", [127, 0, 0, 9].into()).await;
    let site = site(&["good", "lost"], backend.address());
    fleet.apply(&format!("{lost}{good}{site}")).await;
    let failed = certificate_is(&fleet, "lost", "failed", |status| state(status) == "failed").await;
    for part in ["cannot be had from its CA: lost.test, by http-01", "refused", "next try at 20"] {
        assert!(failed.problem.contains(part), "{part}: {}", failed.problem);
    }
    let acme = failed.acme.expect("it is ordered");
    assert_eq!((acme.failures, acme.next.is_some()), (1, true));
    issued(&fleet, "good").await;
    // Who asks for something else does not wait for that.
    pebble.leads("lost.test", PLACES[1]).await;
    let other = pebble.entry("lost", &["lost.test"], "challenge = 'tls-alpn-01'");
    fleet.apply(&format!("{other}{good}{site}")).await;
    issued(&fleet, "lost").await;
    assert_eq!((orders(&fleet, "issued").await, orders(&fleet, "failed").await), (2, 1));
}

#[tokio::test]
async fn without_anybody_to_answer_the_ca_nothing_is_ordered() {
    let fleet = Fleet::empty().await;
    let pebble = Pebble::start(fleet.dir(), Options::default()).await;
    let backend = Backend::named("here").await;
    let entry = pebble.entry("site", &["one.test"], "");
    fleet.apply(&entry).await;
    let waits = |part: &'static str| {
        let is = move |status: &lb_proto::v1::CertificateStatus| {
            state(status) == "waiting" && status.problem.contains(part)
        };
        certificate_is(&fleet, "site", part, is)
    };
    waits("can be answered by no listener").await;
    fleet.apply(&format!("{entry}{}", site(&["site"], backend.address()))).await;
    waits("no proxy is connected").await;
    let all = listed(&fleet).await.expect("it answers");
    holds(all[0].fingerprint.is_empty(), || format!("{all:?}")).expect("there is none");
    assert_eq!((orders(&fleet, "issued").await, orders(&fleet, "failed").await), (0, 0));
}
