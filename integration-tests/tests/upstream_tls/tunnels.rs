//! TCP and protocols that are switched to, through TLS to the backend.

use integration_tests::{
    backend::Backend,
    client::Client,
    eventually::{PATIENCE, within},
    fleet::{Fleet, tcp},
    ports::Port,
    tls_front::{Terms, read_all},
};

use super::{Site, tls};

const LENGTH: usize = 3_000_000;

fn bytes() -> Vec<u8> {
    (0..LENGTH).map(|i| (i % 251) as u8).collect()
}

/// Says back what it is told, to the end of it, and then that this was all.
async fn echoing() -> Backend {
    Backend::script(|mut wire, _| async move {
        if let Ok(all) = wire.rest().await {
            let _ = wire.send(all).await;
            let _ = wire.send("that was all").await;
        }
    })
    .await
}

#[tokio::test]
async fn a_tcp_connection_is_carried_whole_and_each_side_ends_by_itself() {
    let (site, port) = (Site::new(echoing().await).await, Port::reserve());
    let spec = tcp(port.address(), "", site.front.address());
    let fleet = Fleet::start(1, &format!("{spec}\n{}", tls(site.ca.pem(), ""))).await;
    let mut client = Client::connect(port.address()).await;
    client.send_raw(bytes()).await;
    // It goes on reading: the backend answers only then.
    client.wire.half_close().await.expect("it is open");
    let rest = within(PATIENCE, "an echo", client.wire.rest()).await.expect("it ends in order");
    assert!(rest == [&bytes()[..], b"that was all"].concat(), "{} bytes", rest.len());
    assert_eq!(site.front.greetings().len(), 1);
    fleet.nothing_is_left().await;
}

#[tokio::test]
async fn an_end_without_a_word_does_not_look_like_one_to_a_client_with_tls() {
    for breaks_off in [false, true] {
        let backend = Backend::script(|mut wire, _| async move {
            let _ = wire.send("some of it").await;
        })
        .await;
        let terms = Terms { breaks_off, ..Terms::default() };
        let (site, port) = (Site::on(backend, terms).await, Port::reserve());
        let mut fleet = Fleet::empty().await;
        fleet.add_proxy("p1", &[]);
        let certificate = site.ca.sign(&["a.test"]).entry(fleet.dir(), "a");
        let listener = "tls = { certificates = ['a'] }";
        let spec = tcp(port.address(), listener, site.front.address());
        fleet.apply(&format!("{certificate}{spec}\n{}", tls(site.ca.pem(), ""))).await;
        let (got, ended) = read_all(port.address(), &site.ca).await;
        assert_eq!(got, b"some of it");
        assert_eq!(ended.is_ok(), !breaks_off, "{ended:?}");
    }
}

#[tokio::test]
async fn a_websocket_is_a_tunnel_through_tls() {
    let backend = Backend::script(|mut wire, _| async move {
        let Ok(Some(_)) = wire.head().await else { return };
        let switched =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let _ = wire.send(switched).await;
        while let Ok(some) = wire.some().await
            && !some.is_empty()
        {
            let _ = wire.send(some).await;
        }
    })
    .await;
    let site = Site::new(backend).await;
    let fleet = Fleet::start(1, &site.spec("", "")).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    let upgrade = "GET /chat HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\n\r\n";
    client.send_raw(upgrade).await;
    let head = client.wire.head().await.expect("it is one").expect("it is there");
    assert_eq!(head.status(), 101);
    let all = bytes();
    assert!(client.send_and_read(&all, all.len()).await == all);
    client.wire.half_close().await.expect("it is open");
    client.expect_closed().await;
    fleet.nothing_is_left().await;
}
