//! Plain data: what the mesh talks about. Nothing here waits, decides or touches the outside.

pub mod departure;
pub mod ids;
pub mod keys;
pub mod message;
pub mod names;
pub mod pipeline;
pub mod record;
pub mod settings;
pub mod timestamp;

/// JSON of plain data of our own, which cannot fail: string keys only, no foreign `Serialize`.
fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
