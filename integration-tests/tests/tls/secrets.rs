//! Nobody sees a key.

use std::fs;

use integration_tests::{
    backend::Backend,
    binaries::binary,
    certs::Ca,
    client, curl,
    fleet::{Fleet, app, listening},
    secret::{forms, has},
    tls_front::{Terms, TlsFront},
    tools::tool,
};
use lb_proto::{
    file,
    v1::{ApplyRequest, GetRequest, HistoryRequest, ListCertificatesRequest, RollbackRequest},
};

#[tokio::test]
async fn a_key_is_in_no_answer_no_page_and_no_log() {
    let (ca, backend) = (Ca::new("a test's"), Backend::named("here").await);
    // It is shown to backends, too.
    let terms = Terms { clients: Some(ca.pem()), ..Terms::default() };
    let front = TlsFront::start(backend.address(), &ca.sign(&["app.internal"]), terms).await;
    let tracing = |name| vec!["LB_LOG=trace".to_owned(), binary(name).display().to_string()];
    let mut fleet = Fleet::empty_as(tool("env"), tracing("lb-control"), &[]).await;
    fleet.add_proxy_as(tool("env"), tracing("lb-proxy"), "p1", &[]);
    let pair = ca.sign(&["a.test"]);
    let (cert, key) = (&pair.cert, &pair.key);
    let set = format!(
        "health_check = {{ http = '/' }}
         tls = {{ ca = \"\"\"{}\"\"\", server_name = 'app.internal', client_certificate = 'a' }}",
        ca.pem()
    );
    let spec = listening(&app("", &set, &[front.address()]), "tls = { certificates = ['a'] }");
    let spec =
        format!("[[certificates]]\nname = 'a'\ncert = '''{cert}'''\nkey = '''{key}'''\n{spec}");
    let revision = fleet.apply(&spec).await;
    let mut api = fleet.api().await;
    let (web, pem) = (fleet.proxies[0].web(), ca.write(fleet.dir()));
    assert_eq!(curl::https(web, "a.test", "/", &pem, &[]).await.status, 200);
    let is_shown = front.greetings().iter().any(|greeting| greeting.certificate.is_some());
    assert!(is_shown, "it was used for all that it is used for");

    // A wrong pair, too: what is refused is not told either.
    let other = ca.sign(&["b.test"]);
    let wrong = format!(
        "certificates = [{{ name = 'b', cert = '''{cert}''', key = '''{}''' }}]",
        other.key
    );
    let certificates = file::parse(&wrong).expect("it is right by itself").certificates;
    let request = ApplyRequest { certificates, ..<_>::default() };
    let refused = api.apply(request).await.expect_err("they do not belong together");

    let got = api.get(GetRequest::default()).await.expect("it answers").into_inner();
    let shown = &got.spec.as_ref().expect("there is one").certificates[0];
    assert!(shown.key.starts_with("sha256:"), "{shown:?}");
    let history = api.history(HistoryRequest::default()).await.expect("it answers");
    let listed = api.list_certificates(ListCertificatesRequest {}).await.expect("it answers");
    let proxy = &fleet.proxies[0];
    let table = client::get(proxy.admin(), "/table").await.text();
    let metrics = client::get(proxy.admin(), "/metrics").await.text();
    let mut seen = vec![
        ("the refusal", format!("{refused:?}").into_bytes()),
        (
            "Get",
            format!("{got:?} {}", file::to_toml(got.spec.as_ref().expect("it is there")))
                .into_bytes(),
        ),
        ("History", format!("{history:?}").into_bytes()),
        ("ListCertificates", format!("{listed:?}").into_bytes()),
        ("/table", table.into_bytes()),
        ("/metrics", metrics.into_bytes()),
        ("the controller's log", fleet.controller.process.log().into_bytes()),
        ("the proxy's log", proxy.process.log().into_bytes()),
    ];
    for page in ["/api/certificates", "/api/history", "/api/revision/1", "/metrics", "/"] {
        let answer = client::get(fleet.controller.admin(), page).await;
        seen.push(("a page of the controller", answer.body.bytes));
    }
    for pem in [key, &other.key] {
        for form in forms(pem) {
            for (what, text) in &seen {
                assert!(!has(text, &form), "{what} has a key in it");
            }
        }
    }
    // It is somewhere, of course: where only its owner reads.
    let store = fs::read(fleet.dir().join("control-data/control.redb")).expect("it is there");
    assert!(has(&store, &forms(key)[0]), "or else this looks for something else than the key");
    for (file, mode) in [("control-data/control.redb", 0o600), ("p1-data", 0o700)] {
        let metadata = fs::metadata(fleet.dir().join(file)).expect("it is there");
        let actual = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
        assert_eq!(actual, mode, "{file}");
    }

    // Who gives back what was shown means the same key, now and after it was gone.
    let empty = ApplyRequest { replace_all: true, ..<_>::default() };
    fleet.change(empty).await;
    let mut spec = got.spec.expect("there is one");
    let shown = file::to_toml(&spec);
    spec.certificates.clear();
    fleet.apply(&shown).await;
    assert_eq!(curl::https(web, "a.test", "/", &pem, &[]).await.status, 200);
    fleet.change(ApplyRequest { replace_all: true, ..<_>::default() }).await;
    let back = RollbackRequest { revision, ..<_>::default() };
    let back = api.rollback(back).await.expect("it is kept").into_inner();
    fleet.settled(back.revision).await;
    assert_eq!(curl::https(web, "a.test", "/", &pem, &[]).await.status, 200);
}
