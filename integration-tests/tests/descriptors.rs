//! A process that has no descriptors left says so, and blames nobody else for it.

use std::net::{Ipv4Addr, SocketAddr};

use integration_tests::{
    backend::{Backend, Gate, Reply},
    client::{self, Client, Request},
    eventually::{PATIENCE, eventually, holds, within},
    fleet::{Fleet, app},
    raise_descriptor_limit,
    tools::tool,
};
use lb_proto::v1::Health;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

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
    let backend = Backend::holding(&gate, |_| Reply::ok("here")).await;
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

/// Somebody lowers the limit of a proxy that runs, so that what it keeps in reserve is not there.
#[tokio::test]
async fn accepting_goes_on_when_there_are_descriptors_again() {
    let backend = Backend::named("here").await;
    let mut fleet = Fleet::empty().await;
    fleet.add_limited_proxy("p1", 1_024, 1_024, &["--workers=1".into()]);
    fleet.apply(&app("", "", &[backend.address()])).await;
    let proxy = &fleet.proxies[0];
    let mut kept = Client::connect(proxy.web()).await;
    assert_eq!(kept.get("/").await.text(), "here");
    let mut scrape = Client::connect(proxy.admin()).await;
    let errors = async |client: &mut Client| {
        let page = client.get("/metrics").await.text();
        let line = page.lines().find_map(|line| line.strip_prefix("lb_proxy_accept_errors_total "));
        line.and_then(|count| count.parse::<f64>().ok()).expect("it is counted")
    };
    assert_eq!(errors(&mut scrape).await, 0.0);
    let process =
        Pid::from_raw(proxy.process.id().try_into().expect("a process")).expect("a process");
    let limit = |descriptors| {
        let new = Rlimit { current: Some(descriptors), maximum: Some(1_024) };
        prlimit(Some(process), Resource::Nofile, new).expect("it is ours");
    };
    // Fewer than it has already.
    limit(8);
    let mut waiting = Client::connect(proxy.web()).await;
    waiting.send(&Request::get("/")).await;
    eventually("accepting fails", async || {
        let count = errors(&mut scrape).await;
        holds(count >= 2.0, || format!("{count} errors"))
    })
    .await;
    limit(1_024);
    assert_eq!(waiting.response().await.text(), "here");
    assert_eq!(client::get(proxy.web(), "/").await.text(), "here");
    nobody_is_blamed(&fleet, &backend).await;
}

const NETWORK: &str = "LB_TEST_IN_A_NETWORK_OF_ITS_OWN";
/// As few as tests need for themselves, and more than there are requests from one address.
const PORTS: &str = "32768 32967";

/// In a network of its own, where there are few ports; `unshare` and `ip` make it.
#[tokio::test]
async fn a_request_for_which_no_port_is_left_is_503_and_no_backend_is_blamed() {
    let name = "a_request_for_which_no_port_is_left_is_503_and_no_backend_is_blamed";
    if std::env::var_os(NETWORK).is_none() {
        let script = format!(
            "ip link set lo up && echo {PORTS} > /proc/sys/net/ipv4/ip_local_port_range && exec \"$@\""
        );
        let program = std::env::current_exe().expect("it runs");
        let mut unshare = tokio::process::Command::new(tool("unshare"));
        unshare.args(["--net", "--map-root-user", "--", "sh", "-c", &script, "sh"]);
        unshare.arg(program).args(["--exact", name, "--nocapture"]).env(NETWORK, "1");
        let output = unshare.output().await.expect("it can be run");
        let said = String::from_utf8_lossy(&output.stdout);
        println!("{said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.contains("1 passed"), "{:?}", output.status);
        return;
    }
    raise_descriptor_limit();
    let gate = Gate::closed();
    let backend = Backend::holding(&gate, |_| Reply::ok("here")).await;
    let check = "health_check = { interval = '50ms', unhealthy_after = 1 }";
    let fleet = Fleet::start(1, &app("timeout = '10m'", check, &[backend.address()])).await;
    let web = fleet.proxies[0].web();
    let mut busy = Vec::new();
    // Each address has the ports to itself: clients have enough, the proxy has not.
    for address in 2..=5 {
        for _ in 0..100 {
            let mut client = Client::connect_from(Ipv4Addr::new(127, 0, 0, address), web).await;
            client.send(&Request::get("/held")).await;
            busy.push(client);
        }
    }
    eventually("no more go through", async || {
        let metrics = fleet.proxies[0].metrics().await;
        let refused =
            metrics.sum("lb_proxy_request_errors_total", &[("error", "proxy_internal_error")]);
        let attempts = metrics.sum("lb_proxy_attempts_total", &[]);
        let all = refused as usize + backend.waiting();
        let is_settled = all == attempts as usize && refused > 0.0;
        holds(is_settled, || format!("{refused}, {} of {attempts}", backend.waiting()))
    })
    .await;
    nobody_is_blamed(&fleet, &backend).await;
    gate.open();
    let (mut refused, mut made_room) = (0, 0);
    for mut client in busy {
        match client.try_response().await {
            Ok(Some(answer)) if answer.text() == "held" => {}
            Ok(Some(answer)) => {
                let told = (answer.status(), answer.proxy_error());
                assert_eq!(told, (503, Some("proxy_internal_error")));
                refused += 1;
            }
            // Its request came after it had made room, as the one that had idled longest.
            Ok(None) | Err(_) => made_room += 1,
        }
    }
    assert!(made_room < refused / 10, "{made_room} beside {refused}");
    println!("{refused} of 400 refused");
    assert!(refused > 0);
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
