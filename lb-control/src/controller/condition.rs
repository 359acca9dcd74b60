//! What is worth telling when files change: another certificate is in force, or something is not.

use std::collections::BTreeMap;

use lb_proto::v1::CertificateChanged;

/// How a certificate, or a file with CAs, is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Of the certificate that is in force.
    pub fingerprint: Option<String>,
    pub problem: Option<String>,
}

/// By the certificate's name, or the file's path.
pub type Conditions = BTreeMap<String, Condition>;

/// What has changed. What is in one of them alone is well in the other one.
pub fn changes(before: &Conditions, after: &Conditions) -> Vec<CertificateChanged> {
    let well = Condition::default();
    let mut changes = Vec::new();
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    for name in after.keys().chain(gone) {
        let (old, new) = (before.get(name).unwrap_or(&well), after.get(name).unwrap_or(&well));
        let mut change = |what: &str, why: String| {
            changes.push(CertificateChanged { name: name.clone(), what: what.into(), why });
        };
        if let Some(fingerprint) = &new.fingerprint
            && old.fingerprint != new.fingerprint
        {
            change("in_force", format!("SHA-256 {fingerprint}"));
        }
        match (&old.problem, &new.problem) {
            (old, Some(why)) if old.as_ref() != Some(why) => change("problem", why.clone()),
            (Some(_), None) => change("mended", String::new()),
            _ => {}
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_another_one_or_goes_wrong_is_told_once() {
        let one = |fingerprint: Option<&str>, problem: Option<&str>| Condition {
            fingerprint: fingerprint.map(str::to_owned),
            problem: problem.map(str::to_owned),
        };
        let told = |before: Option<Condition>, after: Option<Condition>| {
            let of = |one: Option<Condition>| one.map(|one| ("a".to_owned(), one));
            let (before, after) =
                (of(before).into_iter().collect(), of(after).into_iter().collect());
            let changes = changes(&before, &after);
            changes.into_iter().map(|c| format!("{} {}", c.what, c.why)).collect::<Vec<_>>()
        };
        let (well, broken) = (one(Some("1"), None), one(Some("1"), Some("bad")));
        assert_eq!(told(Some(well.clone()), Some(broken.clone())), ["problem bad"]);
        assert!(told(Some(broken.clone()), Some(broken.clone())).is_empty());
        assert_eq!(
            told(Some(broken.clone()), Some(one(Some("1"), Some("worse")))),
            ["problem worse"]
        );
        assert_eq!(told(Some(broken.clone()), Some(well.clone())), ["mended "]);
        let next = one(Some("2"), None);
        assert_eq!(told(Some(broken), Some(next.clone())), ["in_force SHA-256 2", "mended "]);
        assert_eq!(told(Some(well), Some(next)), ["in_force SHA-256 2"]);
        // A file with CAs is only there while it is broken.
        assert_eq!(told(None, Some(one(None, Some("bad")))), ["problem bad"]);
        assert_eq!(told(Some(one(None, Some("bad"))), None), ["mended "]);
    }
}
