//! What those who order certificates see of the state.

use std::sync::Arc;

use lb_common::{
    material::{MaterialId, Materials},
    snapshot::Version,
};

use super::Controller;
use crate::{acme, proxies::Spread};

impl Controller {
    /// The certificates that are ordered, and what that takes.
    pub fn orders(&self) -> acme::Seen {
        let statuses = self.vault.certificates();
        let certificates = statuses.filter_map(|(name, status)| {
            let spec = self.in_force.state.certificates.get(name)?;
            spec.acme()?;
            let facts = status.facts.clone();
            let materials = self.materials_of(spec.materials_of_controller());
            Some(acme::Ordered { spec: Arc::clone(spec), facts, materials })
        });
        acme::Seen {
            certificates: certificates.collect(),
            challenges: acme::possible(&self.in_force.state),
            connected: self.spread(Version::default()).connected,
        }
    }

    /// What there is of these.
    pub fn materials_of(&self, ids: impl IntoIterator<Item = MaterialId>) -> Materials {
        let known = self.vault.materials();
        ids.into_iter().filter_map(|id| Some((id.clone(), known.get(&id)?.clone()))).collect()
    }

    /// From which version on proxies run all that is decided by now. `None` until it is published, which is
    /// in a moment.
    pub fn version(&self) -> Option<Version> {
        self.unpublished.is_none().then_some(self.since)
    }

    /// How far that has come.
    pub fn spread(&self, version: Version) -> Spread {
        self.proxies.behind(version, self.current().version, self.moment.now)
    }
}
