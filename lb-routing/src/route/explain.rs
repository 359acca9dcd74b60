//! Why each route does or does not take a request.
//!
//! What is chosen comes out of the walk and the predicates of [`Routes::find`] themselves. That a
//! walk does not lead to a route is told by its host and path, because the walk has no reason to
//! give.

use std::{borrow::Cow, fmt, net::IpAddr, ptr, sync::Arc};

use http::{HeaderName, HeaderValue, Method};
use lb_common::{
    network::Networks,
    spec::{self, HostMatch, PathMatch, RouteMatch},
};

use super::{
    Candidate, Candidates, Host, Key, Path, Routes, Subject, Trie, takes, takes_header,
    takes_method,
};
use crate::field;

/// How much of a request's text a reason quotes, in bytes.
const MOST_QUOTED: usize = 100;

/// What a route is to a request.
#[derive(Debug)]
pub struct Verdict<'a, R> {
    pub route: &'a Arc<spec::Route>,
    pub found: &'a R,
    pub standing: Standing<'a>,
}

#[derive(Debug)]
pub enum Standing<'a> {
    /// What [`Routes::find`] finds.
    Chosen,
    /// It would be found if no more specific one were.
    Surpassed,
    /// All conditions that do not hold; at least one.
    Mismatched(Vec<Mismatch<'a>>),
}

/// A condition that does not hold.
#[derive(Debug)]
pub enum Mismatch<'a> {
    Host {
        host: String,
        wanted: &'a HostMatch,
    },
    Path {
        path: Cow<'a, str>,
        wanted: &'a PathMatch,
    },
    Method {
        method: Cow<'a, str>,
        wanted: &'a Method,
    },
    /// As the client wants it; `None` if it says none.
    ServerName {
        name: Option<String>,
        wanted: &'a HostMatch,
    },
    Protocol {
        offered: Vec<String>,
        wanted: &'a str,
    },
    From {
        client: IpAddr,
        wanted: &'a Networks,
    },
    NotFrom {
        client: IpAddr,
        unwanted: &'a Networks,
    },
    Header {
        given: Vec<Cow<'a, str>>,
        name: &'a HeaderName,
        wanted: Option<&'a HeaderValue>,
    },
}

/// Not more of a text than a reader wants to see.
struct Quoted<'a>(&'a str);

/// As it is spelled.
struct Wanted<'a>(&'a HostMatch);

// === impl Routes ===

impl<R> Routes<R> {
    /// A verdict on every route, in the order in which they are preferred.
    pub fn explain<'a>(&'a self, subject: &Subject<'a>) -> Vec<Verdict<'a, R>> {
        let mut reached: Vec<&Candidate<R>> = Vec::new();
        let _: Option<()> = self.walk(subject, |candidates| {
            reached.extend(&candidates.0);
            None
        });
        reached.retain(|candidate| takes(&candidate.spec.matches, subject));
        let standing = |candidate: &'a Candidate<R>| match reached
            .iter()
            .position(|taker| ptr::eq(*taker, candidate))
        {
            Some(0) => Standing::Chosen,
            Some(_) => Standing::Surpassed,
            None => Standing::Mismatched(candidate.mismatches(subject)),
        };
        let mut all: Vec<_> = self.candidates().collect();
        all.sort_by(|a, b| a.rank().cmp(&b.rank()));
        all.into_iter()
            .map(|candidate| Verdict {
                route: &candidate.spec,
                found: &candidate.found,
                standing: standing(candidate),
            })
            .collect()
    }

    fn candidates(&self) -> impl Iterator<Item = &Candidate<R>> {
        let alike = self.hosts.values().flat_map(Trie::values);
        alike.flat_map(|Candidates(candidates)| candidates)
    }
}

impl<R> Candidate<R> {
    fn mismatches<'a>(&'a self, subject: &Subject<'a>) -> Vec<Mismatch<'a>> {
        let matches = &self.spec.matches;
        let mut mismatches = Vec::new();
        let host = Host::of(subject.host);
        if !takes_host(&matches.host, &host) {
            mismatches.push(Mismatch::Host { host: host.to_lower(), wanted: &matches.host });
        }
        if !takes_path(self.path(), &Path(subject.path)) {
            let path = String::from_utf8_lossy(subject.path);
            mismatches.push(Mismatch::Path { path, wanted: self.path() });
        }
        let method = subject.request.method_text();
        if let Some(wanted) = &matches.method
            && !takes_method(matches, method)
        {
            let method = String::from_utf8_lossy(method);
            mismatches.push(Mismatch::Method { method, wanted });
        }
        let missed = matches.headers.iter().filter(|header| !takes_header(header, subject.request));
        mismatches.extend(missed.map(|(name, wanted)| Mismatch::Header {
            given: field::values(subject.request, name).map(String::from_utf8_lossy).collect(),
            name,
            wanted: wanted.as_ref(),
        }));
        mismatches.extend(mismatches_of_from(matches, subject.from));
        mismatches
    }
}

/// What does not hold of where a client is.
pub(super) fn mismatches_of_from(
    matches: &RouteMatch,
    client: IpAddr,
) -> impl Iterator<Item = Mismatch<'_>> {
    let RouteMatch { from, not_from, .. } = matches;
    let is_outside = !(from.is_empty() || from.contains(client));
    let outside = is_outside.then_some(Mismatch::From { client, wanted: from });
    let unwanted = not_from.contains(client);
    let unwanted = unwanted.then_some(Mismatch::NotFrom { client, unwanted: not_from });
    outside.into_iter().chain(unwanted)
}

/// Whether the walk for this host would come by.
pub(super) fn takes_host(wanted: &HostMatch, host: &Host<'_>) -> bool {
    let ends_with = |text: &str| {
        let from_end: Vec<u8> = text.bytes().rev().collect();
        host.goes_on_with(0, &from_end)
    };
    match wanted {
        HostMatch::Any => true,
        HostMatch::Wildcard(suffix) => ends_with(suffix) && host.is_taken_at(suffix.len()),
        HostMatch::Exact(wanted) => ends_with(wanted) && host.len() == wanted.len(),
    }
}

/// Whether the walk for this path would come by.
fn takes_path(wanted: &PathMatch, path: &Path<'_>) -> bool {
    match wanted {
        PathMatch::Any => true,
        PathMatch::Exact(wanted) => path.0 == wanted.as_bytes(),
        PathMatch::Prefix(prefix) => {
            path.goes_on_with(0, prefix.as_bytes()) && path.is_taken_at(prefix.len())
        }
    }
}

// === impl Mismatch ===

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { host, wanted } => {
                write!(f, "host: {} is not {}", Quoted(host), Wanted(wanted))
            }
            Self::ServerName { name: Some(name), wanted } => {
                write!(f, "sni: {} is not {}", Quoted(name), Wanted(wanted))
            }
            Self::ServerName { name: None, wanted } => {
                write!(f, "sni: the client names no server, and {} is wanted", Wanted(wanted))
            }
            Self::Protocol { offered, wanted } if offered.is_empty() => {
                write!(f, "alpn: the client offers nothing, and {wanted} is wanted")
            }
            Self::Protocol { offered, wanted } => {
                write!(f, "alpn: {} is not {wanted}", Quoted(&offered.join(", ")))
            }
            Self::Path { path, wanted } => {
                let quoted = Quoted(path);
                match wanted {
                    PathMatch::Exact(wanted) => write!(f, "path: {quoted} is not {wanted}"),
                    PathMatch::Prefix(prefix) if path.starts_with(prefix.as_str()) => {
                        write!(f, "path_prefix: {quoted} goes on after {prefix} without a slash")
                    }
                    PathMatch::Prefix(prefix) => {
                        write!(f, "path_prefix: {quoted} does not begin with {prefix}")
                    }
                    PathMatch::Any => write!(f, "path: {quoted} is not any"),
                }
            }
            Self::Method { method, wanted } => {
                write!(f, "method: {} is not {wanted}", Quoted(method))
            }
            Self::From { client, wanted } => {
                write!(f, "from: {client} is not in {}", Quoted(&wanted.to_string()))
            }
            Self::NotFrom { client, unwanted } => {
                write!(f, "not_from: {client} is in {}", Quoted(&unwanted.to_string()))
            }
            Self::Header { given, name, .. } if given.is_empty() => {
                write!(f, "headers: {name} is missing")
            }
            Self::Header { given, name, wanted } => {
                write!(f, "headers: {name} is ")?;
                for (i, value) in given.iter().enumerate() {
                    write!(f, "{}\"{}\"", if i == 0 { "" } else { ", " }, Quoted(value))?;
                }
                match wanted.map(|wanted| String::from_utf8_lossy(wanted.as_bytes())) {
                    Some(wanted) => write!(f, ", not \"{wanted}\""),
                    None => f.write_str(", not any"),
                }
            }
        }
    }
}

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            HostMatch::Exact(wanted) => f.write_str(wanted),
            HostMatch::Wildcard(suffix) => write!(f, "*{suffix}"),
            HostMatch::Any => f.write_str("any"),
        }
    }
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(text) = self;
        if text.len() <= MOST_QUOTED {
            return f.write_str(text);
        }
        write!(f, "{}...", &text[..text.floor_char_boundary(MOST_QUOTED)])
    }
}

#[cfg(test)]
mod tests {
    use lb_common::spec::PathNormalization::{Match, Off};

    use super::*;
    use crate::fixture;

    fn routes(normalization: spec::PathNormalization, toml: &str) -> Routes<String> {
        let state = fixture::desired(toml);
        let routes = state.routes.values();
        Routes::new(normalization, routes.map(|route| (Arc::clone(route), route.name.to_string())))
    }

    /// A random match of few enough words that many requests meet it.
    fn random_match(rng: &mut fastrand::Rng) -> String {
        let hosts = ["", "", "*.test", "*.b.test", "a.test", "a.b.test", "c.a.b.test"];
        let paths = ["/a", "/a/b", "/a/b/c", "/ab", "/a/"];
        let mut parts = vec![format!("host = '{}'", hosts[rng.usize(..hosts.len())])];
        let path = paths[rng.usize(..paths.len())];
        parts.extend(match rng.u8(..4) {
            0 => None,
            1 => Some(format!("path = '{path}'")),
            _ => Some(format!("path_prefix = '{path}'")),
        });
        if rng.u8(..4) == 0 {
            parts.push(format!("method = '{}'", ["GET", "POST"][rng.usize(..2)]));
        }
        if rng.u8(..3) == 0 {
            let headers = ["x-a = '1'", "x-a = '*'", "x-b = '2'", "x-a = '1', x-b = '*'"];
            parts.push(format!("headers = {{ {} }}", headers[rng.usize(..headers.len())]));
        }
        if rng.u8(..4) == 0 {
            let from = ["from", "not_from"][rng.usize(..2)];
            parts.push(format!("{from} = ['10.0.0.{}']", rng.u8(..2)));
        }
        parts.join(", ")
    }

    fn random_fields(rng: &mut fastrand::Rng) -> Vec<String> {
        let mut fields = Vec::new();
        for name in ["x-a", "x-b"] {
            fields.extend((0..rng.u8(..3)).map(|_| format!("{name}: {}", rng.u8(1..4))));
        }
        fields
    }

    #[test]
    fn what_is_explained_is_what_is_found_for_any_request() {
        let hosts = ["a.test", "A.B.Test:80", "c.a.b.test", "x.test", "test", "b.test.", ".test"];
        let paths =
            ["/", "/a", "/a/", "//a/x/../%62", "/a/b/", "/a/bc", "/a/b/c", "/ab", "/abc/d", "*"];
        let mut outcomes = [0; 3];
        for seed in 0..40 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let toml: String = (0..30)
                .map(|i| {
                    let matches = random_match(&mut rng);
                    format!(
                        "[[routes]]\nname = 'r{i}'\nmatch = {{ {matches} }}\n\
                         answer = {{ status = 200 }}\n"
                    )
                })
                .collect();
            let normalization = if seed % 4 == 0 { Off } else { Match };
            let routes = routes(normalization, &toml);
            for _ in 0..250 {
                let path = paths[rng.usize(..paths.len())];
                let method = ["GET", "POST", "PUT"][rng.usize(..3)];
                let method = if path == "*" { "OPTIONS" } else { method };
                let mut fields = random_fields(&mut rng);
                fields.push(format!("host: {}", hosts[rng.usize(..hosts.len())]));
                let fields: Vec<_> = fields.iter().map(String::as_str).collect();
                let request = fixture::request(&format!("{method} {path} HTTP/1.1"), &fields);
                let mut scratch = Vec::new();
                let from = [10, 0, 0, rng.u8(..2)].into();
                let subject = Subject::of(&request, from, normalization, &mut scratch);
                let verdicts = routes.explain(&subject);
                assert_eq!(verdicts.len(), 30, "seed {seed}: {subject:?}");

                // The first one of the preferred that match, and the only one that is chosen.
                let matching: Vec<_> = verdicts
                    .iter()
                    .filter(|verdict| !matches!(verdict.standing, Standing::Mismatched(_)))
                    .collect();
                let first = matching.first().map(|verdict| verdict.found);
                let chosen: Vec<_> = verdicts
                    .iter()
                    .filter(|verdict| matches!(verdict.standing, Standing::Chosen))
                    .map(|verdict| verdict.found)
                    .collect();
                let found = routes.find(&subject);
                assert_eq!(first, found, "seed {seed}: {subject:?} {verdicts:#?}");
                assert_eq!(chosen, Vec::from_iter(found), "seed {seed}: {subject:?}");
                // What does not match has a reason, and what matches has none.
                for verdict in &verdicts {
                    let candidate = routes.candidates().find(|c| ptr::eq(&c.found, verdict.found));
                    let reasons = candidate.expect("all are there").mismatches(&subject);
                    let mismatched = matches!(verdict.standing, Standing::Mismatched(_));
                    assert_eq!(mismatched, !reasons.is_empty(), "seed {seed}: {subject:?}");
                }
                outcomes[matching.len().min(2)] += 1;
            }
        }
        assert!(outcomes.iter().all(|count| *count > 300), "none, one, several: {outcomes:?}");
    }

    #[test]
    fn each_condition_that_fails_is_told_with_what_was_given_and_what_is_wanted() {
        let long = format!("/{}", "x".repeat(200));
        #[rustfmt::skip]
        let cases = [
            ("host = 'b.test'",                "/other", "host: a.test is not b.test"),
            ("host = '*.b.test'",              "/other", "host: a.test is not *.b.test"),
            ("path = '/api'",                  "/other", "path: /other is not /api"),
            ("path_prefix = '/api'",           "/other", "path_prefix: /other does not begin with /api"),
            ("path_prefix = '/api'",           "/apix",  "path_prefix: /apix goes on after /api without a slash"),
            ("method = 'POST'",                "/other", "method: GET is not POST"),
            ("headers = { x-b = '*' }",        "/other", "headers: x-b is missing"),
            ("headers = { x-a = '3' }",        "/other", "headers: x-a is \"1\", \"2\", not \"3\""),
            ("from = ['::1', '10.0.0.0/8']",   "/other", "from: 192.0.2.1 is not in ::1, 10.0.0.0/8"),
            ("not_from = ['192.0.2.0/24']",    "/other", "not_from: 192.0.2.1 is in 192.0.2.0/24"),
            ("host = 'b.test', method = 'PUT'", "/other", "host: a.test is not b.test; method: GET is not PUT"),
        ];
        for (matches, path, expected) in cases {
            let toml = format!(
                "[[routes]]\nname = 'r'\nmatch = {{ {matches} }}\nanswer = {{ status = 200 }}\n"
            );
            let routes = routes(Match, &toml);
            let fields = ["host: A.Test:80", "x-a: 1", "X-A: 2"];
            let request = fixture::request(&format!("GET {path} HTTP/1.1"), &fields);
            let mut scratch = Vec::new();
            let from = [192, 0, 2, 1].into();
            let subject = Subject::of(&request, from, Match, &mut scratch);
            let verdicts = routes.explain(&subject);
            let Standing::Mismatched(reasons) = &verdicts[0].standing else {
                panic!("{verdicts:?}")
            };
            let told: Vec<_> = reasons.iter().map(ToString::to_string).collect();
            assert_eq!(told.join("; "), expected);
        }
        let quoted = Mismatch::Path { path: long.into(), wanted: &PathMatch::Exact("/y".into()) };
        assert_eq!(quoted.to_string(), format!("path: /{}... is not /y", "x".repeat(99)));
    }
}
