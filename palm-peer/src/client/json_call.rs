//! Calls with JSON.

use crate::{client::Call, error::CallError};
use bytes::Bytes;
use futures::future::BoxFuture;
use palm_proto::types::message::{CallErrorKind, CallFailure};
use serde::{Serialize, de::DeserializeOwned};
use std::{future::IntoFuture, marker::PhantomData, time::Duration};

/// A call with JSON, which is sent when it is awaited; from
/// [`Client::call_json`](crate::Client::call_json).
#[must_use = "a call does nothing until it is awaited"]
pub struct JsonCall<C, R> {
    /// An error when the argument cannot be written.
    call: Result<C, CallError>,
    result: PhantomData<fn() -> R>,
}

impl<C, R> JsonCall<C, R> {
    /// Creates it from the argument, and the call for its bytes.
    pub(crate) fn new<T: Serialize + ?Sized>(argument: &T, call: impl FnOnce(Bytes) -> C) -> Self {
        Self {
            call: write(argument).map(call),
            result: PhantomData,
        }
    }

    /// Returns the call, if the argument could be written.
    pub(crate) fn into_call(self) -> Result<C, CallError> {
        self.call
    }

    /// Changes the call.
    pub(crate) fn map(self, change: impl FnOnce(C) -> C) -> Self {
        Self {
            call: self.call.map(change),
            result: PhantomData,
        }
    }
}

impl<R> JsonCall<Call<'_>, R> {
    /// As [`Call::timeout`].
    pub fn timeout(self, time: Duration) -> Self {
        self.map(|call| call.timeout(time))
    }

    /// As [`Call::cache`].
    pub fn cache(self, key: impl Into<String>) -> Self {
        self.map(|call| call.cache(key))
    }

    /// As [`Call::meta`].
    pub fn meta(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.map(|call| call.meta(name, value))
    }
}

impl<'a, R: DeserializeOwned + 'static> IntoFuture for JsonCall<Call<'a>, R> {
    type Output = Result<R, CallError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let call = self.into_call();
        Box::pin(async move { parse(&call?.await?) })
    }
}

/// Returns the bytes of an argument.
pub(crate) fn write(argument: &(impl Serialize + ?Sized)) -> Result<Bytes, CallError> {
    serde_json::to_vec(argument)
        .map(Bytes::from)
        .map_err(|error| {
            let text = format!("the argument cannot be written as JSON: {error}");
            CallError::new(CallFailure::new(CallErrorKind::BadMessage, text), None)
        })
}

/// Reads the answer of a function.
pub(crate) fn parse<R: DeserializeOwned>(answer: &[u8]) -> Result<R, CallError> {
    serde_json::from_slice(answer).map_err(|error| {
        let text = format!("the answer is not the JSON that the caller expects: {error}");
        CallError::new(CallFailure::new(CallErrorKind::BadAnswer, text), None)
    })
}
