//! How long a tunnel lives, and what of it is told.

use std::time::Duration;

use integration_tests::{
    access_log::{check, line, with_proxy},
    client::{self, Client},
    eventually::{PATIENCE, eventually, holds, within},
    fleet::{Fleet, app, app_with, listening},
    process::Signal,
    setting,
};
use lb_common::clock;
use serde_json::json;

use crate::{check_echo, echo, tunnel};

const DRAINED: i32 = 0;
const CUT: i32 = 3;

#[tokio::test]
async fn a_tunnel_is_closed_when_both_directions_are_silent() {
    let backend = echo().await;
    let fleet = Fleet::empty().await;
    let log = fleet.dir().join("access.json");
    let spec = app_with("tunnel_idle_timeout = '700ms'", "", &backend.entry("one"));
    let fleet = with_proxy(fleet, "full", &log, &spec).await;
    let proxy = &fleet.proxies[0];
    let mut client = tunnel(proxy.web(), "/").await;
    for i in 0..15 {
        check_echo(&mut client, &format!("{i}")).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    client.expect_closed().await;
    eventually("both sides are closed", async || {
        let open = (proxy.open_connections().await, backend.open_connections() as u64);
        holds(open == (0, 0), || format!("{open:?}"))
    })
    .await;
    assert_eq!(proxy.limit_hits("tunnel_idle_timeout").await, 1);
    let expected = json!({ "status": 101, "reason": "tunnel_idle_timeout", "method": "GET" });
    check(&line(&log).await, expected);
    fleet.idle().await;
}

#[tokio::test]
async fn a_tunnel_knows_no_other_limit_than_its_own() {
    let backend = echo().await;
    let limits = "idle_timeout = '300ms'\nheader_timeout = '300ms'\nbody_timeout = '300ms'\n\
                  write_timeout = '300ms'\nmax_requests_per_connection = 1";
    let route = "timeout = '300ms'\nstream_idle_timeout = '300ms'\nmax_request_bytes = 10";
    let spec = listening(&app(route, "", &[backend.address()]), limits);
    let fleet = Fleet::start(1, &spec).await;
    let web = fleet.proxies[0].web();
    let mut silent = tunnel(web, "/").await;
    // Three of these times pass.
    for _ in 0..3 {
        Client::connect(web).await.expect_closed().await;
    }
    check_echo(&mut silent, "more than ten bytes").await;
}

#[tokio::test]
async fn a_tunnel_is_counted_and_logged_when_it_ends() {
    let backend = echo().await;
    let fleet = Fleet::empty().await;
    let log = fleet.dir().join("access.json");
    let spec = app_with("", "", &backend.entry("one"));
    let fleet = with_proxy(fleet, "full", &log, &spec).await;
    let proxy = &fleet.proxies[0];
    let mut client = tunnel(proxy.web(), "/chat?q=1").await;
    check_echo(&mut client, "hello").await;
    fleet.backend_is(backend.address(), "busy", |status| status.in_flight == 1).await;
    client.wire.half_close().await.expect("it is open");
    assert_eq!(client.wire.rest().await.expect("it ends in order"), b"ended");
    drop(client);
    fleet.idle().await;
    let line = line(&log).await;
    let expected = json!({
        "status": 101, "reason": null, "method": "GET", "route": "app", "backend": "one",
        "attempts": 1, "bytes_in": 5, "bytes_out": 10,
    });
    check(&line, expected);
    let metrics = proxy.metrics().await;
    let responses = metrics.sum("lb_proxy_responses_total", &[("class", "1xx")]);
    assert_eq!(responses, 1.0);
    assert_eq!(metrics.sum("lb_proxy_attempts_total", &[]), 1.0);
    // The connection was the tunnel's, and is not used for anything else.
    assert_eq!(client::get(proxy.web(), "/").await.text(), "plain");
    assert_eq!(backend.connections(), 2);
}

#[tokio::test]
async fn whichever_side_breaks_off_the_other_one_is_told() {
    let backend = echo().await;
    let fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    let web = fleet.proxies[0].web();
    let mut client = tunnel(web, "/").await;
    check_echo(&mut client, "hello").await;
    client.wire.reset();
    eventually("the backend is told", async || {
        holds(backend.open_connections() == 0, || "it is not".into())
    })
    .await;
    let mut client = tunnel(web, "/").await;
    check_echo(&mut client, "hello").await;
    let _port = backend.stop().await;
    within(PATIENCE, "the client is told", client.wire.closed()).await;
    drop(client);
    fleet.idle().await;
    assert_eq!(fleet.proxies[0].open_connections().await, 0);
}

#[tokio::test]
async fn a_drain_waits_for_tunnels_until_its_deadline() {
    for (timeout, ends, code) in [("25s", true, DRAINED), ("1s", false, CUT)] {
        let backend = echo().await;
        let mut fleet = Fleet::empty().await;
        fleet.add_proxy("p1", &[format!("--drain-timeout={timeout}")]);
        fleet.apply(&app("", "", &[backend.address()])).await;
        let mut client = tunnel(fleet.proxies[0].web(), "/").await;
        check_echo(&mut client, "before").await;
        let started = clock::now();
        fleet.proxies[0].process.signal(Signal::TERM);
        eventually("it drains", async || {
            let ready = client::get(fleet.proxies[0].admin(), "/readyz").await;
            holds(ready.text().contains("draining"), || format!("{ready:?}"))
        })
        .await;
        check_echo(&mut client, "while it drains").await;
        match ends {
            true => drop(client),
            false => within(PATIENCE, "it is cut", client.wire.closed()).await,
        }
        assert_eq!(fleet.proxies[0].process.exit_code().await, code, "{timeout}");
        let took = clock::now() - started;
        assert!(ends || took >= Duration::from_secs(1), "not before the deadline: {took:?}");
    }
}

/// 500 sockets and 1,000 changes take `LB_TEST_CLIENTS=500 LB_TEST_CHANGES=1000`.
#[tokio::test]
async fn no_change_of_configuration_ends_a_tunnel() {
    let (sockets, changes) = (setting("LB_TEST_CLIENTS", 50), setting("LB_TEST_CHANGES", 30));
    let backend = echo().await;
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &["--drain-timeout=60s".into()]);
    let spec = app("", "", &[backend.address()]);
    fleet.apply(&spec).await;
    let web = fleet.proxies[0].web();
    let mut clients = Vec::new();
    for _ in 0..sockets {
        clients.push(tunnel(web, "/").await);
    }
    for i in 0..changes {
        let unrelated = format!(
            "{spec}
             [[routes]]
             name = 'other'
             match = {{ path = '/{i}' }}
             answer = {{ status = 200, body = '{i}' }}"
        );
        fleet.apply(&unrelated).await;
        let which = i as usize % clients.len();
        check_echo(&mut clients[which], &format!("change {i}")).await;
    }
    // Nor does one that is about their own route, set and backend.
    let draining = format!("{{ address = '{}', state = 'draining' }}", backend.address());
    fleet.apply(&app_with("timeout = '1s'", "", &draining)).await;
    fleet.apply(&app("match = { path = '/elsewhere' }", "", &[])).await;
    let limits = "max_connections = 1\nidle_timeout = '100ms'";
    fleet.apply(&listening(&app("upgrade = []", "", &[]), limits)).await;
    for (i, client) in clients.iter_mut().enumerate() {
        check_echo(client, &format!("socket {i}")).await;
    }
    fleet.proxies[0].process.signal(Signal::TERM);
    for (i, client) in clients.iter_mut().enumerate() {
        check_echo(client, &format!("while it drains, socket {i}")).await;
    }
    drop(clients);
    assert_eq!(fleet.proxies[0].process.exit_code().await, DRAINED);
}
