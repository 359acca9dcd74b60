//! Health checks of backends that speak TLS.

use std::net::SocketAddr;

use integration_tests::{
    backend::{Backend, Reply},
    certs::{Ca, Kind, Pair, Wanted},
    fleet::{Fleet, app},
    tls_front::{Terms, TlsFront},
};
use lb_proto::v1::{BackendStatus, Health};
use tokio::net::TcpListener;

use super::{NAME, tls};

/// Of this kind, decided by one probe.
fn check(kind: &str) -> String {
    format!(
        "health_check = {{ {kind}, interval = '50ms', timeout = '5s', healthy_after = 1, \
         unhealthy_after = 1 }}"
    )
}

/// Whatever is asked: probes say who is healthy, and why another one is not.
async fn follows(kind: &str, behind: SocketAddr, passes: &str) {
    let (ca, clients) = (Ca::new("a test's"), Ca::new("of clients"));
    let terms = Terms { clients: Some(clients.pem()), ..Terms::default() };
    let front = TlsFront::start(behind, &ca.sign(&[NAME]), terms).await;
    let fleet = Fleet::empty().await;
    let own = clients.sign(&["lb.internal"]).entry(fleet.dir(), "own");
    let set = format!("{}\n{}", check(kind), tls(ca.pem(), "client_certificate = 'own'"));
    fleet.apply(&format!("{own}{}", app("", &set, &[front.address()]))).await;
    let is_healthy = |status: &BackendStatus| status.health() == Health::Healthy;
    let status = fleet.backend_is(front.address(), "healthy", is_healthy).await;
    assert_eq!(status.why, passes, "{kind}");
    assert!(front.greetings().iter().all(|greeting| !greeting.is_resumed), "{kind}");
    assert_eq!(front.greetings()[0].name.as_deref(), Some(NAME));
    let old = Wanted { names: &[NAME], kind: Kind::Ecdsa, years: (2020, 2021) };
    let shows: [(Pair, &str); 3] = [
        (ca.sign_as(old), "TLS: its certificate has expired"),
        (ca.sign(&["b.test"]), "TLS: its certificate is not for app.internal, but for"),
        (clients.sign(&[NAME]), "TLS: its certificate is not signed by the ca"),
    ];
    for (shown, why) in shows {
        front.show(&shown, terms);
        let told = |status: &BackendStatus| {
            let probe = status.last_probe.as_ref();
            status.health() == Health::Unhealthy
                && probe.is_some_and(|probe| probe.detail.starts_with(why))
        };
        fleet.backend_is(front.address(), why, told).await;
        front.show(&ca.sign(&[NAME]), terms);
        fleet.backend_is(front.address(), "healthy again", is_healthy).await;
    }
}

#[tokio::test]
async fn an_http_check_speaks_as_proxies_do() {
    let backend = Backend::start(|_| Reply::ok("up")).await;
    follows("http = '/up'", backend.address(), "status 200").await;
    assert_eq!(backend.count(), 0, "all of it was from checks");
}

#[tokio::test]
async fn a_tcp_check_shakes_hands() {
    let backend = Backend::script(|mut wire, _| async move { wire.closed().await }).await;
    follows("tcp = true", backend.address(), "connected").await;
}

#[tokio::test]
async fn a_grpc_check_agrees_on_h2() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let serving = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(serving.serve_with_incoming(incoming));
    follows("grpc = ''", address, "SERVING").await;
}

#[tokio::test]
async fn who_speaks_no_tls_or_wants_another_certificate_is_unhealthy_with_the_reason() {
    let backend = Backend::script(|mut wire, _| async move {
        let _ = wire.some().await;
        let _ = wire.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        wire.closed().await;
    })
    .await;
    let silent = Backend::script(|mut wire, _| async move { wire.closed().await }).await;
    let (ca, clients) = (Ca::new("a test's"), Ca::new("of clients"));
    let terms = Terms { clients: Some(clients.pem()), ..Terms::default() };
    let front = TlsFront::start(backend.address(), &ca.sign(&[NAME]), terms).await;
    let check = check("http = '/'").replace("5s", "1s");
    let backends = [backend.address(), front.address(), silent.address()];
    let fleet =
        Fleet::start(0, &app("", &format!("{check}\n{}", tls(ca.pem(), "")), &backends)).await;
    for (address, why) in [
        (backend.address(), "TLS: it speaks no TLS"),
        (front.address(), "TLS: it refuses the client: alert CertificateRequired"),
        (silent.address(), "TLS: no handshake within 1s"),
    ] {
        let is_told = |status: &BackendStatus| {
            status.health() == Health::Unhealthy && status.why.starts_with(why)
        };
        fleet.backend_is(address, why, is_told).await;
    }
}
