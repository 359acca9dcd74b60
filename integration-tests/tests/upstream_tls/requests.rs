//! Requests to backends that speak TLS, and how their connections begin.

use integration_tests::{
    backend::{Backend, Reply},
    certs::Ca,
    client::{self, Client, Request},
    curl,
    eventually::{eventually, holds},
    fleet::{Fleet, app, listening},
    nginx::Nginx,
    tls_front::{Terms, TlsFront},
    wire::Framing,
};
use lb_proto::v1::ListCertificatesRequest;
use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::{NAME, Site, tls};

/// By what became of them.
async fn handshakes(fleet: &Fleet) -> [u64; 3] {
    let metrics = fleet.proxies[0].metrics().await;
    ["full", "resumed", "failed"].map(|result| {
        let labels = [("backend_set", "app"), ("result", result)];
        metrics.sum("lb_proxy_backend_tls_handshakes_total", &labels) as u64
    })
}

#[tokio::test]
async fn many_requests_go_through_one_handshake_and_are_what_they_were() {
    let site = Site::new(Backend::start(Reply::echo).await).await;
    let fleet = Fleet::start(1, &site.spec("", "")).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for i in 0..20 {
        let body = format!("{i}");
        let request = Request::post("/", body.clone()).host("public.test").header("X-A", "b");
        assert_eq!(client.request(&request).await.text(), body);
    }
    let greetings = site.front.greetings();
    assert_eq!(greetings.len(), 1, "{greetings:?}");
    assert_eq!(greetings[0].name.as_deref(), Some(NAME));
    assert_eq!(greetings[0].certificate, None, "nobody asked");
    for seen in site.backend.requests() {
        let fields = &seen.head.fields;
        assert_eq!(fields.get("host"), Some("public.test"), "it is not what TLS is asked for");
        assert_eq!(fields.get("x-forwarded-proto"), Some("http"), "that is about the client");
        assert_eq!(fields.get("x-a"), Some("b"));
    }
    assert_eq!(handshakes(&fleet).await, [1, 0, 0]);
    let table = fleet.proxies[0].table().await;
    assert_eq!(table["backend_sets"][0]["tls"]["server_name"], NAME);
}

#[tokio::test]
async fn sessions_are_resumed_in_both_versions() {
    for only_tls12 in [false, true] {
        let terms = Terms { only_tls12, ..Terms::default() };
        let site = Site::on(Backend::named("here").await, terms).await;
        let mut fleet = Fleet::empty().await;
        fleet.add_proxy("p1", &["--workers=1".into()]);
        fleet.apply(&site.spec("", "pool = { max_idle = 0 }")).await;
        for _ in 0..4 {
            assert_eq!(client::get(fleet.proxies[0].web(), "/").await.text(), "here");
        }
        let resumed: Vec<_> = site.front.greetings().iter().map(|g| g.is_resumed).collect();
        assert_eq!(resumed, [false, true, true, true], "1.2: {only_tls12}");
        assert_eq!(handshakes(&fleet).await, [1, 3, 0]);
    }
}

#[tokio::test]
async fn long_bodies_go_both_ways_whole() {
    const LENGTH: usize = 5_000_000;
    let site = Site::new(Backend::start(Reply::echo).await).await;
    let certificate = site.ca.sign(&["a.test"]);
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &[]);
    let entry = certificate.entry(fleet.dir(), "a");
    let spec = site.spec("", "");
    let body: Vec<u8> = (0..LENGTH).map(|i| (i % 251) as u8).collect();
    fleet.apply(&spec).await;
    let request = Request::post("/", body.clone());
    let answer = client::request(fleet.proxies[0].web(), &request).await;
    assert!(answer.body.bytes == body, "{answer:?}");
    // And with TLS on both sides.
    fleet.apply(&format!("{entry}{}", listening(&spec, "tls = { certificates = ['a'] }"))).await;
    let (pem, file) = (site.ca.write(fleet.dir()), fleet.dir().join("body"));
    std::fs::write(&file, &body).expect("it can be written");
    let sent = format!("@{}", file.display());
    let got = fleet.dir().join("got").display().to_string();
    let flags = ["--data-binary", &*sent, "--output", &*got, "--header", "Expect:"];
    let answer = curl::https(fleet.proxies[0].web(), "a.test", "/", &pem, &flags).await;
    assert_eq!(answer.status, 200, "{}", answer.log);
    assert!(std::fs::read(&got).expect("it is there") == body);
}

#[tokio::test]
async fn a_real_nginx_is_spoken_to_and_its_tickets_are_taken() {
    let (ca, mut fleet) = (Ca::new("a test's"), Fleet::empty().await);
    fleet.add_proxy("p1", &["--workers=1".into()]);
    for protocol in ["TLSv1.2", "TLSv1.3"] {
        let (cert, key) = ca.sign(&[NAME]).write(fleet.dir(), protocol);
        let ssl = format!(
            "ssl_certificate {}; ssl_certificate_key {}; ssl_protocols {protocol};",
            cert.display(),
            key.display()
        );
        let nginx = Nginx::start_tls(fleet.dir(), protocol, &ssl).await;
        let set = format!("pool = {{ max_idle = 0 }}\n{}", tls(ca.pem(), ""));
        fleet.apply(&app("", &set, &[nginx.address()])).await;
        let mut reused = Vec::new();
        for _ in 0..3 {
            let answer = client::get(fleet.proxies[0].web(), "/").await;
            assert_eq!(answer.text(), format!("{protocol}\n"));
            reused.push(answer.header("x-reused").expect("nginx says it") == "r");
        }
        assert_eq!(reused, [false, true, true], "{protocol}");
    }
}

#[tokio::test]
async fn a_backend_without_a_name_is_known_by_its_address() {
    let (ca, backend) = (Ca::new("a test's"), Backend::named("here").await);
    let right = TlsFront::start(backend.address(), &ca.sign(&["127.0.0.1"]), <_>::default()).await;
    let wrong = TlsFront::start(backend.address(), &ca.sign(&["127.0.0.2"]), <_>::default()).await;
    let spec = |front: &TlsFront| {
        let tls = format!("tls = {{ ca = '''{}''' }}", ca.pem());
        app("", &tls, &[front.address()])
    };
    let fleet = Fleet::start(1, &spec(&right)).await;
    assert_eq!(client::get(fleet.proxies[0].web(), "/").await.text(), "here");
    assert_eq!(right.greetings()[0].name, None, "an address is no name");
    fleet.apply(&spec(&wrong)).await;
    let answer = client::get(fleet.proxies[0].web(), "/").await;
    assert_eq!(answer.proxy_error(), Some("tls_certificate_error"), "{answer:?}");
}

#[tokio::test]
async fn a_backend_is_shown_the_certificate_that_it_asks_for() {
    let clients = Ca::new("of clients");
    for only_tls12 in [false, true] {
        let terms = Terms { clients: Some(clients.pem()), only_tls12, ..Terms::default() };
        let site = Site::on(Backend::named("here").await, terms).await;
        let mut fleet = Fleet::empty().await;
        fleet.add_proxy("p1", &[]);
        let own = clients.sign(&["lb.internal"]);
        let entry = own.entry(fleet.dir(), "own");
        let spec = site.spec("client_certificate = 'own'", "");
        fleet.apply(&format!("{entry}{spec}")).await;
        assert_eq!(client::get(fleet.proxies[0].web(), "/").await.text(), "here");
        let der = CertificateDer::from_pem_slice(own.cert.as_bytes()).expect("PEM");
        assert_eq!(site.front.greetings()[0].certificate.as_deref(), Some(&*der));
        let listed = fleet.api().await.list_certificates(ListCertificatesRequest {}).await;
        let listed = listed.expect("it answers").into_inner().certificates.remove(0);
        assert_eq!(
            (&listed.backend_sets[..], &listed.listeners[..]),
            (&["app".to_owned()][..], &[][..])
        );

        // Without it, the backend refuses, whoever of the two notices first. That is told as what it is.
        fleet.apply(&format!("{entry}{}", site.spec("", ""))).await;
        for request in [Request::get("/"), Request::post("/", "x")] {
            let answer = client::request(fleet.proxies[0].web(), &request).await;
            let expected = (502, Some("tls_alert_received"));
            assert_eq!((answer.status(), answer.proxy_error()), expected, "{answer:?}");
            let told = answer.header("proxy-status").expect("it has one");
            let alert = "TLS: it refuses the client: alert CertificateRequired";
            assert!(told.contains(alert), "{told}");
        }
    }
}

#[tokio::test]
async fn whoever_is_not_to_be_checked_is_not_and_that_is_said_loudly() {
    let site = Site::new(Backend::named("here").await).await;
    let spec = app("", "tls = { verify = false }", &[site.front.address()]);
    let fleet = Fleet::start(1, &spec).await;
    assert_eq!(client::get(fleet.proxies[0].web(), "/").await.text(), "here");
    for log in [fleet.controller.process.log(), fleet.proxies[0].process.log()] {
        assert!(log.contains("verify = false believes whoever answers"), "{log}");
    }
    let table = fleet.proxies[0].table().await;
    assert_eq!(table["backend_sets"][0]["tls"]["verify"], false, "{table:#}");
}

#[tokio::test]
async fn a_change_of_the_settings_makes_new_connections_and_no_change_does_not() {
    let site = Site::new(Backend::named("here").await).await;
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &["--workers=1".into()]);
    let ask = async |fleet: &Fleet| {
        assert_eq!(client::get(fleet.proxies[0].web(), "/").await.text(), "here");
        site.front.greetings().len()
    };
    fleet.apply(&site.spec("", "")).await;
    assert_eq!([ask(&fleet).await, ask(&fleet).await], [1, 1]);
    fleet.apply(&site.spec("", "balance = 'random'")).await;
    assert_eq!(ask(&fleet).await, 1, "that is nothing to a connection");
    fleet.apply(&site.spec("min_version = '1.3'", "balance = 'random'")).await;
    assert_eq!(ask(&fleet).await, 2);
    let greetings = site.front.greetings();
    assert!(!greetings[1].is_resumed, "nor is a session taken over: {greetings:?}");
    eventually("the connection from before is closed", async || {
        let open = site.backend.open_connections();
        holds(open == 1, || format!("{open} are open"))
    })
    .await;
    // Plain again: who speaks TLS does not understand it.
    fleet.apply(&app("", "", &[site.front.address()])).await;
    assert_eq!(client::get(fleet.proxies[0].web(), "/").await.status(), 502);
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_ends_with_a_word_or_is_cut() {
    let until_close = "HTTP/1.1 200 OK\r\n\r\nall of it";
    for breaks_off in [false, true] {
        let backend = Backend::start(move |_| Reply::RawAndClose(until_close.into())).await;
        let terms = Terms { breaks_off, ..Terms::default() };
        let site = Site::on(backend, terms).await;
        let fleet = Fleet::start(1, &site.spec("", "")).await;
        let mut client = Client::connect(fleet.proxies[0].web()).await;
        client.send(&Request::get("/")).await;
        let head = client.wire.head().await.expect("it is one").expect("it is there");
        assert_eq!(head.response_framing(false).expect("it is clear"), Framing::Chunked);
        let body = client.wire.body(Framing::Chunked).await;
        match breaks_off {
            false => assert_eq!(body.expect("it is whole").text(), "all of it"),
            true => assert!(body.is_err(), "nobody said that this was all: {body:?}"),
        }
        assert_eq!(fleet.proxies[0].blamed().await, f64::from(u8::from(breaks_off)));
    }
}
