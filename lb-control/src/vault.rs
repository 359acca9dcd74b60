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
    time::Duration,
};

use lb_common::{
    id::CertificateName,
    material::{MaterialId, Materials},
    secret::Secret,
    spec::{self, DesiredState, Key, Pem},
};
use lb_proto::error::Problems;
use lb_tls::certificate::{self, Certificate, Facts};

use crate::timestamp;

/// What somebody found when looking for material.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub materials: Materials,
    /// Why there is none.
    pub unreadable: BTreeMap<MaterialId, String>,
}

/// Of the current state.
#[derive(Debug, Default)]
pub struct Vault {
    /// In force.
    known: Materials,
    /// Found since, and of no use yet: one half of a pair, or something broken.
    waiting: Found,
    certificates: BTreeMap<CertificateName, Status>,
}

/// How a certificate is doing.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Of the one that is in force, if there is one.
    pub facts: Option<Facts>,
    /// Why what was found since is not in force.
    pub problem: Option<String>,
}

impl Found {
    /// `materials`, and what this has of those that `counts`.
    fn over(&self, materials: &Materials, counts: impl Fn(&MaterialId) -> bool) -> Materials {
        let found = self.materials.iter().filter(|(id, _)| counts(id));
        let mut all = materials.clone();
        all.extend(found.map(|(id, secret)| (id.clone(), secret.clone())));
        all
    }
}

impl Vault {
    /// As it was stored. Whatever of it is broken is told when it is looked at.
    pub fn new(known: Materials, desired: &DesiredState) -> Self {
        let mut vault = Self { known, ..Self::default() };
        vault.judge(desired);
        vault
    }

    pub fn certificates(&self) -> &BTreeMap<CertificateName, Status> {
        &self.certificates
    }

    /// What of it this state needs, as far as it is there.
    pub fn needed_by(&self, desired: &DesiredState) -> Materials {
        needed(desired, &self.known)
    }

    /// What files the current state names.
    pub fn files(&self, desired: &DesiredState) -> Vec<MaterialId> {
        desired.materials().into_iter().filter(|id| id.path().is_some()).collect()
    }

    /// What is in force.
    pub fn materials(&self) -> &Materials {
        &self.known
    }

    /// What `next` would need, if all that is new in it can be used. What the current state has keeps
    /// what it has: a file that is being renewed is no concern of a change of something else.
    ///
    /// # Errors
    /// What cannot.
    pub fn admit(
        &self,
        current: &DesiredState,
        next: &DesiredState,
        found: &Found,
        wall: Duration,
    ) -> Result<Materials, Problems> {
        let old_ids = current.materials();
        let all =
            found.over(&self.known, |id| !(old_ids.contains(id) && self.known.contains_key(id)));
        let mut problems = Problems::default();
        for (name, spec) in &next.certificates {
            if current.certificates.get(name) == Some(spec) {
                continue;
            }
            match read(spec, &all, found) {
                Ok(Certificate { facts, .. }) if facts.not_after < wall => {
                    let why = format!("expired on {}", timestamp(facts.not_after));
                    problems.add(format!("certificates[{name}].cert"), said(&spec.chain, &why));
                }
                Ok(_) => {}
                Err(Unusable { field, source, why }) => {
                    problems.add(format!("certificates[{name}].{field}"), format!("{source}{why}"));
                }
            }
        }
        for (name, listener) in &next.listeners {
            let auth = listener.tls.as_ref().and_then(|tls| tls.client_auth.as_ref());
            if let Some(auth) = auth
                && current.listeners.get(name).is_none_or(|old| old.tls != listener.tls)
            {
                let field = format!("listeners[{name}].tls.client_auth.ca");
                let read = text(&auth.ca, &all, found).and_then(|text| {
                    certificate::certificates(text).map_err(|error| error.to_string())
                });
                if let Err(why) = read {
                    problems.add(field, said(&auth.ca, &why));
                }
            }
        }
        problems.or(needed(next, &all))
    }

    /// `desired` is in force, and `materials` is what [`Vault::admit`] said of it.
    pub fn advance(&mut self, desired: &DesiredState, materials: Materials) {
        // Tickets outlive the last listener with TLS: the next one takes them.
        let tickets = self.known.remove_entry(&MaterialId::tickets());
        self.known = materials;
        self.known.extend(tickets);
        self.waiting = Found::default();
        self.judge(desired);
    }

    /// Something was found. Returns what is in force now and was not before.
    pub fn find(&mut self, desired: &DesiredState, found: Found) -> Materials {
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
        // What several certificates need goes when the first of them can use it; the others say what is
        // wrong with it.
        for spec in desired.certificates.values() {
            if read(spec, &all, &self.waiting).is_ok() {
                fresh.extend(self.taken(ids(spec)));
            }
        }
        let of_certificates: BTreeSet<_> =
            desired.certificates.values().flat_map(|spec| ids(spec)).collect();
        let waiting: Vec<_> = self.waiting.materials.keys().cloned().collect();
        let others = waiting.into_iter().filter(|id| !of_certificates.contains(id));
        let usable: Vec<_> = others
            .filter(|id| {
                let content = self.waiting.materials.get(id);
                id.path().is_none()
                    || content.is_some_and(|c| certificate::certificates(c.reveal()).is_ok())
            })
            .collect();
        fresh.extend(self.taken(usable));
        self.judge(desired);
        fresh
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

    /// Says of each certificate how it is doing.
    fn judge(&mut self, desired: &DesiredState) {
        let nothing = Found::default();
        let all = self.waiting.over(&self.known, |_| true);
        let statuses = desired.certificates.iter().map(|(name, spec)| {
            let in_force = read(spec, &self.known, &nothing);
            let problem = match read(spec, &all, &self.waiting) {
                Err(Unusable { source, why, .. }) => Some(format!("{source}{why}")),
                Ok(_) => ids(spec).into_iter().find_map(|id| {
                    let why = self.waiting.unreadable.get(&id)?;
                    Some(format!("{}: {why}", id.path().unwrap_or(id.as_str())))
                }),
            };
            let facts = in_force.ok().map(|certificate| certificate.facts);
            (name.clone(), Status { facts, problem })
        });
        self.certificates = statuses.collect();
    }
}

/// What of a certificate cannot be used.
struct Unusable {
    field: &'static str,
    /// `PATH: `, if it is in a file.
    source: String,
    why: String,
}

fn read(spec: &spec::Certificate, all: &Materials, found: &Found) -> Result<Certificate, Unusable> {
    let of_chain = |why| Unusable { field: "cert", source: said(&spec.chain, ""), why };
    let of_key = |why| {
        let source = match &spec.key {
            Key::File(path) => format!("{path}: "),
            Key::Given(_) => String::new(),
        };
        Unusable { field: "key", source, why }
    };
    let chain = text(&spec.chain, all, found).map_err(of_chain)?;
    let id = spec.key.material();
    let key = all.get(&id).ok_or_else(|| {
        let why = match &spec.key {
            Key::File(_) => missing(&id, found),
            Key::Given(digest) => format!("no key is known as {digest:?}; give the key itself"),
        };
        of_key(why)
    })?;
    Certificate::read(chain, key.reveal()).map_err(|error| match error.is_of_key() {
        true => of_key(error.to_string()),
        false => of_chain(error.to_string()),
    })
}

fn ids(spec: &spec::Certificate) -> Vec<MaterialId> {
    spec.chain.material().into_iter().chain([spec.key.material()]).collect()
}

fn needed(desired: &DesiredState, all: &Materials) -> Materials {
    let ids = desired.materials().into_iter();
    ids.filter_map(|id| Some((id.clone(), all.get(&id)?.clone()))).collect()
}

fn text<'a>(pem: &'a Pem, all: &'a Materials, found: &Found) -> Result<&'a [u8], String> {
    match pem {
        Pem::Text(text) => Ok(text.as_bytes()),
        Pem::File(path) => {
            let id = MaterialId::file(path);
            all.get(&id).map(Secret::reveal).ok_or_else(|| missing(&id, found))
        }
    }
}

fn missing(id: &MaterialId, found: &Found) -> String {
    found.unreadable.get(id).cloned().unwrap_or_else(|| "was not read yet".into())
}

/// `why`, with the file that it is about.
fn said(pem: &Pem, why: &str) -> String {
    match pem {
        Pem::File(path) => format!("{path}: {why}"),
        Pem::Text(_) => why.into(),
    }
}
