//! What somebody found when looking for material.

use std::collections::BTreeMap;

use lb_common::material::{MaterialId, Materials};

#[derive(Clone, Debug, Default)]
pub struct Found {
    pub materials: Materials,
    /// Why there is none.
    pub unreadable: BTreeMap<MaterialId, String>,
}

impl Found {
    /// `materials`, and what this has of those that `counts`.
    pub fn over(&self, materials: &Materials, counts: impl Fn(&MaterialId) -> bool) -> Materials {
        let found = self.materials.iter().filter(|(id, _)| counts(id));
        let mut all = materials.clone();
        all.extend(found.map(|(id, secret)| (id.clone(), secret.clone())));
        all
    }
}
