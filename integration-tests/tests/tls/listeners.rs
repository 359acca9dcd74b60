//! What a client gets of a listener with TLS.

use integration_tests::{
    backend::{Backend, Reply},
    certs::{Ca, Kind, Pair, Wanted},
    curl,
    fleet::{Fleet, app, listening},
};

/// A certificate of a spec, with its files.
fn certificate(fleet: &Fleet, name: &str, pair: &Pair) -> String {
    let (cert, key) = pair.write(fleet.dir(), name);
    let (cert, key) = (cert.display(), key.display());
    format!("[[certificates]]\nname = '{name}'\ncert = '{cert}'\nkey = '{key}'\n")
}

#[tokio::test]
async fn a_client_gets_the_certificate_for_the_name_that_it_asks_for() {
    let ca = Ca::new("a test's");
    let backend = Backend::start(|seen| {
        Reply::ok(seen.head.fields.get("x-forwarded-proto").unwrap_or("none"))
    })
    .await;
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &[]);
    let rsa = Wanted { names: &["b.test"], kind: Kind::Rsa, years: (2020, 2090) };
    let certificates = [
        certificate(&fleet, "a", &ca.sign(&["a.test", "www.a.test"])),
        certificate(&fleet, "b", &ca.sign_as(rsa)),
        certificate(&fleet, "wild", &ca.sign(&["*.c.test"])),
    ]
    .concat();
    let spec = app("", "", &[backend.address()]);
    let spec = listening(&spec, "tls = { certificates = ['a', 'b', 'wild'] }");
    fleet.apply(&format!("{certificates}{spec}")).await;
    let (web, ca) = (fleet.proxies[0].web(), ca.write(fleet.dir()));
    for host in ["a.test", "www.a.test", "b.test", "x.c.test"] {
        for version in ["1.2", "1.3"] {
            let flags = [&*format!("--tlsv{version}"), "--tls-max", version];
            let answer = curl::https(web, host, "/", &ca, &flags).await;
            assert_eq!((answer.status, &*answer.body), (200, "https"), "{host}: {}", answer.log);
        }
    }
    for host in ["other.test", "a.x.c.test", "c.test"] {
        let answer = curl::https(web, host, "/", &ca, &[]).await;
        assert!(answer.log.contains("a.test") && answer.code == 60, "{host}: {}", answer.log);
    }
}
