//! Plain data: what the mesh talks about. Nothing here waits, decides or touches the outside.

pub mod ids;
pub mod instance;
pub mod keys;
pub mod message;
pub mod names;
pub mod record;
pub mod text;
pub mod timestamp;
pub mod tombstone;

/// JSON of plain data of our own, which cannot fail: string keys only, no foreign `Serialize`.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> String {
    String::from_utf8(to_bytes(value)).unwrap_or_default()
}

/// As [`to_json`], for the wire.
pub(crate) fn to_bytes<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(TYPICAL);
    let _ = serde_json::to_writer(&mut bytes, value);
    bytes
}

/// What the header of a call takes, in bytes: room for it is made once.
const TYPICAL: usize = 256;
