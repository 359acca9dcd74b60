//! Who gets how much, through real proxies.

use std::{collections::BTreeMap, net::SocketAddr};

use integration_tests::{
    backend::{Backend, Gate, Reply},
    client::{Client, Request},
    eventually::{eventually, holds},
    fleet::{Fleet, app, app_with},
};

/// So many backends `b0`, `b1`, .. that answer with their names.
async fn named(count: usize) -> Vec<Backend> {
    let mut backends = Vec::new();
    for i in 0..count {
        backends.push(Backend::named(&format!("b{i}")).await);
    }
    backends
}

/// TOML for backends with those names.
fn with_names(backends: &[Backend]) -> Vec<String> {
    let name = |(i, backend): (usize, &Backend)| {
        format!("{{ name = 'b{i}', address = '{}' }}", backend.address())
    };
    backends.iter().enumerate().map(name).collect()
}

fn counts(backends: &[Backend]) -> Vec<usize> {
    backends.iter().map(Backend::count).collect()
}

#[tokio::test]
async fn weights_come_out_exact() {
    const REQUESTS: usize = 4_000;
    let backends = named(3).await;
    let weighted: Vec<_> = backends
        .iter()
        .zip([1, 2, 1])
        .map(|(backend, weight)| {
            format!("{{ address = '{}', weight = {weight} }}", backend.address())
        })
        .collect();
    let fleet = Fleet::start(1, &app_with("", "", &weighted.join(", "))).await;
    let web = fleet.proxies[0].web();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        clients.spawn(async move {
            let mut client = Client::connect(web).await;
            for _ in 0..REQUESTS / 8 {
                assert_eq!(client.get("/").await.status(), 200);
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("every request is answered");
    }
    let counts = counts(&backends);
    println!("1:2:1 came out as {counts:?}");
    for (count, share) in counts.iter().zip([1, 2, 1]) {
        let expected = REQUESTS * share / 4;
        assert!(count.abs_diff(expected) <= expected / 100, "{counts:?}");
    }
}

#[tokio::test]
async fn a_weight_of_zero_and_a_drained_or_disabled_backend_get_nothing() {
    let backends = named(4).await;
    let states = ["", ", weight = 0", ", state = 'draining'", ", state = 'disabled'"];
    for balance in ["round_robin", "least_connections", "random", "consistent_hash"] {
        let entries: Vec<_> = backends
            .iter()
            .zip(states)
            .map(|(backend, state)| format!("{{ address = '{}'{state} }}", backend.address()))
            .collect();
        let set = format!("balance = '{balance}'");
        let fleet = Fleet::start(1, &app_with("", &set, &entries.join(", "))).await;
        let mut client = Client::connect(fleet.proxies[0].web()).await;
        for _ in 0..50 {
            assert_eq!(client.get("/").await.text(), "b0", "{balance}");
        }
    }
    assert_eq!(counts(&backends), [200, 0, 0, 0]);
}

#[tokio::test]
async fn round_robin_goes_on_where_it_was_after_a_change() {
    let backends = named(3).await;
    let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &["--workers=1".into()]);
    fleet.apply(&app("", "", &addresses)).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    let mut order = Vec::new();
    for i in 0..9 {
        order.push(client.get("/").await.text());
        // Neither the route nor the set's other settings move the position.
        let timeout = format!("timeout = '{}s'", 20 + i);
        let set = format!("connect_timeout = '{}s'", 2 + i);
        fleet.apply(&app(&timeout, &set, &addresses)).await;
    }
    assert_eq!(counts(&backends), [3, 3, 3], "{order:?}");
    assert_eq!(order[..3], order[3..6], "{order:?}");
}

/// Which backend each key goes to.
async fn mapping(web: SocketAddr, keys: usize) -> BTreeMap<String, String> {
    let mut clients = tokio::task::JoinSet::new();
    for part in 0..8 {
        clients.spawn(async move {
            let mut client = Client::connect(web).await;
            let mut mapping = BTreeMap::new();
            for i in (0..keys).skip(part).step_by(8) {
                let key = format!("user-{i}");
                let response = client.request(&Request::get("/").header("X-User", &key)).await;
                assert_eq!(response.status(), 200);
                mapping.insert(key, response.text());
            }
            mapping
        });
    }
    clients.join_all().await.into_iter().flatten().collect()
}

#[tokio::test]
async fn all_proxies_agree_on_every_key_and_few_keys_move() {
    const KEYS: usize = 2_000;
    const BACKENDS: usize = 10;
    let backends = named(BACKENDS).await;
    let mut entries = with_names(&backends);
    let removed = entries.remove(3);
    let fewer = entries.join(", ");
    let all = [fewer.clone(), removed].join(", ");
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &[]);
    fleet.add_proxy("p2", &[]);
    for (algorithm, function) in [("maglev", "xxh3"), ("rendezvous", "crc32")] {
        let set = format!(
            "balance = 'consistent_hash'
             hash = {{ key = 'header:x-user', algorithm = '{algorithm}', function = '{function}' }}"
        );
        fleet.apply(&app_with("", &set, &all)).await;
        let before = mapping(fleet.proxies[0].web(), KEYS).await;
        assert_eq!(before.len(), KEYS);
        assert!(mapping(fleet.proxies[1].web(), KEYS).await == before, "{algorithm}: two opinions");
        let share = |name: &str| before.values().filter(|backend| *backend == name).count();
        let shares: Vec<_> = (0..BACKENDS).map(|i| share(&format!("b{i}"))).collect();
        println!("{algorithm} shares: {shares:?}");
        assert!(shares.iter().all(|share| *share > KEYS / BACKENDS / 2), "{shares:?}");

        fleet.apply(&app_with("", &set, &fewer)).await;
        let after = mapping(fleet.proxies[1].web(), KEYS).await;
        let moved = before.iter().filter(|(key, backend)| after[*key] != **backend).count();
        println!("{algorithm}: {moved} of {KEYS} keys moved");
        assert!(after.values().all(|backend| backend != "b3"));
        assert!(moved * BACKENDS * 10 <= KEYS * 12, "{algorithm}: {moved} moved");
        assert!(moved >= share("b3"), "those of the removed one have to");
    }
}

#[tokio::test]
async fn hashes_take_their_key_from_where_they_are_told() {
    let backends = named(5).await;
    let entries = with_names(&backends).join(", ");
    let fleet = Fleet::start(1, &app_with("", "", &entries)).await;
    for key in ["path", "header:x-key", "cookie:session", "client_address"] {
        let set = format!("balance = 'consistent_hash'\nhash = {{ key = '{key}' }}");
        fleet.apply(&app_with("", &set, &entries)).await;
        let mut client = Client::connect(fleet.proxies[0].web()).await;
        let mut chosen = BTreeMap::<String, Vec<String>>::new();
        for i in 0..40 {
            let (value, noise) = (i % 20, i / 20);
            let request = match key {
                "path" => Request::get(&format!("/{value}?noise={noise}")),
                "header:x-key" => Request::get("/").header("X-Key", &value.to_string()),
                "cookie:session" => {
                    let cookie = format!("noise={noise}; session={value}; more=1");
                    Request::get("/").header("Cookie", &cookie)
                }
                _ => Request::get(&format!("/{i}")),
            };
            let backend = client.request(&request).await.text();
            chosen.entry(value.to_string()).or_default().push(backend);
        }
        for (value, backends) in &chosen {
            assert_eq!(backends[0], backends[1], "{key}: {value} is not stable");
        }
        let mut different: Vec<_> = chosen.values().map(|backends| &backends[0]).collect();
        different.sort_unstable();
        different.dedup();
        let expected = if key == "client_address" { 1..=1 } else { 2..=5 };
        assert!(expected.contains(&different.len()), "{key}: {different:?}");
    }
}

/// Sends one more request, and waits until a backend has it.
async fn hold(web: SocketAddr, backends: &[Backend], held: &mut Vec<Client>) {
    let all = |backends: &[Backend]| backends.iter().map(Backend::waiting).sum::<usize>();
    let before = all(backends);
    let mut client = Client::connect(web).await;
    client.send(&Request::get("/")).await;
    held.push(client);
    eventually("a backend has it", async || {
        holds(all(backends) == before + 1, || format!("{} wait", all(backends)))
    })
    .await;
}

fn waiting(backends: &[Backend]) -> Vec<usize> {
    backends.iter().map(Backend::waiting).collect()
}

#[tokio::test]
async fn least_connections_spares_the_slow_backend() {
    const EACH: usize = 6;
    let (slow_gate, first, second) = (Gate::closed(), Gate::closed(), Gate::closed());
    let hold_slow = slow_gate.clone();
    let slow = Backend::start(move |_| Reply::ok("slow").behind(&hold_slow)).await;
    let mut backends = vec![slow];
    for _ in 0..2 {
        let (first, second) = (first.clone(), second.clone());
        backends.push(
            Backend::start(move |_| {
                let gate = if first.is_open() { &second } else { &first };
                Reply::ok("quick").behind(gate)
            })
            .await,
        );
    }
    let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    let spec = app("timeout = '60s'", "balance = 'least_connections'", &addresses);
    let fleet = Fleet::start(1, &spec).await;
    let web = fleet.proxies[0].web();

    let mut held = Vec::new();
    for _ in 0..3 * EACH {
        hold(web, &backends, &mut held).await;
        let queues = waiting(&backends);
        let (least, most) = (queues.iter().min(), queues.iter().max());
        assert!(least.zip(most).is_some_and(|(least, most)| most - least <= 2), "{queues:?}");
    }
    let slow_has = backends[0].waiting();
    first.open();
    eventually("the quick ones are done", async || {
        let queues = waiting(&backends);
        holds(queues[1] + queues[2] == 0, || format!("{queues:?}"))
    })
    .await;
    fleet.backend_is(addresses[1], "idle", |status| status.in_flight == 0).await;
    fleet.backend_is(addresses[2], "idle", |status| status.in_flight == 0).await;
    // The slow one gets nothing until the others have as much to do.
    for _ in 0..2 * (slow_has - 1) {
        hold(web, &backends, &mut held).await;
        assert_eq!(backends[0].waiting(), slow_has, "{:?}", waiting(&backends));
    }
    second.open();
    slow_gate.open();
    for mut client in held {
        assert_eq!(client.response().await.status(), 200);
    }
    fleet.idle().await;
}

#[tokio::test]
async fn random_reaches_all_backends() {
    let backends = named(3).await;
    let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    let fleet = Fleet::start(1, &app("", "balance = 'random'", &addresses)).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for _ in 0..600 {
        assert_eq!(client.get("/").await.status(), 200);
    }
    // 200 expected, and 6 standard deviations are 70.
    assert!(counts(&backends).iter().all(|count| (130..=270).contains(count)));
}
