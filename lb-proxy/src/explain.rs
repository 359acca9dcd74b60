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

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::record::Request;

pub const X_LB_EXPLAIN: HeaderName = HeaderName::from_static("x-lb-explain");

/// What an operator shows to be told.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<[u8]>);

const MAX_TOKEN: usize = 256;

// === impl Token ===

impl Token {
    /// Whether the request carries it.
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        headers.get(X_LB_EXPLAIN).is_some_and(|given| self.is(given.as_bytes()))
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

/// What is told of a request.
pub fn header(request: &Request) -> HeaderValue {
    let mut text = format!("proxy={}", request.worker.recorder.proxy);
    // Writing to a string cannot fail. Names have none of the separators in them.
    let mut put = |key: &str, value: &dyn fmt::Display| {
        let _ = write!(text, "; {key}={value}");
    };
    let version = request.table_version();
    put("version", &format_args!("{}.{}", version.epoch, version.version));
    put("listener", &request.client.listener);
    if let Some(route) = &request.route {
        put("route", &route.spec.name);
    }
    if let Some(set) = request.backend_set() {
        put("backend_set", set);
    }
    if let Some(pick) = &request.pick {
        put("backend", &pick.backend().name);
    }
    put("attempts", &request.attempts);
    if !request.tried.is_empty() {
        let tried = request.tried.iter();
        let tried: Vec<_> =
            tried.map(|tried| format!("{}({})", tried.pick.backend().name, tried.why)).collect();
        put("tried", &tried.join(","));
    }
    if let Some(reason) = request.reason {
        put("reason", &reason);
    }
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_is_right() {
        let token: Token = "s3cret".parse().expect("valid");
        #[rustfmt::skip]
        let cases = [
            ("s3cret", true), ("s3cre", false), ("s3crets", false), ("s3creT", false), ("S3cret", false),
            ("", false), ("s3crets3cret", false), ("x", false),
        ];
        for (given, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(X_LB_EXPLAIN, HeaderValue::from_static(given));
            assert_eq!(token.is_in(&headers), expected, "{given:?}");
        }
        assert!(!token.is_in(&HeaderMap::new()));
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
