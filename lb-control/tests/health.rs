//! From a backend that stops to a proxy that knows, over real sockets.

mod common;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{Control, eventually, request};
use lb_proto::v1::{self, update::Content};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// A backend that answers probes with 200, or with 503 while it is told to.
struct Backend {
    address: SocketAddr,
    sick: Arc<AtomicBool>,
}

impl Backend {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("is bound");
        let sick = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&sick);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let status = if seen.load(Ordering::SeqCst) { "503 Sick" } else { "200 OK" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { address, sick }
    }

    /// A set of it alone, that decides quickly.
    fn set(&self) -> v1::ApplyRequest {
        request(&format!(
            r#"{{"backend_sets": [{{"name": "app", "backends": [{{"address": "{}"}}],
               "health_check": {{"interval": "20ms", "timeout": "5s", "unhealthy_after": 2,
                                "max_unhealthy_percent": 100}}}}]}}"#,
            self.address
        ))
    }
}

async fn status(control: &Control) -> v1::BackendStatus {
    let mut fleet = control.fleet().await;
    let listed = fleet.list_backends(v1::ListBackendsRequest::default()).await.expect("lists");
    listed.into_inner().backends.remove(0)
}

async fn until(control: &Control, health: v1::Health) -> v1::BackendStatus {
    eventually("the health is decided", async || {
        Some(status(control).await).filter(|status| status.health() == health)
    })
    .await
}

/// By set, which backends are told to be unhealthy; nobody, where that is over.
fn unhealthy(update: &v1::Update) -> Vec<(String, Vec<String>)> {
    let (changed, gone) = match &update.content {
        Some(Content::Full(bytes)) => {
            (v1::Snapshot::decode(bytes.clone()).expect("decodes").resources, vec![])
        }
        Some(Content::Delta(bytes)) => {
            let delta = v1::Delta::decode(bytes.clone()).expect("decodes");
            (delta.changed, delta.gone)
        }
        Some(Content::Part(_)) | None => panic!("no content"),
    };
    let is_over = gone.into_iter().filter(|gone| gone.kind() == v1::Kind::Unhealthy);
    let is_over = is_over.map(|gone| (gone.name, vec![]));
    let told = changed.into_iter().filter(|resource| resource.kind() == v1::Kind::Unhealthy);
    told.map(|resource| {
        let names = v1::Unhealthy::decode(resource.content).expect("decodes").backends;
        (resource.name, names)
    })
    .chain(is_over)
    .collect()
}

#[tokio::test]
async fn a_flip_reaches_watchers_and_proxies_and_is_undone_by_recovery() {
    let backend = Backend::start().await;
    let control = Control::in_memory();
    let mut fleet = control.fleet().await;
    fleet.apply(backend.set()).await.expect("is valid");
    let healthy = until(&control, v1::Health::Healthy).await;
    assert_eq!(healthy.why, "status 200");
    assert!(healthy.last_probe.expect("was probed").passed);

    let mut proxy = control.proxy("p1", None).await;
    proxy.follow_to(1).await;
    let mut events = fleet.watch(v1::WatchRequest {}).await.expect("watches").into_inner();
    backend.sick.store(true, Ordering::SeqCst);
    let flip = proxy.next().await;
    proxy.applied(flip.snapshot).await;
    let expected = ("app".to_owned(), vec![backend.address.to_string()]);
    assert_eq!((unhealthy(&flip), flip.revision), (vec![expected], 1));
    let told = eventually("it is told", async || {
        match events.message().await.expect("goes on").expect("goes on").event {
            Some(v1::event::Event::Health(change)) => Some(change),
            _ => None,
        }
    })
    .await;
    assert_eq!(told.health(), v1::Health::Unhealthy);
    assert_eq!(told.why, "status 503, expected 2xx");

    backend.sick.store(false, Ordering::SeqCst);
    let back = proxy.next().await;
    assert_eq!(unhealthy(&back), [("app".to_owned(), vec![])]);
}

#[tokio::test]
async fn a_backend_that_was_dead_is_so_after_a_restart_until_it_proves_otherwise() {
    let directory = tempfile::tempdir().expect("a directory");
    let backend = Backend::start().await;
    let control = Control::stored_in(directory.path());
    control.fleet().await.apply(backend.set()).await.expect("is valid");
    until(&control, v1::Health::Healthy).await;
    backend.sick.store(true, Ordering::SeqCst);
    let before = until(&control, v1::Health::Unhealthy).await;
    control.stop().await.expect("ends well");

    let control = Control::stored_in(directory.path());
    let mut proxy = control.proxy("p1", None).await;
    let first = proxy.next().await;
    assert_eq!(first.snapshot.expect("has an id").version, 1, "before any probe");
    assert_eq!(unhealthy(&first).len(), 1);
    let after = status(&control).await;
    assert_eq!((after.health, after.since, after.why), (before.health, before.since, before.why));
    backend.sick.store(false, Ordering::SeqCst);
    until(&control, v1::Health::Healthy).await;
}

#[tokio::test]
async fn metrics_and_readiness_are_told_over_plain_http() {
    let backend = Backend::start().await;
    let control = Control::in_memory();
    control.fleet().await.apply(backend.set()).await.expect("is valid");
    until(&control, v1::Health::Healthy).await;
    assert!(control.page("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(control.page("/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(control.page("/nothing").await.starts_with("HTTP/1.1 404"));
    let page = control.page("/metrics").await;
    for line in [
        "lb_control_revision 1",
        "lb_control_backends{backend_set=\"app\",health=\"healthy\"} 1",
        "lb_control_applies_total{result=\"accepted\"} 1",
        "lb_control_store_commit_seconds_count 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
    }
}

/// The bound is for busy machines; usually it takes a millisecond.
#[tokio::test]
async fn a_flip_waits_for_nothing_on_its_way_to_a_proxy() {
    let backend = Backend::start().await;
    let control = Control::in_memory();
    control.fleet().await.apply(backend.set()).await.expect("is valid");
    until(&control, v1::Health::Healthy).await;
    let mut proxy = control.proxy("p1", None).await;
    proxy.follow_to(1).await;
    backend.sick.store(true, Ordering::SeqCst);
    proxy.next().await;
    let seen = lb_common::clock::wall();
    let decided = status(&control).await.since.expect("is decided");
    let decided = Duration::try_from(prost_types::Duration {
        seconds: decided.seconds,
        nanos: decided.nanos,
    });
    let took = seen.saturating_sub(decided.expect("is after 1970"));
    assert!(took < Duration::from_millis(900), "{took:?}");
}
