//! Values of every kind, each with where it stands.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::{NonZeroU8, NonZeroU32},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, uri::PathAndQuery};
use lb_common::{
    id::InvalidName,
    network::{self, InvalidNetwork, Networks},
    spec::{Pem, TlsVersion},
};

use super::MAX_WEIGHT;
use crate::{defaults, duration, error::Problems, pem};

const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);

/// Where a value stands, and where its problems go.
pub struct At<'a> {
    pub path: &'a str,
    pub problems: &'a mut Problems,
}

impl At<'_> {
    pub fn problem(&mut self, field: &str, message: &str) {
        self.problems.add(format!("{}.{field}", self.path), message);
    }

    pub fn invalid<T>(&mut self, field: &str, value: &str, valid: &str) -> Option<T> {
        self.problem(field, &format!("{value:?} is not valid; give {valid}"));
        None
    }

    pub fn one_of<T>(&mut self, field: &str, value: &str, valid: &str) -> Option<T> {
        self.problem(field, &format!("{value:?} is not known; valid are {valid}"));
        None
    }

    pub fn name<T>(
        &mut self,
        field: &str,
        text: &str,
        new: impl Fn(&str) -> Result<T, InvalidName>,
    ) -> Option<T> {
        new(text).map_err(|error| self.problem(field, &error.to_string())).ok()
    }

    pub fn address(&mut self, field: &str, text: &str) -> Option<SocketAddr> {
        match text.parse() {
            Ok(address) => Some(address),
            Err(_) => self.invalid(field, text, "an IP address and a port, \"127.0.0.1:3001\""),
        }
    }

    pub fn path(&mut self, field: &str, text: &str) -> Option<String> {
        let is_path = text.starts_with('/')
            && !text.contains(['?', '#'])
            && PathAndQuery::from_str(text).is_ok();
        if is_path {
            Some(text.into())
        } else {
            self.invalid(field, text, "a path that begins with a slash and has no query")
        }
    }

    pub fn duration(
        &mut self,
        field: &str,
        wire: Option<prost_types::Duration>,
        default: Duration,
    ) -> Option<Duration> {
        let Some(wire) = wire else { return Some(default) };
        match duration::from_wire(wire) {
            Ok(duration) if (Duration::from_millis(1)..=MAX_DURATION).contains(&duration) => {
                Some(duration)
            }
            Ok(other) => {
                self.invalid(field, &duration::format(other), "something between 1ms and 24h")
            }
            Err(message) => {
                self.problem(field, &message);
                None
            }
        }
    }

    /// `None` where it is [`duration::OFF`].
    #[expect(clippy::option_option, reason = "the outer one says whether it is valid")]
    pub fn duration_or_off(
        &mut self,
        field: &str,
        wire: Option<prost_types::Duration>,
        default: Duration,
    ) -> Option<Option<Duration>> {
        if wire.map(duration::from_wire) == Some(Ok(duration::OFF)) {
            return Some(None);
        }
        self.duration(field, wire, default).map(Some)
    }

    pub fn networks(&mut self, field: &str, texts: &[String]) -> Option<Networks> {
        let parsed: Vec<_> = (0..)
            .zip(texts)
            .map(|(i, text)| {
                let problem = |error: InvalidNetwork| {
                    self.problem(&format!("{field}[{i}]"), &error.to_string());
                };
                network::parse(text).map_err(problem).ok()
            })
            .collect();
        parsed.into_iter().collect::<Option<Vec<_>>>().map(Networks::new)
    }

    pub fn tls_version(&mut self, field: &str, text: &str) -> Option<TlsVersion> {
        match text {
            "" => Some(defaults::MIN_TLS_VERSION),
            "1.2" => Some(TlsVersion::Tls12),
            "1.3" => Some(TlsVersion::Tls13),
            other => self.one_of(field, other, "1.2, 1.3"),
        }
    }

    /// A text, or a path of a file.
    pub fn pem(&mut self, field: &str, text: &str) -> Option<Pem> {
        if text.is_empty() {
            self.problem(field, "is empty; give PEM, or the path of a file with it");
            return None;
        }
        // Neither is repeated: it may be a secret.
        if pem::has_key(text) {
            self.problem(
                field,
                "has a key in it, and everybody may see it; give certificates alone",
            );
            return None;
        }
        if let Some(why) = pem::misplaced(text) {
            self.problem(field, why);
            return None;
        }
        Some(pem::pem(text))
    }

    pub fn within(
        &mut self,
        field: &str,
        wire: Option<u32>,
        default: u32,
        valid: RangeInclusive<u32>,
    ) -> Option<u32> {
        let value = wire.unwrap_or(default);
        if valid.contains(&value) {
            return Some(value);
        }
        let (least, most) = valid.into_inner();
        self.problem(field, &format!("{value} is not valid; give {least} to {most}"));
        None
    }

    pub fn positive(&mut self, field: &str, wire: Option<u32>, default: u32) -> Option<NonZeroU32> {
        let parsed = NonZeroU32::new(wire.unwrap_or(default));
        if parsed.is_none() {
            self.problem(field, "0 is not valid; give 1 or more");
        }
        parsed
    }

    pub fn count(&mut self, field: &str, wire: Option<u32>, default: u32) -> Option<NonZeroU8> {
        let value = wire.unwrap_or(default);
        let parsed = u8::try_from(value).ok().and_then(NonZeroU8::new);
        if parsed.is_none() {
            self.problem(field, &format!("{value} is not valid; give 1 to 255"));
        }
        parsed
    }

    pub fn weight(&mut self, field: &str, wire: Option<u32>) -> Option<u32> {
        match wire.unwrap_or(1) {
            weight @ 0..=MAX_WEIGHT => Some(weight),
            weight => {
                self.problem(field, &format!("{weight} is not valid; give 0 to {MAX_WEIGHT}"));
                None
            }
        }
    }

    pub fn status(&mut self, field: &str, status: u32) -> Option<StatusCode> {
        match u16::try_from(status).map(StatusCode::from_u16) {
            Ok(Ok(parsed)) if (200..=599).contains(&status) => Some(parsed),
            _ => self.invalid(field, &status.to_string(), "a status from 200 to 599"),
        }
    }

    pub fn headers(&mut self, field: &str, wire: &BTreeMap<String, String>) -> Option<HeaderMap> {
        self.header_fields(field, wire).map(HeaderMap::from_iter)
    }

    /// Each name once, in one order, whatever the case in which they were written.
    pub fn header_fields(
        &mut self,
        field: &str,
        wire: &BTreeMap<String, String>,
    ) -> Option<Vec<(HeaderName, HeaderValue)>> {
        let parsed: Vec<_> =
            wire.iter().map(|(name, value)| self.header(field, name, value)).collect();
        let mut parsed = parsed.into_iter().collect::<Option<Vec<_>>>()?;
        parsed.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
        let mut valid = Some(());
        for (name, _) in parsed.windows(2).filter(|w| w[0].0 == w[1].0).map(|w| &w[0]) {
            self.problem(
                &format!("{field}[{name}]"),
                "is there twice; upper and lower case make no difference",
            );
            valid = None;
        }
        valid.map(|()| parsed)
    }

    fn header(
        &mut self,
        field: &str,
        name: &str,
        value: &str,
    ) -> Option<(HeaderName, HeaderValue)> {
        match (HeaderName::from_str(name), HeaderValue::from_str(value)) {
            (Ok(name), Ok(value)) => Some((name, value)),
            (Err(_), _) => self.invalid(field, name, "a header name, \"x-canary\""),
            (_, Err(_)) => {
                self.invalid(&format!("{field}[{name}]"), value, "visible ASCII characters")
            }
        }
    }
}
