//! A pipeline, which its messages share, as JSON.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::sync::Arc;

pub(super) fn serialize<S: Serializer>(
    pipeline: &Arc<[String]>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    pipeline[..].serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Arc<[String]>, D::Error> {
    Vec::deserialize(deserializer).map(Into::into)
}
