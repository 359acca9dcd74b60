//! What the desired state needs besides itself: contents of files, keys. Kept apart from it, because
//! nobody is to see keys, and because files change by themselves.
//!
//! # Invariants
//!
//! - What is handed to proxies can be used: a certificate and its key belong together.
//! - A file that goes missing or breaks changes nothing: what it had before stays in force, and is told
//!   to be old.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use lb_common::{
    id::CertificateName,
    map::{changes, differ},
    material::{MaterialId, Materials},
    secret::Secret,
    spec::{self, CertificateSource, DesiredState, Pem},
};
use lb_proto::error::Problems;
use lb_tls::certificate::{Certificate, Facts};

use self::usable::{Unusable, check_ca, check_order, read, said, text, untimely};

mod found;
mod usable;

pub use found::Found;
pub use usable::{ca, certificate};

/// Of the current state.
#[derive(Debug, Default)]
pub struct Vault {
    /// In force.
    known: Materials,
    /// Found since, and of no use yet: one half of a pair, or something broken.
    waiting: Found,
    /// What of it proxies need, and what they answer.
    handed_out: Materials,
    /// What proxies answer while certificates are ordered. Of no state, and never stored.
    challenges: BTreeMap<CertificateName, Materials>,
    certificates: BTreeMap<CertificateName, Judged>,
    broken_cas: BTreeMap<String, String>,
}

/// What was said of a certificate, and what it was said of: reading keys takes its time, and the owner of
/// the state is not to read all of them whenever one changes.
#[derive(Debug)]
struct Judged {
    spec: Arc<spec::Certificate>,
    saw: Vec<Saw>,
    status: Status,
}

/// Of one piece of material: what is in force, what waits, and why it cannot be read.
type Saw = (Option<Secret>, Option<Secret>, Option<String>);

/// How a certificate is doing.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Of the one that is in force, if there is one.
    pub facts: Option<Facts>,
    /// Why what was found since is not in force.
    pub problem: Option<String>,
}

impl Vault {
    /// As it was stored. Whatever of it is broken is told when it is looked at.
    pub fn new(known: Materials, desired: &DesiredState, wall: Duration) -> Self {
        let mut vault = Self { known, ..Self::default() };
        vault.judge(desired, wall);
        vault
    }

    pub fn certificates(&self) -> impl Iterator<Item = (&CertificateName, &Status)> {
        self.certificates.iter().map(|(name, judged)| (name, &judged.status))
    }

    /// What proxies need of it, as far as it is there.
    pub fn handed_out(&self) -> &Materials {
        &self.handed_out
    }

    fn hand_out(&mut self, desired: &DesiredState) {
        let mut needed = needed(desired.materials_of_proxies(), &self.known);
        for challenges in self.challenges.values() {
            needed.extend(challenges.clone());
        }
        self.handed_out = needed;
    }

    /// Proxies are to answer that for a certificate that is ordered, and nothing else. Returns whether that
    /// is news.
    pub fn answer(
        &mut self,
        desired: &DesiredState,
        certificate: CertificateName,
        challenges: Materials,
    ) -> bool {
        let is_news = match challenges.is_empty() {
            true => self.challenges.remove(&certificate).is_some(),
            false => {
                let before = self.challenges.insert(certificate.clone(), challenges);
                before.as_ref() != self.challenges.get(&certificate)
            }
        };
        if is_news {
            self.hand_out(desired);
        }
        is_news
    }

    /// What files the current state names.
    pub fn files(&self, desired: &DesiredState) -> Vec<MaterialId> {
        desired.materials().into_iter().filter(|id| id.path().is_some()).collect()
    }

    /// What is in force.
    pub fn materials(&self) -> &Materials {
        &self.known
    }

    /// What `next` would need, if all that is new in it can be used; nothing, if that is what `current`
    /// needs. What the current state has keeps what it has: a file that is being renewed is no concern of
    /// a change of something else.
    ///
    /// # Errors
    /// What cannot.
    pub fn admit(
        &self,
        current: &DesiredState,
        next: &DesiredState,
        found: &Found,
        wall: Duration,
    ) -> Result<Option<Materials>, Problems> {
        if !may_differ(current, next) {
            return Ok(None);
        }
        let old_ids = current.materials();
        let mut all =
            found.over(&self.known, |id| !(old_ids.contains(id) && self.known.contains_key(id)));
        let everything = found.over(&self.known, |_| true);
        let given = next.certificates.iter().filter(|(_, spec)| spec.acme().is_none());
        let (new, old): (Vec<_>, Vec<_>) =
            given.partition(|(name, spec)| current.certificates.get(*name) != Some(*spec));
        for (_, spec) in new {
            // It may need what is new in a file that is known. Whoever shares that must be able to use
            // it, too.
            if read(spec, &all, found).is_err() && read(spec, &everything, found).is_ok() {
                let mut with = all.clone();
                for id in spec.materials() {
                    with.extend(everything.get(&id).map(|secret| (id, secret.clone())));
                }
                if old.iter().all(|(_, spec)| read(spec, &with, found).is_ok()) {
                    all = with;
                }
            }
        }
        let mut problems = Problems::default();
        for (name, spec) in &next.certificates {
            if current.certificates.get(name) == Some(spec) {
                continue;
            }
            let mut unusable = |Unusable { field, source, why }| {
                problems.add(format!("certificates[{name}].{field}"), format!("{source}{why}"));
            };
            match (&spec.source, read(spec, &all, found)) {
                // It is ordered once it is asked for.
                (CertificateSource::Acme(acme), _) => {
                    check_order(acme, &all, found).into_iter().for_each(unusable);
                }
                (CertificateSource::Pair { chain, .. }, Ok(Certificate { facts, .. })) => {
                    if let Some(why) = untimely(&facts, wall) {
                        unusable(Unusable { field: "cert", source: said(chain, ""), why });
                    }
                }
                (CertificateSource::Pair { .. }, Err(why)) => unusable(why),
            }
        }
        let mut judge_ca = |field: String, ca: &Pem| {
            if let Err(why) = text(ca, &all, found).and_then(check_ca) {
                problems.add(field, said(ca, &why));
            }
        };
        for (name, listener) in &next.listeners {
            if let Some(ca) = ca_of_clients(listener)
                && current.listeners.get(name).is_none_or(|old| old.tls != listener.tls)
            {
                judge_ca(format!("listeners[{name}].tls.client_auth.ca"), ca);
            }
        }
        for (name, set) in &next.backend_sets {
            if let Some(ca) = ca_of_backends(set)
                && current.backend_sets.get(name).is_none_or(|old| old.tls != set.tls)
            {
                judge_ca(format!("backend_sets[{name}].tls.ca"), ca);
            }
        }
        problems.or(Some(needed(next.materials(), &all)))
    }

    /// `desired` is in force, and `materials` is what [`Vault::admit`] said of it.
    /// `base` is what was in force then: what was found since stays.
    pub fn advance(
        &mut self,
        desired: &DesiredState,
        materials: Option<Materials>,
        base: &Materials,
        wall: Duration,
    ) {
        let Some(materials) = materials else { return };
        let known = std::mem::take(&mut self.known);
        let needed = desired.materials();
        let is_since = |id: &MaterialId, secret: &Secret| base.get(id) != Some(secret);
        let is_kept = |id: &MaterialId, secret: &Secret| {
            // Tickets outlive the last listener with TLS: the next one takes them.
            *id == MaterialId::tickets() || (needed.contains(id) && is_since(id, secret))
        };
        let kept: Materials =
            known.into_iter().filter(|(id, secret)| is_kept(id, secret)).collect();
        self.known = materials;
        self.known.extend(kept);
        // What waits for its other half waits on, as long as somebody needs it.
        let waiting = std::mem::take(&mut self.waiting.materials).into_iter();
        let waits = |(id, secret): &(MaterialId, Secret)| {
            needed.contains(id) && self.known.get(id) != Some(secret)
        };
        self.waiting.materials = waiting.filter(waits).collect();
        self.waiting.unreadable.retain(|id, _| needed.contains(id));
        self.challenges.retain(|name, _| needed.contains(&MaterialId::acme_order(name)));
        self.judge(desired, wall);
    }

    /// Something was found. Returns what is in force now and was not before.
    pub fn find(&mut self, desired: &DesiredState, found: Found, wall: Duration) -> Materials {
        for (id, secret) in found.materials {
            self.waiting.unreadable.remove(&id);
            self.waiting.materials.insert(id, secret);
        }
        for (id, why) in found.unreadable {
            self.waiting.materials.remove(&id);
            self.waiting.unreadable.insert(id, why);
        }
        let all = self.waiting.over(&self.known, |_| true);
        let mut fresh = Materials::new();
        for group in self.groups(desired) {
            let users = desired
                .certificates
                .values()
                .filter(|spec| spec.materials().iter().any(|id| group.contains(id)));
            let is_usable = users.into_iter().all(|spec| self.improves(spec, &all, wall));
            let is_ca = |id: &MaterialId| {
                let content = self.waiting.materials.get(id);
                content.is_some_and(|content| check_ca(content.reveal()).is_ok())
            };
            let cas = cas(desired);
            if is_usable && group.iter().filter(|id| cas.contains(*id)).all(is_ca) {
                fresh.extend(self.taken(group));
            }
        }
        self.judge(desired, wall);
        fresh
    }

    /// Whether a certificate can be used with this, and is none the worse for it: what is good now is not
    /// replaced by what was, or will be.
    fn improves(&self, spec: &spec::Certificate, all: &Materials, wall: Duration) -> bool {
        let is_valid = |certificate: &Certificate| certificate.facts.is_valid_at(wall);
        let Ok(next) = read(spec, all, &self.waiting) else { return false };
        // Who has ordered one has looked at its time.
        spec.acme().is_some()
            || is_valid(&next)
            || !read(spec, &self.known, &Found::default()).is_ok_and(|now| is_valid(&now))
    }

    /// What was found and is of no use yet.
    pub fn waiting(&self) -> impl Iterator<Item = &MaterialId> {
        self.waiting.materials.keys()
    }

    /// All files with CAs.
    pub fn ca_files(&self, desired: &DesiredState) -> Vec<MaterialId> {
        cas(desired).into_iter().collect()
    }

    /// Why what is in a file with CAs now is not in force, by its path.
    pub fn broken_cas(&self) -> &BTreeMap<String, String> {
        &self.broken_cas
    }

    /// What waits, in groups that are to be used together or not at all: whoever needs one of a group
    /// needs nothing of another one.
    fn groups(&self, desired: &DesiredState) -> Vec<BTreeSet<MaterialId>> {
        let mut groups: Vec<BTreeSet<MaterialId>> =
            self.waiting.materials.keys().map(|id| [id.clone()].into()).collect();
        for spec in desired.certificates.values() {
            let needs = spec.materials();
            let (touched, others): (Vec<_>, Vec<_>) =
                groups.into_iter().partition(|group| needs.iter().any(|id| group.contains(id)));
            groups = others;
            let joined: BTreeSet<_> = touched.into_iter().flatten().collect();
            if !joined.is_empty() {
                groups.push(joined);
            }
        }
        groups
    }

    /// Puts what waits of these in force.
    fn taken(&mut self, ids: impl IntoIterator<Item = MaterialId>) -> Materials {
        let mut fresh = Materials::new();
        for id in ids {
            if let Some(secret) = self.waiting.materials.remove(&id)
                && self.known.get(&id) != Some(&secret)
            {
                self.known.insert(id.clone(), secret.clone());
                fresh.insert(id, secret);
            }
        }
        fresh
    }

    /// Says of each certificate how it is doing, and of files with CAs what is wrong.
    fn judge(&mut self, desired: &DesiredState, wall: Duration) {
        let why_broken = |id: &MaterialId| {
            let unreadable = self.waiting.unreadable.get(id).cloned();
            let unusable = || check_ca(self.waiting.materials.get(id)?.reveal()).err();
            Some((id.path()?.to_owned(), unreadable.or_else(unusable)?))
        };
        self.broken_cas = cas(desired).iter().filter_map(why_broken).collect();
        self.hand_out(desired);
        let nothing = Found::default();
        let all = self.waiting.over(&self.known, |_| true);
        let mut former = std::mem::take(&mut self.certificates);
        let judged = desired.certificates.iter().map(|(name, spec)| {
            let ids = || spec.materials().into_iter().chain(spec.materials_of_controller());
            let saw = ids().map(|id| {
                let waiting = &self.waiting;
                let why = waiting.unreadable.get(&id).cloned();
                (self.known.get(&id).cloned(), waiting.materials.get(&id).cloned(), why)
            });
            let saw: Vec<_> = saw.collect();
            // What waits may have become good by waiting.
            let waits = saw.iter().any(|(_, waiting, _)| waiting.is_some());
            if let Some(judged) = former.remove(name)
                && judged.spec == *spec
                && judged.saw == saw
                && !waits
            {
                return (name.clone(), judged);
            }
            let in_force = read(spec, &self.known, &nothing);
            let unusable = match &spec.source {
                // How ordering goes is told by who orders.
                CertificateSource::Acme(_) => None,
                CertificateSource::Pair { chain, .. } => match read(spec, &all, &self.waiting) {
                    Err(unusable) => Some(unusable),
                    Ok(found) if waits => untimely(&found.facts, wall).map(|why| Unusable {
                        field: "cert",
                        source: said(chain, ""),
                        why,
                    }),
                    Ok(_) => None,
                },
            };
            let problem = match unusable {
                Some(Unusable { source, why, .. }) => Some(format!("{source}{why}")),
                None => ids().find_map(|id| {
                    let why = self.waiting.unreadable.get(&id)?;
                    Some(format!("{}: {why}", id.path().unwrap_or(id.as_str())))
                }),
            };
            let facts = in_force.ok().map(|certificate| certificate.facts);
            let status = Status { facts, problem };
            (name.clone(), Judged { spec: Arc::clone(spec), saw, status })
        });
        self.certificates = judged.collect();
    }
}

/// Whether one state may need other material than the other.
fn may_differ(from: &DesiredState, to: &DesiredState) -> bool {
    let has_tls = |set: Option<&Arc<spec::BackendSet>>| set.is_some_and(|set| set.tls.is_some());
    differ(&from.certificates, &to.certificates)
        || differ(&from.listeners, &to.listeners)
        || changes(&from.backend_sets, &to.backend_sets)
            .any(|change| has_tls(change.old) || has_tls(change.new))
}

/// Files with CAs.
fn cas(desired: &DesiredState) -> BTreeSet<MaterialId> {
    let of_clients = desired.listeners.values().filter_map(|listener| ca_of_clients(listener));
    let of_backends = desired.backend_sets.values().filter_map(|set| ca_of_backends(set));
    of_clients.chain(of_backends).filter_map(Pem::material).collect()
}

fn ca_of_clients(listener: &spec::Listener) -> Option<&Pem> {
    Some(&listener.tls.as_ref()?.client_auth.as_ref()?.ca)
}

fn ca_of_backends(set: &spec::BackendSet) -> Option<&Pem> {
    set.tls.as_ref()?.ca()
}

fn needed(ids: impl IntoIterator<Item = MaterialId>, all: &Materials) -> Materials {
    ids.into_iter().filter_map(|id| Some((id.clone(), all.get(&id)?.clone()))).collect()
}

#[cfg(test)]
mod tests;
