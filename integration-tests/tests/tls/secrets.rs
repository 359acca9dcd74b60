//! Nobody sees a key.

use std::{collections::BTreeMap, fs, path::Path};

use integration_tests::{
    backend::Backend,
    binaries::binary,
    certs::Ca,
    client, curl,
    eventually::{PATIENCE, within},
    fleet::{Fleet, app, listening},
    process::Signal,
    secret::{forms, has},
    tls_front::{Terms, TlsFront},
    tools::tool,
};
use lb_proto::{
    file,
    v1::{
        ApplyRequest, Certificate, GetRequest, HistoryRequest, ListCertificatesRequest,
        RollbackRequest, WatchRequest,
    },
};
use redb::{
    Key, ReadOnlyDatabase, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    TableHandle, UntypedTableHandle, Value,
};

/// All that each of a store's tables has.
fn tables(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let store = ReadOnlyDatabase::open(path).expect("nobody has it open");
    let read = store.begin_read().expect("it can be read");
    let tables = read.list_tables().expect("it has tables");
    let content = |table: UntypedTableHandle| {
        let name = table.name().to_owned();
        let content = dump::<&str, u64>(&read, &name)
            .or_else(|| dump::<u64, &[u8]>(&read, &name))
            .or_else(|| dump::<&str, &[u8]>(&read, &name))
            .or_else(|| dump::<(&str, &str), &[u8]>(&read, &name))
            .or_else(|| dump::<(i32, &str), &[u8]>(&read, &name));
        (name, content.expect("a table of a known kind"))
    };
    tables.map(content).collect()
}

/// `None` if it is of another kind.
fn dump<K: Key + 'static, V: Value + 'static>(
    read: &ReadTransaction,
    name: &str,
) -> Option<Vec<u8>> {
    let table = read.open_table(TableDefinition::<K, V>::new(name)).ok()?;
    let entries = table.iter().expect("it can be read");
    let bytes = entries.map(|entry| {
        let (key, value) = entry.expect("it can be read");
        [K::as_bytes(&key.value()).as_ref(), V::as_bytes(&value.value()).as_ref()].concat()
    });
    Some(bytes.collect::<Vec<_>>().concat())
}

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
    let mut api = fleet.api().await;
    let mut watch = api.watch(WatchRequest {}).await.expect("it answers").into_inner();
    let revision = fleet.apply(&spec).await;
    let (web, pem) = (fleet.proxies[0].web(), ca.write(fleet.dir()));
    assert_eq!(curl::https(web, "a.test", "/", &pem, &[]).await.status, 200);
    let is_shown = front.greetings().iter().any(|greeting| greeting.certificate.is_some());
    assert!(is_shown, "it was used for all that it is used for");

    // What is refused is not told either: a wrong pair, a key in the wrong place, broken ones.
    let other = ca.sign(&["b.test"]);
    let middle = other.key.len() / 2;
    let broken = format!("{}!{}", &other.key[..middle], &other.key[middle..]);
    let bare: String = other.key.lines().filter(|line| !line.starts_with('-')).collect();
    let mut refusals = String::new();
    for (cert, key) in [
        (cert, &other.key),
        (&other.key, &other.key),
        (cert, &broken),
        (cert, &other.key[..middle].to_owned()),
        (cert, &bare),
        (&bare, &other.key),
    ] {
        let (name, cert, key) = ("b".into(), cert.clone(), key.clone());
        let certificates = vec![Certificate { name, cert, key, acme: None }];
        let request = ApplyRequest { certificates, ..<_>::default() };
        refusals += &format!("{:?}", api.apply(request).await.expect_err("it cannot be used"));
    }
    // A change of the key, before it is made.
    let certificates = vec![Certificate {
        name: "a".into(),
        cert: other.cert.clone(),
        key: other.key.clone(),
        acme: None,
    }];
    let request = ApplyRequest { certificates, dry_run: true, ..<_>::default() };
    let diff = api.apply(request).await.expect("it would be right").into_inner();
    assert!(diff.changes.iter().any(|change| change.field.contains("key")), "{diff:?}");

    let got = api.get(GetRequest::default()).await.expect("it answers").into_inner();
    let shown = &got.spec.as_ref().expect("there is one").certificates[0];
    assert!(shown.key.starts_with("sha256:"), "{shown:?}");
    let history = api.history(HistoryRequest::default()).await.expect("it answers");
    let listed = api.list_certificates(ListCertificatesRequest {}).await.expect("it answers");
    let proxy = &fleet.proxies[0];
    let table = client::get(proxy.admin(), "/table").await.text();
    let metrics = client::get(proxy.admin(), "/metrics").await.text();
    let mut events = String::new();
    while !(events.contains("certificates[a]") && events.contains("applied")) {
        let event = within(PATIENCE, "the change is told", watch.message()).await;
        events += &format!("{:?}", event.expect("it goes on"));
    }
    let mut seen = vec![
        ("the refusals", refusals.into_bytes()),
        ("the diff", format!("{diff:?}").into_bytes()),
        ("Watch", events.into_bytes()),
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
    for page in [
        "/api/certificates",
        "/api/history",
        "/api/revision/1",
        "/api/proxies",
        "/api/backends",
        "/api/explain?url=https://a.test/",
        "/metrics",
        "/",
    ] {
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
    let empty = ApplyRequest { replace_all: true, allow_empty: true, ..<_>::default() };
    fleet.change(empty).await;
    let mut spec = got.spec.expect("there is one");
    let shown = file::to_toml(&spec);
    spec.certificates.clear();
    fleet.apply(&shown).await;
    assert_eq!(curl::https(web, "a.test", "/", &pem, &[]).await.status, 200);
    fleet.change(ApplyRequest { replace_all: true, allow_empty: true, ..<_>::default() }).await;
    let back = RollbackRequest { revision, ..<_>::default() };
    let back = api.rollback(back).await.expect("it is kept").into_inner();
    fleet.settled(back.revision).await;
    assert_eq!(curl::https(web, "a.test", "/", &pem, &[]).await.status, 200);

    // In the store, it is in one table, and in no other.
    fleet.controller.process.signal(Signal::TERM);
    fleet.controller.process.exit_code().await;
    let tables = tables(&fleet.dir().join("control-data/control.redb"));
    for (table, content) in &tables {
        let is_there = forms(key).iter().any(|form| has(content, form));
        assert_eq!(is_there, table == "materials", "{table}");
    }
    assert!(tables.len() > 4, "{:?}", tables.keys());
}
