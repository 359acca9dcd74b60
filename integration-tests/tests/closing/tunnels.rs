//! TCP connections, and whatever else is carried both ways.

use integration_tests::{
    backend::{Backend, Gate},
    client::Client,
    eventually::{PATIENCE, within},
    fleet::{Fleet, tcp},
    ports::Port,
};

use super::ROUNDS;

/// It says something and is gone, though its client goes on sending.
#[tokio::test]
async fn the_last_words_of_a_tcp_backend_are_read_each_time() {
    let backend = Backend::script(|mut wire, _| async move {
        if wire.exactly(10).await.is_ok() {
            let _ = wire.send("bye").await;
        }
    })
    .await;
    let port = Port::reserve();
    let fleet = Fleet::start(1, &tcp(port.address(), "", backend.address())).await;
    for round in 0..ROUNDS {
        let mut client = Client::connect(port.address()).await;
        let piece = [b'x'; 64 * 1024];
        // As much as goes, before it reads anything.
        for _ in 0..64 {
            if client.wire.send(&piece).await.is_err() {
                break;
            }
        }
        let rest = within(PATIENCE, "its end", client.wire.rest()).await;
        assert_eq!(rest.expect("it ends in order"), b"bye", "round {round}");
    }
    fleet.nothing_is_left().await;
}

/// Its client waits for something and does nothing about an end.
#[tokio::test]
async fn a_tunnel_of_which_the_backend_resets_is_over() {
    let (reset, resets) = (Gate::closed(), Gate::closed());
    let (signal, hold) = (reset.clone(), resets.clone());
    let backend = Backend::script(move |mut wire, _| {
        let (signal, hold) = (signal.clone(), hold.clone());
        async move {
            let _ = wire.exactly(1).await;
            signal.open();
            hold.passed().await;
            wire.reset();
        }
    })
    .await;
    let port = Port::reserve();
    let fleet = Fleet::start(1, &tcp(port.address(), "", backend.address())).await;
    let mut client = Client::connect(port.address()).await;
    client.send_raw("x").await;
    within(PATIENCE, "it is carried", reset.passed()).await;
    resets.open();
    fleet.nothing_is_left().await;
    drop(client);
}
