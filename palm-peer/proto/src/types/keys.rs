//! The layout of PALM's keys in etcd.

use super::ids::LeaseId;
use std::str::FromStr;
use uuid::Uuid;

/// Builds and parses the keys of one mesh, all under its prefix.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Creates the keys under `prefix`: empty, or a path such as `/staging` (see
    /// [`Keys::is_valid_prefix`]).
    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.trim_end_matches('/').to_owned(),
        }
    }

    /// Returns whether a prefix is valid: empty, or starting with `/` and without white space
    /// and empty parts.
    pub(crate) fn is_valid_prefix(prefix: &str) -> bool {
        let trimmed = prefix.trim_end_matches('/');
        trimmed.is_empty()
            || (trimmed.starts_with('/')
                && !trimmed.contains("//")
                && !trimmed.chars().any(|c| c.is_whitespace() || c.is_control()))
    }

    /// Returns `/servers/`, the prefix of the records.
    #[must_use]
    pub fn servers(&self) -> String {
        format!("{}/servers/", self.prefix)
    }

    /// Returns `/servers/<uuid>`.
    #[must_use]
    pub fn server(&self, uuid: Uuid) -> String {
        format!("{}{uuid}", self.servers())
    }

    /// Returns `/election/`, the prefix of the candidates.
    #[must_use]
    pub fn election(&self) -> String {
        format!("{}/election/", self.prefix)
    }

    /// Returns `/election/<lease, hex>`.
    #[must_use]
    pub fn candidate(&self, lease: LeaseId) -> String {
        format!("{}{lease}", self.election())
    }

    /// Returns the lease in a candidate's key.
    pub(crate) fn candidate_lease(&self, key: &str) -> Option<LeaseId> {
        LeaseId::from_str(key.strip_prefix(&self.election())?).ok()
    }

    /// Returns `/pipelines/`, the prefix of the published instances.
    #[must_use]
    pub fn pipelines(&self) -> String {
        format!("{}/pipelines/", self.prefix)
    }

    /// Returns `/pipelines/<server>/<uuid>`.
    #[must_use]
    pub fn pipeline(&self, server: &str, uuid: Uuid) -> String {
        format!("{}{server}/{uuid}", self.pipelines())
    }

    /// Returns `/departed/`, the prefix of the tombstones.
    #[must_use]
    pub fn departures(&self) -> String {
        format!("{}/departed/", self.prefix)
    }

    /// Returns `/departed/<uuid>`.
    #[must_use]
    pub fn departed(&self, uuid: Uuid) -> String {
        format!("{}{uuid}", self.departures())
    }

    /// Returns `/reset`.
    #[must_use]
    pub fn reset(&self) -> String {
        format!("{}/reset", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_without_a_prefix_equal_pylms() {
        let keys = Keys::new("");
        let uuid = Uuid::nil();
        assert_eq!(keys.server(uuid), format!("/servers/{uuid}"));
        assert_eq!(
            keys.pipeline("printf", uuid),
            format!("/pipelines/printf/{uuid}")
        );
        assert_eq!(keys.reset(), "/reset");
    }

    #[test]
    fn a_candidate_key_gives_its_lease_back() {
        let keys = Keys::new("/a/b/");
        let lease = LeaseId::new(0x1234_abcd).expect("not zero");
        assert_eq!(keys.candidate(lease), "/a/b/election/1234abcd");
        assert_eq!(keys.candidate_lease(&keys.candidate(lease)), Some(lease));
        assert_eq!(keys.candidate_lease("/a/b/election/0"), None);
        assert_eq!(keys.candidate_lease("/election/12"), None);
    }

    #[test]
    fn prefixes_that_would_scatter_keys_are_refused() {
        for good in ["", "/", "/a", "/a/b/"] {
            assert!(Keys::is_valid_prefix(good), "{good:?}");
        }
        for bad in ["a", "a/b", "/a//b", "/a b", "/a\n"] {
            assert!(!Keys::is_valid_prefix(bad), "{bad:?}");
        }
    }
}
