//! A message as a function receives it.

use crate::{error::CallError, server::relay::Relay};
use bytes::Bytes;
use futures::future::BoxFuture;
use palm_proto::types::message::Request;
use std::{error, sync::Arc, time::Instant};
use uuid::Uuid;

/// What an asynchronous or blocking function may fail with: any error, whose words the caller gets.
pub type FunctionError = Box<dyn error::Error + Send + Sync>;

/// A message for a function.
#[derive(Debug, Clone)]
pub struct Message {
    pub(crate) payload: Bytes,
    pub(crate) job: Option<Uuid>,
    pub(crate) idx: Option<u64>,
    pub(crate) stage: usize,
    pub(crate) cache: Option<String>,
    pub(crate) deadline: Instant,
    pub(crate) relay: Arc<Relay>,
}

impl Message {
    /// What was sent.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// What was sent, without a copy.
    #[must_use]
    pub fn into_payload(self) -> Bytes {
        self.payload
    }

    /// The job that the message belongs to, if it belongs to one.
    #[must_use]
    pub fn job(&self) -> Option<Uuid> {
        self.job
    }

    /// The sender's number of the message.
    #[must_use]
    pub fn idx(&self) -> Option<u64> {
        self.idx
    }

    /// The place of this function in the pipeline, from 0.
    #[must_use]
    pub fn stage(&self) -> usize {
        self.stage
    }

    /// The key in the server's store that came with the message.
    #[must_use]
    pub fn cache_key(&self) -> Option<&str> {
        self.cache.as_deref()
    }

    /// Calls another function of the mesh, with the time that is left. The payload may be anything; see
    /// [`Client::call`](crate::Client::call) for how it is routed.
    ///
    /// # Errors
    /// As [`CallErrorKind`](crate::CallErrorKind) says.
    pub async fn call(&self, target: impl Into<String>, payload: impl Into<Bytes>) -> Result<Bytes, CallError> {
        let mesh = self.relay.mesh().await.map_err(|failure| CallError::new(failure, None))?;
        let called = mesh.call(Request::call(target), payload.into(), self.deadline).await;
        called.map_err(CallError::of_call)
    }

    /// Until when the sender waits. An asynchronous function is dropped then.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// What a function of the server's author gives: the result, or the words of its error.
pub(crate) type Outcome = Result<Bytes, String>;

/// A function of the server's author.
pub(crate) type Function = Arc<dyn Fn(Message) -> BoxFuture<'static, Outcome> + Send + Sync>;
