//! What becomes of what has its route, in the API's words.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::{
    snapshot::Snapshot,
    spec::{BackendState, Balance, Hash, HashKey, WeightedBackendSet},
};
use lb_http::message::Request;
use lb_proto::v1::{self, explain_response::Outcome};
use lb_routing::{backend::Backend, balance::hash, hash_key::Hashed, refusal::Refusal};

use super::compiled::{Compiled, Set};

/// Who asks, as far as backends are picked by that.
pub struct Asker<'a> {
    pub address: IpAddr,
    pub request: &'a Request,
}

/// What the controller knows about backends, by set and name.
#[derive(Debug, Default)]
pub struct Statuses(BTreeMap<(String, String), v1::BackendStatus>);

// === impl Statuses ===

impl Statuses {
    pub fn new(statuses: impl Iterator<Item = v1::BackendStatus>) -> Self {
        let by_name = |s: v1::BackendStatus| ((s.backend_set.clone(), s.backend.clone()), s);
        Self(statuses.map(by_name).collect())
    }

    fn of(&self, set: &Set, backend: &Backend) -> Option<&v1::BackendStatus> {
        self.0.get(&(set.spec.name.to_string(), backend.name.to_string()))
    }
}

pub fn refusal(refusal: &Refusal) -> Outcome {
    let status = refusal.status().as_u16().into();
    Outcome::Refusal(v1::RefusalOutcome { status, reason: refusal.to_string() })
}

/// Of what goes to these.
pub fn forward(
    sets: &[WeightedBackendSet],
    asker: &Asker<'_>,
    compiled: &Compiled,
    statuses: &Statuses,
) -> Outcome {
    let total: u64 = sets.iter().map(|set| u64::from(set.weight)).sum();
    let verdict = |split: &WeightedBackendSet| {
        let share = f64::from(split.weight) / total as f64;
        let set = compiled.set(&split.backend_set);
        set_verdict(set, share, asker, &compiled.snapshot, statuses)
    };
    let backend_sets = sets.iter().map(verdict).collect();
    Outcome::Forward(v1::ForwardOutcome { backend_sets })
}

fn set_verdict(
    set: &Set,
    share: f64,
    asker: &Asker<'_>,
    snapshot: &Snapshot,
    statuses: &Statuses,
) -> v1::BackendSetVerdict {
    let name = &set.spec.name;
    let mut verdict = v1::BackendSetVerdict {
        backend_set: name.to_string(),
        share,
        balance: set.spec.balance.as_str().into(),
        scheme: set.spec.scheme().as_str().into(),
        backends: set
            .backends
            .iter()
            .zip(&*set.members)
            .map(|(backend, spec)| {
                let status = statuses.of(set, backend);
                let is_unhealthy = snapshot.unhealthy.contains(name, &backend.name);
                backend_verdict(backend, spec.state, is_unhealthy, status)
            })
            .collect(),
        ..v1::BackendSetVerdict::default()
    };
    let mut eligible = set.eligible();
    let only = eligible.next();
    let count = usize::from(only.is_some()) + eligible.count();
    let (pick, why) = match &set.spec.balance {
        Balance::ConsistentHash(how) => {
            let (pick, key, why) = by_hash(set, how, asker);
            (verdict.hash_key, verdict.hash_value) = key;
            (pick, why)
        }
        Balance::RoundRobin => (None, format!("any of the {count} eligible, in turn")),
        Balance::Random => (None, format!("any of the {count} eligible, by chance")),
        Balance::LeastConnections => {
            (None, format!("of the {count} eligible, one with few requests on that proxy"))
        }
    };
    let (pick, why) = match count {
        _ if share == 0.0 => (None, "its weight is 0, so it gets nothing".into()),
        0 => {
            let refusal = Refusal::NoBackend(name.clone());
            (None, format!("{refusal}: the answer is {}", refusal.status().as_u16()))
        }
        1 => (only, "only one backend is eligible".into()),
        _ => (pick, why),
    };
    verdict.pick = pick.map(|backend| backend.name.to_string()).unwrap_or_default();
    verdict.why = why;
    verdict
}

/// The pick, what was hashed and its value, and why it was that.
fn by_hash<'a>(
    set: &'a Set,
    how: &Hash,
    asker: &Asker<'_>,
) -> (Option<&'a Backend>, (String, String), String) {
    let Hash { key, algorithm, function, .. } = how;
    let hashed = Hashed::of(key, asker.address, asker.request);
    let pick = set.pick(hashed.hash(|bytes| hash::hash(*function, bytes)));
    let (used, value) = match hashed {
        Hashed::Key(bytes) => (key, String::from_utf8_lossy(bytes).into_owned()),
        Hashed::Address(address) => (&HashKey::ClientAddress, address.to_string()),
    };
    let mut why = format!("{} by the {} of {used}", algorithm.as_str(), function.as_str());
    if used != key {
        why.push_str(&format!(", because the request has no {key}"));
    }
    (pick, (used.to_string(), value), why)
}

fn backend_verdict(
    backend: &Backend,
    state: BackendState,
    is_unhealthy: bool,
    status: Option<&v1::BackendStatus>,
) -> v1::BackendVerdict {
    let mut why = Vec::new();
    if state != BackendState::Active {
        why.push(state.as_str().to_owned());
    }
    if backend.weight == 0 {
        why.push("weight 0".to_owned());
    }
    if is_unhealthy {
        // If it has become healthy since, that is not why.
        let known = status.filter(|status| status.health() != v1::Health::Healthy);
        why.push(match known.map(|status| status.why.as_str()) {
            Some(why) if !why.is_empty() => format!("unhealthy: {why}"),
            _ => "unhealthy".to_owned(),
        });
    }
    if let Some(held) = status.map(|status| &status.held).filter(|held| !held.is_empty()) {
        why.push(format!("used although its checks fail: {held}"));
    }
    v1::BackendVerdict {
        backend: backend.name.to_string(),
        address: backend.address.to_string(),
        weight: backend.weight,
        eligible: backend.usable,
        why: why.join("; "),
        ejected_by: status
            .map(|status| status.ejections.iter().map(|e| e.proxy_id.clone()).collect())
            .unwrap_or_default(),
        in_flight: status.map_or(0, |status| status.in_flight),
    }
}
