//! Which metrics and labels a PromQL expression is about. No more of the language than that:
//! whether it is valid, Prometheus says.

use std::collections::{BTreeMap, BTreeSet};

use integration_tests::metrics::Family;

#[derive(Debug)]
pub struct Expression {
    text: String,
    selectors: Vec<Selector>,
    /// In `by (..)` and `without (..)`.
    grouped: BTreeSet<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Selector {
    name: String,
    /// That it matches on.
    labels: BTreeSet<String>,
}

/// Those that Prometheus adds to all it scrapes.
const OF_PROMETHEUS: [&str; 2] = ["job", "instance"];

// === impl Expression ===

impl Expression {
    /// # Panics
    /// If there is no metric in it.
    pub fn parse(text: &str) -> Self {
        let mut selectors = Vec::new();
        let mut grouped = BTreeSet::new();
        let mut rest = text;
        while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '"') {
            rest = &rest[start..];
            if let Some(quoted) = rest.strip_prefix('"') {
                let end = quoted.find('"').unwrap_or_else(|| panic!("{text}: no end of a quote"));
                rest = &quoted[end + 1..];
                continue;
            }
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
            rest = after;
            if word == "by" || word == "without" {
                let (labels, after) = enclosed(rest.trim_start(), '(', ')');
                grouped.extend(labels.split(',').map(|label| label.trim().to_owned()));
                rest = after;
            } else if word == "up" || word.starts_with("lb_") || word.starts_with("process_") {
                let mut labels = BTreeSet::new();
                if rest.starts_with('{') {
                    let (matchers, after) = enclosed(rest, '{', '}');
                    labels = matched(matchers);
                    rest = after;
                }
                selectors.push(Selector { name: word.into(), labels });
            }
        }
        assert!(!selectors.is_empty(), "{text}: no metric");
        Self { text: text.into(), selectors, grouped }
    }

    /// # Panics
    /// If it asks for what the pages do not have.
    pub fn check(&self, families: &BTreeMap<String, Family>) {
        for selector in &self.selectors {
            let known = selector.known(families, &self.text);
            let unknown: Vec<_> = selector.labels.difference(&known).collect();
            assert!(unknown.is_empty(), "{}: {} has no {unknown:?}", self.text, selector.name);
        }
        self.check_labels(&self.grouped, families);
    }

    /// # Panics
    /// If none of its metrics has one of these.
    pub fn check_labels(&self, labels: &BTreeSet<String>, families: &BTreeMap<String, Family>) {
        let known = self.selectors.iter().flat_map(|s| s.known(families, &self.text)).collect();
        let unknown: Vec<_> = labels.difference(&known).collect();
        assert!(unknown.is_empty(), "{}: nothing has {unknown:?}", self.text);
    }
}

impl Selector {
    /// The labels that it may go by.
    fn known(&self, families: &BTreeMap<String, Family>, text: &str) -> BTreeSet<String> {
        let mut known: BTreeSet<_> = OF_PROMETHEUS.map(str::to_owned).into();
        if self.name == "up" {
            return known;
        }
        let histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| families.get(self.name.strip_suffix(suffix)?))
            .filter(|family| family.kind == "histogram");
        let family = families.get(&self.name).filter(|family| family.kind != "histogram");
        let family = family.or(histogram);
        let family = family.unwrap_or_else(|| panic!("{text}: there is no {}", self.name));
        known.extend(family.labels.iter().cloned());
        if self.name.ends_with("_bucket") {
            known.insert("le".into());
        }
        known
    }
}

/// The labels of `a="x",b=~"y"`.
fn matched(matchers: &str) -> BTreeSet<String> {
    let mut labels = BTreeSet::new();
    let mut rest = matchers;
    while let Some(end) = rest.find(['=', '!']) {
        labels.insert(rest[..end].trim_matches([',', ' ']).to_owned());
        let mut quotes = rest.match_indices('"').skip(1);
        rest = quotes.next().map_or("", |(end, _)| &rest[end + 1..]);
    }
    labels
}

fn enclosed(text: &str, open: char, close: char) -> (&str, &str) {
    let inner = text.strip_prefix(open).and_then(|rest| rest.split_once(close));
    inner.unwrap_or_else(|| panic!("{text}: no {open}..{close}"))
}

/// The labels that a template names between `before` and `after`, or up to where the name ends.
pub fn labels_in(template: &str, before: &str, after: &str) -> BTreeSet<String> {
    let parts = template.split(before).skip(1);
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let labels = parts.map(|part| match after {
        "" => part.split(|c| !is_name(c)).next().unwrap_or_default(),
        after => part.split(after).next().unwrap_or_default().trim(),
    });
    labels.map(str::to_owned).collect()
}

#[test]
fn an_expression_is_about_its_metrics_and_labels() {
    let text = "histogram_quantile(0.99, sum by (a, le) (rate(lb_x_bucket{b=~\"lb_y{\",c!=\"\"}[5m]))) > up";
    let expression = Expression::parse(text);
    let set = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect();
    let selectors = [
        Selector { name: "lb_x_bucket".into(), labels: set(&["b", "c"]) },
        Selector { name: "up".into(), labels: set(&[]) },
    ];
    assert_eq!(expression.selectors, selectors);
    assert_eq!(expression.grouped, set(&["a", "le"]));
    assert_eq!(labels_in("{{a}} and {{ b }}", "{{", "}}"), set(&["a", "b"]));
    assert_eq!(labels_in("{{ $labels.a_b }}/{{ $labels.c}}", "$labels.", ""), set(&["a_b", "c"]));
}
