//! Plain data types. Nothing here waits, decides or does I/O.

pub mod answer;
pub mod compact;
pub mod ids;
pub mod instance;
pub mod keys;
pub mod message;
pub mod meta;
pub mod names;
mod pipeline;
pub mod record;
pub mod text;
pub mod timestamp;
pub mod tombstone;

/// Returns the JSON of our own plain data. This cannot fail: string keys only, no
/// foreign `Serialize`.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> String {
    String::from_utf8(to_bytes(value)).unwrap_or_default()
}

/// As [`to_json`], as bytes.
pub(crate) fn to_bytes<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(TYPICAL);
    let _ = serde_json::to_writer(&mut bytes, value);
    bytes
}

/// The typical size of a call's header, in bytes, to allocate once.
const TYPICAL: usize = 256;
