//! `x-lb-explain`: where a request went and why, for whoever knows the operator's token.
//!
//! A request that carries the token in this header gets one of the same name with its response,
//! also if the proxy answered by itself. Without the token, or with another one, nothing differs.
//!
//! # Invariants
//!
//! - The header never goes on: not to a backend, which could learn the token, nor from a backend to
//!   a client, who could take it for the proxy's. That is so whether a token is configured or not.
//! - How long a comparison takes says nothing about how much of a guess was right.

use std::{fmt, fmt::Write as _, hint::black_box, str::FromStr};

use lb_common::id::ProxyId;
use lb_http::message::{Name, Request};

use super::facts::Facts;

/// What an operator shows to be told.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<[u8]>);

const MAX_TOKEN: usize = 256;

// === impl Token ===

impl Token {
    /// Whether the request carries it.
    pub fn is_in(&self, request: &Request) -> bool {
        request.fields.get(Name::XLbExplain).is_some_and(|given| self.is(given))
    }

    /// Looks at all of `given`, however early it differs.
    fn is(&self, given: &[u8]) -> bool {
        let mut differs = u8::from(given.len() != self.0.len());
        for (byte, own) in given.iter().zip(self.0.iter().cycle()) {
            differs = black_box(differs | (byte ^ own));
        }
        differs == 0
    }
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || MAX_TOKEN < text.len() {
            return Err(format!("give 1 to {MAX_TOKEN} characters"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("give visible ASCII characters, without spaces".into());
        }
        Ok(Self(text.as_bytes().into()))
    }
}

/// It is a secret, also in a log.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// What is told of a request. Names have none of the separators in them, nor what a field may not
/// have.
pub fn text(proxy: &ProxyId, facts: &Facts) -> String {
    let mut text = format!("proxy={proxy}");
    // Writing to a string cannot fail.
    let mut put = |key: &str, value: &dyn fmt::Display| {
        let _ = write!(text, "; {key}={value}");
    };
    put("version", &format_args!("{}.{}", facts.version.epoch, facts.version.version));
    put("listener", &facts.client.presence.name);
    if let Some(route) = &facts.route {
        put("route", &route.spec.name);
    }
    let attempts = &facts.attempts;
    if let Some(set) = &attempts.set {
        put("backend_set", set);
    }
    if let Some(pick) = &attempts.pick {
        put("backend", &pick.backend().name);
    }
    put("attempts", &attempts.count);
    if !attempts.tried.is_empty() {
        let tried = attempts.tried.iter();
        let tried: Vec<_> =
            tried.map(|tried| format!("{}({})", tried.pick.backend().name, tried.why)).collect();
        put("tried", &tried.join(","));
    }
    if let Some(reason) = facts.reason {
        put("reason", &reason);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn only_the_token_itself_is_right() {
        let token: Token = "s3cret".parse().expect("valid");
        #[rustfmt::skip]
        let cases = [
            ("s3cret", true), ("s3cre", false), ("s3crets", false), ("s3creT", false), ("S3cret", false),
            ("", false), ("s3crets3cret", false), ("x", false),
        ];
        for (given, expected) in cases {
            let request = fixture::request(&format!(
                "GET / HTTP/1.1\r\nHost: a\r\nX-LB-Explain: {given}\r\n\r\n"
            ));
            assert_eq!(token.is_in(&request), expected, "{given:?}");
        }
        assert!(!token.is_in(&fixture::request("GET / HTTP/1.1\r\nHost: a\r\n\r\n")));
    }

    #[test]
    fn a_token_can_be_a_header_and_is_not_shown() {
        for text in ["", "two words", "ü", "a\n", &"x".repeat(257)] {
            assert!(text.parse::<Token>().is_err(), "{text:?}");
        }
        let token: Token = "s3cret".parse().expect("valid");
        assert!(!format!("{token:?}").contains("s3cret"));
    }
}
