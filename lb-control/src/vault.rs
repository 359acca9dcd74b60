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
    material::{MaterialId, Materials},
    secret::Secret,
    spec::{self, CertificateSource, DesiredState, Pem},
};
use lb_proto::error::Problems;
use lb_tls::certificate::{Certificate, Facts};

use self::usable::{Unusable, check_ca, check_order, read, said, text};
use crate::timestamp;

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
    /// What proxies answer while certificates are ordered. Of no state, and never stored.
    challenges: BTreeMap<CertificateName, Materials>,
    certificates: BTreeMap<CertificateName, Judged>,
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
    pub fn new(known: Materials, desired: &DesiredState) -> Self {
        let mut vault = Self { known, ..Self::default() };
        vault.judge(desired);
        vault
    }

    pub fn certificates(&self) -> impl Iterator<Item = (&CertificateName, &Status)> {
        self.certificates.iter().map(|(name, judged)| (name, &judged.status))
    }

    /// What of it proxies need for this state, as far as it is there.
    pub fn needed_by(&self, desired: &DesiredState) -> Materials {
        let mut needed = needed(desired.materials_of_proxies(), &self.known);
        for challenges in self.challenges.values() {
            needed.extend(challenges.clone());
        }
        needed
    }

    /// Proxies are to answer that for a certificate that is ordered, and nothing else. Returns whether that
    /// is news.
    pub fn answer(&mut self, certificate: CertificateName, challenges: Materials) -> bool {
        match challenges.is_empty() {
            true => self.challenges.remove(&certificate).is_some(),
            false => {
                let before = self.challenges.insert(certificate.clone(), challenges);
                before.as_ref() != self.challenges.get(&certificate)
            }
        }
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
                (CertificateSource::Pair { chain, .. }, Ok(Certificate { facts, .. }))
                    if facts.not_after < wall =>
                {
                    let why = format!("expired on {}", timestamp(facts.not_after));
                    unusable(Unusable { field: "cert", source: said(chain, ""), why });
                }
                (CertificateSource::Pair { .. }, Ok(_)) => {}
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
        problems.or(needed(next.materials(), &all))
    }

    /// `desired` is in force, and `materials` is what [`Vault::admit`] said of it.
    /// `base` is what was in force then: what was found since stays.
    pub fn advance(&mut self, desired: &DesiredState, materials: Materials, base: &Materials) {
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
        self.waiting
            .materials
            .retain(|id, secret| needed.contains(id) && self.known.get(id) != Some(secret));
        self.waiting.unreadable.retain(|id, _| needed.contains(id));
        self.challenges.retain(|name, _| needed.contains(&MaterialId::acme_order(name)));
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
        for group in self.groups(desired) {
            let users = desired
                .certificates
                .values()
                .filter(|spec| spec.materials().iter().any(|id| group.contains(id)));
            let is_usable = users.into_iter().all(|spec| read(spec, &all, &self.waiting).is_ok());
            let is_ca = |id: &MaterialId| {
                let content = self.waiting.materials.get(id);
                content.is_some_and(|content| check_ca(content.reveal()).is_ok())
            };
            let cas = cas(desired);
            if is_usable && group.iter().filter(|id| cas.contains(*id)).all(is_ca) {
                fresh.extend(self.taken(group));
            }
        }
        self.judge(desired);
        fresh
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

    /// Says of each certificate how it is doing.
    fn judge(&mut self, desired: &DesiredState) {
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
            if let Some(judged) = former.remove(name)
                && judged.spec == *spec
                && judged.saw == saw
            {
                return (name.clone(), judged);
            }
            let in_force = read(spec, &self.known, &nothing);
            let unusable = match &spec.source {
                // How ordering goes is told by who orders.
                CertificateSource::Acme(_) => None,
                CertificateSource::Pair { .. } => read(spec, &all, &self.waiting).err(),
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
mod tests {
    use super::*;
    use crate::desired::tests::state;

    const NOW: Duration = Duration::from_secs(1_700_000_000);

    /// A chain and its key.
    fn pair(name: &str) -> (Secret, Secret) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("it is made");
        let secret = |pem: String| Secret::new(pem.into_bytes());
        (secret(made.cert.pem()), secret(made.signing_key.serialize_pem()))
    }

    fn found(parts: &[(&str, &Secret)]) -> Found {
        let materials =
            parts.iter().map(|(path, secret)| (MaterialId::file(path), (*secret).clone()));
        Found { materials: materials.collect(), ..Found::default() }
    }

    fn site() -> DesiredState {
        state("certificates = [{ name = 'a', cert = '/a.pem', key = '/a.key' }]")
    }

    /// With what a first change brought.
    fn vault(chain: &Secret, key: &Secret) -> Vault {
        let mut vault = Vault::default();
        let brought = found(&[("/a.pem", chain), ("/a.key", key)]);
        let needed = vault.admit(&DesiredState::default(), &site(), &brought, NOW);
        vault.advance(&site(), needed.expect("it is right"), &Materials::new());
        vault
    }

    fn status(vault: &Vault) -> (Vec<String>, Option<String>) {
        let status = &vault.certificates["a"].status;
        let names = status.facts.as_ref().map_or_else(Vec::new, |facts| facts.names.clone());
        (names, status.problem.clone())
    }

    #[test]
    fn two_files_that_change_one_after_the_other_are_in_force_together() {
        let ((chain, key), (new_chain, new_key)) = (pair("old.test"), pair("new.test"));
        for first in ["/a.pem", "/a.key"] {
            let mut vault = vault(&chain, &key);
            let halves = [("/a.pem", &new_chain), ("/a.key", &new_key)];
            let (one, other): (Vec<_>, Vec<_>) = halves.iter().partition(|(id, _)| *id == first);
            assert_eq!(vault.find(&site(), found(&one)), Materials::new());
            let (names, problem) = status(&vault);
            assert_eq!(names, ["old.test"]);
            assert!(problem.is_some_and(|why| why.starts_with("/a.key: is not the key of")));
            assert_eq!(vault.needed_by(&site()).len(), 2, "and the old ones are still handed out");
            assert_eq!(vault.find(&site(), found(&other)).len(), 2);
            assert_eq!(status(&vault), (vec!["new.test".to_owned()], None));
        }
    }

    #[test]
    fn what_is_found_again_is_no_news() {
        let (chain, key) = pair("a.test");
        let mut vault = vault(&chain, &key);
        let again = found(&[("/a.pem", &chain), ("/a.key", &key)]);
        assert_eq!(vault.find(&site(), again), Materials::new());
    }

    #[test]
    fn a_file_that_is_gone_is_told_and_what_it_had_stays() {
        let (chain, key) = pair("a.test");
        let mut vault = vault(&chain, &key);
        let gone = Found {
            unreadable: [(MaterialId::file("/a.key"), "cannot be read: it is gone".into())].into(),
            ..Found::default()
        };
        assert_eq!(vault.find(&site(), gone), Materials::new());
        let told = Some("/a.key: cannot be read: it is gone".to_owned());
        assert_eq!(status(&vault), (vec!["a.test".to_owned()], told));
        vault.find(&site(), found(&[("/a.key", &key)]));
        assert_eq!(status(&vault).1, None, "it is back");
    }

    #[test]
    fn a_change_of_something_else_minds_no_file_that_is_being_renewed() {
        let ((chain, key), (new_chain, _)) = (pair("old.test"), pair("new.test"));
        let vault = vault(&chain, &key);
        let mut next = site();
        next.backend_sets = state("backend_sets = [{ name = 'app' }]").backend_sets;
        let half = found(&[("/a.pem", &new_chain), ("/a.key", &key)]);
        let needed = vault.admit(&site(), &next, &half, NOW).expect("it is about the set");
        assert_eq!(needed[&MaterialId::file("/a.pem")], chain);
    }

    #[test]
    fn a_key_that_two_share_is_in_force_when_both_can_use_it() {
        let two = state(
            "certificates = [{ name = 'x', cert = '/x.pem', key = '/key' }, \
             { name = 'y', cert = '/y.pem', key = '/key' }]",
        );
        let shared = |key: &rcgen::KeyPair, name: &str| {
            let params = rcgen::CertificateParams::new([name.to_owned()]).expect("a name");
            Secret::new(params.self_signed(key).expect("it signs").pem().into_bytes())
        };
        let [old, new] = [(); 2].map(|()| rcgen::KeyPair::generate().expect("it is made"));
        let key_of = |key: &rcgen::KeyPair| Secret::new(key.serialize_pem().into_bytes());
        let (x, y, key) = (shared(&old, "x.test"), shared(&old, "y.test"), key_of(&old));
        let mut vault = Vault::default();
        let brought = found(&[("/x.pem", &x), ("/y.pem", &y), ("/key", &key)]);
        let needed = vault.admit(&DesiredState::default(), &two, &brought, NOW);
        vault.advance(&two, needed.expect("it is right"), &Materials::new());
        let (new_x, new_y) = (shared(&new, "x.test"), shared(&new, "y.test"));
        let half = found(&[("/x.pem", &new_x), ("/key", &key_of(&new))]);
        assert_eq!(vault.find(&two, half), Materials::new(), "y could not use it");
        assert_eq!(vault.find(&two, found(&[("/y.pem", &new_y)])).len(), 3);
    }

    #[test]
    fn a_half_that_waits_outlives_a_change_of_something_else() {
        let ((chain, key), (new_chain, new_key)) = (pair("old.test"), pair("new.test"));
        let mut vault = vault(&chain, &key);
        vault.find(&site(), found(&[("/a.pem", &new_chain)]));
        let base = vault.materials().clone();
        let needed = vault.admit(&site(), &site(), &Found::default(), NOW).expect("it is right");
        // Between the two, the other half is found and in force.
        assert_eq!(vault.find(&site(), found(&[("/a.key", &new_key)])).len(), 2);
        vault.advance(&site(), needed.clone(), &base);
        assert_eq!(status(&vault), (vec!["new.test".to_owned()], None));
        // And if it was not found before, it still waits.
        let mut vault = Vault::default();
        vault.advance(&site(), needed, &Materials::new());
        vault.find(&site(), found(&[("/a.pem", &new_chain)]));
        let base = vault.materials().clone();
        vault.advance(&site(), base.clone(), &base);
        assert!(status(&vault).1.is_some(), "it is told");
        assert_eq!(vault.find(&site(), found(&[("/a.key", &new_key)])).len(), 2);
    }

    #[test]
    fn a_new_certificate_may_need_what_is_new_in_a_file_that_is_known() {
        let ((chain, key), (new_chain, new_key)) = (pair("old.test"), pair("new.test"));
        let vault = vault(&chain, &key);
        let next = state("certificates = [{ name = 'a', cert = '/b.pem', key = '/a.key' }]");
        let brought = found(&[("/b.pem", &new_chain), ("/a.key", &new_key)]);
        let needed = vault.admit(&site(), &next, &brought, NOW).expect("they belong together");
        assert_eq!(needed[&MaterialId::file("/a.key")], new_key);
        let both = state(
            "certificates = [{ name = 'a', cert = '/a.pem', key = '/a.key' }, \
             { name = 'b', cert = '/b.pem', key = '/a.key' }]",
        );
        let refused = vault.admit(&site(), &both, &brought, NOW).expect_err("a could not use it");
        assert!(refused.to_string().contains("is not the key of"), "{refused}");
    }

    #[test]
    fn a_ca_that_proxies_could_not_use_is_refused_and_a_broken_file_of_one_changes_nothing() {
        let of_clients = "listeners = [{ name = 'web', address = '127.0.0.1:1', \
             tls = { certificates = ['a'], client_auth = { mode = 'required', ca = '/ca.pem' } } }]";
        let of_backends = "backend_sets = [{ name = 'app', tls = { ca = '/ca.pem' } }]";
        for (more, field) in [
            (of_clients, "listeners[web].tls.client_auth.ca"),
            (of_backends, "backend_sets[app].tls.ca"),
        ] {
            let with_ca = state(&format!(
                "certificates = [{{ name = 'a', cert = '/a.pem', key = '/a.key' }}]\n{more}"
            ));
            let ((chain, key), (renewed, _)) = (pair("a.test"), pair("b.test"));
            let mut vault = vault(&chain, &key);
            let none = b"-----BEGIN CERTIFICATE-----\nTUlJQg==\n-----END CERTIFICATE-----\n";
            let none = Secret::new(none.to_vec());
            let refused = vault.admit(&site(), &with_ca, &found(&[("/ca.pem", &none)]), NOW);
            let refused = refused.expect_err("it is none").to_string();
            assert!(refused.starts_with(&format!("{field}: /ca.pem: ")), "{refused}");
            let needed = vault.admit(&site(), &with_ca, &found(&[("/ca.pem", &chain)]), NOW);
            let base = vault.materials().clone();
            vault.advance(&with_ca, needed.expect("it is one"), &base);
            assert_eq!(vault.find(&with_ca, found(&[("/ca.pem", &none)])), Materials::new());
            assert_eq!(vault.needed_by(&with_ca)[&MaterialId::file("/ca.pem")], chain);
            assert_eq!(vault.find(&with_ca, found(&[("/ca.pem", &renewed)])).len(), 1);
            assert_eq!(vault.needed_by(&with_ca)[&MaterialId::file("/ca.pem")], renewed);
        }
    }

    #[test]
    fn what_no_state_needs_is_not_handed_out_and_tickets_are_kept() {
        let (chain, key) = pair("a.test");
        let mut vault = vault(&chain, &key);
        let tickets = Secret::new(vec![1]);
        let materials = [(MaterialId::tickets(), tickets)].into();
        assert_eq!(vault.find(&site(), Found { materials, ..Found::default() }).len(), 1);
        let needed = vault.needed_by(&site());
        assert!(!needed.contains_key(&MaterialId::tickets()), "no listener speaks TLS");
        let base = vault.materials().clone();
        vault.advance(&DesiredState::default(), Materials::new(), &base);
        let kept: Vec<_> = vault.materials().keys().map(ToString::to_string).collect();
        assert_eq!(kept, ["tickets"]);
    }

    fn ordered() -> DesiredState {
        state(
            "[[certificates]]\nname = 'a'\nacme = { domains = ['a.test'], \
             directory = 'https://ca.test/dir', eab = { kid = 'k', key = '/eab' } }\n\
             [[listeners]]\nname = 'web'\naddress = '127.0.0.1:1'\n\
             tls = { certificates = ['a'] }",
        )
    }

    /// With what an order has left.
    fn left(vault: &mut Vault, parts: &[(MaterialId, Secret)]) -> usize {
        let materials = parts.iter().cloned().collect();
        vault.find(&ordered(), Found { materials, ..Found::default() }).len()
    }

    #[test]
    fn what_is_ordered_need_not_be_there_yet_and_is_in_force_once_it_is_issued() {
        let key = Secret::new(b"zWNDZM6eQGHWpSRTPal5eIUYFTu7EajV".to_vec());
        let mut vault = Vault::default();
        let brought = found(&[("/eab", &key)]);
        let needed = vault.admit(&DesiredState::default(), &ordered(), &brought, NOW);
        let needed = needed.expect("it is right");
        vault.advance(&ordered(), needed, &Materials::new());
        assert_eq!(status(&vault), (Vec::new(), None), "how it is ordered is told elsewhere");
        let name = CertificateName::new("a").expect("a name");
        let (chain, key) = pair("a.test");
        let both = Secret::new([key.reveal(), chain.reveal()].concat());
        let order = (MaterialId::acme_order(&name), Secret::new(b"{}".to_vec()));
        let account = MaterialId::acme_account("https://ca.test/dir", "", "k");
        let account = (account, Secret::new(b"{}".to_vec()));
        let issued = (MaterialId::acme(&name), both);
        assert_eq!(left(&mut vault, &[account, order, issued]), 3);
        assert_eq!(status(&vault), (vec!["a.test".to_owned()], None));
        let handed_out: Vec<_> =
            vault.needed_by(&ordered()).keys().map(ToString::to_string).collect();
        assert_eq!(handed_out, ["acme:a"], "the rest is the controller's alone");

        let broken = (MaterialId::acme(&name), chain);
        assert_eq!(left(&mut vault, &[broken]), 0, "what cannot be used changes nothing");
        assert_eq!(status(&vault), (vec!["a.test".to_owned()], None));
    }

    #[test]
    fn what_is_issued_while_a_change_is_stored_stays_in_force() {
        let key = Secret::new(b"zWNDZM6eQGHWpSRTPal5eIUYFTu7EajV".to_vec());
        let mut vault = Vault::default();
        let brought = found(&[("/eab", &key)]);
        let needed = vault.admit(&DesiredState::default(), &ordered(), &brought, NOW);
        vault.advance(&ordered(), needed.expect("it is right"), &Materials::new());
        let base = vault.materials().clone();
        let needed = vault.admit(&ordered(), &ordered(), &Found::default(), NOW);
        let (chain, key) = pair("a.test");
        let name = CertificateName::new("a").expect("a name");
        let both = Secret::new([key.reveal(), chain.reveal()].concat());
        assert_eq!(left(&mut vault, &[(MaterialId::acme(&name), both)]), 1);
        vault.advance(&ordered(), needed.expect("it is right"), &base);
        assert_eq!(status(&vault).0, ["a.test"]);
    }

    #[test]
    fn what_an_order_takes_is_looked_at_before_it_is_made() {
        let vault = Vault::default();
        let refused = |brought: &Found| {
            let nothing = DesiredState::default();
            let refused = vault.admit(&nothing, &ordered(), brought, NOW);
            refused.expect_err("it cannot be used").to_string()
        };
        let missing = refused(&Found::default());
        assert_eq!(missing, "certificates[a].acme.eab.key: /eab: was not read yet");
        let short = Secret::new(b"c2hvcnQ".to_vec());
        let short = refused(&found(&[("/eab", &short)]));
        assert!(short.contains("is no key in base64url") && !short.contains("c2hvcnQ"), "{short}");
    }

    #[test]
    fn proxies_get_what_they_answer_a_ca_for_as_long_as_it_is_asked_for() {
        let mut vault = Vault::default();
        let name = CertificateName::new("a").expect("a name");
        let id = MaterialId::http_01("token");
        let answers: Materials = [(id.clone(), Secret::new(b"token.x".to_vec()))].into();
        assert!(vault.answer(name.clone(), answers.clone()));
        assert!(!vault.answer(name.clone(), answers), "it is no news");
        assert!(vault.needed_by(&ordered()).contains_key(&id));
        assert!(vault.materials().is_empty(), "it is not kept");
        assert!(vault.answer(name.clone(), Materials::new()));
        assert!(!vault.answer(name, Materials::new()));
        assert!(!vault.needed_by(&ordered()).contains_key(&id));
    }
}
