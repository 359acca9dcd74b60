//! Why there is no certificate, for people.

use std::{error::Error as StdError, time::Duration};

use instant_acme::{Error, Problem};

use crate::controller::Refused;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    /// How long to wait at least.
    pub wait: Option<Duration>,
    /// The CA has not said no: what it was asked for may still come to something.
    pub is_open: bool,
    /// The CA does not know the account.
    pub has_no_account: bool,
}

/// A reason is one line of so many characters: much of it is what others say.
const LONGEST: usize = 500;
const URN: &str = "urn:ietf:params:acme:error:";
/// Who has asked too often is left alone, if the CA does not say for how long.
const RATE_LIMITED: Duration = Duration::from_secs(3600);

impl Failure {
    pub fn new(reason: impl Into<String>) -> Self {
        let reason = cut(&reason.into());
        Self { reason, wait: None, is_open: false, has_no_account: false }
    }
}

/// Whether it says nothing of what was asked for, only that it cannot be had now.
pub fn is_passing(problem: &Problem) -> bool {
    let kind = problem.r#type.as_deref().and_then(|kind| kind.strip_prefix(URN));
    matches!(kind, Some("rateLimited" | "serverInternal" | "badNonce"))
        || problem.status.is_some_and(|status| status >= 500)
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::Api(problem) => {
                let is = |kind: &str| problem.r#type.as_deref() == Some(&format!("{URN}{kind}"));
                Self {
                    wait: is("rateLimited").then_some(RATE_LIMITED),
                    is_open: is_passing(problem),
                    has_no_account: is("accountDoesNotExist"),
                    ..Self::new(told(problem))
                }
            }
            _ => Self { is_open: true, ..Self::new(causes(&error)) },
        }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self { is_open: true, ..Self::new(refused.to_string()) }
    }
}

impl From<rcgen::Error> for Failure {
    fn from(error: rcgen::Error) -> Self {
        Self::new(format!("a key or a certificate could not be made: {error}"))
    }
}

/// `rateLimited: too many certificates already issued`
pub fn told(problem: &Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or("it refuses");
    let kind = kind.strip_prefix(URN).unwrap_or(kind);
    let mut text = match &problem.detail {
        Some(detail) => format!("{kind}: {detail}"),
        None => kind.to_owned(),
    };
    for part in &problem.subproblems {
        text.push_str(&format!("; {part}"));
    }
    text
}

fn causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(&format!(": {cause_text}"));
        }
        source = cause.source();
    }
    text
}

/// What a CA says goes to terminals and logs.
fn cut(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str, detail: &str) -> Failure {
        let json = format!(r#"{{"type": "{URN}{kind}", "detail": "{detail}"}}"#);
        Error::Api(serde_json::from_str(&json).expect("a problem")).into()
    }

    #[test]
    fn what_a_ca_says_is_told_in_one_line_and_its_limits_are_minded() {
        let limited = problem("rateLimited", "too\\n\\u001b[31mmany");
        assert_eq!(limited.reason, "rateLimited: too  [31mmany");
        assert_eq!((limited.wait, limited.is_open), (Some(RATE_LIMITED), true));
        assert!(problem("serverInternal", "down").is_open && !problem("orderNotReady", "").is_open);
        let long = problem("malformed", &"x".repeat(10_000));
        assert_eq!((long.reason.len(), long.wait), (LONGEST, None));
        assert!(problem("accountDoesNotExist", "who?").has_no_account);
        assert!(Failure::from(Error::Str("nothing came")).is_open, "the CA has not refused");
    }
}
