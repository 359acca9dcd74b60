//! What the dashboard is served from: the admin port of the controller, which shows and never
//! changes.

use integration_tests::{
    client::{self, Client, Request, Response},
    eventually::{PATIENCE, within},
    fleet::{Fleet, app},
    ports::Port,
};
use serde_json::{Value, json};

/// So many may hear events at a time.
const MOST_LISTENERS: usize = 32;

fn get(path: &str) -> Request {
    Request::get(path).host("127.0.0.1")
}

async fn answer(fleet: &Fleet, path: &str) -> Response {
    client::request(fleet.controller.admin(), &get(path)).await
}

async fn json(fleet: &Fleet, path: &str) -> Value {
    let answer = answer(fleet, path).await;
    assert_eq!(answer.status(), 200, "{path}: {}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
    serde_json::from_slice(&answer.body.bytes).expect("it is JSON")
}

/// With the status and the words of its refusal.
async fn refused(fleet: &Fleet, path: &str) -> (u16, String) {
    let answer = answer(fleet, path).await;
    let body: Value = serde_json::from_slice(&answer.body.bytes).expect("it is JSON");
    (answer.status(), body["error"].as_str().expect("it says why").to_owned())
}

/// A fleet of one proxy, with one backend that nobody asks.
async fn fleet() -> Fleet {
    let backend = Port::reserve();
    Fleet::start(1, &app("timeout = '5s'", "", &[backend.address()])).await
}

/// The head of a stream of events; more of it comes on the connection.
async fn listen(fleet: &Fleet) -> (Client, u16) {
    let mut client = Client::connect(fleet.controller.admin()).await;
    client.send_raw(get("/api/events").to_bytes()).await;
    let head = within(PATIENCE, "an answer", client.wire.head()).await;
    let status = head.expect("it is HTTP").expect("it is there").status();
    (client, status)
}

/// Reads on until it has come.
async fn hear(client: &mut Client, wanted: &str) -> String {
    let mut heard = String::new();
    while !heard.contains(wanted) {
        let some = within(PATIENCE, wanted, client.wire.some()).await.expect("it goes on");
        assert!(!some.is_empty(), "it ended after {heard}");
        heard.push_str(&String::from_utf8_lossy(&some));
    }
    heard
}

#[tokio::test]
async fn the_api_says_what_the_fleet_service_says() {
    let fleet = fleet().await;
    let proxies = json(&fleet, "/api/proxies").await;
    assert_eq!(proxies["proxies"][0]["id"], "p1");
    assert_eq!(proxies["revision"], 1);
    let backends = json(&fleet, "/api/backends?backend_set=app").await;
    assert_eq!(backends["backends"][0]["health"], "unknown");
    assert_eq!(backends["backend_sets"][0]["name"], "app");

    fleet.apply(&app("timeout = '6s'", "", &[])).await;
    let page = json(&fleet, "/api/history?limit=1").await;
    assert_eq!(page["revisions"][0]["revision"], 2);
    let page = json(&fleet, "/api/history?limit=1&before=2").await;
    assert_eq!(page["revisions"][0]["revision"], 1);
    assert_eq!(page["revisions"].as_array().map(Vec::len), Some(1));

    let revision = json(&fleet, "/api/revision/2").await;
    assert_eq!(
        revision["revision"]["changes"][0],
        json!({ "kind": "changed", "field": "routes[app].timeout", "before": "5s", "after": "6s" })
    );
    let toml = revision["toml"].as_str().expect("it is text");
    let spec = lb_proto::file::parse(toml).expect("it is a file that can be applied");
    assert_eq!(spec.routes[0].name, "app");

    let explained = json(
        &fleet,
        "/api/explain?method=GET&url=http%3A%2F%2Fa%2Fb&header=x-user%3A+42&header=y%3A1&listener=web",
    )
    .await;
    assert_eq!(explained["routes"][0]["chosen"], true, "{explained}");
    assert_eq!(explained["outcome"]["forward"]["backend_sets"][0]["backend_set"], "app");
}

#[tokio::test]
async fn a_wrong_question_is_told_what_would_be_right() {
    let fleet = fleet().await;
    let (status, error) = refused(&fleet, "/api/proxy").await;
    assert!(status == 404 && error.contains("proxies"), "{status} {error}");
    let (status, error) = refused(&fleet, "/api/history?limit=ten").await;
    assert!(status == 400 && error.contains("whole number"), "{status} {error}");
    let (status, error) = refused(&fleet, "/api/backends?set=app").await;
    assert!(status == 400 && error.contains("backend_set"), "{status} {error}");
    let (status, error) = refused(&fleet, "/api/backends?backend_set=ap").await;
    assert!(status == 404 && error.contains("app"), "{status} {error}");
    let (status, error) = refused(&fleet, "/api/revision/99").await;
    assert!(status == 404 && error.contains("99"), "{status} {error}");
    let (status, _) = refused(&fleet, "/api/revision/18446744073709551616").await;
    assert_eq!(status, 404, "no such number");
    let (status, _) = refused(&fleet, "/api/explain?url=%ff").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn nothing_can_be_changed_and_no_other_site_can_look() {
    let fleet = fleet().await;
    let admin = fleet.controller.admin();
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let request = Request::new(method, "/api/proxies").host("127.0.0.1");
        assert_eq!(client::request(admin, &request).await.status(), 405, "{method}");
    }
    for path in ["/", "/assets/app.js", "/api/proxies", "/api/events"] {
        let foreign = client::request(admin, &Request::get(path).host("evil.example")).await;
        assert_eq!(foreign.status(), 421, "{path}");
        assert!(foreign.text().contains("--dashboard-host evil.example"), "{}", foreign.text());
        let fetched = get(path).header("Sec-Fetch-Site", "cross-site");
        assert_eq!(client::request(admin, &fetched).await.status(), 403, "{path}");
    }
    // Machines ask under whatever name.
    for path in ["/metrics", "/healthz", "/readyz"] {
        let request = Request::get(path).host("control.example.com");
        assert_eq!(client::request(admin, &request).await.status(), 200, "{path}");
    }
    let answer = answer(&fleet, "/api/proxies").await;
    assert!(!answer.fields().has("access-control-allow-origin"));
    assert!(!answer.fields().has("set-cookie"));
}

#[tokio::test]
async fn a_name_of_its_own_is_one_that_it_is_told() {
    let fleet = Fleet::empty_with(&["--dashboard-host=lb.example.com".into()]).await;
    let admin = fleet.controller.admin();
    let asked = client::request(admin, &Request::get("/").host("lb.example.com")).await;
    assert_eq!(asked.status(), 200);
    let other = client::request(admin, &Request::get("/").host("example.com")).await;
    assert_eq!(other.status(), 421);
}

#[tokio::test]
async fn the_page_runs_nothing_but_its_own_scripts_and_is_loaded_once() {
    let fleet = fleet().await;
    let page = answer(&fleet, "/").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").expect("it has one");
    for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let html = page.text();
    for inline in [" style=", " onclick=", "<script>", "<style>", "http://", "https://"] {
        let found = html.replace("placeholder=\"http://example.com", "").contains(inline);
        assert!(!found, "the page has {inline}");
    }

    let files = html.split('"').filter(|part| part.starts_with("/assets/"));
    for file in files.collect::<std::collections::BTreeSet<_>>() {
        let first = answer(&fleet, file).await;
        assert_eq!(first.status(), 200, "{file}");
        assert_eq!(first.header("cache-control"), Some("no-cache"), "{file}");
        let tag = first.header("etag").expect("it has one");
        let again = get(file).header("If-None-Match", tag);
        let again = client::request(fleet.controller.admin(), &again).await;
        assert_eq!((again.status(), again.body.bytes.len()), (304, 0), "{file}");
        let changed = get(file).header("If-None-Match", "\"another\"");
        let changed = client::request(fleet.controller.admin(), &changed).await;
        assert_eq!(changed.status(), 200, "{file}");
    }
}

#[tokio::test]
async fn what_happens_is_told_as_it_happens_until_the_controller_ends() {
    let mut fleet = fleet().await;
    let (mut client, status) = listen(&fleet).await;
    assert_eq!(status, 200);
    hear(&mut client, "retry: 1000").await;
    fleet.apply(&app("timeout = '7s'", "", &[])).await;
    let told = hear(&mut client, "\"revision\":2").await;
    assert!(told.contains("data: {\"time\":"), "{told}");
    fleet.proxies[0].kill();
    hear(&mut client, "\"what\":\"disconnected\"").await;

    fleet.controller.process.signal(integration_tests::process::Signal::TERM);
    // In order or cut, whichever comes first: its browser comes back either way.
    let _ = within(PATIENCE, "the stream ends", client.wire.rest()).await;
    assert_eq!(fleet.controller.process.exit_code().await, 0);
}

#[tokio::test]
async fn listeners_are_bounded_and_starve_nobody() {
    let fleet = fleet().await;
    let mut listeners = Vec::new();
    for _ in 0..MOST_LISTENERS {
        let (client, status) = listen(&fleet).await;
        assert_eq!(status, 200);
        listeners.push(client);
    }
    let (status, error) = refused(&fleet, "/api/events").await;
    assert!(status == 503 && error.contains("poll"), "{status} {error}");

    // Connections that only wait are let go when there are many of them.
    let admin = fleet.controller.admin();
    let mut idle = Vec::new();
    for _ in 0..200 {
        let mut client = Client::connect(admin).await;
        let answer = client.request(&get("/api/proxies")).await;
        assert_eq!(answer.status(), 200);
        idle.push(client);
    }
    assert_eq!(client::get(admin, "/metrics").await.status(), 200);
    drop(listeners.pop());
    integration_tests::eventually::eventually("a place is free", async || {
        let (_, status) = listen(&fleet).await;
        integration_tests::eventually::holds(status == 200, || status.to_string())
    })
    .await;
}
