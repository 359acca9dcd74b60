//! Prometheus' text format, read strictly.

use std::collections::{BTreeMap, BTreeSet};

/// What a `/metrics` page says.
#[derive(Debug)]
pub struct Metrics {
    types: BTreeMap<String, String>,
    samples: Vec<Sample>,
}

/// A metric, as far as a page has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    pub kind: String,
    /// Of its samples, without a bucket's bound.
    pub labels: BTreeSet<String>,
    pub samples: usize,
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

// === impl Metrics ===

impl Metrics {
    /// # Panics
    /// If it is not what Prometheus would read: a sample before its type, a type given twice, a
    /// counter that is not called `_total`, a sample given twice, buckets that do not add up.
    pub fn parse(text: &str) -> Self {
        let mut types: BTreeMap<String, String> = BTreeMap::new();
        let mut samples = Vec::new();
        let mut unique = BTreeSet::new();
        assert!(text.ends_with('\n'), "the last line has no end");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line:?}");
                assert!(kind != "counter" || name.ends_with("_total"), "{line:?}");
                let first = types.insert(name.into(), kind.into()).is_none();
                assert!(first, "{name} has its type twice");
            } else if !line.starts_with('#') {
                let sample = Sample::parse(line).unwrap_or_else(|| panic!("{line:?} is no sample"));
                assert!(types.contains_key(&family(&sample.name, &types)), "no type for {line:?}");
                assert!(
                    unique.insert(line.rsplit_once(' ').map(|(key, _)| key.to_owned())),
                    "{line}"
                );
                samples.push(sample);
            }
        }
        let metrics = Self { types, samples };
        let histograms = metrics.types.iter().filter(|(_, kind)| *kind == "histogram");
        for (name, _) in histograms {
            metrics.check_histogram(name);
        }
        metrics
    }

    /// All metrics by their names.
    pub fn families(&self) -> BTreeMap<String, Family> {
        let empty = |kind: &String| Family { kind: kind.clone(), labels: [].into(), samples: 0 };
        let mut families: BTreeMap<_, _> =
            self.types.iter().map(|(name, kind)| (name.clone(), empty(kind))).collect();
        for sample in &self.samples {
            let name = family(&sample.name, &self.types);
            let family = families.get_mut(&name).expect("a page has no sample without a type");
            let labels = sample.labels.keys().filter(|label| *label != "le");
            family.labels.extend(labels.cloned());
            family.samples += 1;
        }
        families
    }

    /// The sum over all samples of this name that have these labels, among others.
    ///
    /// # Panics
    /// If there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut matching = self.matching(name, labels).peekable();
        assert!(matching.peek().is_some(), "there is no {name} with {labels:?}");
        matching.map(|sample| sample.value).sum()
    }

    fn matching<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&str, &str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            let has = |(key, value): &(&str, &str)| {
                sample.labels.get(*key).is_some_and(|other| other == value)
            };
            sample.name == name && labels.iter().all(has)
        })
    }

    fn check_histogram(&self, name: &str) {
        let mut last: BTreeMap<BTreeMap<String, String>, f64> = BTreeMap::new();
        for bucket in self.matching(&format!("{name}_bucket"), &[]) {
            let mut series = bucket.labels.clone();
            assert!(series.remove("le").is_some(), "{bucket:?} has no bound");
            let before = last.insert(series, bucket.value).unwrap_or(0.0);
            assert!(before <= bucket.value, "{bucket:?} is less than the one before");
        }
        for count in self.matching(&format!("{name}_count"), &[]) {
            assert_eq!(last.get(&count.labels), Some(&count.value), "{count:?} is not the last");
        }
    }
}

fn family(name: &str, types: &BTreeMap<String, String>) -> String {
    let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
    match base {
        Some(base) if types.get(base).is_some_and(|kind| kind == "histogram") => base.into(),
        _ => name.into(),
    }
}

// === impl Sample ===

impl Sample {
    fn parse(line: &str) -> Option<Self> {
        let (key, value) = line.rsplit_once(' ')?;
        let (name, mut rest) = match key.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}')?),
            None => (key, ""),
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        if name.is_empty() || !name.chars().all(is_name) {
            return None;
        }
        let mut labels = BTreeMap::new();
        while !rest.is_empty() {
            let (label, quoted) = rest.split_once("=\"")?;
            let (value, after) = unquote(quoted)?;
            labels.insert(label.to_owned(), value);
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        Some(Self { name: name.into(), labels, value: value.parse().ok()? })
    }
}

/// Prometheus knows three escapes and no others.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[i + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                c @ ('"' | '\\') => value.push(c),
                _ => return None,
            },
            c => value.push(c),
        }
    }
    None
}
