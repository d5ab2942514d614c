//! The message that a function receives.

use super::{
    slot::Slot,
    typed::{self, Json},
};
use crate::{client::json_call, error::CallError, server::relay::Relay};
use bytes::Bytes;
use futures::future::BoxFuture;
use palm_proto::{
    config::Config,
    types::{
        answer::Answer,
        message::{CallErrorKind, CallFailure, Request},
        meta::Meta,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    error,
    sync::{Arc, Weak},
    time::Instant,
};
use uuid::Uuid;

/// The error of a function: any error; its message is returned to the caller. An
/// [`ApplicationError`](crate::ApplicationError) has a code and data besides.
pub type FunctionError = Box<dyn error::Error + Send + Sync>;

/// A message for a function. A server makes it from a request; [`Message::new`] makes one for the
/// unit test of a function.
#[derive(Debug, Clone)]
pub struct Message {
    pub(crate) payload: Bytes,
    pub(crate) job: Option<Uuid>,
    pub(crate) idx: Option<u64>,
    pub(crate) stage: usize,
    pub(crate) cache: Option<String>,
    pub(crate) meta: Meta,
    pub(crate) deadline: Instant,
    /// The way to other servers; `None` outside a server.
    pub(crate) relay: Option<Arc<Relay>>,
    /// The place of the call, for a blocking function.
    pub(crate) slot: Option<Weak<Slot>>,
}

impl Message {
    /// Creates a message as a call with this payload would deliver it, for the unit test of a
    /// function: of no job, at stage 0, with 30 s until its deadline. The methods that begin with
    /// `with_` set the rest. To test limits, deadlines and panics as well, use
    /// [`Server::local`](crate::Server::local).
    ///
    /// ```
    /// use palm_peer::{FunctionError, Message};
    ///
    /// async fn number(message: Message) -> Result<String, FunctionError> {
    ///     let line = std::str::from_utf8(message.payload())?;
    ///     Ok(format!("{}: {line}", message.idx().unwrap_or(0) + 1))
    /// }
    ///
    /// # fn main() -> Result<(), FunctionError> {
    /// let message = Message::new("to be").with_idx(41);
    /// assert_eq!(palm_peer::block_on(number(message))?, "42: to be");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self {
            payload: payload.into(),
            job: None,
            idx: None,
            stage: 0,
            cache: None,
            meta: Meta::new(),
            deadline: Instant::now() + Config::default().timeout,
            relay: None,
            slot: None,
        }
    }

    /// Sets the job that the message belongs to.
    #[must_use]
    pub fn with_job(mut self, job: Uuid) -> Self {
        self.job = Some(job);
        self
    }

    /// Sets the index assigned by the caller.
    #[must_use]
    pub fn with_idx(mut self, idx: u64) -> Self {
        self.idx = Some(idx);
        self
    }

    /// Sets the stage of the function in its pipeline, from 0.
    #[must_use]
    pub fn with_stage(mut self, stage: usize) -> Self {
        self.stage = stage;
        self
    }

    /// Sets the key for the server's store.
    #[must_use]
    pub fn with_cache_key(mut self, key: impl Into<String>) -> Self {
        self.cache = Some(key.into());
        self
    }

    /// Sets an entry of the metadata that travels with the message. Middleware may use it for what
    /// the function reads; the next stage gets what the caller sent, and what the
    /// [answer](Answer::with_meta) sets.
    #[must_use]
    pub fn with_meta(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.meta.insert(name, value);
        self
    }

    /// Sets the caller's deadline. It is what [`Message::deadline`] returns; nothing cancels a
    /// function that a test calls directly.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = deadline;
        self
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

    /// Reads the payload as JSON. A function whose argument is [`Json`](crate::Json) does the same
    /// before it runs; this is for those that also need the rest of the message.
    ///
    /// ```
    /// use palm_peer::{FunctionError, Message};
    ///
    /// async fn largest(message: Message) -> Result<String, FunctionError> {
    ///     let numbers: Vec<u32> = message.json()?;
    ///     Ok(numbers.iter().max().ok_or("there are no numbers")?.to_string())
    /// }
    ///
    /// # fn main() -> Result<(), FunctionError> {
    /// assert_eq!(palm_peer::block_on(largest(Message::new("[1, 3, 2]")))?, "3");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When it has another form. A function that returns this error is answered with
    /// [`BadMessage`](CallErrorKind::BadMessage), and the reason.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, FunctionError> {
        typed::argument(self.clone()).map(|Json(argument)| argument)
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

    /// Returns the metadata that travels with the message: what the caller set with
    /// [`Call::meta`](crate::Call::meta) or [`Job::meta`](crate::Job::meta), and, in a pipeline, what the
    /// functions of the stages before set on their [`Answer`]s.
    ///
    /// ```
    /// use palm_peer::{Answer, FunctionError, Message, Server};
    ///
    /// async fn greet(message: Message) -> Result<Answer, FunctionError> {
    ///     let user = message.meta().get("user").unwrap_or("stranger");
    ///     Ok(Answer::new(format!("Hello, {user}")).with_meta("language", "en"))
    /// }
    ///
    /// # async fn test() -> Result<(), FunctionError> {
    /// let server = Server::new("text").function("greet", greet).local()?;
    /// let answer = server.call("greet", "").meta("user", "Ada").answer().await?;
    /// assert_eq!(answer, "Hello, Ada");
    /// assert_eq!(answer.meta().get("language"), Some("en"));
    /// # Ok(()) }
    /// # palm_peer::block_on(test()).expect("it greets");
    /// ```
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Calls another function of the mesh, with the remaining time, and in the same trace: of this
    /// message's metadata, `traceparent` and `tracestate` go with the call. See
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
    /// See [`CallErrorKind`](crate::CallErrorKind); `unreachable` for a message that was made with
    /// [`Message::new`], which belongs to no mesh.
    pub async fn call(
        &self,
        target: impl Into<String>,
        payload: impl Into<Bytes>,
    ) -> Result<Bytes, CallError> {
        let names = ["traceparent", "tracestate"].into_iter();
        let traced = names.filter_map(|name| Some((name, self.meta.get(name)?)));
        let answer = self.call_with_meta(target, payload, traced.collect());
        answer.await.map(Answer::into_payload)
    }

    /// Calls another function of the mesh with this metadata, such as that of this message
    /// (`message.meta().clone()`), and returns its answer with the metadata that it set; else as
    /// [`Message::call`].
    ///
    /// # Errors
    /// As [`Message::call`].
    pub async fn call_with_meta(
        &self,
        target: impl Into<String>,
        payload: impl Into<Bytes>,
        meta: Meta,
    ) -> Result<Answer, CallError> {
        let unreachable = |failure| CallError::new(failure, None);
        let relay = self.relay.as_ref().ok_or_else(|| {
            let text = "a message that Message::new made belongs to no mesh";
            unreachable(CallFailure::new(CallErrorKind::Unreachable, text))
        })?;
        let mesh = relay.mesh().await.map_err(unreachable)?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        let (mut request, payload) = (Request::call(target), payload.into());
        request.meta = meta;
        let called = mesh.call(&mut request, &payload, left, None).await;
        called.map_err(CallError::of_call)
    }

    /// Calls another function of the mesh with JSON; else as [`Message::call`].
    ///
    /// # Errors
    /// As [`Message::call`] and [`Client::call_json`](crate::Client::call_json).
    pub async fn call_json<T: Serialize + ?Sized + Sync, R: DeserializeOwned>(
        &self,
        target: impl Into<String>,
        argument: &T,
    ) -> Result<R, CallError> {
        let payload = json_call::write(argument)?;
        json_call::parse(&self.call(target, payload).await?)
    }

    /// Returns the deadline: the caller's, or the end of the function's own
    /// [timeout](crate::Server::timeout) if that is earlier. Asynchronous functions are cancelled when it
    /// passes.
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

/// The result of a function, or its error.
pub(crate) type Outcome = Result<Answer, FunctionError>;

/// A function of the program.
pub(crate) type Function = Arc<dyn Fn(Message) -> BoxFuture<'static, Outcome> + Send + Sync>;

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use std::time::Duration;

    #[test]
    fn a_message_of_a_unit_test_has_what_was_set() {
        let (job, soon) = (Uuid::new_v4(), Instant::now() + Duration::from_secs(1));
        let plain = Message::new("payload");
        assert_eq!(plain.payload(), "payload");
        assert_eq!((plain.job(), plain.idx(), plain.stage()), (None, None, 0));
        assert_eq!(plain.cache_key(), None);
        assert!(plain.deadline() > soon, "as long as a call has by default");
        let message = plain
            .with_job(job)
            .with_idx(7)
            .with_stage(1)
            .with_cache_key("key")
            .with_meta("user", "ada")
            .with_deadline(soon);
        assert_eq!((message.job(), message.idx()), (Some(job), Some(7)));
        assert_eq!((message.stage(), message.cache_key()), (1, Some("key")));
        assert_eq!(message.meta().get("user"), Some("ada"));
        assert_eq!(message.deadline(), soon);
        let error = block_on(message.call("text.shout", "")).expect_err("it belongs to no mesh");
        assert_eq!(error.kind(), CallErrorKind::Unreachable);
    }
}
