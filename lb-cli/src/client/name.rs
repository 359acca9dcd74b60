//! `SET/BACKEND`: a backend as it is given on the command line.
//!
//! Names may have slashes themselves, so only the desired state knows where the set's name ends.

use std::str::FromStr;

use anyhow::bail;
use lb_proto::{parse, v1};

/// Not looked up yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendPath(String);

// === impl BackendPath ===

impl FromStr for BackendPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((set, backend)) if !set.is_empty() && !backend.is_empty() => Ok(Self(text.into())),
            _ => Err("give a set and a backend of it, app/127.0.0.1:3001".into()),
        }
    }
}

impl BackendPath {
    /// The set's name, and the backend as it is.
    ///
    /// # Errors
    /// If there is no such set or backend; says what there is.
    pub fn find(&self, spec: &v1::Spec) -> anyhow::Result<(String, v1::Backend)> {
        let mut in_set = None;
        for set in &spec.backend_sets {
            let rest = self.0.strip_prefix(&set.name).and_then(|rest| rest.strip_prefix('/'));
            let Some(wanted) = rest else { continue };
            if let Some(found) = set.backends.iter().find(|b| parse::name_of(b) == wanted) {
                return Ok((set.name.clone(), found.clone()));
            }
            in_set = Some((set, wanted));
        }
        match in_set {
            Some((set, wanted)) => {
                let known = parse::list(set.backends.iter().map(parse::name_of));
                bail!("backend set {:?} has no backend {wanted:?}; there are {known}", set.name)
            }
            None => {
                let (wanted, _) = self.0.split_once('/').unwrap_or((&self.0, ""));
                let known = parse::list(spec.backend_sets.iter().map(|set| &set.name));
                bail!("no backend set is called {wanted:?}; there are {known}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_found_where_names_have_slashes() {
        let backend = |name: &str| v1::Backend {
            address: "127.0.0.1:1".into(),
            name: name.into(),
            ..v1::Backend::default()
        };
        let set = |name: &str, backends| v1::BackendSet {
            name: name.into(),
            backends,
            ..v1::BackendSet::default()
        };
        let spec = v1::Spec {
            backend_sets: vec![
                set("a", vec![backend("one"), backend("b/two")]),
                set("a/b", vec![backend(""), backend("three")]),
            ],
            ..v1::Spec::default()
        };
        let find = |text: &str| {
            let path: BackendPath = text.parse().expect("it has two parts");
            path.find(&spec).map(|(set, b)| format!("{set} {}", parse::name_of(&b)))
        };
        let ok = |text| find(text).expect("it is there");
        assert_eq!(ok("a/one"), "a one");
        assert_eq!(ok("a/b/two"), "a b/two");
        assert_eq!(ok("a/b/three"), "a/b three");
        assert_eq!(ok("a/b/127.0.0.1:1"), "a/b 127.0.0.1:1", "without a name, it is its address");
        let error = |text| find(text).expect_err("it is not there").to_string();
        assert_eq!(error("a/x"), "backend set \"a\" has no backend \"x\"; there are one, b/two");
        assert_eq!(error("c/x"), "no backend set is called \"c\"; there are a, a/b");
        assert!("a".parse::<BackendPath>().is_err());
    }
}
