//! What a backend gets that others have a lead on.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use integration_tests::{
    backend::{Backend, Reply},
    client::Client,
    eventually::{eventually, holds},
    fleet::{Fleet, app},
};
use lb_proto::v1::{BackendStatus, Health};

/// So long that no test sees it grow.
const HOUR: &str = "slow_start = '1h'";
const CHECK: &str = "health_check = { http = '/health', interval = '50ms', unhealthy_after = 1, \
                     healthy_after = 1 }";

/// A backend whose health is what it is told to be.
struct Patient {
    backend: Backend,
    is_well: Arc<AtomicBool>,
}

impl Patient {
    async fn start() -> Self {
        let is_well = Arc::new(AtomicBool::new(true));
        let shared = Arc::clone(&is_well);
        let backend = Backend::start(move |seen| match seen.head.target() {
            "/health" if !shared.load(SeqCst) => Reply::status(500, ""),
            _ => Reply::ok("patient"),
        })
        .await;
        Self { backend, is_well }
    }

    async fn becomes(&self, fleet: &Fleet, is_well: bool) {
        self.is_well.store(is_well, SeqCst);
        let expected = if is_well { Health::Healthy } else { Health::Unhealthy };
        let has_become = |status: &BackendStatus| status.health() == expected;
        fleet.backend_is(self.backend.address(), "decided", has_become).await;
        fleet.settled(0).await;
    }
}

/// How many of so many requests each backend gets.
async fn shares(web: SocketAddr, backends: &[&Backend], requests: usize) -> Vec<usize> {
    let before: Vec<_> = backends.iter().map(|backend| backend.count()).collect();
    let mut client = Client::connect(web).await;
    for _ in 0..requests {
        assert_eq!(client.get("/").await.status(), 200);
    }
    backends.iter().zip(before).map(|(backend, before)| backend.count() - before).collect()
}

#[tokio::test]
async fn a_backend_that_is_healthy_again_gets_little_at_first_and_its_share_in_the_end() {
    for balance in ["round_robin", "random", "least_connections"] {
        let patient = Patient::start().await;
        let well = [Backend::named("well").await, Backend::named("well").await];
        let backends = [&patient.backend, &well[0], &well[1]];
        let addresses = backends.map(Backend::address);
        let set = format!("balance = '{balance}'\n{CHECK}");
        let slowly = app("", &format!("{HOUR}\n{set}"), &addresses);
        let fleet = Fleet::start(1, &slowly).await;
        patient.becomes(&fleet, true).await;
        let web = fleet.proxies[0].web();
        let first = shares(web, &backends, 900).await;
        assert!(first.iter().all(|n| (200..400).contains(n)), "{balance}: all start: {first:?}");

        patient.becomes(&fleet, false).await;
        assert_eq!(shares(web, &backends, 30).await[0], 0, "{balance}");
        patient.becomes(&fleet, true).await;
        // A tenth of a share is a 21st of the requests.
        let again = shares(web, &backends, 900).await;
        println!("{balance}: {first:?}, and {again:?} when it is back");
        assert!((10..100).contains(&again[0]), "{balance}: it starts slowly: {again:?}");
        assert!(again[1].abs_diff(again[2]) < 150, "{balance}: the others share: {again:?}");

        let at_once = app("", &set, &addresses);
        fleet.apply(&at_once).await;
        let whole = shares(web, &backends, 900).await;
        assert!(whole.iter().all(|n| (200..400).contains(n)), "{balance}: without: {whole:?}");

        // Its time begins when it becomes usable, and is over for all of them.
        fleet.apply(&app("", &format!("slow_start = '1ms'\n{set}"), &addresses)).await;
        let grown = shares(web, &backends, 900).await;
        assert!(grown.iter().all(|n| (200..400).contains(n)), "{balance}: grown: {grown:?}");
    }
}

#[tokio::test]
async fn a_backend_that_is_added_to_a_set_starts_slowly() {
    let old = [Backend::named("old").await, Backend::named("old").await];
    let new = Backend::named("new").await;
    let backends = [&old[0], &old[1], &new];
    let fleet = Fleet::start(1, &app("", HOUR, &[old[0].address(), old[1].address()])).await;
    let web = fleet.proxies[0].web();
    fleet.apply(&app("", HOUR, &backends.map(Backend::address))).await;
    let added = shares(web, &backends, 600).await;
    println!("{added:?}");
    assert!((5..70).contains(&added[2]), "a 21st of them: {added:?}");
}

#[tokio::test]
async fn a_backend_that_is_back_from_ejection_starts_slowly() {
    let fails = Arc::new(AtomicBool::new(true));
    let shared = Arc::clone(&fails);
    let flaky = Backend::start(move |_| match shared.load(SeqCst) {
        true => Reply::Close,
        false => Reply::ok("flaky"),
    })
    .await;
    let good = Backend::named("good").await;
    let backends = [&flaky, &good];
    let set =
        format!("{HOUR}\noutlier_ejection = {{ consecutive_failures = 2, base_time = '1s' }}");
    let fleet = Fleet::start(1, &app("", &set, &backends.map(Backend::address))).await;
    let web = fleet.proxies[0].web();
    let mut client = Client::connect(web).await;
    let metrics = async || fleet.proxies[0].metrics().await;
    while metrics().await.sum("lb_proxy_ejections_total", &[]) == 0.0 {
        client.get("/").await;
    }
    fails.store(false, SeqCst);
    eventually("it is back", async || {
        let ejected = metrics().await.sum("lb_proxy_ejected", &[]);
        holds(ejected == 0.0, || "it is out".into())
    })
    .await;
    let back = shares(web, &backends, 600).await;
    println!("{back:?}");
    assert!((10..150).contains(&back[0]), "an eleventh of them: {back:?}");
}
