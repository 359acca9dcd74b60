//! What the controller says, as it says it, for as long as somebody looks.

use std::{convert::Infallible, io, time::Duration};

use lb_proto::v1;
use tokio::{
    sync::mpsc,
    time::{self, MissedTickBehavior},
};

use super::{figures::Poll, state::Event};
use crate::client::{Controller, Remote};

/// Where it goes; the terminal's events go there too, and only they can fail.
pub type Events = mpsc::Sender<io::Result<Event>>;

/// How long the controller may take to answer before it counts as away.
const PATIENCE: Duration = Duration::from_secs(3);
/// So many revisions of the past say what was changed before it went wrong.
const HISTORY: u32 = 20;

/// Goes on until it is dropped: a controller that goes away is looked for again.
pub async fn run(remote: &Remote, interval: Duration, events: Events) -> Infallible {
    loop {
        let Err(error) = follow(remote, interval, &events).await;
        // Nobody listens any more only when this is about to be dropped.
        let _ = events.send(Ok(Event::Away(format!("{error:#}")))).await;
        time::sleep(interval).await;
    }
}

/// All that there is now.
///
/// # Errors
/// Why the controller does not say.
pub async fn look(controller: &Controller) -> anyhow::Result<Poll> {
    let all = async {
        tokio::try_join!(
            controller.call(async |mut api| api.list_proxies(v1::ListProxiesRequest {}).await),
            controller.call(async |mut api| {
                api.list_backends(v1::ListBackendsRequest::default()).await
            }),
            controller.call(async |mut api| {
                api.list_certificates(v1::ListCertificatesRequest {}).await
            }),
        )
    };
    let (fleet, backends, certificates) = in_time(all).await??;
    Ok(Poll { fleet, backends, certificates })
}

/// The latest changes, newest first.
///
/// # Errors
/// Why the controller does not say.
pub async fn history(controller: &Controller) -> anyhow::Result<Vec<v1::Revision>> {
    let request = v1::HistoryRequest { limit: HISTORY, before: None };
    let history = controller.call(async |mut api| api.history(request).await);
    Ok(in_time(history).await??.revisions)
}

/// # Errors
/// Why the controller is lost.
async fn follow(
    remote: &Remote,
    interval: Duration,
    events: &Events,
) -> anyhow::Result<Infallible> {
    let controller = in_time(remote.connect()).await??;
    let _ = events.send(Ok(Event::Connected(controller.url()))).await;
    let (never, _) =
        tokio::try_join!(poll(&controller, interval, events), watch(&controller, events))?;
    Ok(never)
}

async fn poll(
    controller: &Controller,
    interval: Duration,
    events: &Events,
) -> anyhow::Result<Infallible> {
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let poll = look(controller).await?;
        let _ = events.send(Ok(Event::Polled(Box::new(poll)))).await;
    }
}

async fn watch(controller: &Controller, events: &Events) -> anyhow::Result<Infallible> {
    let watch = controller.call(async |mut api| api.watch(v1::WatchRequest {}).await);
    let mut stream = in_time(watch).await??;
    // After it began to watch, so that nothing is between the two.
    let _ = events.send(Ok(Event::History(history(controller).await?))).await;
    loop {
        match stream.message().await {
            Ok(Some(event)) => {
                let _ = events.send(Ok(Event::Happened(event))).await;
            }
            Ok(None) => anyhow::bail!("{} tells no more events", controller.url()),
            Err(status) => return Err(controller.refused(&status).into()),
        }
    }
}

/// # Errors
/// If it takes too long.
async fn in_time<T>(answer: impl Future<Output = T>) -> anyhow::Result<T> {
    let answer = time::timeout(PATIENCE, answer).await;
    answer.map_err(|_| anyhow::anyhow!("no answer within {PATIENCE:?}"))
}
