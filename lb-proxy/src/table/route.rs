//! A route, and what it needs while a request follows it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use lb_common::{
    id::BackendSetName,
    spec::{self, Action},
};

use crate::{
    metrics::{RouteMetrics, Sharded},
    policy::budget::RetryBudget,
};

#[derive(Debug)]
pub struct Route {
    pub target: Target,
    pub metrics: Sharded<RouteMetrics>,
    pub budget: Arc<RetryBudget>,
    pub terms: Terms,
    pub spec: Arc<spec::Route>,
    /// It takes connections, not requests.
    pub is_tcp: bool,
}

/// What of its spec each request goes by. It is here, and not only there, because of many routes none is
/// in the core's cache, and each look elsewhere takes time.
#[derive(Debug)]
pub struct Terms {
    pub timeout: Duration,
    pub stream_idle_timeout: Option<Duration>,
    pub max_request_bytes: Option<u64>,
    pub via: bool,
    pub retry: spec::RetryPolicy,
}

#[derive(Debug)]
pub enum Target {
    Forward(Split),
    Redirect(Box<spec::Redirect>),
    Answer(Box<Answer>),
}

#[derive(Debug)]
pub struct Answer {
    pub spec: spec::Answer,
    pub body: Bytes,
}

/// Backend sets by weight, each by its slot in the table.
#[derive(Debug, PartialEq, Eq)]
pub enum Split {
    Only(u32),
    /// Each with the sum of the weights up to and including its own; those of weight 0 are absent.
    Weighted(Vec<(u64, u32)>),
}

impl Route {
    /// `slot_of` says where the table has a set; all that a route names are there.
    pub(super) fn new(
        spec: &Arc<spec::Route>,
        slot_of: impl Fn(&BackendSetName) -> Option<u32>,
        is_tcp: bool,
        former: Option<&Arc<Self>>,
        workers: usize,
    ) -> Arc<Self> {
        let target = match &spec.action {
            Action::Forward(sets) => Target::Forward(Split::new(sets, slot_of)),
            Action::Redirect(redirect) => Target::Redirect(Box::new(redirect.clone())),
            Action::Answer(answer) => Target::Answer(Box::new(Answer {
                body: Bytes::copy_from_slice(answer.body.as_bytes()),
                spec: answer.clone(),
            })),
        };
        if let Some(former) = former
            && Arc::ptr_eq(&former.spec, spec)
            && former.is_tcp == is_tcp
            && former.target.leads_where(&target)
        {
            return Arc::clone(former);
        }
        let percent = spec.retry.budget_percent;
        let same_budget = former.filter(|old| old.spec.retry.budget_percent == percent);
        Arc::new(Self {
            target,
            metrics: match former {
                Some(old) => old.metrics.clone(),
                None => Sharded::new(workers),
            },
            budget: match same_budget {
                Some(old) => Arc::clone(&old.budget),
                None => Arc::new(RetryBudget::new(percent, workers)),
            },
            terms: Terms {
                timeout: spec.timeout,
                stream_idle_timeout: spec.stream_idle_timeout,
                max_request_bytes: spec.max_request_bytes,
                via: spec.via,
                retry: spec.retry.clone(),
            },
            spec: Arc::clone(spec),
            is_tcp,
        })
    }
}

impl Target {
    /// The places of its sets.
    pub(super) fn slots(&self) -> Vec<u32> {
        match self {
            Self::Forward(Split::Only(only)) => vec![*only],
            Self::Forward(Split::Weighted(sets)) => sets.iter().map(|(_, slot)| *slot).collect(),
            Self::Redirect(_) | Self::Answer(_) => Vec::new(),
        }
    }

    /// Of the same spec: only the places of its sets can differ.
    fn leads_where(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Forward(split), Self::Forward(other)) => split == other,
            _ => true,
        }
    }
}

impl Split {
    fn new(
        sets: &[spec::WeightedBackendSet],
        slot_of: impl Fn(&BackendSetName) -> Option<u32>,
    ) -> Self {
        let mut sum = 0;
        let sets: Vec<_> = sets
            .iter()
            .filter(|set| set.weight > 0)
            .filter_map(|set| {
                sum += u64::from(set.weight);
                Some((sum, slot_of(&set.backend_set)?))
            })
            .collect();
        match sets[..] {
            [(_, only)] => Self::Only(only),
            _ => Self::Weighted(sets),
        }
    }

    /// Draws one of the sets.
    pub fn choose(&self, rng: &mut fastrand::Rng) -> u32 {
        let sets = match self {
            Self::Only(only) => return *only,
            Self::Weighted(sets) => sets,
        };
        let total = sets.last().map_or(1, |(sum, _)| *sum);
        let ticket = rng.u64(..total);
        sets[sets.partition_point(|(sum, _)| *sum <= ticket)].1
    }
}
