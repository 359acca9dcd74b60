//! Listeners appear, change and go while the proxy runs.

use std::{net::SocketAddr, time::Duration};

use integration_tests::{
    backend::{Backend, Gate, Reply, is_listening},
    client::{self, Client, Request},
    eventually::{PATIENCE, eventually, holds, within},
    fleet::Fleet,
    ports::Port,
    wire::Wire,
};
use lb_common::clock;
use lb_proto::v1;

/// A proxy that listens where the spec says.
async fn fleet_of_one() -> Fleet {
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &["--listen=unused=127.0.0.1:1".into()]);
    fleet
}

fn listener(name: &str, address: SocketAddr, more: &str) -> String {
    format!("[[listeners]]\nname = '{name}'\naddress = '{address}'\n{more}\n")
}

fn forward(backend: &Backend) -> String {
    format!(
        "[[routes]]
         name = 'app'
         backend_set = 'app'
         timeout = '60s'
         {}",
        set(backend.address())
    )
}

fn set(backend: SocketAddr) -> String {
    format!("[[backend_sets]]\nname = 'app'\nbackends = [{{ address = '{backend}' }}]\n")
}

async fn refuses(address: SocketAddr) {
    eventually(&format!("nobody listens at {address}"), async || {
        holds(!is_listening(address).await, || "somebody does".into())
    })
    .await;
}

#[tokio::test]
async fn listeners_come_and_go_and_open_connections_stay() {
    let gate = Gate::closed();
    let hold = gate.clone();
    let backend = Backend::start(move |seen| match seen.head.target() {
        "/slow" => Reply::ok("slow").behind(&hold),
        _ => Reply::ok("quick"),
    })
    .await;
    let (first, second) = (Port::reserve(), Port::reserve());
    let one = listener("first", first.address(), "") + &forward(&backend);
    let both = listener("second", second.address(), "") + &one;

    let fleet = fleet_of_one().await;
    fleet.apply(&one).await;
    assert!(!is_listening(second.address()).await);
    let mut kept = Client::connect(first.address()).await;
    assert_eq!(kept.get("/").await.text(), "quick");

    fleet.apply(&both).await;
    let mut leaving = Client::connect(second.address()).await;
    assert_eq!(leaving.get("/").await.text(), "quick", "it listens as soon as it is applied");
    leaving.send(&Request::get("/slow")).await;
    backend.has_waiting(1).await;

    fleet.apply(&one).await;
    refuses(second.address()).await;
    assert_eq!(backend.waiting(), 1, "what is under way is not cut");
    gate.open();
    let last = leaving.response().await;
    assert_eq!((last.text().as_str(), last.header("connection")), ("slow", Some("close")));
    leaving.expect_closed().await;

    fleet.apply(&both).await;
    assert_eq!(client::get(second.address(), "/").await.text(), "quick", "and back again");
    assert_eq!(kept.get("/").await.text(), "quick", "the other listener's connections stay");
}

#[tokio::test]
async fn a_listener_that_moves_finishes_what_it_has() {
    let gate = Gate::closed();
    let hold = gate.clone();
    let backend = Backend::start(move |_| Reply::ok("done").behind(&hold)).await;
    let (from, to) = (Port::reserve(), Port::reserve());
    let fleet = fleet_of_one().await;
    fleet.apply(&(listener("web", from.address(), "") + &forward(&backend))).await;
    let mut client = Client::connect(from.address()).await;
    client.send(&Request::get("/")).await;
    backend.has_waiting(1).await;

    fleet.apply(&(listener("web", to.address(), "") + &forward(&backend))).await;
    refuses(from.address()).await;
    assert_eq!(backend.waiting(), 1, "what is under way is not cut");
    gate.open();
    assert_eq!(client.response().await.text(), "done");
    assert_eq!(client::get(to.address(), "/").await.text(), "done");
}

#[tokio::test]
async fn a_changed_setting_costs_no_connection() {
    let backend = Backend::named("here").await;
    let port = Port::reserve();
    let fleet = fleet_of_one().await;
    let spec = |seconds: u64| {
        let more = format!("idle_timeout = '{seconds}s'");
        listener("web", port.address(), &more) + &forward(&backend)
    };
    fleet.apply(&spec(50)).await;
    let mut open = Client::connect(port.address()).await;
    open.get("/").await;
    // Any connection that is refused or reset fails one of these.
    let enough = Gate::closed();
    let mut connecting = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (address, enough) = (port.address(), enough.clone());
        connecting.spawn(async move {
            let mut took = Vec::new();
            while !enough.is_open() {
                let started = clock::now();
                assert_eq!(client::get(address, "/").await.status(), 200);
                took.push(clock::now() - started);
            }
            took
        });
    }
    for seconds in 51..71 {
        fleet.apply(&spec(seconds)).await;
    }
    enough.open();
    let took = connecting.join_all().await.concat();
    let (connects, slowest) = (took.len(), took.iter().max());
    println!("{connects} new connections during 20 changes, the slowest one took {slowest:?}");
    assert_eq!(open.get("/").await.text(), "here", "the open one lives on");
}

#[tokio::test]
async fn a_silent_connection_ends_when_its_time_is_over() {
    let backend = Backend::named("here").await;
    let port = Port::reserve();
    let fleet = fleet_of_one().await;
    let more = "idle_timeout = '500ms'\nheader_timeout = '500ms'";
    fleet.apply(&(listener("web", port.address(), more) + &forward(&backend))).await;
    let mut idle = Client::connect(port.address()).await;
    assert_eq!(idle.get("/").await.status(), 200);
    let mut slow = Client::connect(port.address()).await;
    slow.send_raw("GET / HTTP/1.1\r\nHost:").await;
    idle.expect_closed().await;
    assert_eq!(slow.response().await.status(), 408, "half a head is no request");
    slow.expect_closed().await;
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn one_proxy_may_listen_somewhere_else() {
    let (spec, own) = (Port::reserve(), Port::reserve());
    let backend = Backend::named("here").await;
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &[format!("--listen=web={}", own.address())]);
    fleet.apply(&(listener("web", spec.address(), "") + &forward(&backend))).await;
    assert_eq!(client::get(own.address(), "/").await.text(), "here");
    assert!(!is_listening(spec.address()).await);
    let table = fleet.proxies[0].table().await;
    assert_eq!(table["listeners"][0]["listening_on"], own.address().to_string(), "{table:#}");
}

#[tokio::test]
async fn an_address_that_is_taken_is_the_problem_of_its_listener_alone() {
    let backend = Backend::named("here").await;
    let (port, taken) = (Port::reserve(), Port::reserve());
    let occupied = taken.listen().await;
    let fleet = fleet_of_one().await;
    let one = listener("web", port.address(), "") + &forward(&backend);
    fleet.apply(&one).await;
    let weight = |weight| v1::BackendChange {
        backend_set: "app".into(),
        backend: Some(v1::Backend {
            address: backend.address().to_string(),
            weight: Some(weight),
            ..v1::Backend::default()
        }),
    };
    let status = async || client::get(port.address(), "/").await.status();

    // The same change takes the only backend's weight.
    let spec = lb_proto::file::parse(&listener("more", taken.address(), "")).expect("it is valid");
    let change = v1::ApplyRequest {
        listeners: spec.listeners,
        backends: vec![weight(0)],
        ..v1::ApplyRequest::default()
    };
    fleet.api().await.apply(change).await.expect("the controller cannot know");
    let proxy = eventually("the proxy says what lacks", async || {
        let list = fleet.list_proxies().await?;
        holds(!list.proxies[0].problems.is_empty(), || format!("{list:?}"))?;
        Ok::<_, String>(list.proxies[0].clone())
    })
    .await;
    assert!(!proxy.in_sync && proxy.rejection.is_empty(), "{proxy:?}");
    let v1::Problem { resource, reason } = &proxy.problems[0];
    assert_eq!(resource, "listeners[more]");
    let expected = format!("cannot listen on {}: ", taken.address());
    assert!(reason.starts_with(&expected), "{reason}");
    eventually("the weight is in force", async || {
        let status = status().await;
        holds(status == 503, || status.to_string())
    })
    .await;

    // So is what comes after it.
    let change = v1::ApplyRequest { backends: vec![weight(1)], ..v1::ApplyRequest::default() };
    fleet.api().await.apply(change).await.expect("it is right");
    eventually("the weight is back", async || {
        let status = status().await;
        holds(status == 200, || status.to_string())
    })
    .await;
    let problems = fleet.list_proxies().await.expect("it answers").proxies[0].problems.len();
    assert_eq!(problems, 1, "it still lacks");

    drop(occupied);
    eventually("it listens there, and all is well", async || {
        let list = fleet.list_proxies().await?;
        let proxy = &list.proxies[0];
        holds(proxy.in_sync && proxy.problems.is_empty(), || format!("{list:?}"))
    })
    .await;
    assert_eq!(client::get(taken.address(), "/").await.text(), "here");
}

#[tokio::test]
async fn a_tcp_listener_forwards_both_ways_with_half_close() {
    // Says what it got once the client has ended, and ends then.
    let backend = Backend::script(|mut wire, _| async move {
        wire.send("hello\n").await.expect("the proxy is there");
        let got = wire.rest().await.expect("the client ends in order");
        wire.send(format!("{} bytes\n", got.len())).await.expect("the proxy is there");
    })
    .await;
    let port = Port::reserve();
    let fleet = fleet_of_one().await;
    let tcp = listener("db", port.address(), "protocol = 'tcp'\nbackend_set = 'app'");
    fleet.apply(&(tcp + &set(backend.address()))).await;

    let mut client = Client::connect(port.address()).await;
    let greeting = within(PATIENCE, "a greeting", client.wire.exactly(6)).await;
    assert_eq!(greeting.expect("the backend speaks first"), b"hello\n");
    fleet.backend_is(backend.address(), "busy", |status| status.in_flight == 1).await;
    let sent = vec![0xff; 3_000_000];
    client.send_raw(&sent).await;
    client.wire.half_close().await.expect("it is open");
    let answer = within(PATIENCE, "an answer", client.wire.rest()).await.expect("it is whole");
    assert_eq!(String::from_utf8_lossy(&answer), "3000000 bytes\n");
    fleet.idle().await;
}

#[tokio::test]
async fn a_tcp_backend_may_end_first() {
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let backend = Backend::script(move |mut wire: Wire, _| {
        let sender = sender.clone();
        async move {
            wire.half_close().await.expect("it is open");
            let _ = sender.send(wire.rest().await.expect("the client ends in order"));
        }
    })
    .await;
    let port = Port::reserve();
    let fleet = fleet_of_one().await;
    let tcp = listener("db", port.address(), "protocol = 'tcp'\nbackend_set = 'app'");
    fleet.apply(&(tcp + &set(backend.address()))).await;
    let mut client = Client::connect(port.address()).await;
    let end = within(PATIENCE, "the backend's end", client.wire.rest()).await;
    assert_eq!(end.expect("it is an end, and no reset"), b"");
    client.send_raw("still here").await;
    client.wire.half_close().await.expect("it is open");
    let got = within(PATIENCE, "what the client sent", received.recv()).await;
    assert_eq!(got.expect("it arrives"), b"still here");
    fleet.idle().await;
}

#[tokio::test]
async fn a_tcp_listener_tries_another_backend_when_one_refuses() {
    let nobody = Port::reserve();
    let backend = Backend::script(|mut wire, _| async move {
        wire.send("here").await.expect("the proxy is there");
    })
    .await;
    let port = Port::reserve();
    let fleet = fleet_of_one().await;
    let tcp = listener("db", port.address(), "protocol = 'tcp'\nbackend_set = 'app'");
    let backends = format!(
        "[[backend_sets]]
         name = 'app'
         outlier_ejection = {{ disabled = true }}
         backends = [{{ address = '{}' }}, {{ address = '{}' }}]",
        nobody.address(),
        backend.address()
    );
    fleet.apply(&(tcp + &backends)).await;
    for _ in 0..10 {
        let mut client = Client::connect(port.address()).await;
        let got = tokio::time::timeout(Duration::from_secs(20), client.wire.rest()).await;
        assert_eq!(got.expect("in time").expect("it is whole"), b"here");
    }
}
