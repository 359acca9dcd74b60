//! What a line of the access log says, and which requests have one.

use std::{fs, path::PathBuf};

use integration_tests::{
    access_log::{check, line, lines, parse, with_proxy},
    backend::{Backend, Reply, Seen},
    client::{self, Client, Request},
    eventually::{PATIENCE, eventually, within},
    fleet::{Fleet, WEB, app, app_with},
    ports::Port,
    process::Signal,
};
use serde_json::{Value, json};

/// A fleet of one proxy with a full log in this file.
async fn logged(spec: &str) -> (Fleet, PathBuf) {
    logged_as("full", spec).await
}

async fn logged_as(mode: &str, spec: &str) -> (Fleet, PathBuf) {
    let fleet = Fleet::empty().await;
    let log = fleet.dir().join("access.json");
    (with_proxy(fleet, mode, &log, spec).await, log)
}

#[tokio::test]
async fn a_line_says_all_of_a_request_that_went_well() {
    let backend = Backend::start(|_| Reply::ok("12345")).await;
    let (fleet, log) = logged(&app_with("", "", &backend.entry("one"))).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = Request::post("/a%20\"b?q=1&r", "body").header("traceparent", trace);
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    let from = client.wire.local_address();
    assert_eq!(client.request(&request).await.status(), 200);

    let line = line(&log).await;
    check(
        &line,
        json!({
            "proxy": "p1", "listener": "web", "protocol": "http", "client": from.to_string(),
            "method": "POST", "host": "app.test", "path": "/a%20\"b?q=1&r", "version": "1.1",
            "status": 200, "route": "app", "backend_set": "app", "backend": "one",
            "backend_address": backend.address().to_string(), "attempts": 1, "tried": null,
            "reason": null, "bytes_in": 4, "bytes_out": 5,
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
        }),
    );
    let millis = |key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key} of {line}"));
    assert!(millis("connect_ms") <= millis("upstream_ms"), "{line}");
    assert!(millis("upstream_ms") <= millis("head_ms"), "{line}");
    assert!(millis("head_ms") <= millis("duration_ms"), "{line}");
    let time = line["time"].as_str().expect("a text");
    let form: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(form, "0000-00-00T00:00:00.000Z");

    client.request(&Request::new("HEAD", "/")).await;
    let second = lines(&log, 2).await.remove(1);
    let expected = json!({
        "method": "HEAD", "status": 200, "reason": null, "bytes_out": 0, "connect_ms": null,
        "trace_id": null,
    });
    check(&second, expected);
}

#[tokio::test]
async fn a_line_says_what_was_tried_before() {
    let backend = Backend::start(|seen| match seen.connection {
        0 if seen.head.target() == "/503" => Reply::status(503, "").header("Connection", "close"),
        _ => Reply::ok("fine"),
    })
    .await;
    let route = "retry = { attempts = 3, on = ['5xx'] }";
    let (fleet, log) = logged(&app_with(route, "", &backend.entry("one"))).await;
    assert_eq!(client::get(fleet.proxies[0].web(), "/503").await.text(), "fine");
    let address = backend.address().to_string();
    let first = line(&log).await;
    let tried = json!([{ "backend": "one", "backend_address": address, "status": 503 }]);
    check(&first, json!({ "attempts": 2, "status": 200, "tried": tried, "reason": null }));

    let nobody = Port::reserve();
    let address = nobody.address().to_string();
    let entries = format!("{{ name = 'nobody', address = '{address}' }}");
    fleet.apply(&app_with("retry = { attempts = 2 }", "", &entries)).await;
    assert_eq!(client::get(fleet.proxies[0].web(), "/").await.status(), 502);
    let refused = json!({
        "backend": "nobody", "backend_address": address, "reason": "connection_refused",
    });
    let expected = json!({
        "status": 502, "reason": "connection_refused", "attempts": 2, "tried": [refused],
        "backend": "nobody", "connect_ms": null,
    });
    check(&lines(&log, 2).await[1], expected);
}

#[tokio::test]
async fn a_line_says_why_the_proxy_answered_by_itself() {
    let spec = format!(
        "{WEB}
         [[routes]]
         name = 'moved'
         match = {{ path = '/old' }}
         redirect = {{ path = '/new' }}
         [[routes]]
         name = 'none'
         match = {{ path = '/none' }}
         backend_set = 'none'
         [[backend_sets]]
         name = 'none'"
    );
    let (fleet, log) = logged(&spec).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    #[rustfmt::skip]
    let cases = [
        ("/old",     json!({ "route": "moved", "reason": null, "backend_set": null, "attempts": 0, "upstream_ms": null })),
        ("/none",    json!({ "route": "none", "reason": "destination_unavailable", "backend_set": "none", "backend": null, "attempts": 0 })),
        ("/nothing", json!({ "route": null, "reason": "destination_not_found", "status": 404, "bytes_out": "no route matches\n".len() })),
    ];
    for (i, (path, expected)) in cases.into_iter().enumerate() {
        let answer = client.get(path).await;
        let line = lines(&log, i + 1).await.remove(i);
        check(&line, expected);
        check(&line, json!({ "path": path, "status": answer.status(), "listener": "web" }));
    }
}

#[tokio::test]
async fn a_line_says_who_broke_off() {
    let backend = Backend::start(|seen| {
        let begun = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun";
        match seen.head.target() {
            "/hang" => Reply::Hang,
            "/short" => Reply::RawAndClose(begun.into()),
            _ => Reply::Raw(begun.into()),
        }
    })
    .await;
    let (fleet, log) = logged_as("errors", &app("", "", &[backend.address()])).await;
    let web = fleet.proxies[0].web();

    let mut client = Client::connect(web).await;
    client.send(&Request::get("/hang")).await;
    backend.has_waiting(1).await;
    drop(client);
    let expected = json!({
        "reason": "client_gone", "status": null, "head_ms": null, "path": "/hang", "attempts": 1,
    });
    check(&lines(&log, 1).await[0], expected);

    let mut client = Client::connect(web).await;
    client.send(&Request::get("/long")).await;
    let head = within(PATIENCE, "a head", client.wire.head()).await.expect("it is open");
    assert_eq!(head.expect("there is one").status(), 200);
    drop(client);
    let expected =
        json!({ "reason": "client_gone", "status": 200, "path": "/long", "bytes_out": 5 });
    check(&lines(&log, 2).await[1], expected);

    let mut client = Client::connect(web).await;
    client.send(&Request::get("/short")).await;
    client.try_response().await.expect_err("it is too short");
    let expected = json!({ "reason": "http_response_incomplete", "status": 200, "bytes_out": 5 });
    check(&lines(&log, 3).await[2], expected);

    let mut client = Client::connect(web).await;
    client.send_raw("POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await;
    client.wire.half_close().await.expect("it is open");
    // Whether it is told anything or not.
    let _ = client.try_response().await;
    let expected = json!({ "reason": "client_gone", "method": "POST", "bytes_in": 4 });
    check(&lines(&log, 4).await[3], expected);
}

#[tokio::test]
async fn a_tcp_connection_has_a_line_at_its_end() {
    let backend = Backend::named("here").await;
    let port = Port::reserve();
    let spec = |backends: &str| {
        format!(
            "[[listeners]]
             name = 'db'
             address = '{}'
             protocol = 'tcp'
             backend_set = 'db'
             [[backend_sets]]
             name = 'db'
             backends = [{backends}]",
            port.address()
        )
    };
    let fleet = Fleet::empty().await;
    let log = fleet.dir().join("access.json");
    let fleet = with_proxy(fleet, "full", &log, &spec(&backend.entry("one"))).await;
    let mut client = Client::connect(port.address()).await;
    let from = client.wire.local_address();
    let request = Request::get("/");
    let answer = client.request(&request).await;
    assert_eq!(answer.text(), "here");
    assert!(fs::read(&log).expect("it is there").is_empty(), "it has not ended");
    drop(client);
    let first = line(&log).await;
    check(
        &first,
        json!({
            "proxy": "p1", "listener": "db", "protocol": "tcp", "client": from.to_string(),
            "backend_set": "db", "backend": "one",
            "backend_address": backend.address().to_string(), "attempts": 1, "reason": null,
            "bytes_in": request.to_bytes().len(), "path": null, "status": null,
        }),
    );
    assert!(first["bytes_out"].as_u64() > Some(4), "{first}");
    assert!(first["connect_ms"].as_f64() <= first["duration_ms"].as_f64(), "{first}");

    let nobody = Port::reserve();
    fleet.apply(&spec(&format!("{{ name = 'nobody', address = '{}' }}", nobody.address()))).await;
    Client::connect(port.address()).await.expect_closed().await;
    let expected = json!({
        "backend": "nobody", "attempts": 1, "reason": "connection_refused", "bytes_out": 0,
        "tried": null,
    });
    check(&lines(&log, 2).await[1], expected);
}

#[tokio::test]
async fn whatever_clients_send_a_line_is_short_and_is_json() {
    let backend = Backend::named("here").await;
    let (fleet, log) = logged(&app("", "", &[backend.address()])).await;
    let web = fleet.proxies[0].web();
    let long = format!("/{}", "x".repeat(16_000));
    assert_eq!(client::get(web, &long).await.status(), 200);
    assert_eq!(client::raw(web, b"GET / HTTP/1.1\r\nHost: \xff\"\\\r\n\r\n").await.status(), 400);
    // What is no HTTP has a line that says so, without a method and a path.
    assert_eq!(client::raw(web, "{\"?\"}\r\n\r\n").await.status(), 400);
    let many: String = (0..200).map(|i| format!("x-{i}: 1\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n");
    assert_eq!(client::raw(web, many).await.status(), 431);
    let umlaut = "GET /ä\"\\ HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(client::raw(web, umlaut).await.status(), 400);
    let method = "M".repeat(1_000);
    client::request(web, &Request::new(&method, "/")).await;

    let lines = lines(&log, 6).await;
    let path = lines[0]["path"].as_str().expect("a text");
    assert!(path.len() < 2_100 && path.starts_with("/xxx") && path.ends_with("x…"), "{path}");
    check(&lines[1], json!({ "status": 400, "reason": "http_request_error", "attempts": 0 }));
    let none = json!({
        "status": 400, "reason": "http_request_error", "listener": "web", "method": null,
        "path": null, "attempts": 0,
    });
    check(&lines[2], none);
    let too_many = json!({
        "status": 431, "reason": "max_header_bytes", "listener": "web", "attempts": 0,
    });
    check(&lines[3], too_many);
    check(&lines[4], json!({ "status": 400, "reason": "http_request_error", "attempts": 0 }));
    assert!(lines[5]["method"].as_str().is_some_and(|method| method.len() < 40), "{}", lines[5]);
}

#[tokio::test]
async fn the_mode_says_which_requests_have_a_line() {
    let reply = |seen: &Seen| match seen.head.target() {
        "/500" => Reply::status(500, ""),
        "/400" => Reply::status(400, ""),
        _ => Reply::ok(""),
    };
    let errors = vec!["/500", "/nothing"];
    #[rustfmt::skip]
    let cases = [
        ("off",    vec![]),
        ("errors", errors.clone()),
        ("0",      errors.clone()),
        ("full",   vec!["/200", "/400", "/500", "/nothing"]),
        ("1",      vec!["/200", "/400", "/500", "/nothing"]),
    ];
    let backend = Backend::start(reply).await;
    for (mode, expected) in cases {
        let route = "match = { host = 'app.test' }";
        let (mut fleet, log) = logged_as(mode, &app(route, "", &[backend.address()])).await;
        let web = fleet.proxies[0].web();
        for path in ["/200", "/400", "/500"] {
            client::get(web, path).await;
        }
        client::request(web, &Request::get("/nothing").host("other.test")).await;
        fleet.proxies[0].process.signal(Signal::TERM);
        assert_eq!(fleet.proxies[0].process.exit_code().await, 0);
        let lines = parse(&fs::read(&log).unwrap_or_default());
        let paths: Vec<_> = lines.iter().map(|line| line["path"].as_str().expect("text")).collect();
        assert_eq!(paths, expected, "{mode}");
        assert_eq!(log.exists(), mode != "off", "{mode}");
    }
}

#[tokio::test]
async fn lines_go_to_standard_output_unless_it_is_said_where_to() {
    let backend = Backend::named("here").await;
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &["--access-log=full".into()]);
    fleet.apply(&app("", "", &[backend.address()])).await;
    client::get(fleet.proxies[0].web(), "/to-stdout").await;
    eventually("the line is there while the proxy idles", async || {
        let log = fleet.proxies[0].process.log();
        let found = log.lines().find(|line| line.contains("\"path\":\"/to-stdout\""));
        let found = found.ok_or("it is not")?;
        serde_json::from_str::<Value>(found).map(drop).map_err(|error| error.to_string())
    })
    .await;
}

#[tokio::test]
async fn a_request_that_a_drain_cuts_has_its_line() {
    let backend = Backend::start(|_| Reply::Hang).await;
    let mut fleet = Fleet::empty().await;
    let log = fleet.dir().join("access.json");
    let flags = ["--access-log=full".into(), format!("--access-log-to={}", log.display())];
    fleet.add_proxy("p1", &[&flags[..], &["--drain-timeout=300ms".into()]].concat());
    fleet.apply(&app("timeout = '10m'", "", &[backend.address()])).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    client.send(&Request::get("/cut")).await;
    backend.has_waiting(1).await;
    let proxy = &mut fleet.proxies[0];
    proxy.process.signal(Signal::TERM);
    assert_eq!(proxy.process.exit_code().await, 3, "it was cut");
    check(&line(&log).await, json!({ "path": "/cut", "status": null, "reason": "drain_timeout" }));
    assert!(!proxy.process.log().contains("panicked"), "{}", proxy.process.log());
}
