//! The message that a function receives.

use crate::{error::CallError, server::relay::Relay};
use bytes::Bytes;
use futures::future::BoxFuture;
use palm_proto::types::message::Request;
use std::{error, sync::Arc, time::Instant};
use uuid::Uuid;

/// The error of a function: any error; its message is returned to the caller.
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

    /// Returns the job that the message belongs to, if there is one.
    #[must_use]
    pub fn job(&self) -> Option<Uuid> {
        self.job
    }

    /// Returns the index assigned by the caller: of a job, that of the message in its input, from 0.
    #[must_use]
    pub fn idx(&self) -> Option<u64> {
        self.idx
    }

    /// Returns the stage of this function in the pipeline, from 0.
    #[must_use]
    pub fn stage(&self) -> usize {
        self.stage
    }

    /// Returns the key for the server's store that was sent with the message
    /// ([`Call::cache`](crate::Call::cache)). A program's own functions may use it as they like.
    #[must_use]
    pub fn cache_key(&self) -> Option<&str> {
        self.cache.as_deref()
    }

    /// Calls another function of the mesh, with the remaining time. See
    /// [`Client::call`](crate::Client::call) for how it is routed, and what happens when the
    /// future is dropped.
    ///
    /// ```
    /// use palm_peer::{Bytes, FunctionError, Message};
    ///
    /// async fn greet(message: Message) -> Result<Bytes, FunctionError> {
    ///     Ok(message.call("text.shout", message.payload().clone()).await?)
    /// }
    /// # drop(greet);
    /// ```
    ///
    /// # Errors
    /// See [`CallErrorKind`](crate::CallErrorKind).
    pub async fn call(
        &self,
        target: impl Into<String>,
        payload: impl Into<Bytes>,
    ) -> Result<Bytes, CallError> {
        let mesh = self
            .relay
            .mesh()
            .await
            .map_err(|failure| CallError::new(failure, None))?;
        let called = mesh
            .call(Request::call(target), payload.into(), self.deadline)
            .await;
        called.map_err(CallError::of_call)
    }

    /// Returns the caller's deadline; asynchronous functions are cancelled when it passes.
    ///
    /// ```
    /// use palm_peer::{FunctionError, Message, Server};
    /// use std::time::{Duration, Instant};
    ///
    /// fn search(message: Message) -> Result<String, FunctionError> {
    ///     let mut best = String::new();
    ///     // A blocking function is not stopped at the deadline.
    ///     while Instant::now() + Duration::from_millis(100) < message.deadline() {
    ///         best = format!("better than {best}");
    ///         # break;
    ///     }
    ///     Ok(best)
    /// }
    /// # drop(Server::new("finder").blocking("search", search));
    /// ```
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// The result of a function, or the message of its error.
pub(crate) type Outcome = Result<Bytes, String>;

/// A function of the program.
pub(crate) type Function = Arc<dyn Fn(Message) -> BoxFuture<'static, Outcome> + Send + Sync>;
