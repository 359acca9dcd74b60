//! A process that has no descriptors left says so, and blames nobody else for it.

use std::net::SocketAddr;

use integration_tests::{
    backend::{Backend, Gate, Reply},
    client::{self, Client, Request},
    eventually::{PATIENCE, eventually, holds, within},
    fleet::{Fleet, app},
    raise_descriptor_limit,
};
use lb_proto::v1::Health;

const DESCRIPTORS: u64 = 256;
/// More than there are descriptors.
const CLIENTS: usize = 400;

async fn crowd(address: SocketAddr) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Client::connect(address).await);
    }
    clients
}

/// What must be true of a proxy all the time.
async fn nobody_is_blamed(fleet: &Fleet, backend: &Backend) {
    let metrics = fleet.proxies[0].metrics().await;
    for name in ["lb_proxy_connect_failures_total", "lb_proxy_ejections_total"] {
        assert_eq!(metrics.sum(name, &[]), 0.0, "{name}");
    }
    let status = fleet.backend_is(backend.address(), "known", |_| true).await;
    assert_ne!(status.health(), Health::Unhealthy, "{status:?}");
    assert!(status.ejections.is_empty(), "{status:?}");
}

#[tokio::test]
async fn the_soft_limit_is_raised_to_the_hard_one() {
    let mut fleet = Fleet::empty().await;
    fleet.add_limited_proxy("p1", 64, 1024, &[]);
    fleet.proxies[0].runs().await;
    let metrics = fleet.proxies[0].metrics().await;
    assert_eq!(metrics.sum("process_max_fds", &[]), 1024.0);
}

#[tokio::test]
async fn silent_clients_take_no_others_place() {
    raise_descriptor_limit();
    let backend = Backend::named("here").await;
    let mut fleet = Fleet::empty().await;
    fleet.add_limited_proxy("p1", DESCRIPTORS, DESCRIPTORS, &[]);
    let check = "health_check = { interval = '50ms', unhealthy_after = 1 }";
    fleet.apply(&app("", check, &[backend.address()])).await;
    let web = fleet.proxies[0].web();
    let silent = crowd(web).await;
    for i in 0..50 {
        // A connection for each, and one to the backend.
        let request = Request::get("/").header("Connection", "close");
        let answer = client::request(web, &request).await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, "here"), "request {i}");
    }
    nobody_is_blamed(&fleet, &backend).await;
    assert!(fleet.list_proxies().await.expect("the controller answers").proxies[0].connected);
    drop(silent);
    eventually("the clients are forgotten", async || {
        let open = fleet.proxies[0].open_connections().await;
        holds(open == 0, || format!("{open} open"))
    })
    .await;
    assert_eq!(client::get(web, "/").await.text(), "here");
}

#[tokio::test]
async fn a_request_for_which_no_descriptor_is_left_is_503_and_no_backend_is_blamed() {
    raise_descriptor_limit();
    let gate = Gate::closed();
    let hold = gate.clone();
    let backend = Backend::start(move |seen| match seen.head.target() {
        "/held" => Reply::ok("held").behind(&hold),
        _ => Reply::ok("here"),
    })
    .await;
    let mut fleet = Fleet::empty().await;
    fleet.add_limited_proxy("p1", DESCRIPTORS, DESCRIPTORS, &[]);
    fleet.apply(&app("timeout = '10m'", "", &[backend.address()])).await;
    let web = fleet.proxies[0].web();
    let mut busy = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Client::connect(web).await;
        // Some are refused already.
        let _ = client.wire.send(Request::get("/held").to_bytes()).await;
        busy.push(client);
    }
    eventually("as many as possible are under way", async || {
        let waiting = backend.waiting();
        holds(waiting >= DESCRIPTORS as usize / 4, || format!("{waiting} wait"))
    })
    .await;
    println!("{} of {CLIENTS} requests are under way", backend.waiting());
    nobody_is_blamed(&fleet, &backend).await;
    gate.open();
    let mut counts = [0; 2];
    for mut client in busy {
        // Who was not accepted for lack of descriptors is served once there are some.
        match within(PATIENCE, "an end", client.try_response()).await {
            Ok(Some(answer)) if answer.text() == "held" => counts[0] += 1,
            Ok(Some(answer)) => {
                counts[1] += 1;
                let errors = ["proxy_internal_error", "connection_limit_reached"];
                let error = answer.proxy_error().unwrap_or_default();
                assert!(answer.status() == 503 && errors.contains(&error), "{answer:?}");
            }
            Ok(None) | Err(_) => counts[1] += 1,
        }
    }
    println!("{} were served, {} refused", counts[0], counts[1]);
    assert!(counts[0] >= DESCRIPTORS as usize / 4, "{counts:?}");
    nobody_is_blamed(&fleet, &backend).await;
    fleet.idle().await;
    assert_eq!(client::get(web, "/").await.text(), "here");
}

#[tokio::test]
async fn a_controller_without_descriptors_calls_no_backend_unhealthy() {
    raise_descriptor_limit();
    let backend = Backend::named("here").await;
    // Hardly more than connections that its admin port takes.
    let mut fleet = Fleet::limited(140).await;
    fleet.add_proxy("p1", &[]);
    let check = "health_check = { interval = '50ms', unhealthy_after = 1 }";
    fleet.apply(&app("", check, &[backend.address()])).await;
    let silent = crowd(fleet.controller.admin()).await;
    let probes = backend.probes();
    eventually("probes go on", async || {
        let now = backend.probes();
        holds(now >= probes + 20, || format!("{now} after {probes}"))
    })
    .await;
    let status = fleet.backend_is(backend.address(), "known", |_| true).await;
    assert_eq!(status.health(), Health::Healthy, "{status:?}");
    assert_eq!(client::get(fleet.proxies[0].web(), "/").await.text(), "here");
    drop(silent);
}

/// An idle connection needs one descriptor, not two.
#[tokio::test]
async fn idle_clients_may_use_most_descriptors() {
    raise_descriptor_limit();
    let backend = Backend::named("here").await;
    let mut fleet = Fleet::empty().await;
    fleet.add_limited_proxy("p1", DESCRIPTORS, DESCRIPTORS, &[]);
    fleet.apply(&app("", "", &[backend.address()])).await;
    let web = fleet.proxies[0].web();
    let mut idle = Vec::new();
    for _ in 0..DESCRIPTORS * 5 / 8 {
        let mut client = Client::connect(web).await;
        assert_eq!(client.get("/").await.text(), "here");
        idle.push(client);
    }
    for client in &mut idle {
        assert_eq!(client.get("/").await.text(), "here");
    }
}
