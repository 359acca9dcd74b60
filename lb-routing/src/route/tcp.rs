//! Which route takes a TCP connection: the most specific one, in whatever order they were given.
//!
//! The server's name that the client wants (SNI) first: exact, then the longest wildcard, then any; then
//! the protocol (ALPN): of those that it offers, the one that it likes best and for which there is a
//! route, then any; then whether it asks where the client is; then the route's name. Where a more specific
//! place has no route for these protocols and this client, the next less specific one is asked.
//!
//! Without TLS there are no names and no protocols: routes that ask for neither take such connections.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use lb_common::spec::{self, HostMatch};
use lb_prelude::client_hello::ClientHello;

use super::{
    asks_from,
    key::Host,
    takes_from,
    trie::{Trie, Values},
};

/// The routes of one tcp listener, compiled. `R` is what is found.
#[derive(Debug)]
pub struct TcpRoutes<R> {
    /// By server name, from its end. What is alike in that is in the order of the routes' names.
    names: Trie<Vec<Candidate<R>>>,
    asks_for_hello: bool,
}

#[derive(Debug)]
pub(super) struct Candidate<R> {
    pub(super) spec: Arc<spec::Route>,
    pub(super) found: R,
}

// === impl TcpRoutes ===

impl<R> TcpRoutes<R> {
    pub fn new(routes: impl IntoIterator<Item = (Arc<spec::Route>, R)>) -> Self {
        let mut names: BTreeMap<_, Values<Vec<Candidate<R>>>> = BTreeMap::new();
        let mut asks_for_hello = false;
        for (spec, found) in routes {
            asks_for_hello |= spec.matches.asks_for_hello();
            let from_end = |name: &str| name.bytes().rev().collect();
            let candidates = match &spec.matches.sni {
                HostMatch::Exact(name) => &mut names.entry(from_end(name)).or_default().exact,
                HostMatch::Wildcard(suffix) => {
                    &mut names.entry(from_end(suffix)).or_default().prefix
                }
                HostMatch::Any => &mut names.entry(Vec::new()).or_default().prefix,
            };
            let candidates = candidates.get_or_insert_default();
            let at = candidates.partition_point(|other| other.spec.name <= spec.name);
            candidates.insert(at, Candidate { spec, found });
        }
        // What goes on after a wildcard's dot is taken by it.
        Self { names: Trie::new(names, |_, _| true), asks_for_hello }
    }

    /// Whether it matters what a client says first.
    pub fn asks_for_hello(&self) -> bool {
        self.asks_for_hello
    }

    /// For a client there that says this; without TLS, nothing.
    pub fn find(&self, hello: &ClientHello, from: IpAddr) -> Option<&R> {
        let name = hello.server_name.as_deref().unwrap_or_default();
        self.names.visit(&Host::of(name.as_bytes()), |candidates| best(candidates, hello, from))
    }

    pub(super) fn candidates(&self) -> impl Iterator<Item = &Candidate<R>> {
        self.names.values().flatten()
    }
}

/// How much a client likes what a route is for; the least is the best. `None` if it does not offer that.
pub(super) fn liked<R>(candidate: &Candidate<R>, hello: &ClientHello) -> Option<usize> {
    match &candidate.spec.matches.alpn {
        // Behind all protocols.
        None => Some(usize::MAX),
        Some(wanted) => hello.protocols.iter().position(|offered| offered == wanted.as_bytes()),
    }
}

/// Of those whose server name is the client's.
fn best<'a, R>(candidates: &'a [Candidate<R>], hello: &ClientHello, from: IpAddr) -> Option<&'a R> {
    let fitting = candidates.iter().filter(|candidate| takes_from(&candidate.spec.matches, from));
    let fitting = fitting.filter_map(|candidate| Some((liked(candidate, hello)?, candidate)));
    // Of equals, the first one.
    let best =
        fitting.min_by_key(|(liked, candidate)| (*liked, !asks_from(&candidate.spec.matches)));
    best.map(|(_, candidate)| &candidate.found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::tcp_routes;

    #[track_caller]
    fn check(routes: &TcpRoutes<String>, name: &str, protocols: &[&str], expected: Option<&str>) {
        check_from("192.0.2.1", routes, name, protocols, expected);
    }

    #[track_caller]
    fn check_from(
        from: &str,
        routes: &TcpRoutes<String>,
        name: &str,
        protocols: &[&str],
        expected: Option<&str>,
    ) {
        let from = from.parse().expect("an address");
        let name = (!name.is_empty()).then_some(name);
        let hello = ClientHello::offering(name, protocols.iter().map(|text| text.as_bytes()));
        let found = routes.find(&hello, from).map(String::as_str);
        assert_eq!(found, expected, "{from}, {name:?}, {protocols:?}");
    }

    #[test]
    fn the_exact_name_wins_and_then_the_longest_wildcard() {
        let routes = tcp_routes(&[
            ("any", "{}"),
            ("wild", "{ sni = '*.test' }"),
            ("longer", "{ sni = '*.a.test' }"),
            ("exact", "{ sni = 'x.A.test' }"),
        ]);
        check(&routes, "x.a.test", &[], Some("exact"));
        check(&routes, "y.a.test", &[], Some("longer"));
        check(&routes, "y.x.a.test", &[], Some("longer"));
        check(&routes, "a.test", &[], Some("wild"));
        check(&routes, "test", &[], Some("any"));
        check(&routes, "", &[], Some("any"));
        assert!(routes.asks_for_hello());
    }

    #[test]
    fn without_a_route_for_any_name_only_those_that_are_named_are_taken() {
        let routes = tcp_routes(&[("a", "{ sni = 'a.test' }"), ("h2", "{ alpn = 'h2' }")]);
        check(&routes, "a.test", &[], Some("a"));
        check(&routes, "b.test", &[], None);
        check(&routes, "b.test", &["h2"], Some("h2"));
        check(&routes, "", &[], None);
    }

    #[test]
    fn the_protocol_that_a_client_likes_best_decides_among_routes_for_its_name() {
        let routes = tcp_routes(&[
            ("plain", "{ sni = 'a.test' }"),
            ("h1", "{ sni = 'a.test', alpn = 'http/1.1' }"),
            ("h2", "{ sni = 'a.test', alpn = 'h2' }"),
            ("wild-mqtt", "{ sni = '*.test', alpn = 'mqtt' }"),
            ("only-h2", "{ sni = 'b.test', alpn = 'h2' }"),
            ("wild", "{ sni = '*.test' }"),
        ]);
        check(&routes, "a.test", &["h2", "http/1.1"], Some("h2"));
        check(&routes, "a.test", &["http/1.1", "h2"], Some("h1"));
        check(&routes, "a.test", &["mqtt", "h2"], Some("h2"));
        check(&routes, "a.test", &["mqtt"], Some("plain"));
        check(&routes, "a.test", &[], Some("plain"));
        // Nobody there: the next less specific place is asked.
        check(&routes, "b.test", &["mqtt"], Some("wild-mqtt"));
        check(&routes, "b.test", &["http/1.1"], Some("wild"));
    }

    #[test]
    fn a_route_may_be_for_clients_of_some_networks() {
        let routes = tcp_routes(&[
            ("all", "{ sni = 'a.test' }"),
            ("inside", "{ sni = 'a.test', from = ['10.0.0.0/8'], not_from = ['10.6.6.6'] }"),
            ("h2", "{ sni = 'a.test', alpn = 'h2' }"),
            ("rest", "{ not_from = ['192.0.2.0/24'] }"),
        ]);
        check_from("10.1.1.1", &routes, "a.test", &[], Some("inside"));
        check_from("::ffff:10.1.1.1", &routes, "a.test", &[], Some("inside"));
        check_from("10.6.6.6", &routes, "a.test", &[], Some("all"));
        check_from("10.1.1.1", &routes, "a.test", &["h2"], Some("h2"));
        check_from("10.1.1.1", &routes, "b.test", &[], Some("rest"));
        check(&routes, "b.test", &[], None);
    }

    #[test]
    fn of_two_that_are_alike_the_first_by_name_is_taken() {
        let routes = tcp_routes(&[("b", "{}"), ("a", "{}"), ("c", "{}")]);
        check(&routes, "x.test", &[], Some("a"));
        assert!(!routes.asks_for_hello());
    }
}
