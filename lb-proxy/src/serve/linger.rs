//! Ending a connection whose client may still be sending: closing it at once would reset it, and the
//! client might never read what was written last (RFC 9112, section 9.6).

use std::{
    future::poll_fn,
    task::Poll,
    time::{Duration, Instant},
};

use lb_common::clock;

use crate::{downstream::Downstream, local::Local};

/// A client that is silent for so long has read what it was sent, or never will.
const SILENCE: Duration = Duration::from_secs(2);
/// However long it goes on.
const MOST: Duration = Duration::from_secs(30);

/// Says that nothing more comes, and reads until the client ends, too.
pub async fn linger(local: &Local, mut down: Downstream) {
    if down.is_body_open {
        return;
    }
    let ended = poll_fn(|cx| Poll::Ready(down.stream.poll_end(cx))).await;
    if matches!(ended, Poll::Ready(Err(_))) || down.ended.is_some() {
        return;
    }
    local.recycle_block(std::mem::take(&mut down.input));
    down.hold(0);
    let end = clock::now() + MOST;
    let mut silent: Option<Instant> = None;
    poll_fn(|cx| {
        while let Poll::Ready(filled) = local.poll_fill(&mut down.stream, cx) {
            match filled {
                Ok(filled) if !filled.is_empty() => silent = None,
                Ok(_) | Err(_) => return Poll::Ready(()),
            }
        }
        let until = (*silent.get_or_insert_with(clock::now) + SILENCE).min(end);
        down.client.timer.poll_expired(until, cx)
    })
    .await;
}
