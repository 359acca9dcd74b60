//! What backends get of a client's certificate, and what clients are told about TLS.

use integration_tests::{
    backend::{Backend, Reply},
    certs::Ca,
    curl,
    fleet::{Fleet, app, listening},
};

use crate::said;

#[tokio::test]
async fn backends_get_what_the_certificate_says_and_nothing_that_the_client_says_of_it() {
    let (ca, backend) = (Ca::new("a test's"), Backend::named("here").await);
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &[]);
    let pem = ca.write(fleet.dir());
    let entry = ca.sign(&["a.test"]).entry(fleet.dir(), "a");
    let shown = ca.sign(&["client.test", "other.test"]);
    let (cert, key) = shown.write(fleet.dir(), "client");
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let lies = ["-H", "X-Client-Cert-Subject: CN=evil", "-H", "client_cert: :AA==:"];
    let facts = [
        "x-client-cert-subject: CN=client.test",
        "x-client-cert-issuer: CN=a test's",
        "x-client-cert-serial: ",
        "x-client-cert-names: client.test, other.test",
        "x-client-cert-not-after: ",
        "x-client-cert-fingerprint: ",
    ];
    let base64: String = shown.cert.lines().filter(|line| !line.starts_with("-----")).collect();
    let whole = format!("client-cert: :{base64}:");
    let cases: [(&str, &[&str]); 4] =
        [("", &facts), ("facts", &facts), ("certificate", &[&whole]), ("none", &[])];
    for (headers, expected) in cases {
        let headers = match headers {
            "" => String::new(),
            headers => format!(", headers = '{headers}'"),
        };
        let auth = format!("mode = 'optional', ca = '{}' {headers}", pem.display());
        let tls = format!("tls = {{ certificates = ['a'], client_auth = {{ {auth} }} }}");
        fleet
            .apply(&format!("{entry}{}", listening(&app("", "", &[backend.address()]), &tls)))
            .await;
        let web = fleet.proxies[0].web();
        // With a certificate, and without one.
        for flags in [&["--cert", &*cert, "--key", &key][..], &[]] {
            let flags = [flags, &lies].concat();
            let answer = curl::https(web, "a.test", "/", &pem, &flags).await;
            assert_eq!(answer.status, 200, "{}", answer.log);
            let seen = backend.requests().pop().expect("it came");
            let told = said(&seen.head.fields);
            let told: Vec<_> = told.iter().filter(|line| line.contains("client-cert")).collect();
            let expected = if flags.len() > lies.len() { expected } else { &[] };
            let is_told = told.iter().zip(expected).all(|(line, begin)| line.starts_with(begin));
            assert!(told.len() == expected.len() && is_told, "{headers}: {told:?}");
        }
    }
}

#[tokio::test]
async fn a_policy_about_tls_comes_with_every_answer_once() {
    let ca = Ca::new("a test's");
    let backend =
        Backend::start(|_| Reply::ok("here").header("Strict-Transport-Security", "max-age=1"))
            .await;
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &[]);
    let pem = ca.write(fleet.dir());
    let entry = ca.sign(&["a.test"]).entry(fleet.dir(), "a");
    let policy = "max-age=31536000; includeSubDomains";
    let lines = format!("hsts = '{policy}'\ntls = {{ certificates = ['a'] }}");
    let route = "match = { path = '/' }";
    let spec = listening(&app(route, "", &[backend.address()]), &lines);
    fleet.apply(&format!("{entry}{spec}")).await;
    for (path, status) in [("/", 200), ("/none", 404)] {
        let answer = curl::https(fleet.proxies[0].web(), "a.test", path, &pem, &[]).await;
        assert_eq!(answer.status, status, "{}", answer.log);
        let told: Vec<_> = answer
            .log
            .lines()
            .filter_map(|line| line.strip_prefix("< "))
            .filter(|line| line.to_ascii_lowercase().starts_with("strict-transport-security"))
            .collect();
        assert_eq!(told, [format!("Strict-Transport-Security: {policy}")], "{}", answer.log);
    }
}
