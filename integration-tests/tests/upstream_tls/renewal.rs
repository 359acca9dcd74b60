//! CAs and certificates that are replaced while requests go on.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use integration_tests::{
    backend::Backend,
    certs::Ca,
    client::Client,
    eventually::{eventually, holds},
    fleet::{Fleet, app},
    tls_front::{Terms, TlsFront},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::NAME;

fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM").to_vec()
}

/// Changes a file, and waits until what is new in it is in force everywhere.
async fn follows(fleet: &Fleet, change: impl Fn()) {
    let before = fleet.list_proxies().await.expect("it answers").version;
    change();
    eventually("it is published, and every proxy runs it", async || {
        let list = fleet.list_proxies().await?;
        let is_in_force = list.version > before && list.proxies.iter().all(|proxy| proxy.in_sync);
        holds(is_in_force, || format!("{list:?}"))
    })
    .await;
}

#[tokio::test]
async fn a_renewed_ca_and_a_renewed_certificate_are_in_force_without_a_failed_request() {
    let backend = Backend::named("here").await;
    let (first, clients) = (Ca::new("first"), Ca::new("of clients"));
    let terms = Terms { clients: Some(clients.pem()), ..Terms::default() };
    let front = TlsFront::start(backend.address(), &first.sign(&[NAME]), terms).await;
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &[]);
    let file = first.write(fleet.dir());
    let own = clients.sign(&["lb.internal"]).entry(fleet.dir(), "own");
    let tls = format!(
        "tls = {{ ca = '{}', server_name = '{NAME}', client_certificate = 'own' }}\n\
         health_check = {{ http = '/', interval = '100ms', timeout = '5s' }}",
        file.display()
    );
    fleet.apply(&format!("{own}{}", app("", &tls, &[front.address()]))).await;
    let (web, served) = (fleet.proxies[0].web(), AtomicUsize::new(0));
    let load = async {
        loop {
            let mut client = Client::connect(web).await;
            for _ in 0..5 {
                let answer = client.get("/").await;
                assert_eq!((answer.status(), &*answer.text()), (200, "here"), "{answer:?}");
                served.fetch_add(1, SeqCst);
            }
        }
    };
    let renewals = async {
        let mut old = first;
        for round in 0..10 {
            // The client's own.
            let own = clients.sign(&["lb.internal"]);
            own.write(fleet.dir(), "own");
            let shown = der(&own.cert);
            eventually("requests go with the renewed certificate", async || {
                let last = front.greetings().pop();
                let is_shown = last.is_some_and(|last| last.certificate.as_ref() == Some(&shown));
                holds(is_shown, || format!("round {round}"))
            })
            .await;
            // The CA: both for a while, then the new one alone.
            let new = Ca::new(&format!("round {round}"));
            let both = format!("{}{}", old.pem(), new.pem());
            follows(&fleet, || {
                std::fs::write(fleet.dir().join("both"), &both).expect("it can be written");
                std::fs::rename(fleet.dir().join("both"), &file).expect("it can be written");
            })
            .await;
            front.show(&new.sign(&[NAME]), terms);
            follows(&fleet, || drop(new.write(fleet.dir()))).await;
            old = new;
        }
    };
    tokio::select! {
        () = load => {}
        () = renewals => {}
    }
    assert!(served.load(SeqCst) > 50, "{served:?}");
    let metrics = fleet.proxies[0].metrics().await;
    let failed = [("result", "failed")];
    assert_eq!(metrics.sum("lb_proxy_backend_tls_handshakes_total", &failed), 0.0);
    eventually("what was made with what is not in force any more is closed", async || {
        let open = backend.open_connections();
        // Of one client at a time, at each worker.
        let workers = std::thread::available_parallelism().map_or(1, Into::into);
        holds(open <= workers, || format!("{open} are open"))
    })
    .await;
}

#[tokio::test]
async fn a_ca_that_is_replaced_by_another_one_ends_what_the_first_one_let_in() {
    let backend = Backend::named("here").await;
    let (first, second) = (Ca::new("first"), Ca::new("second"));
    let front = TlsFront::start(backend.address(), &first.sign(&[NAME]), <_>::default()).await;
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &["--workers=1".into()]);
    let file = first.write(fleet.dir());
    let tls = format!("tls = {{ ca = '{}', server_name = '{NAME}' }}", file.display());
    let ejection = "outlier_ejection = { disabled = true }";
    fleet.apply(&app("", &format!("{tls}\n{ejection}"), &[front.address()])).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    assert_eq!(client.get("/").await.text(), "here");
    second.write(fleet.dir());
    eventually("its connection is not used any more", async || {
        let answer = client.get("/").await;
        let is_refused = answer.proxy_error() == Some("tls_certificate_error");
        holds(is_refused, || format!("{answer:?}"))
    })
    .await;
    eventually("it is closed", async || {
        let open = backend.open_connections();
        holds(open == 0, || format!("{open} are open"))
    })
    .await;
    front.show(&second.sign(&[NAME]), <_>::default());
    assert_eq!(client.get("/").await.text(), "here");
    assert!(front.greetings().iter().all(|greeting| !greeting.is_resumed));
}
