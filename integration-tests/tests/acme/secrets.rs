//! Nobody sees the keys of accounts, of certificates, and of what ties an account to another one.

use std::fs;

use integration_tests::{
    backend::Backend,
    binaries::binary,
    client,
    fleet::Fleet,
    pebble::Options,
    secret::{forms, has},
    tools::tool,
};
use lb_proto::{
    file,
    v1::{ApplyRequest, GetRequest, HistoryRequest, ListCertificatesRequest},
};

use super::{certificate_is, issued, site, state, with};

/// What stands between two texts in a file.
fn between(text: &[u8], start: &str, end: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let parts = text.split(start).skip(1);
    parts.filter_map(|part| Some(part.split_once(end)?.0.to_owned())).collect()
}

#[tokio::test]
async fn a_ca_that_demands_a_key_gets_it_and_nobody_sees_any() {
    const KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let tracing = |name| vec!["LB_LOG=trace".to_owned(), binary(name).display().to_string()];
    let fleet = Fleet::empty_as(tool("env"), tracing("lb-control"), &[]).await;
    let options = Options { eab: Some(("kid-1", KEY)), ..<_>::default() };
    let (fleet, pebble) = with(fleet, (tool("env"), tracing("lb-proxy")), options).await;
    let backend = Backend::named("here").await;
    let site = site(&["site"], backend.address());
    let domains = ["one.test", "two.test"];
    fleet.apply(&format!("{}{site}", pebble.entry("site", &domains, ""))).await;
    let failed = certificate_is(&fleet, "site", "failed", |status| state(status) == "failed").await;
    assert!(failed.problem.contains("externalAccountRequired"), "{}", failed.problem);

    let eab = format!("eab = {{ kid = 'kid-1', key = '{KEY}' }}");
    fleet.apply(&format!("{}{site}", pebble.entry("site", &domains, &eab))).await;
    issued(&fleet, "site").await;

    let mut api = fleet.api().await;
    let wrong = pebble.entry("wrong", &domains, "eab = { kid = 'kid-1', key = 'sha256:00' }");
    let certificates = file::parse(&wrong).expect("it is right by itself").certificates;
    let request = ApplyRequest { certificates, ..<_>::default() };
    let refused = api.apply(request).await.expect_err("nobody knows that key");
    assert!(refused.message().contains("certificates[wrong].acme.eab.key: no key is known as"));

    let got = api.get(GetRequest::default()).await.expect("it answers").into_inner();
    let spec = got.spec.as_ref().expect("there is one");
    let shown = spec.certificates[0].acme.as_ref().and_then(|acme| acme.eab.as_ref());
    assert!(shown.expect("it has one").key.starts_with("sha256:"));
    let history = api.history(HistoryRequest::default()).await.expect("it answers");
    let listed = api.list_certificates(ListCertificatesRequest {}).await.expect("it answers");
    let mut seen = vec![
        ("the refusal", format!("{refused:?}").into_bytes()),
        ("Get", format!("{got:?} {}", file::to_toml(spec)).into_bytes()),
        ("History", format!("{history:?}").into_bytes()),
        ("ListCertificates", format!("{listed:?}").into_bytes()),
        ("the controller's log", fleet.controller.process.log().into_bytes()),
    ];
    for proxy in &fleet.proxies {
        for page in ["/table", "/metrics"] {
            seen.push((page, client::get(proxy.admin(), page).await.text().into_bytes()));
        }
        seen.push(("a proxy's log", proxy.process.log().into_bytes()));
    }
    for page in ["/api/certificates", "/api/history", "/api/revision/2", "/metrics", "/"] {
        let answer = client::get(fleet.controller.admin(), page).await;
        seen.push(("a page of the controller", answer.body.bytes));
    }
    // They are somewhere, of course: where only its owner reads.
    let store = fs::read(fleet.dir().join("control-data/control.redb")).expect("it is there");
    let accounts = between(&store, "\"key_pkcs8\":\"", "\"");
    let of_certificates = between(&store, "-----BEGIN PRIVATE KEY-----", "-----END");
    assert!(!accounts.is_empty() && !of_certificates.is_empty());
    assert!(has(&store, KEY.as_bytes()), "or else this looks for something else than the keys");
    let keys = accounts.iter().chain(&of_certificates).map(|key| key.replace("\\n", "\n"));
    for key in keys.chain([KEY.to_owned()]) {
        for form in forms(key.trim()) {
            for (what, text) in &seen {
                assert!(!has(text, &form), "{what} has a key in it");
            }
        }
    }
    // What only the controller needs is with no proxy.
    for proxy in ["p1", "p2"] {
        let file = fleet.last_good(proxy);
        let kept = fs::read(file).expect("it is there");
        assert!(!has(&kept, KEY.as_bytes()) && between(&kept, "\"key_pkcs8\":\"", "\"").is_empty());
    }

    // Who gives back what was shown means the same key.
    fleet.apply(&file::to_toml(spec)).await;
    issued(&fleet, "site").await;
}
