//! A server that is called within its process, for tests of its functions.

use crate::{
    client::json_call::{self, JsonCall},
    error::{CallError, Error},
    ingress,
    io::zmq::InProcess,
    logging,
    membership::watchdog::LivenessSender,
    server::{
        Server,
        definition::{Definition, check_record},
        dispatch::Dispatcher,
        peer::new_record,
        state::ServerState,
    },
};
use bytes::Bytes;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Either, Shared, pending, select},
};
use palm_proto::{
    config::{Config, ValidConfig},
    types::{
        answer,
        message::{Answer, CallErrorKind, CallFailure, MAX_TIMEOUT, Request},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, future::IntoFuture, pin::pin, sync::Arc, time::Duration};
use uuid::Uuid;

/// A server that runs in a test, without etcd and without sockets; from
/// [`Server::local`](crate::Server::local).
///
/// A call takes the path of a request that a server has received: limits, the queue, deadlines,
/// blocking functions, built-in functions and panics are those of a server in a mesh, and so are
/// errors. What needs other servers fails as `unreachable`: [`Message::call`](crate::Message::call)
/// in a function.
///
/// The functions run on the executor of the test, while it awaits any call; those that wait, where
/// they do in a mesh (see [`Server::spawn_with`](crate::Server::spawn_with)). Cheap to clone.
#[derive(Clone)]
pub struct LocalServer {
    name: String,
    uuid: Uuid,
    timeout: Duration,
    requests: Arc<InProcess>,
    /// The dispatch loop, which each call polls.
    serving: Shared<BoxFuture<'static, ()>>,
    /// Keeps the channel of the loop open.
    _liveness: LivenessSender,
}

impl fmt::Debug for LocalServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalServer")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl LocalServer {
    pub(super) fn start<S>(server: Server<S>, config: Config) -> Result<Self, Error> {
        let config = ValidConfig::new(config)?;
        let Definition {
            profile, functions, ..
        } = server.definition()?;
        let state = ServerState::new(
            profile.name.clone(),
            functions,
            config,
            logging::book(),
            None,
        );
        check_record(&new_record(&state, profile))?;
        let state = Arc::new(state);
        let (requests, sender, receiver) = ingress::in_process();
        let (mut dispatcher, liveness) = Dispatcher::new(Arc::clone(&state), sender, receiver);
        let serving = async move { dispatcher.run(&mut pending().fuse()).await };
        Ok(Self {
            name: state.name.clone(),
            uuid: state.uuid,
            timeout: state.config.timeout,
            requests: Arc::new(requests),
            serving: serving.boxed().shared(),
            _liveness: liveness,
        })
    }

    /// Calls a function by its name, `shout` or `text.shout`. The call is sent when it is awaited.
    ///
    /// # Errors
    /// See [`CallErrorKind`](crate::CallErrorKind); `wrong_server` for the name of another server.
    pub fn call(&self, function: impl Into<String>, payload: impl Into<Bytes>) -> LocalCall<'_> {
        let mut target = function.into();
        if !target.contains('.') {
            target = format!("{}.{target}", self.name);
        }
        LocalCall {
            server: self,
            request: Request::call(target),
            payload: payload.into(),
            time: self.timeout,
        }
    }

    /// Calls a function that takes and returns [`Json`](crate::Json), as
    /// [`Client::call_json`](crate::Client::call_json).
    pub fn call_json<T: Serialize + ?Sized, R>(
        &self,
        function: impl Into<String>,
        argument: &T,
    ) -> JsonCall<LocalCall<'_>, R> {
        JsonCall::new(argument, |json| self.call(function, json))
    }

    async fn answer(&self, request: &Request, payload: Bytes) -> Result<answer::Answer, CallError> {
        if let Some(problem) = request.meta.problem() {
            let failure = CallFailure::new(CallErrorKind::BadMessage, problem);
            return Err(CallError::new(failure, None));
        }
        let ended = || {
            let text = "the local server has ended";
            CallFailure::new(CallErrorKind::Unreachable, text)
        };
        let answer = pin!(
            self.requests
                .request(vec![request.encode().into(), payload])
        );
        let frames = match select(answer, self.serving.clone()).await {
            Either::Left((frames, _)) => frames.unwrap_or_default(),
            Either::Right(((), _)) => Vec::new(),
        };
        let mut frames = frames.into_iter();
        let header = frames.next().and_then(|header| Answer::decode(&header));
        let header = header.ok_or_else(|| CallError::new(ended(), Some(self.uuid)))?;
        match header.error {
            None => Ok(answer::Answer::from_parts(
                frames.next().unwrap_or_default(),
                header.meta,
            )),
            Some(failure) => Err(CallError::new(failure, Some(self.uuid))),
        }
    }
}

/// A call of a function of a [`LocalServer`], which is sent when it is awaited.
#[must_use = "a call does nothing until it is awaited"]
pub struct LocalCall<'a> {
    server: &'a LocalServer,
    request: Request,
    payload: Bytes,
    time: Duration,
}

impl LocalCall<'_> {
    /// Sets how long the call may take, at most a year; default `Config::timeout`.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.time = time.min(MAX_TIMEOUT);
        self
    }

    /// Sets the key in the server's store, as [`Call::cache`](crate::Call::cache).
    pub fn cache(mut self, key: impl Into<String>) -> Self {
        self.request.cache = Some(key.into());
        self
    }

    /// Sets an entry of the metadata, as [`Call::meta`](crate::Call::meta).
    pub fn meta(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.request.meta.insert(name, value);
        self
    }

    /// Sets the job that the function sees, and the message's index in it.
    pub fn job(mut self, job: Uuid, idx: u64) -> Self {
        self.request.job = Some(job);
        self.request.idx = Some(idx);
        self
    }
}

impl LocalCall<'_> {
    /// Sends the call, and returns its answer with the metadata, as [`Call::answer`](crate::Call::answer).
    ///
    /// # Errors
    /// As [`LocalServer::call`].
    pub async fn answer(mut self) -> Result<answer::Answer, CallError> {
        self.request.give_time(self.time);
        self.server.answer(&self.request, self.payload).await
    }
}

impl<R> JsonCall<LocalCall<'_>, R> {
    /// As [`LocalCall::timeout`].
    pub fn timeout(self, time: Duration) -> Self {
        self.map(|call| call.timeout(time))
    }

    /// As [`LocalCall::cache`].
    pub fn cache(self, key: impl Into<String>) -> Self {
        self.map(|call| call.cache(key))
    }

    /// As [`LocalCall::meta`].
    pub fn meta(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.map(|call| call.meta(name, value))
    }

    /// As [`LocalCall::job`].
    pub fn job(self, job: Uuid, idx: u64) -> Self {
        self.map(|call| call.job(job, idx))
    }
}

impl<'a, R: DeserializeOwned + 'static> IntoFuture for JsonCall<LocalCall<'a>, R> {
    type Output = Result<R, CallError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let call = self.into_call();
        Box::pin(async move { json_call::parse(&call?.await?) })
    }
}

impl<'a> IntoFuture for LocalCall<'a> {
    type Output = Result<Bytes, CallError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(self.answer().await?.into_payload()) })
    }
}

#[cfg(test)]
mod tests;
