//! Backends that speak TLS wrongly, or nothing of it.

use std::time::Duration;

use integration_tests::{
    access_log,
    backend::Backend,
    certs::{Ca, Kind, Wanted},
    client::{self, Request},
    eventually::{eventually, holds},
    fleet::{Fleet, app, app_with},
    tls_front::TlsFront,
};
use lb_common::clock;
use serde_json::json;

use super::{NAME, Site, tls};

const NO_RETRY: &str = "retry = { attempts = 1 }";

#[tokio::test]
async fn who_is_not_to_be_believed_gets_nothing_and_the_reason_is_told() {
    let (ca, other) = (Ca::new("a test's"), Ca::new("another"));
    let backend = Backend::recording(|_| panic!("it is asked for nothing")).await;
    let old = Wanted { names: &[NAME], kind: Kind::Ecdsa, years: (2020, 2021) };
    #[rustfmt::skip]
    let cases = [
        (other.sign(&[NAME]), "tls_certificate_of_unknown_issuer", "its certificate is not signed by the ca"),
        (ca.sign(&["b.test"]), "tls_certificate_of_other_name", "its certificate is for another name"),
        (ca.sign_as(old), "tls_certificate_expired", "its certificate has expired"),
    ];
    for (shown, reason, told) in cases {
        let front = TlsFront::start(backend.address(), &shown, <_>::default()).await;
        let fleet = Fleet::empty().await;
        let log = fleet.dir().join("access.log");
        let spec = app(NO_RETRY, &tls(ca.pem(), ""), &[front.address()]);
        let fleet = access_log::with_proxy(fleet, "full", &log, &spec).await;
        let answer = client::get(fleet.proxies[0].web(), "/").await;
        let kind = Some("tls_certificate_error");
        assert_eq!((answer.status(), answer.proxy_error()), (502, kind), "{answer:?}");
        let status = answer.header("proxy-status").expect("it has one");
        assert!(status.contains(&format!("TLS: {told}")), "{status}");
        assert!(!status.contains(".test"), "no name is the client's concern: {status}");
        access_log::check(&access_log::line(&log).await, json!({ "reason": reason }));
        let metrics = fleet.proxies[0].metrics().await;
        let labels = [("result", "failed")];
        assert_eq!(metrics.sum("lb_proxy_backend_tls_handshakes_total", &labels), 1.0);
        assert_eq!(fleet.proxies[0].blamed().await, 1.0, "that is the backend's doing");
        assert_eq!(front.greetings(), []);
    }
    assert_eq!(backend.received(), [b""; 0]);
}

#[tokio::test]
async fn a_request_goes_to_another_backend_if_one_cannot_be_believed() {
    let site = Site::new(Backend::named("good").await).await;
    let stranger = Ca::new("another").sign(&[NAME]);
    let bad = TlsFront::start(site.backend.address(), &stranger, <_>::default()).await;
    let backends =
        [&bad, &site.front].map(|front| format!("{{ address = '{}' }}", front.address()));
    let set =
        format!("outlier_ejection = {{ consecutive_failures = 3 }}\n{}", tls(site.ca.pem(), ""));
    let fleet = Fleet::start(1, &app_with("", &set, &backends.join(", "))).await;
    for _ in 0..20 {
        // Nobody has seen anything of it, so it may be sent again whatever it is.
        let answer = client::request(fleet.proxies[0].web(), &Request::post("/", "once")).await;
        assert_eq!((answer.status(), &*answer.text()), (200, "good"));
    }
    let count = site.backend.count();
    assert_eq!(count, 20);
    let metrics = fleet.proxies[0].metrics().await;
    assert_eq!(metrics.sum("lb_proxy_ejections_total", &[]), 1.0, "and it is left alone then");
}

#[tokio::test]
async fn a_backend_that_never_answers_the_hello_is_given_up_in_time() {
    let backend = Backend::script(|mut wire, _| async move { wire.closed().await }).await;
    let ca = Ca::new("a test's");
    let set = format!("connect_timeout = '300ms'\n{}", tls(ca.pem(), ""));
    let fleet = Fleet::start(1, &app(NO_RETRY, &set, &[backend.address()])).await;
    let before = clock::now();
    let answer = client::get(fleet.proxies[0].web(), "/").await;
    let took = clock::now() - before;
    let expected = (504, Some("connection_timeout"));
    assert_eq!((answer.status(), answer.proxy_error()), expected, "{answer:?}");
    let status = answer.header("proxy-status").expect("it has one");
    assert!(status.contains("TLS: no handshake within"), "{status}");
    assert!((300..5_000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(fleet.proxies[0].blamed().await, 1.0);
    fleet.idle().await;
}

#[tokio::test]
async fn what_is_no_tls_is_said_to_be_none() {
    let endless = || {
        Backend::script(|mut wire, _| async move {
            // A record of a handshake that begins and never ends.
            let record = [&[22, 3, 3, 0x40, 0][..], &[2, 0xff, 0xff, 0xff], &[0; 16 * 1024 - 4]];
            let more = [&[22, 3, 3, 0x40, 0][..], &[0; 16 * 1024]].concat();
            let _ = wire.send(record.concat()).await;
            while wire.send(&more).await.is_ok() {}
        })
    };
    let saying = |what: &'static str| {
        Backend::script(move |mut wire, _| async move {
            let _ = wire.some().await;
            let _ = wire.send(what).await;
            wire.closed().await;
        })
    };
    let plain = saying("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let garbage = saying("\u{16}\u{3}\u{3}\0\u{5}what?").await;
    let gone = Backend::script(|mut wire, _| async move { drop(wire.some().await) }).await;
    let ca = Ca::new("a test's");
    for backend in [plain, garbage, gone, endless().await] {
        let spec = app(NO_RETRY, &tls(ca.pem(), ""), &[backend.address()]);
        let fleet = Fleet::start(1, &spec).await;
        let answer = client::get(fleet.proxies[0].web(), "/").await;
        let expected = (502, Some("tls_protocol_error"));
        assert_eq!((answer.status(), answer.proxy_error()), expected, "{answer:?}");
        assert_eq!(fleet.proxies[0].blamed().await, 1.0);
    }
}

#[tokio::test]
async fn a_session_is_no_way_around_the_end_of_a_backends_certificate() {
    let (ca, backend) = (Ca::new("a test's"), Backend::named("here").await);
    let short = ca.sign_for(&[NAME], Duration::from_secs(4));
    let front = TlsFront::start(backend.address(), &short, <_>::default()).await;
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &["--workers=1".into()]);
    let set = format!(
        "pool = {{ max_idle = 0 }}\noutlier_ejection = {{ disabled = true }}\n{}",
        tls(ca.pem(), "")
    );
    fleet.apply(&app(NO_RETRY, &set, &[front.address()])).await;
    let web = fleet.proxies[0].web();
    assert_eq!(client::get(web, "/").await.text(), "here");
    assert_eq!(client::get(web, "/").await.text(), "here");
    assert!(front.greetings()[1].is_resumed);
    eventually("it has expired", async || {
        let answer = client::get(web, "/").await;
        let kind = answer.proxy_error() == Some("tls_certificate_error");
        holds(kind, || format!("{answer:?}"))
    })
    .await;
    // Once it is renewed, no session of before is in the way.
    front.show(&ca.sign(&[NAME]), <_>::default());
    assert_eq!(client::get(web, "/").await.text(), "here");
}

/// A CA that is none, and a client's key that is another's, are told before they are in force.
#[tokio::test]
async fn what_cannot_be_used_is_refused_with_its_file_and_the_reason() {
    let (ca, fleet) = (Ca::new("a test's"), Fleet::empty().await);
    let dir = fleet.dir();
    ca.sign(&["lb.test"]).write(dir, "one");
    ca.sign(&["lb.test"]).write(dir, "two");
    std::fs::write(dir.join("text"), "no PEM").expect("it can be written");
    let refused = async |spec: String| {
        let v = lb_proto::file::parse(&spec).expect("it is right by itself");
        let request = lb_proto::v1::ApplyRequest {
            backend_sets: v.backend_sets,
            certificates: v.certificates,
            ..<_>::default()
        };
        let status = fleet.api().await.apply(request).await.expect_err("it cannot be used");
        status.message().to_owned()
    };
    for (file, what) in [
        ("text", "text: has no certificate in it"),
        ("none.pem", "none.pem: cannot be read: No such file"),
    ] {
        let path = dir.join(file).display().to_string();
        let set = format!("backend_sets = [{{ name = 'a', tls = {{ ca = '{path}' }} }}]");
        let message = refused(set).await;
        assert!(message.starts_with("backend_sets[a].tls.ca: "), "{message}");
        assert!(message.contains(what), "{message}");
    }
    let path = |name: &str| dir.join(name).display().to_string();
    let message = refused(format!(
        "certificates = [{{ name = 'own', cert = '{}', key = '{}' }}]
         backend_sets = [{{ name = 'a', tls = {{ ca = '{}', client_certificate = 'own' }} }}]",
        path("one.pem"),
        path("two.key"),
        path("one.pem"),
    ))
    .await;
    assert!(message.contains("two.key: is not the key of the certificate"), "{message}");
}
