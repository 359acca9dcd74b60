//! What a proxy and a controller say about themselves.

use integration_tests::{
    backend::{Backend, Gate, Reply},
    client::{self, Client, Request},
    eventually::{eventually, holds},
    fleet::{Fleet, app, app_with},
    metrics::Metrics,
    ports::Port,
};

#[tokio::test]
async fn a_proxy_counts_what_was_sent() {
    let good = Backend::start(|seen| match seen.head.target() {
        "/404" => Reply::status(404, ""),
        "/500" => Reply::status(500, ""),
        _ => Reply::ok(""),
    })
    .await;
    let nobody = Port::reserve();
    let backends = format!(
        "{{ name = 'good', address = '{}' }}, {{ name = \"nobody\", address = '{}' }}",
        good.address(),
        nobody.address()
    );
    let route = "match = { host = 'app.test' }";
    let no_ejection = "outlier_ejection = { disabled = true }";
    let fleet = Fleet::start(1, &app_with(route, no_ejection, &backends)).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for (path, count) in [("/", 10), ("/404", 3), ("/500", 2)] {
        for _ in 0..count {
            client.get(path).await;
        }
    }
    client.request(&Request::get("/").host("other.test")).await;

    let metrics = fleet.proxies[0].metrics().await;
    for (class, count) in [("2xx", 10.0), ("4xx", 3.0), ("5xx", 2.0), ("3xx", 0.0)] {
        let labels = [("route", "app"), ("class", class)];
        assert_eq!(metrics.sum("lb_proxy_responses_total", &labels), count, "{class}");
    }
    assert_eq!(metrics.sum("lb_proxy_response_seconds_count", &[("route", "app")]), 15.0);
    assert_eq!(metrics.sum("lb_proxy_unrouted_total", &[]), 1.0);
    assert_eq!(metrics.sum("lb_proxy_connections_accepted_total", &[]), 1.0);
    assert_eq!(metrics.sum("lb_proxy_connections_open", &[]), 1.0);
    let of = |name: &str, backend: &str| {
        metrics.sum(name, &[("backend_set", "app"), ("backend", backend)])
    };
    assert_eq!(of("lb_proxy_attempts_total", "good"), 15.0);
    assert_eq!(of("lb_proxy_connects_total", "good"), 1.0);
    assert_eq!(of("lb_proxy_backend_5xx_total", "good"), 2.0);
    assert_eq!(of("lb_proxy_in_flight", "good"), 0.0);
    let refused = of("lb_proxy_connect_failures_total", "nobody");
    assert!(refused >= 7.0, "every second one began there: {refused}");
    assert_eq!(metrics.sum("lb_proxy_retries_total", &[("route", "app")]), refused);
    assert_eq!(metrics.sum("lb_proxy_controller_connected", &[]), 1.0);
}

/// Before the response's head, and before the request's own.
#[tokio::test]
async fn a_request_that_its_client_gives_up_is_counted() {
    let gate = Gate::closed();
    let hold = gate.clone();
    let backend = Backend::start(move |_| Reply::ok("late").behind(&hold)).await;
    let fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    let proxy = &fleet.proxies[0];
    let mut client = Client::connect(proxy.web()).await;
    client.send(&Request::get("/")).await;
    backend.has_waiting(1).await;
    drop(client);
    let mut client = Client::connect(proxy.web()).await;
    client.send_raw("GET / HT").await;
    drop(client);
    eventually("both are counted", async || {
        let metrics = proxy.metrics().await;
        let aborted = metrics.sum("lb_proxy_aborted_total", &[("route", "app")]);
        let counts = (aborted, metrics.sum("lb_proxy_unrouted_total", &[]));
        holds(counts == (1.0, 1.0), || format!("{counts:?}"))
    })
    .await;
}

#[tokio::test]
async fn strange_names_do_not_break_the_page() {
    let backend = Backend::named("here").await;
    let entries = format!("{{ name = 'a/b.c_d-e:80', address = '{}' }}", backend.address());
    let fleet = Fleet::start(1, &app_with("", "", &entries)).await;
    client::get(fleet.proxies[0].web(), "/").await;
    let metrics = fleet.proxies[0].metrics().await;
    assert_eq!(metrics.sum("lb_proxy_attempts_total", &[("backend", "a/b.c_d-e:80")]), 1.0);
}

#[tokio::test]
async fn a_proxy_is_alive_before_it_is_ready() {
    let mut fleet = Fleet::empty().await;
    fleet.controller.kill();
    let proxy = fleet.add_proxy("p1", &[]);
    proxy.runs().await;
    let admin = proxy.admin();
    assert_eq!(client::get(admin, "/healthz").await.status(), 200);
    let ready = client::get(admin, "/readyz").await;
    assert_eq!(ready.status(), 503, "{ready:?}");
    let metrics = fleet.proxies[0].metrics().await;
    assert_eq!(metrics.sum("lb_proxy_controller_connected", &[]), 0.0);

    fleet.controller.start_again().await;
    let backend = Backend::named("here").await;
    fleet.apply(&app("", "", &[backend.address()])).await;
    assert_eq!(client::get(admin, "/readyz").await.status(), 200);
    assert_eq!(client::get(admin, "/nothing").await.status(), 404);
    assert_eq!(client::request(admin, &Request::post("/table", "x")).await.status(), 405);
}

#[tokio::test]
async fn the_table_is_what_runs() {
    let backend = Backend::named("here").await;
    let check = "health_check = { interval = '50ms', unhealthy_after = 1, \
                 max_unhealthy_percent = 100 }";
    let fleet = Fleet::start(1, &app("timeout = '7s'", check, &[backend.address()])).await;
    let list = fleet.settled(1).await;
    let table = fleet.proxies[0].table().await;
    assert_eq!(table["proxy"], "p1");
    assert_eq!(table["controller_connected"], true);
    assert_eq!(table["running"]["revision"], 1);
    assert_eq!(table["running"]["hash"], list.proxies[0].hash);
    assert_eq!(table["listeners"][0]["listening_on"], fleet.proxies[0].web().to_string());
    assert_eq!(table["routes"][0]["timeout"], "7s");
    let row = &table["backend_sets"][0]["backends"][0];
    assert_eq!((&row["healthy"], &row["usable"]), (&true.into(), &true.into()), "{table:#}");

    let address = backend.address();
    drop(backend);
    eventually("the table has the backend's end", async || {
        let table = fleet.proxies[0].table().await;
        let row = table["backend_sets"][0]["backends"][0].clone();
        assert_eq!(row["address"], address.to_string());
        holds(row["healthy"] == false && row["usable"] == false, || row.to_string())
    })
    .await;
}

#[tokio::test]
async fn a_controller_counts_what_it_does() {
    let backend = Backend::named("here").await;
    let check = "health_check = { interval = '50ms' }";
    let fleet = Fleet::start(2, &app("", check, &[backend.address()])).await;
    fleet.apply(&app("timeout = '5s'", check, &[backend.address()])).await;
    let admin = fleet.controller.admin();
    assert_eq!(client::get(admin, "/healthz").await.status(), 200);
    assert_eq!(client::get(admin, "/readyz").await.status(), 200);
    eventually("it counts", async || {
        let page = client::get(admin, "/metrics").await;
        let metrics = Metrics::parse(&page.text());
        assert_eq!(metrics.sum("lb_control_revision", &[]), 2.0);
        assert_eq!(metrics.sum("lb_control_proxies_connected", &[]), 2.0);
        assert_eq!(metrics.sum("lb_control_store_commit_seconds_count", &[]), 2.0);
        let passed = metrics.sum("lb_control_probes_total", &[("result", "pass")]);
        let in_sync = metrics.sum("lb_control_proxies_in_sync", &[]);
        holds(passed >= 2.0 && in_sync == 2.0, || page.text())
    })
    .await;
}
