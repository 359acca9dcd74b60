//! What happens, for whoever watches. A watcher that reads too slowly misses some, and is told how many.
//!
//! A revision makes each proxy say that it applied it: a thousand proxies fill any buffer. So that no
//! revision is lost among these, they have a buffer of their own.

use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use lb_common::clock;
use lb_proto::v1::{self, event::Event};
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};

use crate::timestamp;

/// So many events a watcher may lag behind before it misses some.
const MOST: usize = 1024;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct News {
    applied: broadcast::Sender<Arc<v1::Event>>,
    others: broadcast::Sender<Arc<v1::Event>>,
}

// === impl News ===

impl News {
    pub fn new() -> Self {
        Self { applied: broadcast::Sender::new(MOST), others: broadcast::Sender::new(MOST) }
    }

    /// Nobody may be there to hear it.
    pub fn tell(&self, event: v1::Event) {
        let is_applied =
            matches!(&event.event, Some(Event::Proxy(changed)) if changed.what == "applied");
        let to = if is_applied { &self.applied } else { &self.others };
        let _ = to.send(Arc::new(event));
    }

    /// From now on.
    pub fn watch(&self) -> impl Stream<Item = v1::Event> + Send + 'static {
        let of = |sender: &broadcast::Sender<_>| BroadcastStream::new(sender.subscribe());
        stream::select(of(&self.others), of(&self.applied)).map(|event| match event {
            Ok(event) => v1::Event::clone(&event),
            Err(BroadcastStreamRecvError::Lagged(missed)) => v1::Event {
                time: Some(timestamp(clock::wall())),
                event: Some(Event::Missed(missed)),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(what: &str) -> v1::Event {
        let changed = v1::ProxyChanged { what: what.into(), ..v1::ProxyChanged::default() };
        v1::Event { time: None, event: Some(Event::Proxy(changed)) }
    }

    fn revision(revision: u64) -> v1::Event {
        let revision = v1::Revision { revision, ..v1::Revision::default() };
        v1::Event { time: None, event: Some(Event::Revision(revision)) }
    }

    #[tokio::test]
    async fn no_revision_is_lost_among_what_proxies_applied() {
        let news = News::new();
        let watched = news.watch();
        for number in 1..=5 {
            news.tell(revision(number));
            for _ in 0..MOST {
                news.tell(proxy("applied"));
            }
        }
        drop(news);
        let told: Vec<_> = watched.collect().await;
        let revisions = told.iter().filter_map(|event| match &event.event {
            Some(Event::Revision(revision)) => Some(revision.revision),
            _ => None,
        });
        assert_eq!(revisions.collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        let missed = told.iter().filter_map(|event| match event.event {
            Some(Event::Missed(missed)) => Some(missed),
            _ => None,
        });
        assert_eq!(missed.sum::<u64>(), 4 * MOST as u64, "and that is told");
    }
}
