//! A route, and what it needs while a request follows it.

use std::sync::Arc;

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
    pub spec: Arc<spec::Route>,
    pub target: Target,
    pub budget: Arc<RetryBudget>,
    pub metrics: Arc<Sharded<RouteMetrics>>,
}

#[derive(Debug)]
pub enum Target {
    Forward(Split),
    Redirect(spec::Redirect),
    Answer { answer: spec::Answer, body: Bytes },
}

/// Backend sets by weight, each by its slot in the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Split {
    /// Each with the sum of the weights up to and including its own; those of weight 0 are absent.
    sets: Vec<(u64, u32)>,
}

impl Route {
    /// `slot_of` says where the table has a set; all that a route names are there.
    pub(super) fn new(
        spec: &Arc<spec::Route>,
        slot_of: impl Fn(&BackendSetName) -> Option<u32>,
        former: Option<&Arc<Self>>,
        workers: usize,
    ) -> Arc<Self> {
        let target = match &spec.action {
            Action::Forward(sets) => Target::Forward(Split::new(sets, slot_of)),
            Action::Redirect(redirect) => Target::Redirect(redirect.clone()),
            Action::Answer(answer) => Target::Answer {
                body: Bytes::copy_from_slice(answer.body.as_bytes()),
                answer: answer.clone(),
            },
        };
        if let Some(former) = former
            && Arc::ptr_eq(&former.spec, spec)
            && former.target.leads_where(&target)
        {
            return Arc::clone(former);
        }
        let percent = spec.retry.budget_percent;
        let same_budget = former.filter(|old| old.spec.retry.budget_percent == percent);
        Arc::new(Self {
            spec: Arc::clone(spec),
            target,
            budget: match same_budget {
                Some(old) => Arc::clone(&old.budget),
                None => Arc::new(RetryBudget::new(percent)),
            },
            metrics: match former {
                Some(old) => Arc::clone(&old.metrics),
                None => Arc::new(Sharded::new(workers)),
            },
        })
    }
}

impl Target {
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
        let sets = sets
            .iter()
            .filter(|set| set.weight > 0)
            .filter_map(|set| {
                sum += u64::from(set.weight);
                Some((sum, slot_of(&set.backend_set)?))
            })
            .collect();
        Self { sets }
    }

    /// Draws one of the sets.
    pub fn choose(&self, rng: &mut fastrand::Rng) -> u32 {
        let sets = &self.sets[..];
        if let [(_, only)] = sets {
            return *only;
        }
        let total = sets.last().map_or(1, |(sum, _)| *sum);
        let ticket = rng.u64(..total);
        sets[sets.partition_point(|(sum, _)| *sum <= ticket)].1
    }
}
