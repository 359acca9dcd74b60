//! The controller is dead, and traffic does not care.

use std::{
    fs,
    path::{Path, PathBuf},
};

use integration_tests::{
    backend::{Backend, is_listening},
    client,
    eventually::{eventually, holds},
    fleet::{Fleet, Proxy, app},
};
use lb_common::clock;

/// One proxy that runs `backend`, has it on disk, and is as dead as its controller.
async fn dead_fleet(backend: &Backend) -> (Fleet, PathBuf) {
    let mut fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    fleet.on_disk("p1", backend.address()).await;
    let file = fleet.last_good("p1");
    fleet.proxies[0].kill();
    fleet.controller.kill();
    (fleet, file)
}

fn damage(file: &Path, how: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).expect("it is there");
    how(&mut bytes);
    fs::write(file, bytes).expect("it can be written");
}

async fn logs(proxy: &Proxy, words: &str) {
    eventually(&format!("{} logs {words:?}", proxy.id), async || {
        let log = proxy.process.log();
        holds(log.contains(words), || log.clone())
    })
    .await;
}

#[tokio::test]
async fn a_running_proxy_does_not_miss_its_controller() {
    let backend = Backend::named("here").await;
    let mut fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    fleet.controller.kill();
    for _ in 0..20 {
        assert_eq!(client::get(fleet.proxies[0].web(), "/").await.text(), "here");
    }
    assert_eq!(client::get(fleet.proxies[0].admin(), "/readyz").await.status(), 200);
    fleet.controller.start_again().await;
    fleet.settled(1).await;
}

#[tokio::test]
async fn a_proxy_that_restarts_without_a_controller_serves_from_disk() {
    let backend = Backend::named("here").await;
    let (mut fleet, _) = dead_fleet(&backend).await;
    let started = clock::now();
    fleet.proxies[0].process.restart();
    let web = fleet.proxies[0].web();
    eventually("it accepts", async || {
        holds(is_listening(web).await, || fleet.proxies[0].process.log())
    })
    .await;
    assert_eq!(client::get(web, "/").await.text(), "here");
    println!("served from disk {:?} after its start", clock::now() - started);
    fleet.proxies[0].ready().await;

    // Whatever it runs, the controller's state comes first again once there is one.
    fleet.controller.start_again().await;
    let other = Backend::named("there").await;
    fleet.apply(&app("", "", &[other.address()])).await;
    assert_eq!(client::get(web, "/").await.text(), "there");
}

#[tokio::test]
async fn a_damaged_state_file_is_refused_and_the_proxy_waits() {
    let backend = Backend::named("here").await;
    let (mut fleet, file) = dead_fleet(&backend).await;
    let whole = fs::read(&file).expect("it is there");
    type Damage = fn(&mut Vec<u8>);
    let cases: [(Damage, &str); 4] = [
        (|bytes| bytes.truncate(bytes.len() - 7), "is truncated"),
        (Vec::clear, "is truncated"),
        (|bytes| *bytes.last_mut().expect("it has some") ^= 0x20, "checksum is "),
        (|bytes| *bytes = b"[[listeners]]\n".to_vec(), "is not a last-known-good file"),
    ];
    for (how, message) in cases {
        damage(&file, how);
        fleet.proxies[0].process.restart();
        let proxy = &fleet.proxies[0];
        proxy.runs().await;
        logs(proxy, message).await;
        let said = proxy.process.log();
        let line = said.lines().find(|line| line.contains(message)).unwrap_or_default();
        let name = file.display().to_string();
        assert!(line.contains(&name) && line.contains("WARN"), "which file? {line}");

        assert_eq!(client::get(proxy.admin(), "/readyz").await.status(), 503, "{message}");
        assert_eq!(client::get(proxy.admin(), "/healthz").await.status(), 200, "{message}");
        assert!(!is_listening(proxy.web()).await, "it has nothing to serve");
        fleet.proxies[0].kill();
        fs::write(&file, &whole).expect("it can be written");
    }
}

#[tokio::test]
async fn a_proxy_with_a_damaged_state_file_gets_a_new_one_from_the_controller() {
    let backend = Backend::named("here").await;
    let (mut fleet, file) = dead_fleet(&backend).await;
    damage(&file, |bytes| bytes.truncate(30));
    fleet.proxies[0].process.restart();
    logs(&fleet.proxies[0], "is truncated").await;

    fleet.controller.start_again().await;
    fleet.settled(1).await;
    assert_eq!(client::get(fleet.proxies[0].web(), "/").await.text(), "here");
    fleet.on_disk("p1", backend.address()).await;
    fleet.proxies[0].kill();
    fleet.controller.kill();
    fleet.proxies[0].process.restart();
    fleet.proxies[0].ready().await;
    assert_eq!(client::get(fleet.proxies[0].web(), "/").await.text(), "here");
}
