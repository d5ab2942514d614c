//! Reads `OpenMetrics` text, as strictly as its specification.

use std::collections::{BTreeMap, BTreeSet};

/// A family of metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Family {
    /// The name, with the unit and without the suffix of a sample.
    pub name: String,
    pub kind: String,
    pub unit: Option<String>,
}

impl Family {
    /// The name by which a query finds it; that of its buckets, for a histogram, has one suffix more.
    pub(crate) fn queried(&self) -> String {
        match &*self.kind {
            "counter" => format!("{}_total", self.name),
            _ => self.name.clone(),
        }
    }

    fn suffixes(&self) -> &'static [&'static str] {
        match &*self.kind {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_count", "_sum"],
            other => panic!("{} is a {other}, which Prometheus' text has not", self.name),
        }
    }
}

/// A sample.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// The name of its family.
    pub family: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// All that a server, or `palm-cli metrics`, exports.
#[derive(Debug)]
pub(crate) struct Exposition {
    pub families: Vec<Family>,
    pub samples: Vec<Sample>,
}

impl Exposition {
    /// Reads it. Fails the test where it is not valid.
    pub(crate) fn read(text: &str) -> Self {
        let body = text
            .strip_suffix("# EOF\n")
            .unwrap_or_else(|| panic!("no # EOF at the end: {text}"));
        let (mut families, mut samples) = (Vec::<Family>::new(), Vec::new());
        let mut series = BTreeSet::new();
        for line in body.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').expect(line);
                assert!(help.ends_with('.') && !help.contains('\\'), "{line}");
                assert!(families.iter().all(|one| one.name != name), "twice: {line}");
                families.push(Family {
                    name: name.to_owned(),
                    kind: String::new(),
                    unit: None,
                });
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect(line);
                let family = families.last_mut().expect(line);
                assert!(family.name == name && family.kind.is_empty(), "{line}");
                kind.clone_into(&mut family.kind);
            } else if let Some(unit) = line.strip_prefix("# UNIT ") {
                let (name, unit) = unit.split_once(' ').expect(line);
                let family = families.last_mut().expect(line);
                assert!(family.name == name && name.ends_with(&format!("_{unit}")));
                family.unit = Some(unit.to_owned());
            } else {
                let family = families.last().expect(line);
                let sample = sample(&family.name, line);
                let suffix = sample.name.strip_prefix(&family.name).expect(line);
                assert!(family.suffixes().contains(&suffix), "{family:?}: {line}");
                let key = format!("{}{:?}", sample.name, sample.labels);
                assert!(series.insert(key), "twice: {line}");
                samples.push(sample);
            }
        }
        let exposition = Self { families, samples };
        exposition.check_histograms();
        exposition
    }

    fn check_histograms(&self) {
        let mut last = BTreeMap::new();
        for sample in &self.samples {
            let Some(name) = sample.name.strip_suffix("_bucket") else {
                continue;
            };
            let mut labels = sample.labels.clone();
            let le = labels.remove("le").expect("a bucket has a bound");
            let le = le.replace("+Inf", "inf").parse::<f64>().expect("a number");
            let before = last.insert((name, labels), (le, sample.value));
            let (bound, count) = before.unwrap_or((-1.0, 0.0));
            assert!(bound < le && count <= sample.value, "{sample:?}");
        }
        for ((name, labels), (le, count)) in last {
            let is_count =
                |one: &&Sample| one.name == format!("{name}_count") && one.labels == labels;
            let total = self.samples.iter().find(is_count).expect("a count");
            assert!(
                le.is_infinite() && (total.value - count).abs() < 0.5,
                "{name}"
            );
        }
    }

    /// The sum of the samples of this name that have these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &Sample, (key, value): (&str, &str)| {
            sample.labels.get(key).is_some_and(|found| found == value)
        };
        let named = self.samples.iter().filter(|sample| sample.name == name);
        let mut found = named
            .filter(|sample| labels.iter().all(|label| has(sample, *label)))
            .peekable();
        assert!(found.peek().is_some(), "no {name} {labels:?}: {self:#?}");
        found.map(|sample| sample.value).sum()
    }
}

/// Reads `name{key="value",…} number`.
fn sample(family: &str, line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').expect(line);
    let (name, labels) = series.split_once('{').expect("each has the label server");
    let mut labels = labels.strip_suffix('}').expect(line);
    let mut read = BTreeMap::new();
    while !labels.is_empty() {
        let (key, rest) = labels.split_once("=\"").expect(line);
        // No name of PALM has quotes.
        let (value, rest) = rest.split_once('"').expect(line);
        assert!(
            read.insert(key.to_owned(), value.to_owned()).is_none(),
            "{line}"
        );
        labels = rest.strip_prefix(',').unwrap_or(rest);
    }
    Sample {
        family: family.to_owned(),
        name: name.to_owned(),
        labels: read,
        value: value.parse().expect(line),
    }
}
