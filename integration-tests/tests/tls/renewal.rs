//! Certificates that are replaced, and what is wrong with them.

use integration_tests::{
    backend::Backend,
    certs::{Ca, Kind, Wanted},
    curl,
    eventually::{eventually, holds},
    fleet::{Fleet, Proxy, app, listening},
    tls_front::shown,
};
use lb_common::clock;
use lb_proto::v1::{ApplyRequest, CertificateStatus, ListCertificatesRequest};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::{fleet, site};

async fn listed(fleet: &Fleet) -> CertificateStatus {
    let answer = fleet.api().await.list_certificates(ListCertificatesRequest {}).await;
    answer.expect("it answers").into_inner().certificates.remove(0)
}

#[tokio::test]
async fn a_renewed_file_is_in_force_at_every_proxy_and_half_of_one_is_not() {
    let (ca, backend) = (Ca::new("a test's"), Backend::named("here").await);
    let fleet = fleet(2).await;
    fleet.apply(&site(&fleet, &ca, "", backend.address())).await;
    let first = listed(&fleet).await;
    assert_eq!((&first.names[..], &*first.problem), (&["a.test".to_owned()][..], ""));
    assert_eq!((&*first.kind, &first.listeners[..]), ("ecdsa", &["web".to_owned()][..]));

    let renewed = ca.sign(&["a.test", "new.test"]);
    let (cert, key) = (fleet.dir().join("a.pem"), fleet.dir().join("a.key"));
    std::fs::write(&cert, &renewed.cert).expect("it can be written");
    eventually("the half is told", async || {
        let now = listed(&fleet).await;
        let is_told = now.problem.contains("a.key") && now.problem.contains("is not the key of");
        holds(is_told && now.fingerprint == first.fingerprint, || format!("{now:?}"))
    })
    .await;
    let ca = ca.write(fleet.dir());
    for proxy in &fleet.proxies {
        let answer = curl::https(proxy.web(), "a.test", "/", &ca, &[]).await;
        assert_eq!(answer.status, 200, "the old pair serves on: {}", answer.log);
    }
    std::fs::write(&key, &renewed.key).expect("it can be written");
    for proxy in &fleet.proxies {
        eventually("the new one is shown", async || {
            let answer = curl::https(proxy.web(), "new.test", "/", &ca, &[]).await;
            holds(answer.status == 200, || answer.log)
        })
        .await;
    }
    let now = listed(&fleet).await;
    assert_eq!((&*now.problem, now.names.len()), ("", 2));

    std::fs::remove_file(&key).expect("it is there");
    eventually("a file that is gone is told", async || {
        let now = listed(&fleet).await;
        holds(now.problem.contains("a.key: cannot be read"), || format!("{now:?}"))
    })
    .await;
    let answer = curl::https(fleet.proxies[0].web(), "new.test", "/", &ca, &[]).await;
    assert_eq!(answer.status, 200, "what it had before serves on: {}", answer.log);
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_with_its_file_and_the_reason() {
    let ca = Ca::new("a test's");
    let fleet = fleet(0).await;
    let refused = async |cert: &str, key: &str| {
        let spec = lb_proto::file::parse(&format!(
            "certificates = [{{ name = 'a', cert = '{cert}', key = '{key}' }}]"
        ));
        let certificates = spec.expect("it is right by itself").certificates;
        let request = ApplyRequest { certificates, ..<_>::default() };
        let status = fleet.api().await.apply(request).await.expect_err("it cannot be used");
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        status.message().to_owned()
    };
    let path = |name: &str| fleet.dir().join(name).display().to_string();
    ca.sign(&["a.test"]).write(fleet.dir(), "one");
    ca.sign(&["a.test"]).write(fleet.dir(), "two");
    let old = Wanted { names: &["old.test"], kind: Kind::Ecdsa, years: (2020, 2021) };
    ca.sign_as(old).write(fleet.dir(), "old");
    std::fs::write(fleet.dir().join("text"), "no PEM").expect("it can be written");
    for (cert, key, field, what) in [
        ("one.pem", "two.key", "key: ", "two.key: is not the key of the certificate CN=a.test"),
        ("old.pem", "old.key", "cert: ", "old.pem: expired on 2021-01-01T00:00:00Z"),
        ("none.pem", "one.key", "cert: ", "none.pem: cannot be read: No such file"),
        ("one.pem", "none.key", "key: ", "none.key: cannot be read: No such file"),
        ("text", "one.key", "cert: ", "text: has no certificate in it"),
        ("one.pem", "text", "key: ", "text: has no key in it"),
        ("one.key", "one.pem", "cert: ", "one.key: has no certificate in it"),
    ] {
        let message = refused(&path(cert), &path(key)).await;
        let is_told = message.starts_with(&format!("certificates[a].{field}"));
        assert!(is_told && message.contains(what), "{cert} and {key}: {message}");
    }
    let message = refused("relative.pem", &path("one.key")).await;
    assert!(message.contains("give an absolute path"), "{message}");
    let message = refused(&path("one.pem"), "sha256:00").await;
    assert!(message.contains("no key is known as \"sha256:00\""), "{message}");
}

#[tokio::test]
async fn a_proxy_that_starts_without_a_controller_serves_tls() {
    let (ca, backend) = (Ca::new("a test's"), Backend::named("here").await);
    let mut fleet = fleet(1).await;
    fleet.apply(&site(&fleet, &ca, "", backend.address())).await;
    let ca = ca.write(fleet.dir());
    fleet.on_disk("p1", backend.address()).await;
    fleet.controller.kill();
    fleet.proxies[0].kill();
    fleet.proxies[0].process.restart();
    fleet.proxies[0].ready().await;
    let answer = curl::https(fleet.proxies[0].web(), "a.test", "/", &ca, &[]).await;
    assert_eq!((answer.status, &*answer.body), (200, "here"), "{}", answer.log);
}

#[tokio::test]
async fn a_controller_that_starts_without_the_files_has_what_was_in_them() {
    let (ca, backend) = (Ca::new("a test's"), Backend::named("here").await);
    let mut fleet = fleet(1).await;
    fleet.apply(&site(&fleet, &ca, "", backend.address())).await;
    let before = listed(&fleet).await;
    let pem = ca.write(fleet.dir());
    for name in ["a.pem", "a.key"] {
        std::fs::remove_file(fleet.dir().join(name)).expect("it is there");
    }
    fleet.controller.kill();
    fleet.controller.start_again().await;
    let after = listed(&fleet).await;
    assert_eq!(before.fingerprint, after.fingerprint);
    fleet.add_proxy("p2", &[]);
    fleet.settled(1).await;
    let answer = curl::https(fleet.proxies[1].web(), "a.test", "/", &pem, &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.log);
}

#[tokio::test]
async fn fifty_renewals_under_load_fail_nobody() {
    let (ca, backend) = (Ca::new("a test's"), Backend::named("here").await);
    let fleet = fleet(2).await;
    let certificate = ca.sign(&["a.test"]).entry(fleet.dir(), "a");
    let spec = listening(&app("", "", &[backend.address()]), "tls = { certificates = ['a'] }");
    fleet.apply(&format!("{certificate}{spec}")).await;
    let pem = ca.write(fleet.dir());
    let renewals = async {
        let mut took = Vec::new();
        for _ in 0..50 {
            let renewed = ca.sign(&["a.test"]);
            let expected = CertificateDer::from_pem_slice(renewed.cert.as_bytes()).expect("PEM");
            renewed.write(fleet.dir(), "a");
            let written = clock::now();
            for proxy in &fleet.proxies {
                eventually("new clients are shown it", async || {
                    let shown = shown(proxy.web(), &ca).await;
                    holds(*shown == *expected, || "another one is shown".into())
                })
                .await;
            }
            took.push(clock::now() - written);
        }
        println!("in force at both proxies after {:?} at the most", took.iter().max());
    };
    let load = async |proxy: &Proxy| {
        let web = proxy.web();
        loop {
            // Two connections, one after the other, the second with the first one's session.
            let url = format!("https://a.test:{}/", web.port());
            let flags = ["--no-keepalive", "--header", "Connection: close", &url];
            let answer = curl::https(web, "a.test", "/", &pem, &flags).await;
            assert_eq!((answer.status, answer.code), (200, 0), "{}", answer.log);
        }
    };
    tokio::select! {
        () = renewals => {}
        () = load(&fleet.proxies[0]) => {}
        () = load(&fleet.proxies[1]) => {}
    }
    for proxy in &fleet.proxies {
        let metrics = proxy.metrics().await;
        let of = |result| metrics.sum("lb_proxy_tls_handshakes_total", &[("result", result)]);
        assert!(of("resumed") > 0.0 && of("full") > 50.0, "both kinds went on meanwhile");
    }
}
