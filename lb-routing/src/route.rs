//! Which route takes a request: the most specific one, in whatever order they were given.
//!
//! Host first (exact, then the longest wildcard, then any), then path (exact, then the longest
//! prefix, then any), then method, then the number of headers, then whether it asks where the client is,
//! then the name. Where a more specific place has no route for this method, these headers and this
//! client, the next less specific one is asked.
//!
//! # Cost
//!
//! Host and path are each read once, and not further than the longest of the routes' own reaches
//! (see `trie`): neither a long request nor a thousand routes make a look-up long. Routes that
//! are alike in host and path are asked one by one.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr, sync::Arc};

use http::{HeaderName, HeaderValue};
use lb_common::spec::{self, HostMatch, PathMatch, PathNormalization, RouteMatch};
use lb_http::message::Request;

mod explain;
mod explain_tcp;
mod key;
mod tcp;
mod trie;

pub use explain::{Mismatch, Standing, Verdict};
pub use tcp::TcpRoutes;

use self::{
    key::{Host, Key, Path},
    trie::{Trie, Values},
};
use crate::{field, path::normalize};

/// The routes of one listener, compiled. `R` is what is found.
#[derive(Debug)]
pub struct Routes<R> {
    /// By host, from its end.
    hosts: Trie<Paths<R>>,
}

type Paths<R> = Trie<Candidates<R>>;

/// Alike in host and path, the most specific first.
#[derive(Debug)]
struct Candidates<R>(Vec<Candidate<R>>);

#[derive(Debug)]
struct Candidate<R> {
    /// It asks for more than a host and a path.
    asks_for_more: bool,
    found: R,
    spec: Arc<spec::Route>,
    /// That of the spec, as subjects' paths are written, if that differs.
    normal_path: Option<Box<PathMatch>>,
}

/// What of a request is matched.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// With or without a port, in any case.
    host: &'a [u8],
    path: &'a [u8],
    request: &'a Request,
    /// Where the client is.
    from: IpAddr,
}

// === impl Subject ===

impl<'a> Subject<'a> {
    /// A path that is normalized is written to `scratch`.
    pub fn of(
        request: &'a Request,
        from: IpAddr,
        normalization: PathNormalization,
        scratch: &'a mut Vec<u8>,
    ) -> Self {
        let normal = match normalization {
            PathNormalization::Off => None,
            PathNormalization::Match | PathNormalization::Forward => {
                normalize(request.path(), scratch)
            }
        };
        let path = normal.unwrap_or(request.path());
        Self { host: request.authority(), path, request, from }
    }
}

// === impl Routes ===

impl<R> Routes<R> {
    /// For subjects with this normalization: the paths of the routes undergo it, too.
    pub fn new(
        normalization: PathNormalization,
        routes: impl IntoIterator<Item = (Arc<spec::Route>, R)>,
    ) -> Self {
        let mut hosts: BTreeMap<_, Values<BTreeMap<_, Values<Candidates<R>>>>> = BTreeMap::new();
        for (spec, found) in routes {
            let normal_path = match normalization {
                PathNormalization::Off => None,
                PathNormalization::Match | PathNormalization::Forward => normal(&spec.matches.path),
            };
            let RouteMatch { method, headers, .. } = &spec.matches;
            let asks_for_more = method.is_some() || !headers.is_empty() || asks_from(&spec.matches);
            let normal_path = normal_path.map(Box::new);
            let candidate = Candidate { asks_for_more, found, spec, normal_path };
            let from_end = |host: &str| host.bytes().rev().collect();
            let paths = match &candidate.spec.matches.host {
                HostMatch::Exact(host) => &mut hosts.entry(from_end(host)).or_default().exact,
                HostMatch::Wildcard(suffix) => {
                    &mut hosts.entry(from_end(suffix)).or_default().prefix
                }
                HostMatch::Any => &mut hosts.entry(Vec::new()).or_default().prefix,
            };
            let paths = paths.get_or_insert_default();
            let bytes = |path: &str| path.as_bytes().to_vec();
            let candidates = match candidate.path() {
                PathMatch::Exact(path) => &mut paths.entry(bytes(path)).or_default().exact,
                PathMatch::Prefix(prefix) => &mut paths.entry(bytes(prefix)).or_default().prefix,
                PathMatch::Any => &mut paths.entry(Vec::new()).or_default().prefix,
            };
            candidates.get_or_insert_default().insert(candidate);
        }
        let compiled = |paths| Trie::new(paths, |text, length| Path(text).is_taken_at(length));
        let hosts = hosts.into_iter().map(|(host, Values { exact, prefix })| {
            let exact = exact.map(compiled);
            (host, Values { exact, prefix: prefix.map(compiled) })
        });
        // What goes on after a wildcard's dot is taken by it.
        Self { hosts: Trie::new(hosts.collect(), |_, _| true) }
    }

    pub fn find(&self, subject: &Subject<'_>) -> Option<&R> {
        self.walk(subject, |candidates| candidates.find(subject))
    }

    /// Visits all that the request's host and path lead to, the most specific first, until a visit
    /// returns something.
    fn walk<'a, T>(
        &'a self,
        subject: &Subject<'_>,
        mut visit: impl FnMut(&'a Candidates<R>) -> Option<T>,
    ) -> Option<T> {
        let path = Path(subject.path);
        self.hosts.visit(&Host::of(subject.host), |paths| paths.visit(&path, &mut visit))
    }
}

impl<R> Candidates<R> {
    fn insert(&mut self, candidate: Candidate<R>) {
        let position = self.0.partition_point(|other| other.rank() <= candidate.rank());
        self.0.insert(position, candidate);
    }

    fn find(&self, subject: &Subject<'_>) -> Option<&R> {
        let takes = |candidate: &&Candidate<R>| {
            !candidate.asks_for_more || takes(&candidate.spec.matches, subject)
        };
        let found = self.0.iter().find(takes);
        found.map(|candidate| &candidate.found)
    }
}

impl<R> Candidate<R> {
    fn path(&self) -> &PathMatch {
        self.normal_path.as_deref().unwrap_or(&self.spec.matches.path)
    }

    /// Orders routes, the preferred ones first.
    fn rank(&self) -> impl Ord + '_ {
        let RouteMatch { host, method, headers, .. } = &self.spec.matches;
        let longest = |text: &'_ String| Reverse(text.len());
        let path = match self.path() {
            PathMatch::Exact(path) => (0, None, path.as_str()),
            PathMatch::Prefix(prefix) => (1, Some(longest(prefix)), prefix.as_str()),
            PathMatch::Any => (2, None, ""),
        };
        let more = (method.is_some(), headers.len(), asks_from(&self.spec.matches));
        (host_rank(host), path, Reverse(more), &self.spec.name)
    }
}

/// Orders names of hosts, the preferred ones first.
fn host_rank(host: &HostMatch) -> impl Ord + '_ {
    match host {
        HostMatch::Exact(host) => (0, None, host.as_str()),
        HostMatch::Wildcard(suffix) => (1, Some(Reverse(suffix.len())), suffix.as_str()),
        HostMatch::Any => (2, None, ""),
    }
}

/// A route's path as normalized subjects have it, if that is written otherwise.
fn normal(path: &PathMatch) -> Option<PathMatch> {
    let mut scratch = Vec::new();
    let mut normal = |path: &String| {
        let normal = normalize(path.as_bytes(), &mut scratch)?;
        Some(String::from_utf8_lossy(normal).into_owned())
    };
    match path {
        PathMatch::Exact(path) => normal(path).map(PathMatch::Exact),
        PathMatch::Prefix(prefix) => normal(prefix).map(PathMatch::Prefix),
        PathMatch::Any => None,
    }
}

/// Whether a route takes a request that its host and path led to it.
fn takes(matches: &RouteMatch, subject: &Subject<'_>) -> bool {
    takes_method(matches, subject.request.method_text())
        && matches.headers.iter().all(|header| takes_header(header, subject.request))
        && takes_from(matches, subject.from)
}

/// Whether it matters where a client is.
fn asks_from(matches: &RouteMatch) -> bool {
    !(matches.from.is_empty() && matches.not_from.is_empty())
}

fn takes_from(matches: &RouteMatch, client: IpAddr) -> bool {
    (matches.from.is_empty() || matches.from.contains(client)) && !matches.not_from.contains(client)
}

fn takes_method(matches: &RouteMatch, method: &[u8]) -> bool {
    matches.method.as_ref().is_none_or(|wanted| wanted.as_str().as_bytes() == method)
}

fn takes_header((name, wanted): &(HeaderName, Option<HeaderValue>), request: &Request) -> bool {
    let mut values = field::values(request, name);
    values.any(|value| wanted.as_ref().is_none_or(|wanted| wanted.as_bytes() == value))
}

impl<R> Default for Candidates<R> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

    use PathNormalization::{Forward, Match, Off};

    use super::*;
    use crate::fixture;

    /// Routes by name, each with the TOML of its match.
    fn routes(matches: &[(&str, &str)]) -> Routes<String> {
        let text: String = matches
            .iter()
            .map(|(name, matches)| {
                format!(
                    "[[routes]]\nname = '{name}'\nmatch = {matches}\nanswer = {{ status = 200 }}\n"
                )
            })
            .collect();
        let state = fixture::desired(&text);
        let routes = state.routes.values();
        Routes::new(Match, routes.map(|route| (Arc::clone(route), route.name.to_string())))
    }

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[track_caller]
    fn check(routes: &Routes<String>, request: &str, expected: Option<&str>) {
        check_from(CLIENT, routes, request, expected);
    }

    #[track_caller]
    fn check_from(from: IpAddr, routes: &Routes<String>, request: &str, expected: Option<&str>) {
        let mut words = request.split(' ');
        let method = words.next().expect("a method");
        let (host, path) = words.next().and_then(|url| url.split_once('/')).expect("a URL");
        let lines: Vec<_> = words.map(|word| word.replace('=', ": ")).collect();
        let host = format!("host: {host}");
        let lines: Vec<_> = iter::once(&*host).chain(lines.iter().map(String::as_str)).collect();
        let read = fixture::request(&format!("{method} /{path} HTTP/1.1"), &lines);
        let mut scratch = Vec::new();
        let subject = Subject::of(&read, from, Match, &mut scratch);
        assert_eq!(routes.find(&subject).map(String::as_str), expected, "{request}");
    }

    #[test]
    fn the_longest_prefix_wins_and_an_exact_path_beats_it() {
        let routes = routes(&[
            ("root", "{}"),
            ("a", "{ path_prefix = '/a' }"),
            ("ab", "{ path_prefix = '/a/b' }"),
            ("exact", "{ path = '/a/b/c' }"),
            ("img", "{ path_prefix = '/img/' }"),
        ]);
        check(&routes, "GET x/", Some("root"));
        check(&routes, "GET x/a", Some("a"));
        check(&routes, "GET x/a/", Some("a"));
        check(&routes, "GET x/abc", Some("root"));
        check(&routes, "GET x/a/b", Some("ab"));
        check(&routes, "GET x/a/bc", Some("a"));
        check(&routes, "GET x/a/b/c", Some("exact"));
        check(&routes, "GET x/a/b/c/", Some("ab"));
        check(&routes, "GET x/img", Some("root"));
        check(&routes, "GET x/img/1/2.png", Some("img"));
    }

    #[test]
    fn an_exact_host_beats_the_longest_wildcard_and_that_beats_any_host() {
        let routes = routes(&[
            ("any", "{ path = '/only-any' }"),
            ("com", "{ host = '*.com' }"),
            ("example", "{ host = '*.example.com' }"),
            ("www", "{ host = 'www.example.com', path_prefix = '/www' }"),
            ("v6", "{ host = '[::1]' }"),
        ]);
        check(&routes, "GET WWW.Example.com:8080/www", Some("www"));
        check(&routes, "GET www.example.com./www", Some("www"));
        check(&routes, "GET www.example.com/else", Some("example"));
        check(&routes, "GET a.b.example.com/", Some("example"));
        check(&routes, "GET example.com/", Some("com"));
        check(&routes, "GET com/", None);
        // A wildcard stands for something.
        check(&routes, "GET .example.com/", Some("com"));
        check(&routes, "GET org/only-any", Some("any"));
        check(&routes, "GET [::1]:80/", Some("v6"));
    }

    #[test]
    fn method_and_headers_decide_between_equal_paths() {
        let routes = routes(&[
            ("z-plain", "{}"),
            ("post", "{ method = 'POST' }"),
            ("canary", "{ headers = { x-canary = '1' } }"),
            ("both", "{ headers = { x-canary = '1', x-user = '*' } }"),
        ]);
        check(&routes, "GET x/", Some("z-plain"));
        check(&routes, "POST x/", Some("post"));
        check(&routes, "POST x/ x-canary=1", Some("post"));
        check(&routes, "GET x/ x-canary=1", Some("canary"));
        check(&routes, "GET x/ x-canary=2", Some("z-plain"));
        check(&routes, "GET x/ x-canary=1 x-user=me", Some("both"));
    }

    #[test]
    fn a_less_specific_place_is_asked_when_the_first_has_no_route_for_the_method() {
        let routes = routes(&[
            ("read", "{ path_prefix = '/a', method = 'GET' }"),
            ("rest", "{ path_prefix = '/' }"),
        ]);
        check(&routes, "GET x/a", Some("read"));
        check(&routes, "PUT x/a", Some("rest"));
    }

    #[test]
    fn a_route_may_be_for_clients_of_some_networks() {
        let routes = routes(&[
            ("inside", "{ path_prefix = '/admin', from = ['10.0.0.0/8', '::1'] }"),
            (
                "not-him",
                "{ path_prefix = '/admin', from = ['10.0.0.0/8'], not_from = ['10.6.6.6'], method = 'GET' }",
            ),
            ("outside", "{ path = '/', not_from = ['10.0.0.0/8'] }"),
            ("rest", "{ path = '/' }"),
        ]);
        #[rustfmt::skip]
        let cases = [
            ("10.1.1.1", "GET x/admin", Some("not-him")), ("10.6.6.6", "GET x/admin", Some("inside")),
            ("10.1.1.1", "PUT x/admin", Some("inside")), ("::ffff:10.1.1.1", "PUT x/admin", Some("inside")),
            ("::1", "GET x/admin", Some("inside")), ("192.0.2.1", "GET x/admin", None),
            ("192.0.2.1", "GET x/", Some("outside")), ("10.1.1.1", "GET x/", Some("rest")),
        ];
        for (from, request, expected) in cases {
            check_from(from.parse().expect("an address"), &routes, request, expected);
        }
    }

    #[test]
    fn a_route_cannot_be_passed_by_writing_its_path_otherwise() {
        let routes = routes(&[
            ("admin", "{ path_prefix = '/admin' }"),
            ("cafe", "{ path = '/caf%c3%a9/./' }"),
            ("rest", "{}"),
        ]);
        for path in ["//admin/", "/x/../admin/", "/%61dmin/", "/%2e/admin", "/ADMIN/../admin/x"] {
            check(&routes, &format!("GET x{path}"), Some("admin"));
        }
        check(&routes, "GET x/%2Fadmin", Some("rest"));
        check(&routes, "GET x/caf%c3%A9/", Some("cafe"));
    }

    #[test]
    fn without_normalization_paths_are_matched_as_they_came() {
        let toml =
            "[[routes]]\nname = 'r'\nmatch = { path = '/a//%62' }\nanswer = { status = 200 }";
        let state = fixture::desired(toml);
        let found = |normalization, path: &str| {
            let named = state.routes.values().map(|route| (Arc::clone(route), ()));
            let routes = Routes::new(normalization, named);
            let request = fixture::request(&format!("GET {path} HTTP/1.1"), &["host: a"]);
            let mut scratch = Vec::new();
            routes.find(&Subject::of(&request, CLIENT, normalization, &mut scratch)).is_some()
        };
        assert!(found(Off, "/a//%62") && !found(Off, "/a/b"));
        for normalization in [Match, Forward] {
            assert!(found(normalization, "/a//%62") && found(normalization, "/a/b"));
        }
    }

    /// What a look-up of this host and path does, in steps.
    fn steps(routes: &Routes<String>, host: &str, path: &str) -> usize {
        let request =
            fixture::request(&format!("GET {path} HTTP/1.1"), &[&format!("host: {host}")]);
        trie::STEPS.set(0);
        routes.find(&Subject::of(&request, CLIENT, Off, &mut Vec::new()));
        trie::STEPS.get()
    }

    /// 60,000 slashes took 450 ms, when each of them was a boundary to look up.
    #[test]
    fn no_request_makes_a_look_up_longer_than_the_routes_are() {
        let routes = routes(&[
            ("prefix", "{ path_prefix = '/api/v1' }"),
            ("slash", "{ path_prefix = '/img/' }"),
            ("exact", "{ path = '/a' }"),
            ("host", "{ host = '*.a.test', path_prefix = '/////' }"),
            ("wildcard", "{ host = '*.test', path = '/' }"),
        ]);
        let repeated = |text: &str| text.repeat(60_000 / text.len());
        let hosts =
            ["x".into(), format!("{}test", repeated("x.")), format!("{}a.test", repeated("."))];
        let paths = ["/", "/api/v1", "/img/", "/a", "/x/"].map(repeated);
        for host in &hosts {
            for path in &paths {
                let steps = steps(&routes, host, path);
                assert!(steps < 60, "{steps} for {}... {}...", &host[..1], &path[..3]);
            }
        }
    }

    #[test]
    fn a_thousand_routes_cost_a_few_steps_more_than_one() {
        let many = |n: usize, matches: fn(usize) -> String| {
            let all: Vec<_> = (0..n).map(|i| (format!("r{i}"), matches(i))).collect();
            routes(&all.iter().map(|(name, m)| (&**name, &**m)).collect::<Vec<_>>())
        };
        type Matches = fn(usize) -> String;
        let kinds: [Matches; 4] = [
            |i| format!("{{ path = '/app/{i}' }}"),
            |i| format!("{{ path_prefix = '/app/{i}' }}"),
            |i| format!("{{ host = 'app.{i}.test' }}"),
            |i| format!("{{ host = '*.{i}.test', path_prefix = '/app' }}"),
        ];
        for kind in kinds {
            let one = steps(&many(1, kind), "app.0.test", "/app/0/x");
            let thousand = many(1_000, kind);
            let steps = [0, 7, 99, 123, 999].map(|i| {
                let (host, path) = (format!("app.{i}.test"), format!("/app/{i}"));
                assert!(steps(&thousand, &host, &path) > 0);
                check(&thousand, &format!("GET {host}{path}"), Some(&format!("r{i}")));
                steps(&thousand, &host, &path)
            });
            let most = steps.into_iter().max().expect("there are five");
            assert!(most <= one + 16, "{most} instead of {one} for {}", kind(0));
        }
    }
}
