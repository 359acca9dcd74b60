//! Which backends a request has tried, and which one is next.

use std::time::Instant;

use lb_routing::balance::PickContext;

use crate::{
    local::Local,
    table::{Pick, View},
};

/// Attempts remembered for not being picked again; beyond it, the oldest are forgotten.
const REMEMBERED: usize = 8;

#[derive(Default)]
pub struct Tried {
    ids: [u64; REMEMBERED],
    len: usize,
}

impl Tried {
    /// Prefers a backend that this request has not tried, but rather tries one again than none.
    pub fn pick(
        &mut self,
        local: &Local,
        view: &View,
        slot: u32,
        hash: u64,
        now: Instant,
    ) -> Option<Pick> {
        let pick = |tried: &Self| {
            local.with_rng(|rng| Pick::from(view, slot, &mut tried.context(local, hash, now, rng)))
        };
        let picked = match pick(self) {
            None if self.len > 0 => {
                *self = Self::default();
                pick(self)
            }
            picked => picked,
        }?;
        self.push(picked.backend().live.id);
        Some(picked)
    }

    fn push(&mut self, id: u64) {
        self.ids[self.len % REMEMBERED] = id;
        self.len += 1;
    }

    pub fn context<'a>(
        &'a self,
        local: &Local,
        hash: u64,
        now: Instant,
        rng: &'a mut fastrand::Rng,
    ) -> PickContext<'a> {
        let tried = &self.ids[..self.len.min(REMEMBERED)];
        PickContext::new(local.millis(now), rng, tried, hash)
    }
}
