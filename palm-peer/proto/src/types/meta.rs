//! Metadata of a message: what travels with its payload.

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, Visitor},
};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// The maximum of a message's metadata in bytes, names and values together.
pub const MAX_META_BYTES: usize = 8 * 1024;

/// Metadata of a message or an answer: texts by name, which travel beside the payload, such as a
/// user, a tenant, or the trace that a call belongs to. Cheap to clone; without entries, it takes no
/// memory.
///
/// Names are not empty, and case matters. Names and values together have 8 KiB at most: more is an
/// error when the message is sent. `traceparent` and `tracestate` are those of W3C Trace Context.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Meta(Option<Arc<BTreeMap<String, String>>>);

impl Meta {
    /// Creates it without entries.
    #[must_use]
    pub const fn new() -> Self {
        Self(None)
    }

    /// Returns the value of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.as_ref()?.get(name).map(String::as_str)
    }

    /// Sets the value of this name.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let entries = Arc::make_mut(self.0.get_or_insert_default());
        entries.insert(name.into(), value.into());
    }

    /// Removes the value of this name, and returns it.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        self.get(name)?;
        let entries = Arc::make_mut(self.0.as_mut()?);
        let value = entries.remove(name);
        if entries.is_empty() {
            self.0 = None;
        }
        value
    }

    /// Returns whether there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |entries| entries.len())
    }

    /// Returns names and values, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let entries = self.0.iter().flat_map(|entries| entries.iter());
        entries.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Adds all entries of the other one, whose values count where both have a name.
    pub fn merge(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
            return;
        }
        for (name, value) in other.iter() {
            self.insert(name, value);
        }
    }

    /// Returns the bytes of all names and values together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    }

    /// Returns what keeps it from being sent.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let bytes = self.bytes();
        if bytes > MAX_META_BYTES {
            return Some(format!("meta of {bytes} bytes, {MAX_META_BYTES} at most"));
        }
        self.get("")
            .is_some()
            .then(|| "meta with an empty name".to_owned())
    }

    /// Returns the number of the trace in its `traceparent`, of 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> Option<&str> {
        let id = self.get("traceparent")?.split('-').nth(1)?;
        let is_valid = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_valid.then_some(id)
    }

    /// Returns its JSON; `None` without entries.
    #[must_use]
    pub fn to_json(&self) -> Option<Vec<u8>> {
        self.0.as_deref().map(super::to_bytes)
    }

    /// Reads its JSON, an object of strings.
    ///
    /// # Errors
    /// When it is something else; the text says why.
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(json).map_err(|error| error.to_string())
    }
}

impl fmt::Debug for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Meta {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(entries: I) -> Self {
        let mut meta = Self::new();
        meta.extend(entries);
        meta
    }
}

impl<N: Into<String>, V: Into<String>> Extend<(N, V)> for Meta {
    fn extend<I: IntoIterator<Item = (N, V)>>(&mut self, entries: I) {
        for (name, value) in entries {
            self.insert(name, value);
        }
    }
}

impl Serialize for Meta {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Meta {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_option(Entries)
    }
}

/// Reads an object whose values are strings, or `null`.
struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Meta;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("meta as an object of strings")
    }

    fn visit_none<E>(self) -> Result<Meta, E> {
        Ok(Meta::new())
    }

    fn visit_unit<E>(self) -> Result<Meta, E> {
        Ok(Meta::new())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Meta, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Meta, A::Error> {
        let mut meta = Meta::new();
        while let Some(name) = map.next_key::<String>()? {
            if meta.get(&name).is_some() {
                return Err(de::Error::custom(format_args!("meta has {name:?} twice")));
            }
            let value = map.next_value::<String>();
            let invalid = |error| de::Error::custom(format_args!("meta {name:?}: {error}"));
            let value = value.map_err(invalid)?;
            meta.insert(name, value);
        }
        Ok(meta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meta_without_entries_takes_no_memory() {
        let mut meta = Meta::new();
        assert_eq!(size_of::<Meta>(), size_of::<usize>());
        assert!(meta.is_empty() && meta.get("user").is_none() && meta.to_json().is_none());
        meta.insert("user", "ada");
        let before = meta.clone();
        assert_eq!(meta.remove("user").as_deref(), Some("ada"));
        assert_eq!((meta.remove("user"), meta), (None, Meta::new()));
        assert_eq!((before.get("user"), before.len()), (Some("ada"), 1));
    }

    #[test]
    fn the_trace_is_that_of_the_traceparent() {
        let trace = |parent: &str| {
            let meta: Meta = [("traceparent", parent)].into_iter().collect();
            meta.trace_id().map(ToOwned::to_owned)
        };
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(
            trace(&format!("00-{id}-00f067aa0ba902b7-01")).as_deref(),
            Some(id)
        );
        assert_eq!(trace("00-4bf9\n-00f067aa0ba902b7-01"), None);
        assert_eq!(trace(""), None);
        assert_eq!(Meta::new().trace_id(), None);
    }

    #[test]
    fn merged_meta_has_the_later_value() {
        let mut meta: Meta = [("user", "ada"), ("tenant", "a")].into_iter().collect();
        meta.merge(Meta::new());
        meta.merge([("tenant", "b"), ("more", "")].into_iter().collect());
        let entries: Vec<_> = meta.iter().collect();
        assert_eq!(entries, [("more", ""), ("tenant", "b"), ("user", "ada")]);
        assert_eq!(meta.bytes(), 4 + 7 + 7);
    }

    #[test]
    fn meta_is_an_object_of_strings() {
        let meta: Meta = [("a \"b\"\n", "é\u{1}"), ("x", "")].into_iter().collect();
        let json = meta.to_json().expect("it has entries");
        assert_eq!(Meta::from_json(&json), Ok(meta));
        assert_eq!(Meta::from_json(b"null"), Ok(Meta::new()));
        assert_eq!(Meta::from_json(b"{}"), Ok(Meta::new()));
        for (json, problem) in [
            ("{\"a\":1}", "meta \"a\": invalid type"),
            ("{\"a\":null}", "meta \"a\": invalid type"),
            ("{\"a\":\"1\",\"a\":\"2\"}", "meta has \"a\" twice"),
            ("[\"a\"]", "expected meta as an object of strings"),
            ("\"a\"", "expected meta as an object of strings"),
            ("{\"a\":\"1\"} x", "trailing"),
        ] {
            let error = Meta::from_json(json.as_bytes()).expect_err(json);
            assert!(error.contains(problem), "{json}: {error}");
        }
    }

    #[test]
    fn long_meta_cannot_be_sent() {
        let mut meta = Meta::new();
        meta.insert("k", "v".repeat(MAX_META_BYTES - 1));
        assert_eq!(meta.problem(), None);
        meta.insert("l", "");
        let problem = meta.problem().expect("a byte too many");
        assert_eq!(problem, "meta of 8193 bytes, 8192 at most");
        let unnamed: Meta = [("", "x")].into_iter().collect();
        assert_eq!(
            unnamed.problem().as_deref(),
            Some("meta with an empty name")
        );
    }
}
