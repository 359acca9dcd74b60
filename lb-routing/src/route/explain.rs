//! Why each route does or does not take a request.
//!
//! What is chosen comes out of the walk and the predicates of [`Routes::find`] themselves. That a
//! walk does not lead to a route is told by its host and path, whose look-ups by hash have no
//! reason to give.

use std::{fmt, ptr, sync::Arc};

use http::{HeaderName, HeaderValue, Method};
use lb_common::spec::{self, HostMatch, PathMatch};

use super::{
    Candidate, Candidates, Paths, Routes, Subject, lower_host, rank, takes, takes_header,
    takes_method,
};

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
    Host { host: String, wanted: &'a HostMatch },
    Path { path: &'a str, wanted: &'a PathMatch },
    Method { method: &'a Method, wanted: &'a Method },
    Header { given: Vec<&'a HeaderValue>, name: &'a HeaderName, wanted: Option<&'a HeaderValue> },
}

/// Not more of a text than a reader wants to see.
struct Quoted<'a>(&'a str);

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
            None => Standing::Mismatched(mismatches(&candidate.spec, subject)),
        };
        let mut all: Vec<_> = self.candidates().collect();
        all.sort_by(|a, b| rank(&a.spec).cmp(&rank(&b.spec)));
        all.into_iter()
            .map(|candidate| Verdict {
                route: &candidate.spec,
                found: &candidate.found,
                standing: standing(candidate),
            })
            .collect()
    }

    fn candidates(&self) -> impl Iterator<Item = &Candidate<R>> {
        let hosts = self.exact_hosts.values().chain(self.wildcard_hosts.values());
        hosts.chain([&self.any_host]).flat_map(Paths::candidates)
    }
}

impl<R> Paths<R> {
    fn candidates(&self) -> impl Iterator<Item = &Candidate<R>> {
        let Self { exact, slash_prefix, segment_prefix, any } = self;
        let by_path = exact.values().chain(slash_prefix.values()).chain(segment_prefix.values());
        by_path.chain([any]).flat_map(|Candidates(candidates)| candidates)
    }
}

fn mismatches<'a>(route: &'a spec::Route, subject: &Subject<'a>) -> Vec<Mismatch<'a>> {
    let matches = &route.matches;
    let mut mismatches = Vec::new();
    let host = lower_host(subject.host);
    if !takes_host(&matches.host, &host) {
        mismatches.push(Mismatch::Host { host: host.into_owned(), wanted: &matches.host });
    }
    if !takes_path(&matches.path, subject.path) {
        mismatches.push(Mismatch::Path { path: subject.path, wanted: &matches.path });
    }
    if let Some(wanted) = &matches.method
        && !takes_method(matches, subject.method)
    {
        mismatches.push(Mismatch::Method { method: subject.method, wanted });
    }
    let missed = matches.headers.iter().filter(|header| !takes_header(header, subject.headers));
    mismatches.extend(missed.map(|(name, wanted)| Mismatch::Header {
        given: subject.headers.get_all(name).iter().collect(),
        name,
        wanted: wanted.as_ref(),
    }));
    mismatches
}

/// Whether the walk for this host, which is in lower case and without a port, would come by.
fn takes_host(wanted: &HostMatch, host: &str) -> bool {
    match wanted {
        HostMatch::Any => true,
        HostMatch::Wildcard(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        HostMatch::Exact(wanted) => host == wanted,
    }
}

/// Whether the walk for this path would come by.
fn takes_path(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Any => true,
        PathMatch::Exact(wanted) => path == wanted,
        PathMatch::Prefix(prefix) => path
            .strip_prefix(prefix.as_str())
            .is_some_and(|rest| prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/')),
    }
}

// === impl Mismatch ===

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { host, wanted } => {
                let host = Quoted(host);
                match wanted {
                    HostMatch::Exact(wanted) => write!(f, "host: {host} is not {wanted}"),
                    HostMatch::Wildcard(suffix) => write!(f, "host: {host} is not *{suffix}"),
                    HostMatch::Any => write!(f, "host: {host} is not any"),
                }
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
                write!(f, "method: {} is not {wanted}", Quoted(method.as_str()))
            }
            Self::Header { given, name, .. } if given.is_empty() => {
                write!(f, "headers: {name} is missing")
            }
            Self::Header { given, name, wanted } => {
                write!(f, "headers: {name} is ")?;
                for (i, value) in given.iter().enumerate() {
                    let value = String::from_utf8_lossy(value.as_bytes());
                    write!(f, "{}\"{}\"", if i == 0 { "" } else { ", " }, Quoted(&value))?;
                }
                match wanted.map(|wanted| String::from_utf8_lossy(wanted.as_bytes())) {
                    Some(wanted) => write!(f, ", not \"{wanted}\""),
                    None => f.write_str(", not any"),
                }
            }
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
    use http::HeaderMap;

    use super::*;
    use crate::fixture;

    fn routes(toml: &str) -> Routes<String> {
        let state = fixture::desired(toml);
        Routes::new(state.routes.values().map(|route| (Arc::clone(route), route.name.to_string())))
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
        parts.join(", ")
    }

    fn random_headers(rng: &mut fastrand::Rng) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for name in ["x-a", "x-b"] {
            for _ in 0..rng.u8(..3) {
                let value = ["1", "2", "3"][rng.usize(..3)];
                headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
        }
        headers
    }

    #[test]
    fn what_is_explained_is_what_is_found_for_any_request() {
        let hosts = ["a.test", "A.B.Test:80", "c.a.b.test", "x.test", "test", "b.test.", "org", ""];
        let paths = ["/", "/a", "/a/", "/a/b", "/a/b/", "/a/bc", "/a/b/c", "/ab", "/abc/d", "*"];
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
            let routes = routes(&toml);
            for _ in 0..250 {
                let method = [Method::GET, Method::POST, Method::PUT][rng.usize(..3)].clone();
                let headers = random_headers(&mut rng);
                let subject = Subject {
                    host: hosts[rng.usize(..hosts.len())],
                    path: paths[rng.usize(..paths.len())],
                    method: &method,
                    headers: &headers,
                };
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
                    let reasons = mismatches(verdict.route, &subject);
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
        let headers: HeaderMap = [("x-a", "1"), ("x-a", "2")]
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
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
            ("host = 'b.test', method = 'PUT'", "/other", "host: a.test is not b.test; method: GET is not PUT"),
        ];
        for (matches, path, expected) in cases {
            let routes = routes(&format!(
                "[[routes]]\nname = 'r'\nmatch = {{ {matches} }}\nanswer = {{ status = 200 }}\n"
            ));
            let subject =
                Subject { host: "A.Test:80", path, method: &Method::GET, headers: &headers };
            let verdicts = routes.explain(&subject);
            let Standing::Mismatched(reasons) = &verdicts[0].standing else {
                panic!("{verdicts:?}")
            };
            let told: Vec<_> = reasons.iter().map(ToString::to_string).collect();
            assert_eq!(told.join("; "), expected);
        }
        let quoted = Mismatch::Path { path: &long, wanted: &PathMatch::Exact("/y".into()) };
        assert_eq!(quoted.to_string(), format!("path: /{}... is not /y", "x".repeat(99)));
    }
}
