//! What a drain ends.

use integration_tests::{
    backend::{Backend, Gate},
    client::Client,
    eventually::{PATIENCE, eventually, holds, within},
    fleet::{Fleet, app, listening},
    process::Signal,
};

use super::silent_stream;

const DRAINED: i32 = 0;

#[tokio::test]
async fn a_body_that_ends_with_its_connection_does_not_look_whole_when_a_drain_cuts_it() {
    let backend = silent_stream(Gate::closed()).await;
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &["--drain-timeout=300ms".into()]);
    fleet.apply(&app("", "", &[backend.address()])).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    client.send_raw("GET / HTTP/1.0\r\n\r\n").await;
    client.wire.head().await.expect("HTTP").expect("an answer");
    assert_eq!(client.wire.exactly(7).await.expect("it has begun"), b"data: 1");
    fleet.proxies[0].process.signal(Signal::TERM);
    let end = within(PATIENCE, "it is cut", client.wire.rest()).await;
    let error = end.expect_err("its end would look like the body's");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_client_that_stopped_in_the_middle_does_not_hold_a_drain() {
    for begun in [
        "GET / HTTP/1.1\r\nHost:",
        "G",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
    ] {
        let backend = Backend::named("here").await;
        let mut fleet = Fleet::empty().await;
        fleet.add_proxy("p1", &["--drain-timeout=25s".into()]);
        let spec = app("", "", &[backend.address()]);
        let limits = "header_timeout = '500ms'\nbody_timeout = '500ms'";
        fleet.apply(&listening(&spec, limits)).await;
        let mut client = Client::connect(fleet.proxies[0].web()).await;
        client.send_raw(begun).await;
        eventually("it is known", async || {
            let open = fleet.proxies[0].open_connections().await;
            holds(open == 1, || format!("{open} open"))
        })
        .await;
        fleet.proxies[0].process.signal(Signal::TERM);
        let code = fleet.proxies[0].process.exit_code().await;
        assert_eq!(code, DRAINED, "{begun:?}");
    }
}
