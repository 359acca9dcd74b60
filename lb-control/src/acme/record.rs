//! What is kept of a certificate's orders, so that a controller that starts again goes on from there: it
//! orders nothing twice, and tries nothing sooner than it would have.
//!
//! It is kept like a secret, because the key of an order that is under way is in it.

use std::{collections::BTreeMap, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use lb_common::{
    material::{MaterialId, Materials},
    secret::Secret,
    spec::Acme,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// [`target`] of the certificate that is in force.
    pub issued_for: String,
    /// [`asked`] of what the rest is about: who asks for something else has not failed with it.
    pub asked: String,
    /// In a row.
    pub failures: u32,
    /// Why the latest order failed.
    pub reason: String,
    /// Not before then, in milliseconds since the Unix epoch.
    pub next_try: u64,
    pub open: Option<Open>,
}

/// An order that is under way.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Open {
    pub url: String,
    /// Of the certificate that it is for, as PEM.
    pub key: String,
    /// What the CA is answered, by what it is called as material. A CA looks when it likes, also while
    /// the controller starts again.
    #[serde(default)]
    pub answers: BTreeMap<String, String>,
}

/// What a certificate must have been issued for, so that it is the one that is asked for.
pub fn target(acme: &Acme) -> String {
    let mut domains: Vec<_> = acme.domains.iter().map(String::as_str).collect();
    domains.sort_unstable();
    format!("{} {}", acme.directory, domains.join(" "))
}

/// All that an order depends on, in few digits.
pub fn asked(acme: &Acme, materials: &Materials) -> String {
    let given = acme.given().map(|id| materials.get(&id).map(Secret::reveal).unwrap_or_default());
    let mut text = format!("{acme:?}").into_bytes();
    for part in given {
        text.extend_from_slice(digest(&SHA256, part).as_ref());
    }
    digest(&SHA256, &text).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Open {
    pub fn set_answers(&mut self, answers: &Materials) {
        let text = |secret: &Secret| String::from_utf8_lossy(secret.reveal()).into_owned();
        self.answers = answers.iter().map(|(id, secret)| (id.to_string(), text(secret))).collect();
    }

    pub fn answers(&self) -> Materials {
        let secret = |text: &String| Secret::new(text.clone().into());
        self.answers.iter().map(|(id, text)| (MaterialId::of(id), secret(text))).collect()
    }
}

impl Record {
    /// As it was kept. What is none means that nothing is known.
    pub fn read(kept: Option<&Secret>) -> Self {
        kept.and_then(|kept| serde_json::from_slice(kept.reveal()).ok()).unwrap_or_default()
    }

    pub fn to_secret(&self) -> Secret {
        Secret::new(serde_json::to_vec(self).expect("texts and numbers have a JSON form"))
    }

    /// As far as it is about what is asked for now.
    pub fn about(self, asked: &str) -> Self {
        match self.asked == asked {
            true => self,
            false => Self { issued_for: self.issued_for, asked: asked.into(), ..Self::default() },
        }
    }

    pub fn next_try(&self) -> Duration {
        Duration::from_millis(self.next_try)
    }

    pub fn set_next_try(&mut self, wall: Duration) {
        self.next_try = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acme(domains: &[&str]) -> Acme {
        Acme {
            domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
            directory: "https://ca.test/dir".into(),
            email: String::new(),
            ca: None,
            challenge: None,
            eab: None,
        }
    }

    #[test]
    fn the_order_of_domains_makes_no_other_certificate() {
        assert_eq!(target(&acme(&["a.test", "b.test"])), target(&acme(&["b.test", "a.test"])));
        assert_ne!(target(&acme(&["a.test", "b.test"])), target(&acme(&["a.test"])));
        let elsewhere = Acme { directory: "https://b.test/dir".into(), ..acme(&["a.test"]) };
        assert_ne!(target(&acme(&["a.test"])), target(&elsewhere));
    }

    #[test]
    fn what_is_kept_is_read_back_and_who_asks_for_something_else_begins_anew() {
        let (url, key) = ("https://ca.test/order/1".into(), "key".into());
        let mut open = Open { url, key, answers: BTreeMap::new() };
        let answers: Materials =
            Materials::unit(MaterialId::http_01("token"), Secret::new(b"token.x".to_vec()));
        open.set_answers(&answers);
        assert_eq!(open.answers(), answers);
        let open = Some(open);
        let record = Record {
            issued_for: "x".into(),
            asked: "one".into(),
            failures: 3,
            reason: "it failed".into(),
            next_try: 5,
            open,
        };
        let read = Record::read(Some(&record.to_secret()));
        assert!(read == record && read.clone().about("one") == record);
        let other = read.about("two");
        let fresh = Record { issued_for: "x".into(), asked: "two".into(), ..<_>::default() };
        assert!(other == fresh);
        let broken = Secret::new(b"no JSON".to_vec());
        assert!(Record::read(Some(&broken)) == Record::default());
    }
}
