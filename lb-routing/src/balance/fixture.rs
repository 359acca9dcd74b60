//! Backends and picks for this crate's tests of what chooses a backend.

use std::{net::SocketAddr, sync::Arc};

use lb_common::id::BackendName;

use super::{PickContext, Picker};
use crate::{
    backend::{Backend, Live},
    outlier::Failure,
};

/// One usable backend for each weight, named b000, b001 and so on.
pub fn backends(weights: &[u32]) -> Vec<Arc<Backend>> {
    with_usable(weights, |_| true)
}

/// All of them are members; `usable` says which are healthy, too.
pub fn with_usable(weights: &[u32], usable: impl Fn(usize) -> bool) -> Vec<Arc<Backend>> {
    let backend = |(i, weight): (usize, &u32)| {
        Arc::new(Backend {
            name: BackendName::new(&format!("b{i:03}")).expect("letters and digits"),
            address: SocketAddr::from(([10, 0, 0, 1], 80)),
            weight: *weight,
            member: true,
            usable: usable(i),
            live: Arc::new(Live::new()),
        })
    };
    weights.iter().enumerate().map(backend).collect()
}

/// The same backends in the next table, with other health.
pub fn next_table(backends: &[Arc<Backend>], usable: impl Fn(usize) -> bool) -> Vec<Arc<Backend>> {
    let next = |(i, b): (usize, &Arc<Backend>)| {
        Arc::new(Backend {
            name: b.name.clone(),
            address: b.address,
            weight: b.weight,
            member: b.member,
            usable: usable(i),
            live: Arc::clone(&b.live),
        })
    };
    backends.iter().enumerate().map(next).collect()
}

pub fn eject(backend: &Backend, until: u64) {
    backend.live.outlier.eject(Failure::Status, until);
}

/// Any pick at instant 0 with nothing tried.
pub fn pick(
    picker: &dyn Picker,
    backends: &[Arc<Backend>],
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    picker.pick(backends, &mut PickContext::new(0, rng, &[], 0))
}

/// How often each backend is picked.
pub fn shares(
    picker: &dyn Picker,
    backends: &[Arc<Backend>],
    picks: usize,
    seed: u64,
) -> Vec<usize> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut counts = vec![0; backends.len()];
    for _ in 0..picks {
        counts[pick(picker, backends, &mut rng).expect("one is open")] += 1;
    }
    counts
}
