//! How connections end, so that the other side can read what was said to it.

mod clients;
mod drain;
mod early;
mod tunnels;
mod uploads;

use integration_tests::backend::{Backend, Gate};

const ROUNDS: usize = 20;
const NO_EJECTION: &str = "outlier_ejection = { disabled = true }";

/// A backend that sends the beginning of a stream and no more, and says when its client is gone.
async fn silent_stream(gone: Gate) -> Backend {
    Backend::script(move |mut wire, _| {
        let gone = gone.clone();
        async move {
            let Ok(Some(_)) = wire.head().await else { return };
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                        Transfer-Encoding: chunked\r\n\r\n7\r\ndata: 1\r\n";
            let _ = wire.send(head).await;
            wire.closed().await;
            gone.open();
        }
    })
    .await
}
