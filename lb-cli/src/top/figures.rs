//! What the controller has said so far.

use std::{collections::VecDeque, time::Duration};

use lb_proto::v1::{self, event::Event as Happened};

use super::theme::Tone;
use crate::{
    certificates::told,
    client::{
        held::{checks, used_all_the_same},
        when::{self, since_epoch},
    },
    output::count,
};

/// One look at all of the fleet.
#[derive(Clone, Debug, Default)]
pub struct Poll {
    pub fleet: v1::ListProxiesResponse,
    pub backends: v1::ListBackendsResponse,
    pub certificates: v1::ListCertificatesResponse,
}

#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// The latest look; `None` before the first.
    pub poll: Option<Poll>,
    /// Requests a second, the latest last; `None` where the controller did not answer.
    pub rates: VecDeque<Option<f64>>,
    /// The newest first.
    pub news: VecDeque<News>,
    /// Of the next piece of news.
    serial: u64,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub struct News {
    pub serial: u64,
    /// Since the Unix epoch.
    pub time: Duration,
    pub text: String,
    pub detail: String,
    pub tone: Tone,
    what: What,
}

/// What later news may have to do with.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Revision(u64),
    /// These proxies run a version.
    Applied {
        version: (u64, u64),
        proxies: Vec<String>,
    },
    Other,
}

const KEPT_RATES: usize = 600;
const KEPT_NEWS: usize = 500;

// === impl Figures ===

impl Figures {
    pub fn polled(&mut self, poll: Poll) {
        self.rate(poll.fleet.load.as_ref().map(|load| load.requests_per_second));
        self.poll = Some(poll);
    }

    /// A look that failed.
    pub fn missed(&mut self) {
        self.rate(None);
    }

    fn rate(&mut self, rate: Option<f64>) {
        if self.rates.len() == KEPT_RATES {
            self.rates.pop_front();
        }
        self.rates.push_back(rate);
    }

    /// Changes that were accepted before, newest first. What is known already is left out.
    pub fn revisions(&mut self, revisions: Vec<v1::Revision>) {
        for revision in revisions.into_iter().rev() {
            let time = revision.time;
            self.happened(v1::Event { time, event: Some(Happened::Revision(revision)) });
        }
    }

    pub fn happened(&mut self, event: v1::Event) {
        let time = event.time.as_ref().map(since_epoch).unwrap_or_default();
        let Some(event) = event.event else { return };
        let Some(mut news) = News::new(time, event) else { return };
        match &mut news.what {
            What::Revision(number) => {
                let same = What::Revision(*number);
                if self.news.iter().any(|known| known.what == same) {
                    return;
                }
            }
            // A hundred proxies that apply a version are one line, not a hundred.
            What::Applied { version, proxies } => {
                if let Some(latest) = self.news.front_mut()
                    && let What::Applied { version: same, proxies: already } = &mut latest.what
                    && same == version
                {
                    already.retain(|proxy| !proxies.contains(proxy));
                    already.append(proxies);
                    (latest.text, latest.detail) = applied(*version, already);
                    latest.time = time;
                    return;
                }
            }
            What::Other => {}
        }
        news.serial = self.serial;
        self.serial += 1;
        self.news.truncate(KEPT_NEWS - 1);
        // What happened while nobody watched is told late.
        let at = self.news.iter().position(|known| known.time <= time);
        self.news.insert(at.unwrap_or(self.news.len()), news);
    }
}

// === impl News ===

impl News {
    /// `None` for kinds that this version does not know.
    fn new(time: Duration, event: Happened) -> Option<Self> {
        let (text, detail, tone, what) = match event {
            Happened::Revision(revision) => {
                let v1::Revision { revision: number, comment, changes, .. } = &revision;
                let count = count(changes.len(), "change");
                let text = match comment.as_str() {
                    "" => format!("revision {number}: {count}"),
                    comment => format!("revision {number}: {comment} ({count})"),
                };
                let changes: Vec<_> = changes.iter().map(change).collect();
                let detail = format!("{text}: {}", changes.join(", "));
                (text, detail, Tone::Plain, What::Revision(*number))
            }
            Happened::Health(v1::HealthChanged { backend_set, backend, health, why, held }) => {
                let (word, tone) = match v1::Health::try_from(health).unwrap_or_default() {
                    v1::Health::Healthy => ("healthy", Tone::Good),
                    v1::Health::Unhealthy => ("unhealthy", Tone::Bad),
                    v1::Health::Unknown | v1::Health::Unspecified => ("unknown", Tone::Plain),
                };
                let held = used_all_the_same(&held);
                let text = format!("{backend_set}/{backend} is {word}: {why}{held}");
                (text.clone(), text, tone, What::Other)
            }
            Happened::Checks(changed) => {
                let text = checks(&changed);
                let tone = if changed.what == "held" { Tone::Bad } else { Tone::Good };
                (text.clone(), text, tone, What::Other)
            }
            Happened::Proxy(v1::ProxyChanged {
                proxy_id, what, epoch, version, reason, ..
            }) => {
                let version = (epoch, version);
                if what == "applied" {
                    let proxies = vec![proxy_id];
                    let (text, detail) = applied(version, &proxies);
                    (text, detail, Tone::Plain, What::Applied { version, proxies })
                } else {
                    let tone = match what.as_str() {
                        "rejected" | "problems" => Tone::Bad,
                        "disconnected" => Tone::Warning,
                        _ => Tone::Plain,
                    };
                    let of = match what.as_str() {
                        "rejected" => format!(" version {}", version.1),
                        _ => String::new(),
                    };
                    let what = match what.as_str() {
                        "problems" => "runs not all of it",
                        "mended" => "runs all of it again",
                        what => what,
                    };
                    let why = if reason.is_empty() { reason } else { format!(": {reason}") };
                    let text = format!("proxy {proxy_id} {what}{of}{why}");
                    (text.clone(), text, tone, What::Other)
                }
            }
            Happened::Certificate(changed) => {
                let text = told(&changed);
                let tone = if changed.what == "problem" { Tone::Bad } else { Tone::Good };
                (text.clone(), text, tone, What::Other)
            }
            Happened::Missed(missed) => {
                let text = format!("{missed} events were left out: they came too fast");
                (text.clone(), text, Tone::Warning, What::Other)
            }
        };
        Some(Self { serial: 0, time, text, detail, tone, what })
    }
}

/// In short, and in full.
fn applied((epoch, version): (u64, u64), proxies: &[String]) -> (String, String) {
    let all = proxies.join(", ");
    let what = format!("applied version {version}");
    let text = match proxies {
        [proxy] => format!("proxy {proxy} {what}"),
        [..] if proxies.len() <= 4 => format!("proxies {all} {what}"),
        [..] => format!("{} proxies {what}", proxies.len()),
    };
    (text, format!("{what} of epoch {epoch}: {all}"))
}

fn change(change: &v1::Change) -> String {
    let v1::Change { field, before, after, .. } = change;
    match change.kind() {
        v1::change::Kind::Added => format!("+{field}"),
        v1::change::Kind::Removed => format!("-{field}"),
        v1::change::Kind::Changed | v1::change::Kind::Unspecified => {
            format!("{field}: {before} -> {after}")
        }
    }
}

/// How long ago that was, as text. `None` if nobody knows.
pub fn ago(time: Option<&prost_types::Timestamp>, now: Duration) -> Option<String> {
    // The controller's clock may be ahead of ours.
    time.map(|time| when::short(now.saturating_sub(since_epoch(time))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64, event: Happened) -> v1::Event {
        let time = Some(prost_types::Timestamp { seconds, nanos: 0 });
        v1::Event { time, event: Some(event) }
    }

    fn proxy(id: &str, what: &str, version: u64) -> Happened {
        Happened::Proxy(v1::ProxyChanged {
            proxy_id: id.into(),
            what: what.into(),
            epoch: 1,
            version,
            ..v1::ProxyChanged::default()
        })
    }

    fn revision(number: u64, seconds: i64) -> v1::Revision {
        v1::Revision {
            revision: number,
            time: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            comment: "more".into(),
            author: "ann".into(),
            changes: vec![v1::Change::default()],
        }
    }

    fn texts(figures: &Figures) -> Vec<&str> {
        figures.news.iter().map(|news| news.text.as_str()).collect()
    }

    #[test]
    fn proxies_that_apply_one_version_are_one_piece_of_news() {
        let mut figures = Figures::default();
        for id in ["p1", "p2", "p1"] {
            figures.happened(at(1, proxy(id, "applied", 7)));
        }
        assert_eq!(texts(&figures), ["proxies p2, p1 applied version 7"]);
        figures.happened(at(2, proxy("p1", "applied", 8)));
        for id in ["p2", "p3", "p4", "p5"] {
            figures.happened(at(3, proxy(id, "applied", 8)));
        }
        assert_eq!(
            texts(&figures),
            ["5 proxies applied version 8", "proxies p2, p1 applied version 7"]
        );
        assert_eq!(figures.news[0].detail, "applied version 8 of epoch 1: p1, p2, p3, p4, p5");
        assert_eq!(figures.news[0].time, Duration::from_secs(3));
    }

    #[test]
    fn history_and_events_say_each_revision_once_in_the_order_of_time() {
        let mut figures = Figures::default();
        figures.happened(at(30, Happened::Revision(revision(3, 30))));
        figures.happened(at(31, proxy("p1", "disconnected", 0)));
        figures.revisions(vec![revision(3, 30), revision(2, 20), revision(1, 10)]);
        let expected = [
            "proxy p1 disconnected",
            "revision 3: more (1 change)",
            "revision 2: more (1 change)",
            "revision 1: more (1 change)",
        ];
        assert_eq!(texts(&figures), expected);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut figures = Figures::default();
        for i in 0..2_000 {
            figures.happened(at(i, proxy("p1", "connected", 0)));
            figures.missed();
        }
        assert_eq!((figures.news.len(), figures.rates.len()), (KEPT_NEWS, KEPT_RATES));
        assert_eq!(figures.news[0].time, Duration::from_secs(1_999), "the newest are kept");
    }
}
