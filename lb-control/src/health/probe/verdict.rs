//! What a probe concludes, as soon as it does: what comes later of its connection changes nothing.

use std::time::Instant;

use lb_common::clock;

use super::problem::Problem;

#[derive(Debug)]
pub struct Verdict {
    /// What there is nothing of yet.
    pub missing: &'static str,
    said: Option<(Result<String, Problem>, Instant)>,
}

impl Verdict {
    pub fn new() -> Self {
        Self { missing: "no answer", said: None }
    }

    /// The first word is the last.
    pub fn say(&mut self, what: Result<String, Problem>) {
        self.said.get_or_insert_with(|| (what, clock::now()));
    }

    pub fn is_said(&self) -> bool {
        self.said.is_some()
    }

    pub fn said_at(&self) -> Option<Instant> {
        self.said.as_ref().map(|(_, at)| *at)
    }

    /// With when it was said.
    pub fn into_said(self) -> Option<(Result<String, Problem>, Instant)> {
        self.said
    }
}
