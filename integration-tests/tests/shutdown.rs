//! A proxy that is told to go, goes without anybody noticing.

use std::time::Duration;

use integration_tests::{
    backend::{Backend, Gate, Reply},
    client::{self, Client, Request},
    eventually::{eventually, holds},
    fleet::{Fleet, Proxy, app_with},
    nginx::Nginx,
    ports::Port,
    process::Signal,
    setting,
    wrk::Wrk,
};
use lb_common::clock;

const DRAINED: i32 = 0;
const CUT: i32 = 3;

async fn accepted(proxy: &Proxy) -> u64 {
    proxy.metrics().await.sum("lb_proxy_connections_accepted_total", &[]) as u64
}

#[tokio::test]
async fn under_load_one_of_two_proxies_goes_without_a_failed_request() {
    const SLOW: usize = 24;
    let seconds = Duration::from_secs(setting("LB_TEST_SECONDS", 10));
    let shared = Port::reserve();
    let gate = Gate::closed();
    let hold = gate.clone();
    let slow = Backend::start(move |_| Reply::ok("slow").behind(&hold)).await;
    let mut fleet = Fleet::empty().await;
    for id in ["p1", "p2"] {
        let args = [format!("--listen=web={}", shared.address()), "--drain-timeout=25s".into()];
        fleet.add_proxy(id, &args);
    }
    let nginx = Nginx::start(fleet.dir(), "nginx").await;
    let spec = app_with("timeout = '60s'", "", &format!("{{ address = '{}' }}", nginx.address()));
    let more = format!(
        "[[routes]]
         name = 'slow'
         match = {{ path = '/slow' }}
         backend_set = 'slow'
         timeout = '60s'
         [[backend_sets]]
         name = 'slow'
         backends = [{{ address = '{}' }}]",
        slow.address()
    );
    fleet.apply(&format!("{spec}{more}")).await;

    // The kernel spreads connections over both: no 24 of them are all for one.
    let mut held = Vec::new();
    for _ in 0..SLOW {
        let mut client = Client::connect(shared.address()).await;
        client.send(&Request::get("/slow")).await;
        held.push(client);
    }
    slow.has_waiting(SLOW).await;
    let keep_alive = Wrk::new(shared.address()).start(fleet.dir());
    let reconnecting =
        Wrk { connections: 4, reconnect: true, ..Wrk::new(shared.address()) }.start(fleet.dir());
    eventually("both carry traffic", async || {
        let accepted = [accepted(&fleet.proxies[0]).await, accepted(&fleet.proxies[1]).await];
        holds(accepted.iter().all(|count| *count > 50), || format!("{accepted:?}"))
    })
    .await;

    let mut rounds = 0;
    let started = clock::now();
    while rounds == 0 || clock::now() - started < seconds {
        let (going, staying) = (rounds % 2, 1 - rounds % 2);
        fleet.proxies[going].process.signal(Signal::TERM);
        let before = accepted(&fleet.proxies[staying]).await;
        eventually("the other one takes the traffic", async || {
            let now = accepted(&fleet.proxies[staying]).await;
            holds(now > before + 100, || format!("{now} after {before}"))
        })
        .await;
        if rounds == 0 {
            assert!(fleet.proxies[0].process.is_running(), "it waits for the slow requests");
            assert_eq!(slow.waiting(), SLOW, "none of them is cut");
            gate.open();
        }
        assert_eq!(fleet.proxies[going].process.exit_code().await, DRAINED);
        fleet.proxies[going].process.restart();
        fleet.proxies[going].ready().await;
        rounds += 1;
    }
    for mut client in held {
        assert_eq!(client.response().await.text(), "slow");
    }
    for (name, load) in [("keep-alive", keep_alive), ("reconnecting", reconnecting)] {
        let report = load.stop().await;
        println!("{name}: {} requests, {rounds} shutdowns", report.requests);
        report.assert_flawless();
    }
}

/// A proxy with one request under way that does not end.
async fn stuck(drain_timeout: &str) -> (Fleet, Backend, Client) {
    let backend = Backend::start(|_| Reply::Hang).await;
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &[format!("--drain-timeout={drain_timeout}")]);
    let backends = format!("{{ address = '{}' }}", backend.address());
    fleet.apply(&app_with("timeout = '120s'", "", &backends)).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    client.send(&Request::get("/")).await;
    backend.has_waiting(1).await;
    (fleet, backend, client)
}

async fn draining(proxy: &Proxy) {
    eventually("it drains", async || {
        let ready = client::get(proxy.admin(), "/readyz").await;
        holds(ready.text().contains("draining"), || format!("{ready:?}"))
    })
    .await;
}

#[tokio::test]
async fn when_the_deadline_passes_the_exit_code_says_so() {
    let (mut fleet, backend, mut client) = stuck("400ms").await;
    let started = clock::now();
    fleet.proxies[0].process.signal(Signal::TERM);
    assert_eq!(fleet.proxies[0].process.exit_code().await, CUT);
    let took = clock::now() - started;
    assert!(took >= Duration::from_millis(400), "not before the deadline: {took:?}");
    client.expect_closed().await;
    eventually("the backend's request is cancelled", async || {
        holds(backend.abandoned() == 1, || "it waits".into())
    })
    .await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let (mut fleet, _backend, _client) = stuck("10m").await;
        fleet.proxies[0].process.signal(signal);
        draining(&fleet.proxies[0]).await;
        assert!(fleet.proxies[0].process.is_running());
        fleet.proxies[0].process.signal(signal);
        assert_eq!(fleet.proxies[0].process.exit_code().await, code);
    }
}

#[tokio::test]
async fn live_connections_are_told_and_idle_ones_are_closed() {
    let gate = Gate::closed();
    let hold = gate.clone();
    let backend = Backend::start(move |_| Reply::ok("done").behind(&hold)).await;
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &["--drain-timeout=25s".into()]);
    fleet.apply(&app_with("", "", &format!("{{ address = '{}' }}", backend.address()))).await;
    let web = fleet.proxies[0].web();
    let mut busy = Client::connect(web).await;
    busy.send(&Request::get("/")).await;
    let mut idle = Client::connect(web).await;
    eventually("it is under way, and the other one is open", async || {
        let open = fleet.proxies[0].metrics().await.sum("lb_proxy_connections_open", &[]);
        holds(backend.waiting() == 1 && open >= 2.0, || format!("{open} open"))
    })
    .await;

    fleet.proxies[0].process.signal(Signal::TERM);
    draining(&fleet.proxies[0]).await;
    gate.open();
    let response = busy.response().await;
    assert_eq!((response.status(), response.header("connection")), (200, Some("close")));
    busy.expect_closed().await;
    idle.expect_closed().await;
    assert_eq!(fleet.proxies[0].process.exit_code().await, DRAINED);
}

#[tokio::test]
async fn a_controller_ends_in_order_too() {
    let backend = Backend::named("here").await;
    let mut fleet =
        Fleet::start(1, &app_with("", "", &format!("{{ address = '{}' }}", backend.address())))
            .await;
    fleet.controller.process.signal(Signal::TERM);
    assert_eq!(fleet.controller.process.exit_code().await, DRAINED);
    assert_eq!(client::get(fleet.proxies[0].web(), "/").await.text(), "here");
    fleet.controller.start_again().await;
    fleet.settled(1).await;
}
