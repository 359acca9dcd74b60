//! `lb explain`: that it predicts what proxies do is tested elsewhere; here, what it shows.

use integration_tests::fleet::Fleet;

use super::lb::{Terminal, json, lb, ok, plain};

const SPEC: &str = r#"
[[listeners]]
name = "web"
address = "127.0.0.1:8080"

[[listeners]]
name = "inside"
address = "127.0.0.1:8081"

[[routes]]
name = "app"
backend_set = "app"

[[routes]]
name = "canary"
match = { path_prefix = "/api", headers = { x-canary = "*" } }
forward = [{ backend_set = "app", weight = 3 }, { backend_set = "sticky" }]

[[routes]]
name = "inside"
listeners = ["inside"]
match = { path = "/inside" }
answer = { status = 200, body = "hello" }

[[routes]]
name = "moved"
match = { path = "/moved" }
redirect = { status = 308, path = "/new" }

[[backend_sets]]
name = "app"
backends = [
  { address = "10.0.0.1:1", name = "one" },
  { address = "10.0.0.1:2", name = "two", state = "disabled" },
  { address = "10.0.0.1:3", name = "three" },
]

[[backend_sets]]
name = "sticky"
balance = "consistent_hash"
hash = { key = "header:x-user" }
backends = [{ address = "10.0.0.2:1" }, { address = "10.0.0.2:2" }]
"#;

async fn fleet() -> Fleet {
    let fleet = Fleet::empty().await;
    fleet.apply(SPEC).await;
    fleet
}

#[tokio::test]
async fn it_tells_the_way_of_a_request_with_reasons() {
    let fleet = fleet().await;
    let told = ok(lb(&fleet, &["explain", "GET", "http://example.com:8080/"]).await);
    for part in [
        "request   GET http://example.com:8080/ from 127.0.0.1\n",
        "listener  web: ",
        "takes it",
        "forward   app, round_robin\n",
        "disabled",
    ] {
        assert!(told.contains(part), "{part:?} in {told}");
    }
    let line = |name: &str| told.lines().find(|line| line.contains(name)).expect("it is told");
    assert!(line("canary").contains("  no  ") && line("canary").contains("/api"), "{told}");
    assert!(line("two ").contains(" no ") && line("two ").contains("disabled"), "{told}");
}

#[tokio::test]
async fn headers_the_client_and_the_listener_are_as_they_are_given() {
    let fleet = fleet().await;
    let args = ["explain", "POST", "/api/x", "-H", "Host: example.com:8080", "-H", "X-Canary: 1"];
    let more = ["--header", "x-user: alice", "--from", "10.9.8.7", "--listener", "web"];
    let told = ok(lb(&fleet, &[&args[..], &more].concat()).await);
    for part in
        ["75% of such requests", "25% of such requests", "header:x-user = \"alice\"", "10.9.8.7"]
    {
        assert!(told.contains(part), "{part:?} in {told}");
    }
    let pick = told.lines().filter(|line| line.contains("picked")).count();
    assert_eq!(pick, 1, "only the hash is certain: {told}");
    let answer = json(&fleet, &[&args[..], &more].concat()).await;
    let sets = &answer["outcome"]["forward"]["backend_sets"];
    assert_eq!((&sets[0]["backend_set"], &sets[1]["hash_value"]), (&"app".into(), &"alice".into()));
    assert!(told.contains(sets[1]["pick"].as_str().expect("there is a pick")));
}

#[tokio::test]
async fn what_is_not_forwarded_is_told_too() {
    let fleet = fleet().await;
    let told = ok(lb(&fleet, &["explain", "GET", "http://a:8080/moved?x=1"]).await);
    assert!(told.contains("redirect  308 to http://a:8080/new?x=1"), "{told}");
    let told = ok(lb(&fleet, &["explain", "GET", "http://a:8081/inside"]).await);
    assert!(told.contains("answer    200, \"hello\""), "{told}");
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let fleet = fleet().await;
    #[rustfmt::skip]
    let cases = [
        (&["explain", "GET"][..], 2),
        (&["explain", "GET", "http://a/", "-H", "nonsense"], 2),
        (&["explain", "GET", "http://a/", "--from", "here"], 2),
        (&["explain", "GET", "http://a/", "--listener", "nope"], 1),
    ];
    for (args, code) in cases {
        let said = lb(&fleet, args).await;
        assert_eq!(said.code, Some(code), "{args:?}: {said:?}");
        assert!(!said.err.is_empty(), "{args:?}");
    }
}

#[tokio::test]
async fn it_fits_a_terminal() {
    let fleet = fleet().await;
    let line = "lb explain GET http://example.com:8080/api/x -H 'x-canary: 1'";
    let (code, text) = Terminal::start(&fleet, 80, line).ended().await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("\u{1b}[32m"), "coloured: {text}");
    for line in plain(&text).lines() {
        assert!(line.chars().count() <= 80, "{line:?}");
    }
}
