//! What a function answers.

use super::meta::Meta;
use bytes::Bytes;
use std::ops::Deref;

/// The answer of a function: a payload, and metadata for its receiver. It dereferences to the
/// payload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    payload: Bytes,
    meta: Meta,
}

impl Answer {
    /// Creates an answer with this payload.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self {
            payload: payload.into(),
            meta: Meta::new(),
        }
    }

    /// Creates an answer with this payload and metadata.
    #[must_use]
    pub fn from_parts(payload: Bytes, meta: Meta) -> Self {
        Self { payload, meta }
    }

    /// Sets an entry of its metadata.
    #[must_use]
    pub fn with_meta(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.meta.insert(name, value);
        self
    }

    /// Returns its metadata.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Returns its metadata, to change it.
    pub fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    /// Returns the payload.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Returns the payload without a copy.
    #[must_use]
    pub fn into_payload(self) -> Bytes {
        self.payload
    }

    /// Returns the payload and the metadata.
    #[must_use]
    pub fn into_parts(self) -> (Bytes, Meta) {
        (self.payload, self.meta)
    }
}

impl Deref for Answer {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.payload
    }
}

impl<T: Into<Bytes>> From<T> for Answer {
    fn from(payload: T) -> Self {
        Self::new(payload)
    }
}

impl<T: ?Sized> PartialEq<&T> for Answer
where
    Bytes: PartialEq<T>,
{
    fn eq(&self, other: &&T) -> bool {
        self.payload == **other
    }
}
