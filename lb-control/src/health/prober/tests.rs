use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use lb_common::{id::BackendSetName, spec::HealthCheck};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::*;
use crate::health::{Outcome, asking::Asking, schedule::Schedule, tests::check_of};

const SHARE: Share = Share { concurrent: 16, kept: 8 };
const LONG: Duration = Duration::from_secs(20);

/// What a backend has seen.
#[derive(Debug, Default)]
struct Seen {
    connections: AtomicUsize,
    /// Requests that were the last ones of their connection, as they said.
    farewells: AtomicUsize,
}

/// Answers every request with 204.
async fn backend() -> (SocketAddr, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("is bound");
    let seen = Arc::<Seen>::default();
    let counted = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.connections.fetch_add(1, SeqCst);
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut bytes = [0; 1024];
                while let Ok(read @ 1..) = stream.read(&mut bytes).await {
                    let is_last =
                        String::from_utf8_lossy(&bytes[..read]).contains("connection: close");
                    counted.farewells.fetch_add(usize::from(is_last), SeqCst);
                    let answered = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
                    answered.expect("the probe reads");
                }
            });
        }
    });
    (address, seen)
}

fn asking(interval: Duration) -> Asking {
    let probe = Probe::Http {
        path: "/".into(),
        statuses: vec![200..=299],
        host: None,
        headers: <_>::default(),
        expect_body: String::new(),
    };
    let check = HealthCheck { probe, interval, timeout: LONG, ..check_of(1, 1) };
    Asking { check: Arc::new(check), tls: None, proxy_protocol: None }
}

/// So many jobs, each of another target.
fn jobs(count: usize, address: SocketAddr, interval: Duration) -> Vec<Job> {
    let mut schedule = Schedule::default();
    let set = BackendSetName::new("app").expect("a valid name");
    let asking = asking(interval);
    (0..count)
        .map(|_| {
            let due = clock::now();
            let id = schedule.add(&set, interval, due);
            Job { id, due, address, asking: asking.clone() }
        })
        .collect()
}

/// Makes them all, and returns what came of them.
async fn make_all(prober: &mut Prober, jobs: &[Job]) -> Vec<Probed> {
    jobs.iter().for_each(|job| prober.probe(job.clone()));
    let mut all = Vec::new();
    while all.len() < jobs.len() {
        let probed = timeout(LONG, prober.probed()).await.expect("in time");
        all.extend(probed.expect("the thread goes on"));
    }
    all
}

#[tokio::test]
async fn each_job_is_answered_once() {
    let (address, _) = backend().await;
    let mut prober = Prober::start(SHARE).expect("there is a thread");
    let jobs = jobs(300, address, Duration::from_secs(2));
    let probed = make_all(&mut prober, &jobs).await;
    let mut found: Vec<_> = probed.iter().map(|probed| probed.id).collect();
    found.sort_unstable();
    assert_eq!(found, jobs.iter().map(|job| job.id).collect::<Vec<_>>());
    assert!(probed.iter().all(|probed| probed.finding.outcome == Some(Outcome::Pass)));
}

#[tokio::test]
async fn connections_are_kept_within_the_share_and_for_probes_that_follow_soon() {
    const TARGETS: usize = 4;
    for (interval, kept, connections) in [
        (Duration::from_secs(2), 8, TARGETS),
        (Duration::from_secs(2), 0, TARGETS * 3),
        (Duration::from_secs(60), 8, TARGETS * 3),
    ] {
        let (address, seen) = backend().await;
        let mut prober = Prober::start(Share { kept, ..SHARE }).expect("there is a thread");
        let jobs = jobs(TARGETS, address, interval);
        for _ in 0..3 {
            make_all(&mut prober, &jobs).await;
        }
        let opened = seen.connections.load(SeqCst);
        assert_eq!(opened, connections, "{kept} kept, every {interval:?}");
    }
}

/// It would be closed without a word, and for that another one would lose its place.
#[tokio::test]
async fn a_connection_without_a_place_is_announced_to_be_the_last_of_its_probes() {
    let (address, seen) = backend().await;
    let mut prober = Prober::start(Share { kept: 4, ..SHARE }).expect("there is a thread");
    let jobs = jobs(16, address, Duration::from_secs(2));
    for round in 1..=3 {
        make_all(&mut prober, &jobs).await;
        let seen = (seen.connections.load(SeqCst), seen.farewells.load(SeqCst));
        assert_eq!(seen, (4 + 12 * round, 12 * round));
    }
}

#[tokio::test]
async fn how_late_a_job_was_begun_is_told() {
    let (address, _) = backend().await;
    let mut prober = Prober::start(SHARE).expect("there is a thread");
    let mut jobs = jobs(1, address, Duration::from_secs(2));
    jobs[0].due -= Duration::from_secs(3);
    let probed = make_all(&mut prober, &jobs).await;
    assert!(probed[0].late >= Duration::from_secs(3), "{probed:?}");
}

#[test]
fn the_share_leaves_descriptors_for_others() {
    assert_eq!(Share::of(100), Share { concurrent: 12, kept: 0 });
    assert_eq!(Share::of(1024), Share { concurrent: 128, kept: 640 });
    assert_eq!(Share::of(20_000), Share { concurrent: 2500, kept: 15_000 });
    assert_eq!(Share::of(u64::MAX), Share { concurrent: CONCURRENT, kept: pool::MOST });
}
