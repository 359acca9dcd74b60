//! `lb explain`: what the fleet would do with a request or a connection, and why.

use std::{net::IpAddr, process::ExitCode, str::FromStr};

use lb_proto::v1::{self, explain_response::Outcome};

use crate::{
    client::Remote,
    output::{self, Output, Paint, Screen, cut, display_width},
    table::{Cell, Column, Table},
};

/// Say what the fleet would do with a request or a connection, and why
///
/// The controller answers it with the code that the proxies run. Nothing is sent anywhere.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// GET, POST, ..; TCP for a connection
    method: String,

    /// http://HOST:PORT/PATH, or only /PATH with a Host among the headers; of a connection,
    /// tls://HOST:PORT or tcp://HOST:PORT
    url: String,

    /// A header of the request; may be repeated
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    header: Vec<Header>,

    /// The client's address
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    from: IpAddr,

    /// What a client by TLS offers to speak, what it likes best first
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',')]
    alpn: Vec<String>,

    /// The listener that takes it [default: the one with the URL's port, or the only one of its kind]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    listener: String,

    #[command(flatten)]
    output: Output,

    #[command(flatten)]
    remote: Remote,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  explained, whatever would become of the request
  1  failed
  2  wrong usage

Examples:
  lb explain GET http://example.com/api/users
  lb explain POST /upload -H 'Host: example.com' -H 'X-User: 7' --from 10.1.2.3
  lb explain TCP tls://shop.example.com --alpn h2,http/1.1
  lb explain GET http://localhost:8080/ --json | jq -r '.outcome.forward.backend_sets[].pick'";

#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    name: String,
    value: String,
}

/// Of what is on the left.
const LABEL: usize = 10;
/// Longer names of routes are cut.
const MOST_NAME: usize = 24;

/// # Errors
/// If the controller does not say.
pub async fn main(args: Args) -> anyhow::Result<ExitCode> {
    let Args { method, url, header, from, listener, alpn, output, remote } = args;
    let request = v1::ExplainRequest {
        method,
        url,
        headers: header
            .into_iter()
            .map(|Header { name, value }| v1::Header { name, value })
            .collect(),
        from: from.to_string(),
        listener,
        alpn,
    };
    let controller = remote.connect().await?;
    let asked = request.clone();
    let answer = controller.call(async |mut api| api.explain(asked).await).await?;
    if output.json {
        output::json(&answer)?;
    } else {
        crate::print(&render(&request, &answer, &output.colors.screen()));
    }
    Ok(ExitCode::SUCCESS)
}

fn render(request: &v1::ExplainRequest, answer: &v1::ExplainResponse, screen: &Screen) -> String {
    let v1::ExplainResponse {
        version,
        revision,
        listener,
        listener_why,
        client,
        routes,
        outcome,
        elsewhere,
        ..
    } = answer;
    let v1::ExplainRequest { method, url, from, .. } = request;
    let mut text = labelled("request", &format!("{method} {url} from {from}"), screen);
    text.push_str(&labelled(
        "asked of",
        &format!("revision {revision} (version {version})"),
        screen,
    ));
    for v1::Elsewhere { proxy_id, revision, why } in elsewhere {
        let runs = match *revision {
            0 => "runs something else".into(),
            own if own == answer.revision => "does not run all of it".into(),
            own => format!("runs revision {own}"),
        };
        let why = if why.is_empty() { "it has not answered yet" } else { why };
        let told = labelled("but", &format!("{proxy_id} {runs}: {why}"), screen);
        text.push_str(&screen.paint(Paint::Warn, told.trim_end()));
        text.push('\n');
    }
    if !listener.is_empty() || !listener_why.is_empty() {
        let why = if listener_why.is_empty() { String::new() } else { format!(": {listener_why}") };
        let listener = if listener.is_empty() { "none" } else { listener };
        text.push_str(&labelled("listener", &format!("{listener}{why}"), screen));
    }
    if !(client.is_empty() || client == from) {
        let taken = format!("{client}, whom {from} has passed on and is trusted to");
        text.push_str(&labelled("client", &taken, screen));
    }
    text.push_str(&verdicts(routes, screen));
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    let is_connection = ["tls", "tcp"].iter().any(|name| scheme.eq_ignore_ascii_case(name));
    match outcome {
        Some(Outcome::Forward(forward)) => {
            for set in &forward.backend_sets {
                text.push('\n');
                text.push_str(&backend_set(set, is_connection, screen));
            }
        }
        Some(Outcome::Redirect(v1::RedirectOutcome { status, location })) => {
            text.push_str(&labelled("redirect", &format!("{status} to {location}"), screen));
        }
        Some(Outcome::Answer(v1::AnswerOutcome { status, body })) => {
            let body = if body.is_empty() { "no body".into() } else { format!("{body:?}") };
            text.push_str(&labelled("answer", &format!("{status}, {body}"), screen));
        }
        Some(Outcome::Refusal(v1::RefusalOutcome { status, reason })) => {
            let what = match status {
                // Nobody is answered.
                0 => reason.clone(),
                status => format!("{status}: {reason}"),
            };
            let refused = labelled("refused", &what, screen);
            text.push_str(&screen.paint(Paint::Bad, refused.trim_end()));
            text.push('\n');
        }
        None => text.push_str(&labelled("outcome", "one that this lb is too old for", screen)),
    }
    text
}

/// Which one takes it, which would, and why the others do not.
fn verdicts(routes: &[v1::RouteVerdict], screen: &Screen) -> String {
    let mut text = String::new();
    let name_width = routes
        .iter()
        .map(|verdict| display_width(&verdict.route))
        .max()
        .unwrap_or(0)
        .min(MOST_NAME);
    for (i, v1::RouteVerdict { route, chosen, matches, why }) in routes.iter().enumerate() {
        let (word, paint) = match (chosen, matches) {
            (true, _) => ("takes it", Paint::Good),
            (_, true) => ("would", Paint::Warn),
            _ => ("no", Paint::Dim),
        };
        let label = if i == 0 { "routes" } else { "" };
        let name = cut(&output::one_line(route), name_width);
        let fill = " ".repeat(name_width - display_width(&name));
        let indent = LABEL + name_width + 2 + 8 + 2;
        let name = if *chosen { screen.paint(Paint::Bold, &name) } else { name };
        let line = format!(
            "{label:<LABEL$}{name}{fill}  {}  {}",
            screen.paint(paint, &format!("{word:<8}")),
            screen.wrap(why, indent, indent)
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn backend_set(set: &v1::BackendSetVerdict, is_connection: bool, screen: &Screen) -> String {
    let v1::BackendSetVerdict {
        backend_set,
        share,
        balance,
        hash_key,
        hash_value,
        pick,
        why,
        backends,
        scheme,
    } = set;
    let mut facts = vec![match scheme.as_str() {
        "https" if is_connection => format!("{backend_set} by TLS"),
        "https" => format!("{backend_set} by https"),
        _ => backend_set.clone(),
    }];
    if *share < 1.0 {
        let what = if is_connection { "connections" } else { "requests" };
        facts.push(format!("{} of such {what}", percent(*share)));
    }
    facts.push(match hash_key.as_str() {
        "" => balance.clone(),
        key => format!("{balance} of {key} = {hash_value:?}"),
    });
    let mut text = labelled("forward", &facts.join(", "), screen);
    let pick_why = match (pick.as_str(), why.as_str()) {
        // Then the reason says it all: any of several, or none.
        ("", why) => why.to_owned(),
        (pick, "") => pick.to_owned(),
        (pick, why) => format!("{pick}: {why}"),
    };
    text.push_str(&labelled("pick", &pick_why, screen));
    let mut table = Table::new(vec![
        Column::left("BACKEND").cut_to(15),
        Column::left("ADDRESS").dropped(2),
        Column::right("WEIGHT"),
        Column::right("IN FLIGHT").dropped(1),
        Column::left("MAY"),
        Column::left("WHY").wrapped_at(16),
    ]);
    for verdict in backends {
        let v1::BackendVerdict { backend, address, weight, eligible, why, ejected_by, in_flight } =
            verdict;
        let ejected = match ejected_by.as_slice() {
            [] => String::new(),
            proxies => format!("failed at {}, which keeps it out for a while", proxies.join(", ")),
        };
        let why = [why.as_str(), &ejected].into_iter().filter(|text| !text.is_empty());
        let may = match (backend == pick, eligible) {
            (true, _) => Cell::painted("picked", Paint::Good),
            (_, true) if !ejected_by.is_empty() => {
                Cell::painted(format!("not at {}", ejected_by.join(", ")), Paint::Warn)
            }
            (_, true) => Cell::painted("yes", Paint::Good),
            _ => Cell::painted("no", Paint::Bad),
        };
        table.row(vec![
            (&**backend).into(),
            if address == backend { "".into() } else { (&**address).into() },
            weight.to_string().into(),
            in_flight.to_string().into(),
            may,
            why.collect::<Vec<_>>().join("; ").into(),
        ]);
    }
    let narrow = Screen { width: screen.width.map(|width| width.saturating_sub(LABEL)), ..*screen };
    for line in table.render(&narrow).lines() {
        text.push_str(&format!("{:<LABEL$}{line}\n", ""));
    }
    text
}

fn labelled(label: &str, text: &str, screen: &Screen) -> String {
    format!("{label:<LABEL$}{}\n", screen.wrap(text, LABEL, LABEL))
}

fn percent(share: f64) -> String {
    let text = format!("{:.1}", share * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

// === impl Header ===

impl FromStr for Header {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = "give a name and a value, 'X-User: 7'";
        let (name, value) = text.split_once(':').ok_or(hint)?;
        let name: http::HeaderName = name.trim().parse().map_err(|_| hint)?;
        Ok(Self { name: name.as_str().into(), value: value.trim().into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(route: &str, chosen: bool, matches: bool, why: &str) -> v1::RouteVerdict {
        v1::RouteVerdict { route: route.into(), chosen, matches, why: why.into() }
    }

    #[test]
    fn it_reads_as_a_story_from_listener_to_backend() {
        let request = v1::ExplainRequest {
            method: "GET".into(),
            url: "http://example.com/api".into(),
            from: "127.0.0.1".into(),
            ..v1::ExplainRequest::default()
        };
        let backend = |address: &str, eligible, why: &str| v1::BackendVerdict {
            backend: address.into(),
            address: address.into(),
            weight: 1,
            eligible,
            why: why.into(),
            ..v1::BackendVerdict::default()
        };
        let answer = v1::ExplainResponse {
            epoch: 1,
            version: 7,
            revision: 3,
            listener: "web".into(),
            listener_why: "the only http listener".into(),
            client: "192.0.2.7".into(),
            routes: vec![
                verdict("canary", false, false, "headers: there is no x-canary, and it wants any"),
                verdict("app", true, true, "path_prefix: /api begins with /"),
                verdict("all", false, true, "less specific than app"),
            ],
            outcome: Some(Outcome::Forward(v1::ForwardOutcome {
                backend_sets: vec![v1::BackendSetVerdict {
                    backend_set: "app".into(),
                    share: 0.9,
                    balance: "consistent_hash".into(),
                    hash_key: "header:x-user".into(),
                    hash_value: "7".into(),
                    pick: "127.0.0.1:3001".into(),
                    why: "it is the first in rank for this hash".into(),
                    backends: vec![
                        backend("127.0.0.1:3001", true, ""),
                        backend("127.0.0.1:3002", false, "draining"),
                    ],
                    scheme: "https".into(),
                }],
            })),
            elsewhere: vec![v1::Elsewhere {
                proxy_id: "p3".into(),
                revision: 2,
                why: "refused revision 3: too odd".into(),
            }],
            ..v1::ExplainResponse::default()
        };
        let screen = Screen { width: Some(60), color: false };
        assert_eq!(
            render(&request, &answer, &screen),
            "\
request   GET http://example.com/api from 127.0.0.1
asked of  revision 3 (version 7)
but       p3 runs revision 2: refused revision 3: too odd
listener  web: the only http listener
client    192.0.2.7, whom 127.0.0.1 has passed on and is
          trusted to
routes    canary  no        headers: there is no x-canary,
                            and it wants any
          app     takes it  path_prefix: /api begins with /
          all     would     less specific than app

forward   app by https, 90% of such requests,
          consistent_hash of header:x-user = \"7\"
pick      127.0.0.1:3001: it is the first in rank for this
          hash
          BACKEND         WEIGHT  MAY     WHY
          127.0.0.1:3001       1  picked
          127.0.0.1:3002       1  no      draining
"
        );
    }

    #[test]
    fn a_header_is_a_name_and_a_value() {
        let of = |text: &str| text.parse::<Header>().map(|h| (h.name, h.value));
        assert_eq!(of("X-User: a: b "), Ok(("x-user".into(), "a: b".into())));
        assert_eq!(of("X-Empty:"), Ok(("x-empty".into(), String::new())));
        assert!(of("X-User").is_err() && of(": x").is_err() && of("a b: x").is_err());
    }
}
