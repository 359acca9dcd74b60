//! Values of every kind, each with where it stands.

use std::{collections::BTreeMap, net::SocketAddr, num::NonZeroU8, str::FromStr, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, uri::PathAndQuery};
use lb_common::id::InvalidName;

use super::MAX_WEIGHT;
use crate::{duration, error::Problems};

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
        let parsed: Vec<_> =
            wire.iter().map(|(name, value)| self.header(field, name, value)).collect();
        parsed.into_iter().collect()
    }

    pub fn header(
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
