//! Why each route does or does not take a TCP connection.
//!
//! As for requests: what is chosen comes out of [`TcpRoutes::find`] itself.

use std::{net::IpAddr, ptr};

use lb_common::spec::HostMatch;
use lb_prelude::client_hello::ClientHello;

use super::{
    asks_from,
    explain::{Mismatch, Standing, Verdict, mismatches_of_from, takes_host},
    host_rank,
    key::Host,
    tcp::{Candidate, TcpRoutes, liked},
};

// === impl TcpRoutes ===

impl<R> TcpRoutes<R> {
    /// A verdict on every route, in the order in which this client's are preferred.
    pub fn explain<'a>(&'a self, hello: &ClientHello, from: IpAddr) -> Vec<Verdict<'a, R>> {
        let chosen = self.find(hello, from);
        let mut all: Vec<_> = self.candidates().collect();
        let rank = |candidate: &'a Candidate<R>| {
            let spec = &candidate.spec;
            let liked = liked(candidate, hello).unwrap_or(usize::MAX);
            (host_rank(&spec.matches.sni), liked, !asks_from(&spec.matches), &spec.name)
        };
        all.sort_by(|a, b| rank(a).cmp(&rank(b)));
        let verdict = |candidate: &'a Candidate<R>| {
            let mismatches = candidate.mismatches(hello, from);
            let standing = match chosen {
                Some(chosen) if ptr::eq(chosen, &candidate.found) => Standing::Chosen,
                _ if mismatches.is_empty() => Standing::Surpassed,
                _ => Standing::Mismatched(mismatches),
            };
            Verdict { route: &candidate.spec, found: &candidate.found, standing }
        };
        all.into_iter().map(verdict).collect()
    }
}

impl<R> Candidate<R> {
    fn mismatches(&self, hello: &ClientHello, from: IpAddr) -> Vec<Mismatch<'_>> {
        let matches = &self.spec.matches;
        let mut mismatches = Vec::new();
        let name = hello.server_name.as_deref();
        let host = Host::of(name.unwrap_or_default().as_bytes());
        if matches.sni != HostMatch::Any && !takes_host(&matches.sni, &host) {
            let name = name.map(str::to_owned);
            mismatches.push(Mismatch::ServerName { name, wanted: &matches.sni });
        }
        if let Some(wanted) = &matches.alpn
            && liked(self, hello).is_none()
        {
            let text = |protocol| String::from_utf8_lossy(protocol).into_owned();
            let offered = hello.protocols.iter().map(text).collect();
            mismatches.push(Mismatch::Protocol { offered, wanted });
        }
        mismatches.extend(mismatches_of_from(matches, from));
        mismatches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::tcp_routes;

    fn random_match(rng: &mut fastrand::Rng) -> String {
        let names = ["", "", "*.test", "*.b.test", "a.test", "a.b.test", "c.a.b.test"];
        let mut parts = Vec::new();
        match names[rng.usize(..names.len())] {
            "" => {}
            name => parts.push(format!("sni = '{name}'")),
        }
        if rng.bool() {
            parts.push(format!("alpn = '{}'", ["h2", "http/1.1", "mqtt"][rng.usize(..3)]));
        }
        if rng.u8(..4) == 0 {
            let from = ["from", "not_from"][rng.usize(..2)];
            parts.push(format!("{from} = ['10.0.0.{}']", rng.u8(..2)));
        }
        format!("{{ {} }}", parts.join(", "))
    }

    #[test]
    fn what_is_explained_is_what_is_found_for_any_connection() {
        let names = ["a.test", "a.b.test", "c.a.b.test", "x.test", "test", "other", ""];
        let mut outcomes = [0; 3];
        for seed in 0..100 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let some = rng.usize(1..12);
            let matches = (0..some).map(|i| (format!("r{i}"), random_match(&mut rng)));
            let routes = tcp_routes(&matches.collect::<Vec<_>>());
            for _ in 0..100 {
                let name = Some(names[rng.usize(..names.len())]).filter(|name| !name.is_empty());
                let mut protocols = vec![&b"h2"[..], b"http/1.1", b"mqtt"];
                rng.shuffle(&mut protocols);
                protocols.truncate(rng.usize(..4));
                let hello = ClientHello::offering(name, protocols);
                let from = [10, 0, 0, rng.u8(..2)].into();
                let verdicts = routes.explain(&hello, from);
                assert_eq!(verdicts.len(), some);
                let matching = verdicts.iter().filter(|verdict| match &verdict.standing {
                    Standing::Mismatched(reasons) => {
                        assert!(!reasons.is_empty());
                        false
                    }
                    _ => true,
                });
                let matching: Vec<_> = matching.collect();
                let found = routes.find(&hello, from);
                let first = matching.first();
                assert_eq!(first.map(|first| first.found), found, "{hello:?}: {verdicts:#?}");
                let is_chosen =
                    |first: &&Verdict<'_, _>| matches!(first.standing, Standing::Chosen);
                assert!(first.is_none_or(is_chosen), "{verdicts:#?}");
                assert!(!matching.iter().skip(1).any(is_chosen), "{verdicts:#?}");
                outcomes[matching.len().min(2)] += 1;
            }
        }
        assert!(outcomes.iter().all(|count| *count > 300), "none, one, several: {outcomes:?}");
    }

    #[test]
    fn each_condition_that_fails_is_told_with_what_the_client_says() {
        let from = "192.0.2.1".parse().expect("an address");
        let told = |matches: &str, name: Option<&str>, protocols: &[&str]| {
            let matches = format!("{{ {matches} }}");
            let routes = tcp_routes(&[("r", matches.as_str())]);
            let protocols = protocols.iter().map(|text| text.as_bytes());
            let verdicts = routes.explain(&ClientHello::offering(name, protocols), from);
            match &verdicts[0].standing {
                Standing::Mismatched(reasons) => {
                    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
                }
                other => panic!("{other:?}"),
            }
        };
        let a = Some("a.test");
        assert_eq!(told("sni = 'b.test'", a, &[]), "sni: a.test is not b.test");
        assert_eq!(told("sni = '*.b.test'", a, &[]), "sni: a.test is not *.b.test");
        assert_eq!(
            told("sni = 'b.test'", None, &[]),
            "sni: the client names no server, and b.test is wanted"
        );
        assert_eq!(
            told("alpn = 'h2'", a, &[]),
            "alpn: the client offers nothing, and h2 is wanted"
        );
        assert_eq!(
            told("alpn = 'h2', from = ['10.0.0.0/8']", a, &["http/1.1", "mqtt"]),
            "alpn: http/1.1, mqtt is not h2; from: 192.0.2.1 is not in 10.0.0.0/8"
        );
    }
}
