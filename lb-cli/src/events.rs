//! `lb events`: what happened lately, and what happens now.
//!
//! The controller keeps revisions, and of backends and proxies only how they are and since when. So
//! of the past there are all revisions, but of each backend and proxy only its latest change.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use futures_util::StreamExt;
use lb_proto::v1::{self, Health, event::Event as What};

use crate::{
    certificates::told,
    client::{
        Controller, Refused, Remote, changes,
        held::{checks, used_all_the_same},
        when,
    },
    history,
    output::{self, Output, Paint, Screen},
};

/// Show what happened lately, and with --follow what happens
///
/// Of the past there are revisions, and of each backend and each proxy its latest change: more is
/// not kept. From then on --follow shows everything, until Ctrl-C; if the controller goes away, it
/// waits for it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// Go on with what happens
    #[arg(long, short)]
    follow: bool,

    /// At most so many events of the past
    #[arg(long, short = 'n', value_name = "N", default_value = "20")]
    limit: u32,

    #[command(flatten)]
    output: Output,

    #[command(flatten)]
    remote: Remote,
}

const AFTER_HELP: &str = "\
Exit codes:
  0    shown
  1    failed
  2    wrong usage
  130  interrupted (Ctrl-C)

Examples:
  lb events
  lb events --follow
  lb events -f -n 0 --json | jq -c 'select(.event.health)'";

/// What has been told, to tell nothing twice: of whom, and when it was last. Events of different
/// subjects come in any order, those of one in that of their times.
#[derive(Default)]
struct Seen(BTreeMap<String, (i64, i32)>);

/// Between two tries to reach a controller that went away.
const RETRY: Duration = Duration::from_secs(1);

/// # Errors
/// If the controller cannot be reached at first.
pub async fn main(args: Args) -> anyhow::Result<ExitCode> {
    let Args { follow, limit, output, remote } = args;
    let screen = output.colors.screen();
    let show = |event: &v1::Event| {
        if output.json {
            output::json_line(event)
        } else {
            Ok(crate::try_print(&line(event, &screen)).is_ok())
        }
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut controller = remote.connect().await?;
    let mut seen = Seen::default();
    let mut first = true;
    loop {
        // Asked for before the past is, so that nothing falls between.
        let live = if follow { Some(watch(&controller).await) } else { None };
        let lost = match live.transpose() {
            Ok(live) => match past(&controller).await {
                Ok(mut past) => {
                    past.retain(|event| seen.is_new(event));
                    let skipped = if first { past.len().saturating_sub(limit) } else { 0 };
                    for event in &past[skipped..] {
                        if !show(event)? {
                            return Ok(ExitCode::SUCCESS);
                        }
                    }
                    let Some(mut live) = live else { return Ok(ExitCode::SUCCESS) };
                    first = false;
                    loop {
                        match live.next().await {
                            Some(Ok(event)) => {
                                // What was told as past already.
                                if seen.is_new(&event) && !show(&event)? {
                                    return Ok(ExitCode::SUCCESS);
                                }
                            }
                            Some(Err(status)) => break controller.refused(&status),
                            None => {
                                break controller.refused(&tonic::Status::unavailable(
                                    "the controller ended the stream",
                                ));
                            }
                        }
                    }
                }
                Err(refused) => refused,
            },
            Err(refused) => refused,
        };
        if first {
            return Err(lost.into());
        }
        crate::complain(&format!("{lost}; waiting for the controller"));
        controller = loop {
            tokio::time::sleep(RETRY).await;
            if let Ok(controller) = remote.connect().await {
                break controller;
            }
        };
    }
}

async fn watch(controller: &Controller) -> Result<tonic::Streaming<v1::Event>, Refused> {
    controller.call(async |mut api| api.watch(v1::WatchRequest {}).await).await
}

/// All that the controller still knows, oldest first.
async fn past(controller: &Controller) -> Result<Vec<v1::Event>, Refused> {
    const REVISIONS: u32 = 1_000;
    let proxies = v1::ListProxiesRequest {};
    let proxies = controller.call(async |mut api| api.list_proxies(proxies).await).await?;
    let backends = v1::ListBackendsRequest::default();
    let backends = controller.call(async |mut api| api.list_backends(backends).await).await?;
    let revisions = history::revisions(controller, REVISIONS, None).await?;

    let revisions = revisions
        .into_iter()
        .map(|revision| v1::Event { time: revision.time, event: Some(What::Revision(revision)) });
    let health = backends.backends.into_iter().filter(|b| b.health() != Health::Unknown);
    let health = health.map(|status| v1::Event {
        time: status.since,
        event: Some(What::Health(v1::HealthChanged {
            backend_set: status.backend_set,
            backend: status.backend,
            health: status.health,
            why: status.why,
            held: status.held,
        })),
    });
    let proxies = proxies.proxies.iter().flat_map(latest_of);
    let mut past: Vec<_> = revisions.chain(health).chain(proxies).collect();
    past.retain(|event| event.time.is_some());
    past.sort_by_key(stamp);
    Ok(past)
}

/// When it came or went, and what it applied since then.
fn latest_of(proxy: &v1::Proxy) -> Vec<v1::Event> {
    let event = |time, what: &str, reason: &str| v1::Event {
        time,
        event: Some(What::Proxy(v1::ProxyChanged {
            proxy_id: proxy.id.clone(),
            what: what.into(),
            epoch: proxy.epoch,
            version: proxy.version,
            hash: proxy.hash.clone(),
            reason: reason.into(),
        })),
    };
    if !proxy.connected {
        return vec![event(proxy.disconnected_since, "disconnected", "")];
    }
    let mut events = vec![event(proxy.connected_since, "connected", "")];
    if proxy.applied_at.is_some() {
        events.push(event(proxy.applied_at, "applied", ""));
    }
    events
}

fn stamp(event: &v1::Event) -> Option<(i64, i32)> {
    event.time.map(|time| (time.seconds, time.nanos))
}

/// `2026-11-22 02:04:38  health    app/127.0.0.1:3001 is unhealthy: connect refused`
fn line(event: &v1::Event, screen: &Screen) -> String {
    let (kind, paint, text) = match &event.event {
        Some(What::Revision(v1::Revision { revision, comment, changes, .. })) => {
            let comment = if comment.is_empty() { String::new() } else { format!("{comment}: ") };
            let changes = changes::short(changes);
            ("revision", Paint::Bold, format!("{revision} {comment}{changes}"))
        }
        Some(What::Health(health)) => {
            let v1::HealthChanged { backend_set, backend, why, held, .. } = health;
            let (word, paint) = match health.health() {
                Health::Healthy => ("healthy", Paint::Good),
                Health::Unhealthy => ("unhealthy", Paint::Bad),
                Health::Unknown | Health::Unspecified => ("not probed", Paint::Dim),
            };
            let why = if why.is_empty() { String::new() } else { format!(": {why}") };
            let held = used_all_the_same(held);
            ("health", paint, format!("{backend_set}/{backend} is {word}{why}{held}"))
        }
        Some(What::Checks(changed)) => {
            let paint = if changed.what == "held" { Paint::Bad } else { Paint::Good };
            ("health", paint, checks(changed))
        }
        Some(What::Proxy(v1::ProxyChanged { proxy_id, what, version, reason, .. })) => {
            let paint = match what.as_str() {
                "connected" | "applied" | "mended" => Paint::Good,
                _ => Paint::Bad,
            };
            let version = match what.as_str() {
                "applied" | "rejected" => format!(" version {version}"),
                _ => String::new(),
            };
            let what = match what.as_str() {
                "problems" => "runs not all of it",
                "mended" => "runs all of it again",
                what => what,
            };
            let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            ("proxy", paint, format!("{proxy_id} {what}{version}{reason}"))
        }
        Some(What::Certificate(changed)) => {
            let paint = if changed.what == "problem" { Paint::Bad } else { Paint::Good };
            ("cert", paint, told(changed))
        }
        Some(What::Missed(missed)) => {
            ("missed", Paint::Warn, format!("{missed} events, because this reads too slowly"))
        }
        None => ("unknown", Paint::Dim, "an event that this lb is too old for".into()),
    };
    // What goes on in the next line begins below the kind, because fields have long names.
    let text = screen.wrap(&text, 31, 23);
    let time = screen.paint(Paint::Dim, &when::exact(event.time.as_ref()));
    format!("{time}  {} {text}\n", screen.paint(paint, &format!("{kind:<9}")))
}

// === impl Seen ===

impl Seen {
    /// Notes it, and says whether it was told before.
    fn is_new(&mut self, event: &v1::Event) -> bool {
        let subject = match &event.event {
            Some(What::Revision(v1::Revision { revision, .. })) => format!("revision {revision}"),
            Some(What::Health(v1::HealthChanged { backend_set, backend, .. })) => {
                format!("backend {backend_set}/{backend}")
            }
            Some(What::Proxy(v1::ProxyChanged { proxy_id, what, .. })) => {
                format!("proxy {proxy_id} {what}")
            }
            // Nobody tells it twice.
            Some(What::Checks(_) | What::Certificate(_) | What::Missed(_)) | None => return true,
        };
        let Some(time) = stamp(event) else { return true };
        let before = self.0.insert(subject, time);
        before.is_none_or(|before| before < time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64, event: What) -> v1::Event {
        v1::Event { time: Some(prost_types::Timestamp { seconds, nanos: 0 }), event: Some(event) }
    }

    fn revision(seconds: i64, revision: u64) -> v1::Event {
        at(seconds, What::Revision(v1::Revision { revision, ..v1::Revision::default() }))
    }

    fn health(seconds: i64) -> v1::Event {
        let health = v1::HealthChanged {
            backend_set: "app".into(),
            backend: "one".into(),
            health: Health::Unhealthy.into(),
            why: "connect\nrefused".into(),
            held: String::new(),
        };
        at(seconds, What::Health(health))
    }

    #[test]
    fn an_event_is_one_line_and_on_a_terminal_as_many_as_it_needs() {
        let event = health(1_700_000_000);
        let line = |width| line(&event, &Screen { width, color: false });
        let expected = "2023-11-14 22:13:20  health    app/one is unhealthy: connect refused\n";
        assert_eq!(line(None), expected);
        let expected = format!(
            "2023-11-14 22:13:20  health    app/one is unhealthy: connect\n{}refused\n",
            " ".repeat(23)
        );
        assert_eq!(line(Some(60)), expected);
    }

    #[test]
    fn nothing_is_told_twice_and_nothing_is_left_out() {
        let mut seen = Seen::default();
        assert!(seen.is_new(&health(20)));
        assert!(!seen.is_new(&health(20)));
        assert!(seen.is_new(&revision(10, 3)), "older than what was told of something else");
        assert!(!seen.is_new(&revision(10, 3)));
        assert!(seen.is_new(&revision(10, 4)));
        assert!(seen.is_new(&health(21)));
    }
}
