//! `x-lb-explain`: who knows the operator's token is told where a request went, and nobody else is.

use integration_tests::{
    backend::{Backend, Gate, Reply},
    client::{self, Client, Request},
    fleet::{Fleet, app, app_with},
    ports::Port,
};

const TOKEN: &str = "s3cret";

async fn explained(spec: &str) -> Fleet {
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &[format!("--explain-token={TOKEN}")]);
    fleet.apply(spec).await;
    fleet
}

fn asking(target: &str) -> Request {
    Request::get(target).header("X-LB-Explain", TOKEN)
}

#[tokio::test]
async fn who_knows_the_token_is_told_where_a_request_went() {
    let backend = Backend::start(|seen| match seen.connection {
        0 => Reply::status(503, "").header("Connection", "close"),
        _ => Reply::ok("fine").header("x-lb-explain", "I am the proxy, too"),
    })
    .await;
    let route = "match = { host = 'app.test' }\nretry = { attempts = 3, on = ['5xx'] }";
    let fleet = explained(&app_with(route, "", &backend.entry("one"))).await;
    let web = fleet.proxies[0].web();
    let table = fleet.proxies[0].table().await;
    let version = format!("{}.{}", table["running"]["epoch"], table["running"]["version"]);
    let start = format!("proxy=p1; version={version}; listener=web");

    let answer = client::request(web, &asking("/")).await;
    let told = "route=app; backend_set=app; backend=one; attempts=2; tried=one(503)";
    assert_eq!(answer.header("x-lb-explain"), Some(&*format!("{start}; {told}")));
    assert_eq!(answer.fields().all("x-lb-explain").len(), 1, "the backend's is not ours");

    let elsewhere = asking("/").host("other.test");
    let answer = client::request(web, &elsewhere).await;
    let told = format!("{start}; attempts=0; reason=destination_not_found");
    assert_eq!((answer.status(), answer.header("x-lb-explain")), (404, Some(&*told)));

    for given in ["", "s3cre", "s3crets", "S3CRET"] {
        let request = Request::get("/").header("x-lb-explain", given);
        let answer = client::request(web, &request).await;
        assert_eq!((answer.status(), answer.header("x-lb-explain")), (200, None), "{given:?}");
    }
    assert_eq!(client::get(web, "/").await.header("x-lb-explain"), None);
    for request in backend.requests() {
        assert_eq!(request.head.fields.get("x-lb-explain"), None, "the token stays here");
    }
}

/// The table may change while it waits for its answer.
#[tokio::test]
async fn what_is_told_is_the_version_that_decided() {
    let gate = Gate::closed();
    let backend = Backend::holding(&gate, |_| Reply::ok("here")).await;
    let fleet = explained(&app("", "", &[backend.address()])).await;
    let proxy = &fleet.proxies[0];
    let mut client = Client::connect(proxy.web()).await;
    client.send(&asking("/held")).await;
    backend.has_waiting(1).await;
    let version = |table: serde_json::Value| table["running"]["version"].to_string();
    let decided = version(proxy.table().await);
    fleet.apply(&app("timeout = '61s'", "", &[backend.address()])).await;
    let now = version(proxy.table().await);
    assert_ne!(decided, now);
    gate.open();
    let mut told = Vec::new();
    for answer in [client.response().await, client.request(&asking("/")).await] {
        let header = answer.header("x-lb-explain").expect("it knows the token").to_owned();
        let version = header.split("; ").nth(1).and_then(|part| part.rsplit('.').next());
        told.push(version.expect("a version").to_owned());
    }
    assert_eq!(told, [decided, now]);
}

#[tokio::test]
async fn redirects_and_failures_are_explained() {
    let nobody = Port::reserve();
    let backends = format!("{{ name = 'nobody', address = '{}' }}", nobody.address());
    let moved = "
         [[routes]]
         name = 'moved'
         match = { path = '/old' }
         redirect = { path = '/new' }";
    let route = "retry = { attempts = 2 }";
    let fleet = explained(&format!("{}{moved}", app_with(route, "", &backends))).await;
    let web = fleet.proxies[0].web();
    for (path, told) in [
        ("/old", "route=moved; attempts=0"),
        (
            "/",
            "route=app; backend_set=app; backend=nobody; attempts=2; \
             tried=nobody(connection_refused); reason=connection_refused",
        ),
    ] {
        let answer = client::request(web, &asking(path)).await;
        let header = answer.header("x-lb-explain").unwrap_or_default();
        assert!(header.ends_with(&format!("; listener=web; {told}")), "{path}: {header}");
    }
}

#[tokio::test]
async fn without_a_token_nothing_is_explained_and_the_header_still_ends_here() {
    let backend = Backend::start(|_| Reply::ok("here").header("x-lb-explain", "proxy=other")).await;
    let fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    let answer = client::request(fleet.proxies[0].web(), &asking("/")).await;
    assert_eq!((answer.text().as_str(), answer.header("x-lb-explain")), ("here", None));
    assert_eq!(backend.only_request().head.fields.get("x-lb-explain"), None);
}
