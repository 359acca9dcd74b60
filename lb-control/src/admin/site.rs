//! Which web sites may ask for the dashboard and its API.
//!
//! The port has no passwords, and an operator's browser reaches it. So a page from elsewhere that
//! runs in that browser must not read the fleet through it. Browsers keep other origins' answers
//! from it by themselves, but for one way around: DNS rebinding, where the page's own name comes to
//! mean this address, so that the browser takes both for one site. Such a request carries the
//! page's name in `Host`, and only names that nobody outside can have are answered: addresses,
//! `localhost`, names of one word (a container's, a short host name), names below `.localhost`,
//! `.internal`, `.local`, `.home.arpa` that the public DNS does not know, and those that the
//! operator listed.
//!
//! `/metrics`, `/healthz` and `/readyz` are for machines and answer under every name.

use std::net::IpAddr;

use http::{HeaderMap, StatusCode, Uri, header, uri::Authority};

/// What no public DNS resolves, by RFC 6761, RFC 6762, RFC 8375 and ICANN's reservation of
/// `.internal`.
const PRIVATE: [&str; 4] = [".localhost", ".internal", ".local", ".home.arpa"];

/// Who may ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// In lower case.
    names: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "the dashboard is not known as {0:?}; open it by its address, or start the controller with \
         --dashboard-host {0}"
    )]
    Host(String),
    #[error("the Host header is not valid; give one, like \"127.0.0.1:7001\"")]
    Malformed,
    #[error("another web site asks; open the dashboard itself")]
    CrossSite,
}

// === impl Site ===

impl Site {
    /// With more host names under which the dashboard is to be found.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self { names: names.into_iter().map(|name| normal(&name)).collect() }
    }

    /// # Errors
    /// If a browser asks on behalf of another site, or may do so.
    pub fn admits(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        // Every browser of today says it, and no page can change it. Links from elsewhere may lead
        // to the page itself.
        let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
        let mode = headers.get("sec-fetch-mode").map(|mode| mode.as_bytes());
        let foreign = matches!(site, Some(b"cross-site" | b"same-site"));
        if foreign && mode != Some(b"navigate") {
            return Err(Refusal::CrossSite);
        }
        let mut hosts = headers.get_all(header::HOST).iter();
        let authority = match (uri.authority(), hosts.next(), hosts.next()) {
            (Some(authority), _, None) => authority.clone(),
            (None, Some(host), None) => {
                Authority::try_from(host.as_bytes()).map_err(|_| Refusal::Malformed)?
            }
            _ => return Err(Refusal::Malformed),
        };
        let name = normal(authority.host());
        if self.knows(&name) { Ok(()) } else { Err(Refusal::Host(name)) }
    }

    fn knows(&self, name: &str) -> bool {
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        address.unwrap_or(name).parse::<IpAddr>().is_ok()
            || !name.is_empty() && !name.contains('.')
            || PRIVATE.iter().any(|suffix| name.ends_with(suffix))
            || self.names.iter().any(|known| known == name)
    }
}

// === impl Refusal ===

impl Refusal {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Host(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::CrossSite => StatusCode::FORBIDDEN,
        }
    }
}

/// As names are compared: a dot at the end changes nothing.
fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn site() -> Site {
        Site::new(["LB.example.com".to_owned()])
    }

    fn admits(headers: &[(&'static str, &'static str)]) -> Result<(), Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        site().admits(&Uri::from_static("/api/proxies"), &map)
    }

    #[test]
    fn names_that_nobody_outside_can_have_are_answered() {
        for host in [
            "127.0.0.1:7001",
            "[::1]:7001",
            "10.1.2.3",
            "localhost:7001",
            "LOCALHOST",
            "dash.localhost",
            "control:7001",
            "control.prod.internal",
            "printer.local",
            "lb.example.com:80",
            "lb.example.com.",
        ] {
            assert_eq!(admits(&[("host", host)]), Ok(()), "{host}");
        }
    }

    #[test]
    fn a_name_from_outside_is_refused_with_what_to_do() {
        for host in ["evil.example:7001", "127.0.0.1.evil.example", "localhost.evil.example", "a.b"]
        {
            let refusal = admits(&[("host", host)]).expect_err(host);
            assert_eq!(refusal.status(), StatusCode::MISDIRECTED_REQUEST, "{host}");
            assert!(refusal.to_string().contains("--dashboard-host"), "{refusal}");
        }
    }

    #[test]
    fn there_is_exactly_one_host() {
        assert_eq!(admits(&[]), Err(Refusal::Malformed));
        let two = [("host", "127.0.0.1"), ("host", "evil.example")];
        assert_eq!(admits(&two), Err(Refusal::Malformed));
        assert_eq!(admits(&[("host", "a b")]), Err(Refusal::Malformed));
    }

    #[test]
    fn an_absolute_target_counts_instead_of_the_header() {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("127.0.0.1"));
        let target = Uri::from_static("http://evil.example/api/proxies");
        assert_eq!(site().admits(&target, &headers), Err(Refusal::Host("evil.example".into())));
    }

    #[test]
    fn another_site_may_link_here_and_not_fetch() {
        let host = ("host", "127.0.0.1:7001");
        let fetched =
            |site, mode| admits(&[host, ("sec-fetch-site", site), ("sec-fetch-mode", mode)]);
        assert_eq!(fetched("same-origin", "cors"), Ok(()));
        assert_eq!(fetched("none", "navigate"), Ok(()));
        assert_eq!(fetched("cross-site", "navigate"), Ok(()));
        assert_eq!(fetched("cross-site", "no-cors"), Err(Refusal::CrossSite));
        assert_eq!(fetched("same-site", "cors"), Err(Refusal::CrossSite));
    }
}
