//! Merges what servers export into one exposition: each family once, with the samples of all.

use std::collections::HashMap;

/// The families of all servers, in the order in which they were first seen.
#[derive(Debug, Default)]
pub(super) struct Merged {
    families: Vec<Family>,
    /// Their places, by their names.
    places: HashMap<String, usize>,
}

#[derive(Debug)]
struct Family {
    /// Its type.
    kind: String,
    /// The lines that describe it.
    head: Vec<String>,
    samples: Vec<String>,
}

/// A family of one server.
#[derive(Debug, Default)]
struct Part<'a> {
    name: &'a str,
    kind: &'a str,
    head: Vec<&'a str>,
    samples: Vec<String>,
}

impl Merged {
    /// Adds what a server exports; each sample gets its uuid as a label. Nothing is added if that is
    /// not valid, or is of another type than with another server; the error says what.
    pub(super) fn add(&mut self, text: &str, uuid: &str) -> Result<(), String> {
        let parts = parts(text, uuid)?;
        for part in &parts {
            let known = self.places.get(part.name);
            let known = known.and_then(|place| self.families.get(*place));
            if known.is_some_and(|known| known.kind != part.kind) {
                return Err(format!(
                    "{} is of another type than with other servers",
                    part.name
                ));
            }
        }
        for part in parts {
            let place = *self.places.entry(part.name.to_owned()).or_insert_with(|| {
                self.families.push(Family {
                    kind: part.kind.to_owned(),
                    head: part.head.iter().map(|line| (*line).to_owned()).collect(),
                    samples: Vec::new(),
                });
                self.families.len() - 1
            });
            if let Some(family) = self.families.get_mut(place) {
                family.samples.extend(part.samples);
            }
        }
        Ok(())
    }

    /// Adds gauges of palm-cli's own.
    pub(super) fn add_gauge(&mut self, name: &str, help: &str, samples: Vec<String>) {
        self.families.push(Family {
            kind: "gauge".to_owned(),
            head: vec![
                format!("# HELP {name} {help}"),
                format!("# TYPE {name} gauge"),
            ],
            samples,
        });
    }

    /// Returns all lines.
    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        let families = self.families.iter();
        let lines = families.flat_map(|family| family.head.iter().chain(&family.samples));
        lines.map(String::as_str).chain(["# EOF"])
    }
}

/// Returns the families of a text.
fn parts<'a>(text: &'a str, uuid: &str) -> Result<Vec<Part<'a>>, String> {
    let invalid = |line: &str| format!("this is no OpenMetrics text: {line:?}");
    let mut parts: Vec<Part> = Vec::new();
    let mut lines = text.lines();
    for line in &mut lines {
        if line == "# EOF" {
            break;
        }
        if line.contains(char::is_control) {
            return Err(invalid(line));
        }
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (Some(what), Some(name), Some(rest)) = (words.next(), words.next(), words.next())
            else {
                return Err(invalid(line));
            };
            if parts.last().is_none_or(|part| part.name != name) {
                if parts.iter().any(|part| part.name == name) {
                    return Err(invalid(line));
                }
                parts.push(Part {
                    name,
                    ..Part::default()
                });
            }
            if let Some(part) = parts.last_mut() {
                if what == "TYPE" {
                    part.kind = rest;
                }
                part.head.push(line);
            }
        } else {
            let part = parts.last_mut().filter(|part| line.starts_with(part.name));
            let sample = with_uuid(line, uuid);
            part.zip(sample)
                .map(|(part, sample)| part.samples.push(sample))
                .ok_or_else(|| invalid(line))?;
        }
    }
    match lines.next() {
        None if text.ends_with("# EOF\n") => Ok(parts),
        _ => Err("its OpenMetrics text does not end with # EOF".to_owned()),
    }
}

/// Returns a sample with the label `uuid`, unless it has it.
fn with_uuid(line: &str, uuid: &str) -> Option<String> {
    let (name, rest) = line.split_at(line.find(['{', ' '])?);
    Some(match rest.strip_prefix('{') {
        Some(labels) if labels.starts_with("uuid=\"") || labels.contains(",uuid=\"") => {
            line.to_owned()
        }
        Some(labels) if labels.starts_with('}') => format!("{name}{{uuid=\"{uuid}\"{labels}"),
        Some(labels) => format!("{name}{{uuid=\"{uuid}\",{labels}"),
        None => format!("{name}{{uuid=\"{uuid}\"}}{rest}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "# HELP a_seconds A.\n# TYPE a_seconds gauge\n# UNIT a_seconds seconds\na_seconds{server=\"x\"} 1\n\
                       # HELP b B.\n# TYPE b counter\nb_total{server=\"x\",kind=\"k\"} 2\nb_total 3\n# EOF\n";

    #[test]
    fn each_family_is_described_once_and_has_the_samples_of_all() {
        let mut merged = Merged::default();
        merged.add(ONE, "1").expect("valid");
        // A server of another version: another order, another family.
        let other = "# HELP b B.\n# TYPE b counter\nb_total{server=\"y\",uuid=\"own\"} 4\n# HELP c C.\n# TYPE c gauge\nc{} 5\n# EOF\n";
        merged.add(other, "2").expect("valid");
        merged.add_gauge("d", "D.", vec!["d 6".to_owned()]);
        assert_eq!(
            merged.lines().collect::<Vec<_>>(),
            [
                "# HELP a_seconds A.",
                "# TYPE a_seconds gauge",
                "# UNIT a_seconds seconds",
                "a_seconds{uuid=\"1\",server=\"x\"} 1",
                "# HELP b B.",
                "# TYPE b counter",
                "b_total{uuid=\"1\",server=\"x\",kind=\"k\"} 2",
                "b_total{uuid=\"1\"} 3",
                "b_total{server=\"y\",uuid=\"own\"} 4",
                "# HELP c C.",
                "# TYPE c gauge",
                "c{uuid=\"2\"} 5",
                "# HELP d D.",
                "# TYPE d gauge",
                "d 6",
                "# EOF",
            ]
        );
    }

    #[test]
    fn what_is_not_valid_adds_nothing() {
        let mut merged = Merged::default();
        merged.add(ONE, "1").expect("valid");
        let before: Vec<_> = merged.lines().map(str::to_owned).collect();
        for text in [
            "",
            "nonsense",
            "{\"uuid\": 1}\n# EOF\n",
            "# TYPE a gauge\na 1\n",
            "# TYPE a gauge\na 1\n# EOF\nmore\n",
            "# TYPE a gauge\nb 1\n# EOF\n",
            "# TYPE a gauge\na\u{1b}[2J 1\n# EOF\n",
            "# TYPE a gauge\n# TYPE b gauge\n# TYPE a gauge\n# EOF\n",
            "# TYPE a_seconds counter\n# EOF\n",
            "# TYPE\n# EOF\n",
        ] {
            merged.add(text, "2").expect_err(text);
            let after: Vec<_> = merged.lines().map(str::to_owned).collect();
            assert_eq!(after, before, "{text:?}");
        }
    }
}
