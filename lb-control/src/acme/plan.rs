//! What is to be done about a certificate, by what is known of it. Pure.

use std::{sync::Arc, time::Duration};

use lb_common::{
    material::{MaterialId, Materials},
    spec::{self, Acme},
};
use lb_tls::certificate::Facts;

use super::{
    record::{self, Record},
    schedule,
};

/// A certificate that is ordered.
pub struct Ordered {
    pub spec: Arc<spec::Certificate>,
    /// Of the one that is in force.
    pub facts: Option<Facts>,
    /// What ordering it takes, as far as it is there.
    pub materials: Materials,
}

/// What is known of a certificate, and what follows from it.
pub struct Plan {
    pub record: Record,
    /// The one that is in force is the one that is asked for.
    pub is_it: bool,
    /// Since the Unix epoch; long ago if at once.
    pub due: Duration,
}

impl Plan {
    pub fn new(ordered: &Ordered, acme: &Acme, wall: Duration) -> Self {
        let kept = ordered.materials.get(&MaterialId::acme_order(&ordered.spec.name));
        let record = Record::read(kept);
        let is_for = record.issued_for.is_empty() || record.issued_for == record::target(acme);
        let has_names = |facts: &&Facts| acme.domains.iter().all(|d| facts.names.contains(d));
        let in_force = ordered.facts.as_ref().filter(|_| is_for).filter(has_names);
        let record = record.about(&record::asked(acme, &ordered.materials));
        // What is further ahead than any pause was written when the clock was wrong.
        let horizon = wall + schedule::longest(ordered.facts.as_ref());
        let next_try = Some(record.next_try()).filter(|next| *next <= horizon).unwrap_or_default();
        let due = in_force.map_or(Duration::ZERO, schedule::renewal).max(next_try);
        Self { is_it: in_force.is_some(), due, record }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::tests::state;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    const NOW: Duration = Duration::from_secs(1080 * 24 * 3600);

    /// A certificate for these domains, and what is in force and kept of it.
    fn plan(domains: &[&str], in_force: Option<&[&str]>, kept: Option<&Record>) -> Plan {
        let text = format!(
            "[[certificates]]\nname = 'a'\nacme = {{ domains = {domains:?}, \
             directory = 'https://ca.test/dir' }}"
        );
        let spec = Arc::clone(&state(&text).certificates["a"]);
        let facts = in_force.map(|names| Facts {
            subject: String::new(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            identities: Vec::new(),
            issuer: String::new(),
            serial: String::new(),
            not_before: 1000 * DAY,
            not_after: 1090 * DAY,
            fingerprint: "00000000".into(),
            kind: "ecdsa",
        });
        let id = MaterialId::acme_order(&spec.name);
        let materials = kept.map(|kept| (id, kept.to_secret())).into_iter().collect();
        let ordered = Ordered { spec: Arc::clone(&spec), facts, materials };
        Plan::new(&ordered, spec.acme().expect("it is ordered"), NOW)
    }

    #[test]
    fn what_is_not_there_or_for_something_else_is_due_at_once() {
        assert_eq!(plan(&["a.test"], None, None).due, Duration::ZERO);
        let there = plan(&["a.test"], Some(&["a.test"]), None);
        assert_eq!((there.is_it, there.due), (true, 1060 * DAY));
        let more = plan(&["a.test", "b.test"], Some(&["a.test"]), None);
        assert_eq!((more.is_it, more.due), (false, Duration::ZERO));
        let fewer =
            Record { issued_for: "https://ca.test/dir a.test b.test".into(), ..<_>::default() };
        let fewer = plan(&["a.test"], Some(&["a.test", "b.test"]), Some(&fewer));
        assert_eq!((fewer.is_it, fewer.due), (false, Duration::ZERO));
        let elsewhere = Record { issued_for: "https://b.test/dir a.test".into(), ..<_>::default() };
        assert!(!plan(&["a.test"], Some(&["a.test"]), Some(&elsewhere)).is_it);
    }

    #[test]
    fn what_failed_waits_unless_something_else_is_asked_for() {
        let asked = plan(&["a.test"], None, None).record.asked;
        let mut failed = Record { asked, failures: 2, ..Record::default() };
        failed.set_next_try(NOW + DAY);
        let again = plan(&["a.test"], None, Some(&failed));
        assert_eq!((again.due, again.record.failures), (NOW + DAY, 2));
        let other = plan(&["b.test"], None, Some(&failed));
        assert_eq!((other.due, other.record.failures), (Duration::ZERO, 0));
    }

    #[test]
    fn a_pause_that_a_wrong_clock_has_written_is_not_waited_for() {
        let asked = plan(&["a.test"], None, None).record.asked;
        let mut failed = Record { asked, failures: 2, ..Record::default() };
        failed.set_next_try(NOW + DAY + Duration::from_millis(1));
        assert_eq!(plan(&["a.test"], None, Some(&failed)).due, Duration::ZERO);
        // After one that lives for ninety days, the next order may be thirty days ahead.
        failed.set_next_try(NOW + 30 * DAY);
        let there = |failed: &Record| plan(&["a.test"], Some(&["a.test"]), Some(failed)).due;
        assert_eq!(there(&failed), NOW + 30 * DAY);
        failed.set_next_try(NOW + 31 * DAY);
        assert_eq!(there(&failed), 1060 * DAY, "it goes by the certificate alone");
    }
}
