//! How ordering goes, for those who ask. Kept by the owner of the state, told by who orders.

use std::{collections::BTreeMap, time::Duration};

use lb_common::{
    id::CertificateName,
    material::Materials,
    spec::{Challenge, DesiredState},
};
use lb_proto::v1;

use crate::{metrics::Orders, timestamp};

/// What happened to a certificate's order.
pub enum News {
    Stands(Standing),
    /// Proxies are to answer that, and nothing else, for it.
    Answers(Materials),
    Ended {
        is_issued: bool,
    },
}

/// How a certificate's order is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub state: State,
    pub challenge: Option<Challenge>,
    /// When something is done next, since the Unix epoch.
    pub next: Option<Duration>,
    pub failures: u32,
    /// What is wrong. Empty if nothing is.
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is due, and cannot begin.
    Waiting,
    /// Of something that there is not.
    Ordering,
    Renewing,
    Issued,
    Failed,
}

#[derive(Debug, Default)]
pub struct Ledger {
    standings: BTreeMap<CertificateName, Standing>,
    counts: Orders,
}

impl Ledger {
    /// Takes what happened. Returns what proxies are to answer, if that is it.
    pub fn take(&mut self, certificate: &CertificateName, what: News) -> Option<Materials> {
        match what {
            News::Stands(standing) => {
                self.standings.insert(certificate.clone(), standing);
            }
            News::Answers(materials) => return Some(materials),
            News::Ended { is_issued: true } => self.counts.issued += 1,
            News::Ended { is_issued: false } => self.counts.failed += 1,
        }
        None
    }

    /// Forgets what is not ordered any more.
    pub fn retain(&mut self, desired: &DesiredState) {
        let is_ordered = |name: &CertificateName| {
            desired.certificates.get(name).is_some_and(|spec| spec.acme().is_some())
        };
        self.standings.retain(|name, _| is_ordered(name));
    }

    pub fn standing(&self, certificate: &CertificateName) -> Option<&Standing> {
        self.standings.get(certificate)
    }

    pub fn counts(&self) -> Orders {
        self.counts
    }
}

impl Standing {
    /// What is wrong, and what is done about it.
    pub fn problem(&self) -> Option<String> {
        let Self { reason, failures, .. } = self;
        if reason.is_empty() {
            return None;
        }
        Some(match (self.state, self.next) {
            (State::Failed, Some(next)) => {
                format!("cannot be had from its CA: {reason}; next try at {}", timestamp(next))
            }
            (State::Ordering | State::Renewing, _) if *failures > 0 => {
                format!("could not be had from its CA: {reason}; it is tried again now")
            }
            _ => reason.clone(),
        })
    }

    pub fn to_wire(&self) -> v1::AcmeStatus {
        v1::AcmeStatus {
            state: self.state.as_str().into(),
            challenge: self.challenge.map(Challenge::as_str).unwrap_or_default().into(),
            next: self.next.map(timestamp),
            failures: self.failures,
            reason: self.reason.clone(),
        }
    }
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Ordering => "ordering",
            Self::Renewing => "renewing",
            Self::Issued => "issued",
            Self::Failed => "failed",
        }
    }
}
