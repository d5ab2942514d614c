//! The server's own store, behind `get`, `set`, `append` and `delete`.

use crate::types::message::{CallErrorKind, CallFailure};
use bytes::Bytes;
use std::collections::HashMap;

/// The approximate cost of an entry beyond its key and value, in bytes, so that many tiny entries
/// are bounded too.
const OVERHEAD: usize = 64;
/// The longest key, in bytes.
const MAX_KEY_BYTES: usize = 1024;

/// A bounded map from keys to bytes. When it is full, writes fail: nothing is evicted silently.
#[derive(Debug)]
pub struct Store {
    entries: HashMap<String, Bytes>,
    used: usize,
    room: usize,
}

impl Store {
    /// Creates an empty store for `room` bytes of keys and values.
    #[must_use]
    pub fn new(room: usize) -> Self {
        Self {
            entries: HashMap::new(),
            used: 0,
            room,
        }
    }

    /// Returns how many bytes its keys and values take.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used
    }

    /// Returns the value of `key`.
    ///
    /// # Errors
    /// `no_such_key`.
    pub fn get(&self, key: &str) -> Result<Bytes, CallFailure> {
        self.entries
            .get(key)
            .cloned()
            .ok_or_else(|| no_such_key(key))
    }

    /// Stores `value` under `key`, replacing what was there.
    ///
    /// # Errors
    /// `full`, and then the old value is kept; `bad_message` when the key is empty or over 1 KiB.
    pub fn set(&mut self, key: &str, value: Bytes) -> Result<(), CallFailure> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            let text = format!("a key has 1 to {MAX_KEY_BYTES} bytes, not {}", key.len());
            return Err(CallFailure::new(CallErrorKind::BadMessage, text));
        }
        let before = self.entries.get(key).map_or(0, |old| cost(key, old));
        let used = self.used - before + cost(key, &value);
        if used > self.room {
            let text = format!("the store holds {} of {} bytes", self.used, self.room);
            return Err(CallFailure::new(CallErrorKind::Full, text));
        }
        self.used = used;
        self.entries.insert(key.to_owned(), value);
        Ok(())
    }

    /// Adds `more` to the end of the value of `key`, which may not exist yet.
    ///
    /// # Errors
    /// As [`Store::set`].
    pub fn append(&mut self, key: &str, more: &[u8]) -> Result<(), CallFailure> {
        let value = match self.entries.get(key) {
            Some(old) if self.used + more.len() > self.room => {
                let text = format!(
                    "the store holds {} of {} bytes, {key:?} {}",
                    self.used,
                    self.room,
                    old.len()
                );
                return Err(CallFailure::new(CallErrorKind::Full, text));
            }
            Some(old) => [old, more].concat().into(),
            None => Bytes::copy_from_slice(more),
        };
        self.set(key, value)
    }

    /// Removes `key`.
    ///
    /// # Errors
    /// `no_such_key`.
    pub fn delete(&mut self, key: &str) -> Result<(), CallFailure> {
        let value = self.entries.remove(key).ok_or_else(|| no_such_key(key))?;
        self.used -= cost(key, &value);
        Ok(())
    }
}

fn cost(key: &str, value: &Bytes) -> usize {
    OVERHEAD + key.len() + value.len()
}

fn no_such_key(key: &str) -> CallFailure {
    CallFailure::new(
        CallErrorKind::NoSuchKey,
        format!("nothing is stored under {key:?}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_set_appended_read_and_deleted() {
        let mut store = Store::new(1000);
        store.append("k", b"one").expect("room");
        store.append("k", b" two").expect("room");
        assert_eq!(store.get("k").expect("there"), "one two");
        store.set("k", "three".into()).expect("room");
        assert_eq!(store.get("k").expect("there"), "three");
        store.delete("k").expect("there");
        assert_eq!(
            store.get("k").expect_err("gone").kind,
            CallErrorKind::NoSuchKey
        );
        assert_eq!(
            store.delete("k").expect_err("gone").kind,
            CallErrorKind::NoSuchKey
        );
        assert_eq!(store.used, 0);
    }

    #[test]
    fn a_full_store_refuses_and_keeps_its_values() {
        let mut store = Store::new(200);
        store.set("k", vec![1; 100].into()).expect("room");
        assert_eq!(
            store.set("k", vec![2; 200].into()).expect_err("full").kind,
            CallErrorKind::Full
        );
        assert_eq!(
            store.append("k", &[2; 100]).expect_err("full").kind,
            CallErrorKind::Full
        );
        assert_eq!(
            store.set("l", vec![2; 1].into()).map_err(|f| f.kind),
            Err(CallErrorKind::Full)
        );
        assert_eq!(store.get("k").expect("there"), vec![1; 100]);
        assert_eq!(
            store.set("", Bytes::new()).expect_err("no key").kind,
            CallErrorKind::BadMessage
        );
    }
}
