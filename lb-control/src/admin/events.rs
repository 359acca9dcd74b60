//! What happens, as server-sent events: each is an `Event` in JSON.
//!
//! A listener that reads too slowly misses some and is told how many, as any watcher of the Fleet
//! service; it holds up nobody. Who listens and hears nothing for a while gets a comment, so that
//! either end notices when the other one is gone.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use lb_proto::v1::{self, fleet_server::Fleet};
use tokio::sync::Semaphore;
use tokio_stream::Stream;
use tonic::{Request, Status};

use super::{Body, api};
use crate::fleet::Service;

/// After so long without an event comes a comment.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Says that it goes on from here, and after how many milliseconds to come back when it ends.
const HELLO: &str = "retry: 1000\n: what happens from now on\n\n";
const NOTHING: &str = ": nothing happened\n\n";

/// A stream for one more listener, if there is a place among `listeners`.
pub async fn answer(fleet: &Service, listeners: &Arc<Semaphore>) -> Response<Body> {
    let Ok(place) = Arc::clone(listeners).try_acquire_owned() else {
        let error = "too many listen to events already; ask again later, or poll";
        return api::failed(StatusCode::SERVICE_UNAVAILABLE, error);
    };
    let events = match fleet.watch(Request::new(v1::WatchRequest {})).await {
        Ok(events) => events.into_inner(),
        Err(status) => return api::failed(api::http_status(&status), status.message()),
    };
    let frames = texts(events).map(move |text| {
        // The place is taken for as long as the stream lives.
        let _ = &place;
        Ok::<_, Infallible>(Frame::data(text))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // The connection is of no other use afterwards.
        (header::CONNECTION, "close"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The text of each event, until there are no more: the controller shuts down then.
fn texts(
    events: impl Stream<Item = Result<v1::Event, Status>> + Unpin,
) -> impl Stream<Item = Bytes> {
    let rest = stream::unfold(events, |mut events| async {
        let text = match tokio::time::timeout(HEARTBEAT, events.next()).await {
            Ok(Some(Ok(event))) => text(&event),
            Ok(Some(Err(_)) | None) => return None,
            Err(_) => Bytes::from_static(NOTHING.as_bytes()),
        };
        Some((text, events))
    });
    stream::once(async { Bytes::from_static(HELLO.as_bytes()) }).chain(rest)
}

fn text(event: &v1::Event) -> Bytes {
    // JSON has no line breaks of its own, so one line of data is all of it.
    let json = serde_json::to_string(event).unwrap_or_default();
    format!("data: {json}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missed(count: u64) -> Result<v1::Event, Status> {
        Ok(v1::Event { time: None, event: Some(v1::event::Event::Missed(count)) })
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_broken_by_comments_and_the_end_of_the_watch_is_the_end() {
        let quiet = stream::once(async {
            tokio::time::sleep(HEARTBEAT * 5 / 2).await;
            missed(3)
        });
        let events = quiet.chain(stream::iter([Err(Status::unavailable("ending")), missed(4)]));
        let texts: Vec<_> = texts(Box::pin(events)).collect().await;
        let event = "data: {\"event\":{\"missed\":3}}\n\n";
        assert_eq!(texts, [HELLO, NOTHING, NOTHING, event]);
    }

    #[test]
    fn a_name_cannot_begin_another_event() {
        let reason = "one\n\ndata: two\r\n".to_owned();
        let changed = v1::ProxyChanged { reason, ..v1::ProxyChanged::default() };
        let event = v1::Event { time: None, event: Some(v1::event::Event::Proxy(changed)) };
        let text = text(&event);
        let inner = text.strip_suffix(b"\n\n").expect("an event ends so");
        assert!(!inner.iter().any(|byte| b"\r\n".contains(byte)), "{text:?}");
    }
}
