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
    let materials = parts.iter().map(|(path, secret)| (MaterialId::file(path), (*secret).clone()));
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
    vault.advance(&site(), needed.expect("it is right"), &Materials::new(), NOW);
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
        assert_eq!(vault.find(&site(), found(&one), NOW), Materials::new());
        let (names, problem) = status(&vault);
        assert_eq!(names, ["old.test"]);
        assert!(problem.is_some_and(|why| why.starts_with("/a.key: is not the key of")));
        assert_eq!(vault.handed_out().len(), 2, "and the old ones are still handed out");
        assert_eq!(vault.find(&site(), found(&other), NOW).len(), 2);
        assert_eq!(status(&vault), (vec!["new.test".to_owned()], None));
    }
}

/// The same, good from the one year's begin to the other's.
fn pair_of(name: &str, from: i32, to: i32) -> (Secret, Secret) {
    let mut params = rcgen::CertificateParams::new([name.to_owned()]).expect("a name");
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(to, 1, 1);
    let key = rcgen::KeyPair::generate().expect("it is made");
    let chain = params.self_signed(&key).expect("it signs").pem();
    (Secret::new(chain.into_bytes()), Secret::new(key.serialize_pem().into_bytes()))
}

#[test]
fn what_was_good_or_will_be_is_no_better_than_what_is() {
    let good = pair_of("good.test", 2020, 2030);
    for (name, from, to, told) in [
        ("over.test", 2020, 2022, "/a.pem: expired on 2022-01-01T00:00:00Z"),
        ("early.test", 2024, 2030, "/a.pem: is not valid before 2024-01-01T00:00:00Z"),
    ] {
        let mut vault = vault(&good.0, &good.1);
        let (chain, key) = pair_of(name, from, to);
        let both = || found(&[("/a.pem", &chain), ("/a.key", &key)]);
        assert_eq!(vault.find(&site(), both(), NOW), Materials::new());
        assert_eq!(status(&vault), (vec!["good.test".to_owned()], Some(told.to_owned())));
        let refused = vault.admit(&DesiredState::default(), &site(), &both(), NOW);
        let refused = refused.expect_err("it is of no use now").to_string();
        assert_eq!(refused, format!("certificates[a].cert: {told}"));
        // What is in force is over by then, and one is as bad as the other or better.
        let later = NOW + Duration::from_secs(10 * 365 * 24 * 3600);
        assert_eq!(vault.find(&site(), both(), later).len(), 2);
    }
    let mut vault = vault(&good.0, &good.1);
    let (chain, key) = pair_of("early.test", 2024, 2030);
    vault.find(&site(), found(&[("/a.pem", &chain), ("/a.key", &key)]), NOW);
    assert_eq!(vault.waiting().count(), 2);
    let by_then = NOW + Duration::from_secs(365 * 24 * 3600);
    let again = found(&[("/a.pem", &chain), ("/a.key", &key)]);
    assert_eq!(vault.find(&site(), again, by_then).len(), 2, "its time has come");
    assert_eq!(status(&vault), (vec!["early.test".to_owned()], None));
}

#[test]
fn what_was_ordered_is_taken_though_clocks_differ() {
    let name = CertificateName::new("a").expect("a name");
    let both = |(chain, key): (Secret, Secret)| {
        let both = Secret::new([key.reveal(), chain.reveal()].concat());
        [(MaterialId::acme(&name), both)]
    };
    let mut vault = Vault::default();
    assert_eq!(left(&mut vault, &both(pair_of("a.test", 2020, 2030))), 1);
    assert_eq!(left(&mut vault, &both(pair_of("a.test", 2024, 2030))), 1, "it begins soon");
}

#[test]
fn what_is_found_again_is_no_news() {
    let (chain, key) = pair("a.test");
    let mut vault = vault(&chain, &key);
    let again = found(&[("/a.pem", &chain), ("/a.key", &key)]);
    assert_eq!(vault.find(&site(), again, NOW), Materials::new());
}

#[test]
fn a_file_that_is_gone_is_told_and_what_it_had_stays() {
    let (chain, key) = pair("a.test");
    let mut vault = vault(&chain, &key);
    let gone = Found {
        unreadable: [(MaterialId::file("/a.key"), "cannot be read: it is gone".into())].into(),
        ..Found::default()
    };
    assert_eq!(vault.find(&site(), gone, NOW), Materials::new());
    let told = Some("/a.key: cannot be read: it is gone".to_owned());
    assert_eq!(status(&vault), (vec!["a.test".to_owned()], told));
    vault.find(&site(), found(&[("/a.key", &key)]), NOW);
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
    assert_eq!(needed, None, "what is needed is what it was");
    next.listeners = state("listeners = [{ name = 'web', address = '127.0.0.1:1' }]").listeners;
    let needed = vault.admit(&site(), &next, &half, NOW).expect("it is about the listener");
    assert_eq!(needed.expect("it may differ")[&MaterialId::file("/a.pem")], chain);
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
    vault.advance(&two, needed.expect("it is right"), &Materials::new(), NOW);
    let (new_x, new_y) = (shared(&new, "x.test"), shared(&new, "y.test"));
    let half = found(&[("/x.pem", &new_x), ("/key", &key_of(&new))]);
    assert_eq!(vault.find(&two, half, NOW), Materials::new(), "y could not use it");
    assert_eq!(vault.find(&two, found(&[("/y.pem", &new_y)]), NOW).len(), 3);
}

#[test]
fn a_half_that_waits_outlives_a_change_of_something_else() {
    let ((chain, key), (new_chain, new_key)) = (pair("old.test"), pair("new.test"));
    let mut vault = vault(&chain, &key);
    vault.find(&site(), found(&[("/a.pem", &new_chain)]), NOW);
    let base = vault.materials().clone();
    let needed = vault.admit(&site(), &site(), &Found::default(), NOW).expect("it is right");
    // Between the two, the other half is found and in force.
    assert_eq!(vault.find(&site(), found(&[("/a.key", &new_key)]), NOW).len(), 2);
    vault.advance(&site(), needed.clone(), &base, NOW);
    assert_eq!(status(&vault), (vec!["new.test".to_owned()], None));
    // And if it was not found before, it still waits.
    let mut vault = Vault::default();
    vault.advance(&site(), needed, &Materials::new(), NOW);
    vault.find(&site(), found(&[("/a.pem", &new_chain)]), NOW);
    let base = vault.materials().clone();
    vault.advance(&site(), Some(base.clone()), &base, NOW);
    assert!(status(&vault).1.is_some(), "it is told");
    assert_eq!(vault.find(&site(), found(&[("/a.key", &new_key)]), NOW).len(), 2);
}

#[test]
fn a_new_certificate_may_need_what_is_new_in_a_file_that_is_known() {
    let ((chain, key), (new_chain, new_key)) = (pair("old.test"), pair("new.test"));
    let vault = vault(&chain, &key);
    let next = state("certificates = [{ name = 'a', cert = '/b.pem', key = '/a.key' }]");
    let brought = found(&[("/b.pem", &new_chain), ("/a.key", &new_key)]);
    let needed = vault.admit(&site(), &next, &brought, NOW).expect("they belong together");
    assert_eq!(needed.expect("it may differ")[&MaterialId::file("/a.key")], new_key);
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
        vault.advance(&with_ca, needed.expect("it is one"), &base, NOW);
        assert_eq!(vault.find(&with_ca, found(&[("/ca.pem", &none)]), NOW), Materials::new());
        let told: Vec<_> = vault.broken_cas().keys().collect();
        assert_eq!(told, ["/ca.pem"], "what there was is in force, and that is told");
        assert_eq!(vault.handed_out()[&MaterialId::file("/ca.pem")], chain);
        assert_eq!(vault.find(&with_ca, found(&[("/ca.pem", &renewed)]), NOW).len(), 1);
        assert!(vault.broken_cas().is_empty());
        assert_eq!(vault.handed_out()[&MaterialId::file("/ca.pem")], renewed);
    }
}

#[test]
fn what_no_state_needs_is_not_handed_out_and_tickets_are_kept() {
    let (chain, key) = pair("a.test");
    let mut vault = vault(&chain, &key);
    let tickets = Secret::new(vec![1]);
    let materials = Materials::unit(MaterialId::tickets(), tickets);
    assert_eq!(vault.find(&site(), Found { materials, ..Found::default() }, NOW).len(), 1);
    let needed = vault.handed_out();
    assert!(!needed.contains_key(&MaterialId::tickets()), "no listener speaks TLS");
    let base = vault.materials().clone();
    vault.advance(&DesiredState::default(), Some(Materials::new()), &base, NOW);
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
    vault.find(&ordered(), Found { materials, ..Found::default() }, NOW).len()
}

#[test]
fn what_is_ordered_need_not_be_there_yet_and_is_in_force_once_it_is_issued() {
    let key = Secret::new(b"zWNDZM6eQGHWpSRTPal5eIUYFTu7EajV".to_vec());
    let mut vault = Vault::default();
    let brought = found(&[("/eab", &key)]);
    let needed = vault.admit(&DesiredState::default(), &ordered(), &brought, NOW);
    let needed = needed.expect("it is right");
    vault.advance(&ordered(), needed, &Materials::new(), NOW);
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
    let handed_out: Vec<_> = vault.handed_out().keys().map(ToString::to_string).collect();
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
    vault.advance(&ordered(), needed.expect("it is right"), &Materials::new(), NOW);
    let base = vault.materials().clone();
    let needed = vault.admit(&ordered(), &ordered(), &Found::default(), NOW);
    let (chain, key) = pair("a.test");
    let name = CertificateName::new("a").expect("a name");
    let both = Secret::new([key.reveal(), chain.reveal()].concat());
    assert_eq!(left(&mut vault, &[(MaterialId::acme(&name), both)]), 1);
    vault.advance(&ordered(), needed.expect("it is right"), &base, NOW);
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
    let answers: Materials = Materials::unit(id.clone(), Secret::new(b"token.x".to_vec()));
    assert!(vault.answer(&ordered(), name.clone(), answers.clone()));
    assert!(!vault.answer(&ordered(), name.clone(), answers), "it is no news");
    assert!(vault.handed_out().contains_key(&id));
    assert!(vault.materials().is_empty(), "it is not kept");
    assert!(vault.answer(&ordered(), name.clone(), Materials::new()));
    assert!(!vault.answer(&ordered(), name, Materials::new()));
    assert!(!vault.handed_out().contains_key(&id));
}
