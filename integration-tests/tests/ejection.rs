//! What a proxy holds against a backend, and what it does not.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use integration_tests::{
    backend::{Backend, Gate, Reply, Seen},
    client::{self, Client, Request},
    eventually::{eventually, holds},
    fleet::{Fleet, app},
    ports::Port,
};
use lb_common::clock;

/// Each request is one attempt.
const ONCE: &str = "retry = { attempts = 1 }\ntimeout = '60s'";

async fn one_proxy(ejection: &str, backends: &[&Backend]) -> Fleet {
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address()).collect();
    Fleet::start(1, &app(ONCE, ejection, &addresses)).await
}

async fn ejections(fleet: &Fleet) -> u64 {
    fleet.proxies[0].metrics().await.sum("lb_proxy_ejections_total", &[]) as u64
}

/// The statuses of so many requests, one after the other, each on a connection of its own.
async fn ask(web: SocketAddr, path: &str, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(client::get(web, path).await.status());
    }
    statuses
}

#[tokio::test]
async fn a_backend_that_does_not_answer_is_ejected_and_the_controller_knows() {
    for (reply, reason) in [("close", "connection reset"), ("reset", "connection reset")] {
        let bad = Backend::start(move |_| match reply {
            "close" => Reply::Close,
            _ => Reply::Reset,
        })
        .await;
        let good = Backend::named("good").await;
        let set = "outlier_ejection = { consecutive_failures = 3, base_time = '60s' }";
        let fleet = one_proxy(set, &[&bad, &good]).await;
        let statuses = ask(fleet.proxies[0].web(), "/", 20).await;
        let failed = statuses.iter().filter(|status| **status == 502).count();
        assert_eq!((failed, good.count()), (3, 17), "three failures were enough: {statuses:?}");
        let status = fleet.backend_is(bad.address(), "ejected", |s| !s.ejections.is_empty()).await;
        assert_eq!(status.ejections.len(), 1);
        assert_eq!(status.ejections[0].proxy_id, "p1");
        assert_eq!(status.ejections[0].reason, reason);
        let is_well = |status: &lb_proto::v1::BackendStatus| status.ejections.is_empty();
        fleet.backend_is(good.address(), "not ejected", is_well).await;
    }
}

#[tokio::test]
async fn a_backend_that_hangs_is_ejected_by_timeouts() {
    let bad = Backend::start(|_| Reply::Hang).await;
    let good = Backend::named("good").await;
    let route = "timeout = '200ms'\nretry = { attempts = 1 }";
    let set = "outlier_ejection = { consecutive_failures = 3, base_time = '60s' }";
    let fleet = Fleet::start(1, &app(route, set, &[bad.address(), good.address()])).await;
    let statuses = ask(fleet.proxies[0].web(), "/", 12).await;
    let failed = statuses.iter().filter(|status| **status == 504).count();
    assert_eq!((failed, good.count()), (3, 9), "{statuses:?}");
}

#[tokio::test]
async fn a_backend_that_breaks_off_its_responses_is_ejected() {
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
    let broken = Backend::start(move |_| Reply::RawAndClose(cut.into())).await;
    let sound = Backend::named("sound").await;
    let fleet =
        one_proxy("outlier_ejection = { consecutive_failures = 3 }", &[&broken, &sound]).await;
    eventually("it is ejected", async || {
        let mut client = Client::connect(fleet.proxies[0].web()).await;
        client.send(&Request::get("/")).await;
        // Half of them end early.
        let _ = client.try_response().await;
        let ejections = ejections(&fleet).await;
        holds(ejections > 0, || format!("{} requests came", broken.count()))
    })
    .await;
    assert_eq!(broken.count(), 3, "the third in a row was the last one");
}

#[tokio::test]
async fn an_ejected_backend_comes_back_when_its_time_is_over() {
    let gate = Gate::closed();
    let recovered = gate.clone();
    let flaky = Backend::start(move |_| match recovered.is_open() {
        true => Reply::ok("flaky"),
        false => Reply::Close,
    })
    .await;
    let good = Backend::named("good").await;
    let set = "outlier_ejection = { consecutive_failures = 2, base_time = '200ms' }";
    let fleet = one_proxy(set, &[&flaky, &good]).await;
    let web = fleet.proxies[0].web();
    while flaky.count() < 2 {
        client::get(web, "/").await;
    }
    gate.open();
    eventually("it is used again", async || {
        let text = client::get(web, "/").await.text();
        holds(text == "flaky", || text.clone())
    })
    .await;
    assert_eq!(client::get(web, "/").await.status(), 200);
    fleet.backend_is(flaky.address(), "back", |status| status.ejections.is_empty()).await;
}

#[tokio::test]
async fn at_most_half_of_a_set_is_ejected() {
    let nobody = Port::reserve_range(4);
    let addresses: Vec<_> = nobody.iter().map(Port::address).collect();
    let set = "outlier_ejection = { consecutive_failures = 2, base_time = '60s' }";
    let fleet = Fleet::start(1, &app(ONCE, set, &addresses)).await;
    let statuses = ask(fleet.proxies[0].web(), "/", 100).await;
    assert_eq!(statuses, [502; 100], "there is always one to try");
    let ejected = eventually("the controller knows", async || {
        let list = fleet.list_backends().await?;
        let ejected = list.iter().filter(|status| !status.ejections.is_empty()).count();
        holds(ejected >= 2, || format!("{list:?}"))?;
        Ok::<_, String>(ejected)
    })
    .await;
    assert_eq!(ejected, 2);
}

/// An outage of what is behind all of them, for instance.
#[tokio::test]
async fn backends_that_all_give_no_answer_are_all_kept() {
    let mut backends = Vec::new();
    for _ in 0..4 {
        backends.push(Backend::start(|_| Reply::Close).await);
    }
    let set = "outlier_ejection = { consecutive_failures = 2 }";
    let fleet = one_proxy(set, &backends.iter().collect::<Vec<_>>()).await;
    assert_eq!(ask(fleet.proxies[0].web(), "/", 200).await, [502; 200]);
    assert_eq!(ejections(&fleet).await, 0);
    let counts: Vec<_> = backends.iter().map(Backend::count).collect();
    assert_eq!(counts, [50; 4], "each has its share");
}

#[tokio::test]
async fn one_url_that_fails_everywhere_ejects_nobody() {
    const CLIENTS: usize = 4;
    let kinds: [(fn() -> Reply, u16); 2] =
        [(|| Reply::status(500, "no"), 500), (|| Reply::Close, 502)];
    for (fail, status) in kinds {
        let mut backends = Vec::new();
        for _ in 0..4 {
            let reply = move |seen: &Seen| match seen.head.target() {
                "/bad" => fail(),
                _ => Reply::ok("fine"),
            };
            backends.push(Backend::start(reply).await);
        }
        let fleet = one_proxy("", &backends.iter().collect::<Vec<_>>()).await;
        let web = fleet.proxies[0].web();
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            clients.spawn(ask(web, "/bad", 100));
        }
        let good = ask(web, "/", 100).await;
        while let Some(statuses) = clients.join_next().await {
            assert_eq!(statuses.expect("each is answered"), [status; 100]);
        }
        assert_eq!(good, [200; 100]);
        assert_eq!(ejections(&fleet).await, 0);
        // And nothing else goes on any more.
        assert_eq!(ask(web, "/bad", 100).await, [status; 100]);
        assert_eq!(ejections(&fleet).await, 0);
    }
}

/// It fails each tenth request; its peers fail none.
#[tokio::test]
async fn a_backend_that_fails_one_in_ten_is_ejected_and_its_peers_are_not() {
    for (status, reason) in [(500, "5xx"), (502, "connection reset")] {
        let requests = AtomicUsize::new(0);
        let gray = Backend::start(move |_| match requests.fetch_add(1, Ordering::SeqCst) % 10 {
            9 if status == 500 => Reply::status(500, "no"),
            9 => Reply::Reset,
            _ => Reply::ok("fine"),
        })
        .await;
        let peers = [Backend::named("good").await, Backend::named("good").await];
        // Each request has a connection of its own, because one that idled may be closed by its
        // backend without blame.
        let set = "outlier_ejection = { base_time = '60s' }\npool = { max_idle = 0 }";
        let fleet = one_proxy(set, &[&gray, &peers[0], &peers[1]]).await;
        let web = fleet.proxies[0].web();
        let mut statuses = Vec::new();
        while ejections(&fleet).await == 0 {
            statuses.extend(ask(web, "/", 30).await);
            assert!(statuses.len() < 3_000, "{} failed", gray.count() / 10);
        }
        let failed = statuses.iter().filter(|seen| **seen == status).count();
        println!("{failed} of {} failed", statuses.len());
        assert!((3..=50).contains(&failed), "neither by chance nor late: {failed}");
        let is_out = |s: &lb_proto::v1::BackendStatus| !s.ejections.is_empty();
        let seen = fleet.backend_is(gray.address(), "ejected", is_out).await;
        assert_eq!(seen.ejections[0].reason, reason);
        assert_eq!(ask(web, "/", 300).await, [200; 300]);
        assert_eq!(ejections(&fleet).await, 1, "no other one is");
    }
}

#[tokio::test]
async fn a_backend_that_fails_more_than_its_peers_is_ejected_for_it() {
    let bad = Backend::start(|_| Reply::status(500, "no")).await;
    let peers = [Backend::named("good").await, Backend::named("good").await];
    let set = "outlier_ejection = { base_time = '60s' }";
    let fleet = one_proxy(set, &[&bad, &peers[0], &peers[1]]).await;
    let web = fleet.proxies[0].web();
    let few = ask(web, "/", 30).await;
    let failed = few.iter().filter(|status| **status == 500).count();
    assert_eq!((failed, ejections(&fleet).await), (10, 0), "ten answers are no evidence");
    let many = ask(web, "/", 270).await;
    let failed = failed + many.iter().filter(|status| **status == 500).count();
    // It takes 20 of its own; and peers are looked at anew from time to time.
    assert!((20..40).contains(&failed), "{failed} of 300 failed");
    assert_eq!(ejections(&fleet).await, 1);
    let status = fleet.backend_is(bad.address(), "ejected", |s| !s.ejections.is_empty()).await;
    assert_eq!(status.ejections[0].reason, "5xx");
}

/// It has the fewest requests in flight, because it fails so fast.
#[tokio::test]
async fn a_backend_that_fails_fast_does_not_draw_all_traffic() {
    const CLIENTS: usize = 8;
    let bad = Backend::start(|_| Reply::status(503, "no")).await;
    let slow = || {
        Backend::script(|mut wire, _| async move {
            while let Ok(Some(_)) = wire.head().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
                let _ = wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
        })
    };
    let peers = [slow().await, slow().await];
    let set = "balance = 'least_connections'\noutlier_ejection = { base_time = '60s' }";
    let fleet = one_proxy(set, &[&bad, &peers[0], &peers[1]]).await;
    let web = fleet.proxies[0].web();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(ask(web, "/", 100));
    }
    let mut failed = 0;
    while let Some(statuses) = clients.join_next().await {
        let statuses = statuses.expect("each is answered");
        failed += statuses.iter().filter(|status| **status == 503).count();
    }
    println!("{failed} of 800 failed");
    assert_eq!(ejections(&fleet).await, 1);
    assert!(failed < 400, "{failed} of 800 failed");
}

#[tokio::test]
async fn a_backend_that_fails_again_soon_stays_away_for_longer() {
    const BASE: Duration = Duration::from_millis(400);
    let bad = Backend::start(|_| Reply::Close).await;
    let good = Backend::named("good").await;
    let set = "outlier_ejection = { consecutive_failures = 1, base_time = '400ms' }";
    let fleet = one_proxy(set, &[&bad, &good]).await;
    let web = fleet.proxies[0].web();
    // Its failures are its own as soon as the other one is known to do well.
    ask(web, "/", 2).await;
    let mut times = Vec::new();
    while times.len() < 4 {
        if client::get(web, "/").await.status() == 502 {
            times.push(clock::now());
        }
    }
    let away: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    println!("away for {away:?}");
    for (i, away) in (1..).zip(&away) {
        // What a client measures begins somewhat later than the ejection did.
        assert!(*away > BASE * i * 3 / 4, "ejection {i}: {away:?}");
    }
}

/// Asks on many connections at once, and gives up on all after so long.
async fn give_up(web: SocketAddr, hung: &Backend, after: Duration) {
    let before = hung.abandoned();
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = Client::connect(web).await;
        client.send(&Request::get("/")).await;
        clients.push(client);
    }
    hung.has_waiting(5).await;
    tokio::time::sleep(after).await;
    drop(clients);
    eventually("they are given up", async || {
        let now = hung.abandoned();
        holds(now == before + 5, || format!("{now}"))
    })
    .await;
}

#[tokio::test]
async fn a_backend_at_which_clients_give_up_one_after_another_is_ejected() {
    const PATIENCE: Duration = Duration::from_millis(1_200);
    let hung = Backend::start(|_| Reply::Hang).await;
    let good = Backend::named("good").await;
    let set = "outlier_ejection = { consecutive_failures = 3, base_time = '60s' }";
    let fleet = one_proxy(set, &[&hung, &good]).await;
    let web = fleet.proxies[0].web();
    // Who goes at once says nothing about it, and who closes all that it has open says it once.
    give_up(web, &hung, Duration::ZERO).await;
    give_up(web, &hung, Duration::ZERO).await;
    give_up(web, &hung, PATIENCE).await;
    give_up(web, &hung, PATIENCE).await;
    assert_eq!(ejections(&fleet).await, 0);
    give_up(web, &hung, PATIENCE).await;
    assert_eq!(ejections(&fleet).await, 1);
    assert_eq!(ask(web, "/", 10).await, [200; 10]);
    fleet.idle().await;
}

/// Two backends that fail if they are asked to, keys that go to the first one, and one that does not.
struct Keyed {
    fleet: Fleet,
    _backends: [Backend; 2],
    keys: Vec<String>,
    other: String,
}

impl Keyed {
    async fn start(ejection: &str) -> Self {
        let start = || {
            Backend::start(|seen| match seen.head.target() {
                "/fail" => Reply::Close,
                "/stream" => Reply::Raw(
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n".to_vec(),
                ),
                _ => Reply::ok("fine"),
            })
        };
        let backends = [start().await, start().await];
        let set =
            format!("balance = 'consistent_hash'\nhash = {{ key = 'header:X-Key' }}\n{ejection}");
        let fleet = one_proxy(&set, &[&backends[0], &backends[1]]).await;
        let (mut keys, mut other) = (Vec::new(), None);
        for i in 0.. {
            let (key, before) = (format!("key {i}"), backends[0].count());
            keyed_get(&fleet, &key, "/").await;
            if backends[0].count() > before {
                keys.push(key);
            } else {
                other = Some(key);
            }
            if let (8, Some(other)) = (keys.len(), &other) {
                let other = other.clone();
                return Self { fleet, _backends: backends, keys, other };
            }
        }
        unreachable!("each key goes to one of two")
    }

    /// Requests of these keys fail on the first backend, while the second one does well.
    async fn fail(&self, keys: &[String]) {
        for key in keys {
            assert_eq!(keyed_get(&self.fleet, &self.other, "/").await, 200);
            assert_eq!(keyed_get(&self.fleet, key, "/fail").await, 502);
        }
    }
}

async fn keyed_get(fleet: &Fleet, key: &str, path: &str) -> u16 {
    let request = Request::get(path).header("X-Key", key);
    client::request(fleet.proxies[0].web(), &request).await.status()
}

#[tokio::test]
async fn a_stream_that_its_client_ends_is_an_answer_like_any_other() {
    let ejection = "outlier_ejection = { consecutive_failures = 3, base_time = '60s' }";
    let keyed = Keyed::start(ejection).await;
    for round in 0..3 {
        keyed.fail(&keyed.keys[..2]).await;
        let mut client = Client::connect(keyed.fleet.proxies[0].web()).await;
        client.send(&Request::get("/stream").header("X-Key", &keyed.keys[0])).await;
        client.wire.head().await.expect("HTTP").expect("an answer");
        drop(client);
        keyed.fleet.idle().await;
        assert_eq!(ejections(&keyed.fleet).await, 0, "round {round}");
    }
    keyed.fail(&keyed.keys).await;
    assert_eq!(ejections(&keyed.fleet).await, 1, "three in a row are three");
}

#[tokio::test]
async fn one_key_that_always_fails_ejects_nobody() {
    let ejection = "outlier_ejection = { consecutive_failures = 3, base_time = '60s' }";
    let keyed = Keyed::start(ejection).await;
    let one = vec![keyed.keys[0].clone(); 30];
    keyed.fail(&one).await;
    assert_eq!(ejections(&keyed.fleet).await, 0);
    keyed.fail(&keyed.keys).await;
    assert_eq!(ejections(&keyed.fleet).await, 1, "but several that fail do");
}

#[tokio::test]
async fn failures_that_are_far_apart_are_no_row() {
    let ejection =
        "outlier_ejection = { consecutive_failures = 3, interval = '1s', base_time = '60s' }";
    let keyed = Keyed::start(ejection).await;
    for pair in keyed.keys.chunks(2).take(2) {
        keyed.fail(pair).await;
        tokio::time::sleep(Duration::from_millis(1_200)).await;
    }
    assert_eq!(ejections(&keyed.fleet).await, 0);
    keyed.fail(&keyed.keys).await;
    assert_eq!(ejections(&keyed.fleet).await, 1);
}

#[tokio::test]
async fn what_a_client_does_wrong_is_held_against_nobody() {
    let backend = Backend::start(Reply::echo).await;
    let good = Backend::start(Reply::echo).await;
    let set = "outlier_ejection = { consecutive_failures = 1 }";
    let fleet = one_proxy(set, &[&backend, &good]).await;
    let web = fleet.proxies[0].web();
    let half = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc";
    let bad = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nx\r\n";
    for i in 0..12 {
        let mut client = Client::connect(web).await;
        client.send_raw(if i % 2 == 0 { half } else { bad }).await;
        match i % 3 {
            0 => client.wire.reset(),
            1 => drop(client),
            _ => {
                client.wire.half_close().await.expect("it is open");
                client.wire.closed().await;
            }
        }
    }
    fleet.idle().await;
    assert_eq!(ejections(&fleet).await, 0);
    assert_eq!(ask(web, "/", 4).await, [200; 4]);
}
