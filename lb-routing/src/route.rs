//! Which route takes a request: the most specific one, in whatever order they were given.
//!
//! Host first (exact, then the longest wildcard, then any), then path (exact, then the longest
//! prefix, then any), then method, then the number of headers, then the name. Where a more specific
//! place has no route for this method and these headers, the next less specific one is asked.
//!
//! Look-ups are by hash at each boundary of the path, so their cost grows with the request's
//! length and not with the number of routes.

use std::{borrow::Cow, cmp::Reverse, collections::HashMap, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header::HOST};
use lb_common::spec::{self, HostMatch, PathMatch, RouteMatch};

mod explain;

pub use explain::{Mismatch, Standing, Verdict};

/// The routes of one listener, compiled. `R` is what is found.
#[derive(Debug)]
pub struct Routes<R> {
    exact_hosts: HashMap<String, Paths<R>>,
    /// By suffix with its leading dot.
    wildcard_hosts: HashMap<String, Paths<R>>,
    any_host: Paths<R>,
}

#[derive(Debug)]
struct Paths<R> {
    exact: HashMap<String, Candidates<R>>,
    /// Those that end in a slash and take any text after it.
    slash_prefix: HashMap<String, Candidates<R>>,
    /// Those that take whole segments.
    segment_prefix: HashMap<String, Candidates<R>>,
    any: Candidates<R>,
}

/// Alike in host and path, the most specific first.
#[derive(Debug)]
struct Candidates<R>(Vec<Candidate<R>>);

#[derive(Debug)]
struct Candidate<R> {
    spec: Arc<spec::Route>,
    found: R,
}

/// What of a request is matched.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// With or without a port, in any case.
    pub host: &'a str,
    pub path: &'a str,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
}

// === impl Subject ===

impl<'a> Subject<'a> {
    /// Of a request that was admitted.
    pub fn of<B>(request: &'a Request<B>) -> Self {
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        Self {
            host: host.unwrap_or_default(),
            path: request.uri().path(),
            method: request.method(),
            headers: request.headers(),
        }
    }
}

// === impl Routes ===

impl<R> Routes<R> {
    pub fn new(routes: impl IntoIterator<Item = (Arc<spec::Route>, R)>) -> Self {
        let mut all = Self::default();
        for (spec, found) in routes {
            let paths = match &spec.matches.host {
                HostMatch::Exact(host) => all.exact_hosts.entry(host.clone()).or_default(),
                HostMatch::Wildcard(suffix) => {
                    all.wildcard_hosts.entry(suffix.clone()).or_default()
                }
                HostMatch::Any => &mut all.any_host,
            };
            let candidates = match &spec.matches.path {
                PathMatch::Exact(path) => paths.exact.entry(path.clone()).or_default(),
                PathMatch::Prefix(prefix) if prefix.ends_with('/') => {
                    paths.slash_prefix.entry(prefix.clone()).or_default()
                }
                PathMatch::Prefix(prefix) => {
                    paths.segment_prefix.entry(prefix.clone()).or_default()
                }
                PathMatch::Any => &mut paths.any,
            };
            candidates.insert(Candidate { spec, found });
        }
        all
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
        let path = subject.path;
        if !self.exact_hosts.is_empty() || !self.wildcard_hosts.is_empty() {
            let host = lower_host(subject.host);
            let exact = self.exact_hosts.get(&*host);
            let exact = exact.and_then(|paths| paths.walk(path, &mut visit));
            if exact.is_some() {
                return exact;
            }
            // From the left, so that the longest suffix comes first.
            for (dot, _) in host.match_indices('.').filter(|(dot, _)| *dot > 0) {
                let paths = self.wildcard_hosts.get(&host[dot..]);
                let found = paths.and_then(|paths| paths.walk(path, &mut visit));
                if found.is_some() {
                    return found;
                }
            }
        }
        self.any_host.walk(path, &mut visit)
    }
}

impl<R> Paths<R> {
    fn walk<'a, T>(
        &'a self,
        path: &str,
        mut visit: impl FnMut(&'a Candidates<R>) -> Option<T>,
    ) -> Option<T> {
        if let Some(found) = self.exact.get(path).and_then(&mut visit) {
            return Some(found);
        }
        if !self.slash_prefix.is_empty() || !self.segment_prefix.is_empty() {
            if let Some(found) = self.segment_prefix.get(path).and_then(&mut visit) {
                return Some(found);
            }
            // From the right, so that the longest prefix comes first.
            for (slash, _) in path.rmatch_indices('/') {
                let with = self.slash_prefix.get(&path[..=slash]);
                if let Some(found) = with.and_then(&mut visit) {
                    return Some(found);
                }
                let without = self.segment_prefix.get(&path[..slash]);
                if let Some(found) = without.and_then(&mut visit) {
                    return Some(found);
                }
            }
        }
        visit(&self.any)
    }
}

impl<R> Candidates<R> {
    fn insert(&mut self, candidate: Candidate<R>) {
        let position = self.0.partition_point(|other| rank(&other.spec) <= rank(&candidate.spec));
        self.0.insert(position, candidate);
    }

    fn find(&self, subject: &Subject<'_>) -> Option<&R> {
        let found = self.0.iter().find(|candidate| takes(&candidate.spec.matches, subject));
        found.map(|candidate| &candidate.found)
    }
}

/// Whether a route takes a request that its host and path led to it.
fn takes(matches: &RouteMatch, subject: &Subject<'_>) -> bool {
    takes_method(matches, subject.method)
        && matches.headers.iter().all(|header| takes_header(header, subject.headers))
}

fn takes_method(matches: &RouteMatch, method: &Method) -> bool {
    matches.method.as_ref().is_none_or(|wanted| wanted == method)
}

fn takes_header((name, wanted): &(HeaderName, Option<HeaderValue>), headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(name).iter();
    values.any(|value| wanted.as_ref().is_none_or(|wanted| wanted == value))
}

/// Orders routes, the preferred ones first.
fn rank(route: &spec::Route) -> impl Ord + '_ {
    let RouteMatch { host, path, method, headers } = &route.matches;
    let longest = |text: &'_ String| Reverse(text.len());
    let host = match host {
        HostMatch::Exact(host) => (0, None, host.as_str()),
        HostMatch::Wildcard(suffix) => (1, Some(longest(suffix)), suffix.as_str()),
        HostMatch::Any => (2, None, ""),
    };
    let path = match path {
        PathMatch::Exact(path) => (0, None, path.as_str()),
        PathMatch::Prefix(prefix) => (1, Some(longest(prefix)), prefix.as_str()),
        PathMatch::Any => (2, None, ""),
    };
    (host, path, Reverse((method.is_some(), headers.len())), &route.name)
}

/// The host in lower case, without its port; a dot at its end does not count.
fn lower_host(host: &str) -> Cow<'_, str> {
    let end = match host.strip_prefix('[') {
        Some(v6) => v6.find(']').map_or(host.len(), |end| end + 2),
        None => host.find(':').unwrap_or(host.len()),
    };
    let host = host[..end].strip_suffix('.').unwrap_or(&host[..end]);
    if host.bytes().any(|c| c.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

impl<R> Default for Routes<R> {
    fn default() -> Self {
        Self {
            exact_hosts: HashMap::new(),
            wildcard_hosts: HashMap::new(),
            any_host: Paths::default(),
        }
    }
}

impl<R> Default for Paths<R> {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            slash_prefix: HashMap::new(),
            segment_prefix: HashMap::new(),
            any: Candidates::default(),
        }
    }
}

impl<R> Default for Candidates<R> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

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
        Routes::new(state.routes.values().map(|route| (Arc::clone(route), route.name.to_string())))
    }

    #[track_caller]
    fn check(routes: &Routes<String>, request: &str, expected: Option<&str>) {
        let mut words = request.split(' ');
        let method = words.next().and_then(|word| word.parse().ok()).expect("a method");
        let url = words.next().expect("host and path");
        let (host, path) = url.split_at(url.find('/').expect("a path"));
        let headers: HeaderMap = words
            .map(|word| {
                let (name, value) = word.split_once('=').expect("name=value");
                let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
                (name, HeaderValue::from_str(value).expect("a value"))
            })
            .collect();
        let subject = Subject { host, path, method: &method, headers: &headers };
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
}
