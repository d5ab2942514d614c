//! Calls functions of the mesh.

pub(crate) mod dialer;
pub(crate) mod discovery;
pub(crate) mod failure_detector;
pub(crate) mod job;
pub(crate) mod job_links;
pub(crate) mod json_call;
pub(crate) mod link;
pub(crate) mod link_pool;
pub(crate) mod mesh;
mod names;
pub(crate) mod replies;
pub(crate) mod running_job;
#[cfg(test)]
pub(crate) mod test_server;
pub(crate) mod witnesses;

use crate::{
    client::{dialer::Dialer, job::Job, json_call::JsonCall, mesh::Mesh},
    error::{CallError, Error, ErrorKind},
    io::{
        tasks::Supervisor,
        timer::{self, Elapsed},
    },
};
use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture};
use palm_proto::{
    config::{Config, ValidConfig},
    types::{
        answer::Answer,
        instance::Instance,
        message::{MAX_TIMEOUT, Request},
        record::Record,
    },
};
use serde::Serialize;
use std::{
    fmt,
    future::{self, IntoFuture},
    sync::Arc,
    time::Duration,
};
use uuid::Uuid;

/// Calls functions of the mesh. Cheap to clone; all clones share the links and the
/// view of the mesh.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use palm_peer::{Client, Config};
///
/// let client = Client::connect(Config::default()).await?;
/// let answer = client.call("printf.printf", "Hello").await?;
/// assert_eq!(answer, "Hello");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    mesh: Arc<Mesh>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("uuid", &self.mesh.uuid)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Connects to etcd, reads which servers can be reached, and keeps that up to date in the
    /// background. Works under any executor.
    ///
    /// Once connected, a client continues with the servers that it knows while etcd is unavailable.
    /// Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for a setting that is out of
    /// its bounds; [`ErrorKind::EtcdUnreachable`](crate::ErrorKind::EtcdUnreachable) when etcd does
    /// not answer within `join_timeout`; [`ErrorKind::EtcdRefused`](crate::ErrorKind::EtcdRefused)
    /// when it refuses.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        let config = ValidConfig::new(config)?;
        let files = crate::config::tls::read(&config).await?;
        let credentials = crate::config::tls::credentials(&config, files.as_ref(), None)?;
        let etcd = crate::config::etcd::start("palm-client", &config, files.as_ref())?;
        let dialer = Dialer::new(Uuid::new_v4(), &config, credentials);
        Ok(Self {
            mesh: Mesh::connect(etcd, config, dialer, &Supervisor::unattended()).await?,
        })
    }

    /// Returns the client's uuid.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.mesh.uuid
    }

    /// Calls `server.function` on one of the instances, or `<uuid>.function` on that instance. The
    /// call is sent when it is awaited.
    ///
    /// It goes to the instance with fewer calls of this client in flight, of two picked at
    /// random (power of two choices). If the function certainly did not run there (the call
    /// could not be delivered, or the server was busy or leaving), another instance is tried.
    /// When none is left, those that were busy or did not answer the connection in time are
    /// tried again until the deadline.
    ///
    /// Dropping the call while it is awaited drops its answer; the function may still run. The
    /// target is checked when the call is awaited; the payload is at most
    /// `Config::max_payload` bytes long.
    ///
    /// # Errors
    /// See [`CallErrorKind`](crate::CallErrorKind); for unknown names the call fails at once, and
    /// the message names the known ones.
    pub fn call(&self, target: impl Into<String>, payload: impl Into<Bytes>) -> Call<'_> {
        Call {
            client: self,
            request: Request::call(target),
            payload: payload.into(),
            time: self.mesh.config.timeout,
            at: None,
        }
    }

    /// Calls a function that takes and returns [`Json`](crate::Json); else as [`Client::call`].
    ///
    /// ```no_run
    /// # async fn example(client: palm_peer::Client) -> Result<(), palm_peer::CallError> {
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize)]
    /// struct Order { item: String, count: u32 }
    ///
    /// #[derive(Deserialize)]
    /// struct Taken { left: u32 }
    ///
    /// let order = Order { item: "bolt".into(), count: 3 };
    /// match client.call_json::<_, Taken>("shop.take", &order).await {
    ///     Ok(taken) => println!("{} left", taken.left),
    ///     Err(error) if error.code() == Some("no_item") => println!("there is no {}", order.item),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Client::call`]; [`BadMessage`](crate::CallErrorKind::BadMessage) when the argument cannot be
    /// written as JSON, or the function expects another form,
    /// [`BadAnswer`](crate::CallErrorKind::BadAnswer) when the answer has another form.
    pub fn call_json<T: Serialize + ?Sized, R>(
        &self,
        target: impl Into<String>,
        argument: &T,
    ) -> JsonCall<Call<'_>, R> {
        JsonCall::new(argument, |json| self.call(target, json))
    }

    /// Streams messages through these functions, 1 to 64 targets as in [`Client::call`], one after
    /// the other: see [`Job`].
    pub fn job<T: Into<String>>(&self, pipeline: impl IntoIterator<Item = T>) -> Job {
        Job::new(
            Arc::clone(&self.mesh),
            pipeline.into_iter().map(Into::into).collect(),
        )
    }

    /// Waits until at least this many instances of a server are reachable. It waits for changes, and
    /// does not poll. Cancel-safe.
    ///
    /// ```no_run
    /// # async fn example(client: palm_peer::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// client.wait_for("text", 2, Duration::from_secs(10)).await?;
    /// let answer = client.call("text.shout", "hello").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] when there are fewer once `within` has passed; the message says how
    /// many there are, or which other servers.
    pub async fn wait_for(
        &self,
        server: &str,
        instances: usize,
        within: Duration,
    ) -> Result<(), Error> {
        // Registered before the first look, so that no change is missed.
        let mut changes = self.mesh.changes();
        let reached = async {
            while self.mesh.directory().count(server) < instances {
                if changes.next().await.is_none() {
                    future::pending::<()>().await;
                }
            }
        };
        let waited = timer::timeout(within.min(MAX_TIMEOUT), reached).await;
        waited.map_err(|Elapsed| {
            let count = self.mesh.directory().count(server);
            let names = self.reachable().into_iter().map(|server| server.server);
            let others = names.collect::<Vec<_>>().join(", ");
            let published = match (count, others.as_str()) {
                (0, "") => "; no server is published".to_owned(),
                (0, others) => format!("; the published servers are {others}"),
                _ => String::new(),
            };
            let text = format!(
                "{count} of {instances} instances of {server} can be reached after {within:?}{published}"
            );
            Error::new(ErrorKind::TimedOut, text)
        })
    }

    /// Returns the reachable servers by name, each with the functions of its instances and the
    /// number of instances.
    ///
    /// ```no_run
    /// # fn example(client: &palm_peer::Client) {
    /// for server in client.reachable() {
    ///     println!("{}: {} instances of {:?}", server.server, server.instances, server.functions);
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn reachable(&self) -> Vec<ServerSummary> {
        let directory = self.mesh.directory();
        let reachable = directory
            .summary()
            .map(|(server, functions, instances)| ServerSummary {
                server,
                functions,
                instances,
            });
        reachable.collect()
    }
}

/// A server that can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerSummary {
    /// Its name.
    pub server: String,
    /// Its functions.
    pub functions: Vec<String>,
    /// The number of its instances.
    pub instances: usize,
}

/// A call, which is sent when it is awaited.
///
/// ```no_run
/// # async fn example(client: palm_peer::Client) -> Result<(), palm_peer::CallError> {
/// use std::time::Duration;
///
/// // To one instance: each has a store of its own.
/// let instance = "e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4";
/// client.call(format!("{instance}.set"), "42").cache("answer").await?;
/// let answer = client.call(format!("{instance}.get"), "").cache("answer").timeout(Duration::from_secs(1)).await?;
/// assert_eq!(answer, "42");
/// # Ok(()) }
/// ```
#[must_use = "a call does nothing until it is awaited"]
pub struct Call<'a> {
    client: &'a Client,
    request: Request,
    payload: Bytes,
    time: Duration,
    at: Option<Arc<Instance>>,
}

impl Call<'_> {
    /// Sends the call to the server that this record describes, whose name or uuid is in the target:
    /// also to one that clients do not find because it is not ready. For tools of operators;
    /// [`Admin::servers`](crate::Admin::servers) has the records.
    ///
    /// ```no_run
    /// # async fn example(client: palm_peer::Client, admin: palm_peer::Admin) -> Result<(), Box<dyn std::error::Error>> {
    /// for entry in admin.servers().await? {
    ///     if let Ok(record) = &entry.record {
    ///         let ping = client.call(format!("{}._ping", record.uuid), "").at(record).await;
    ///         println!("{}: {}", record.uuid, ping.is_ok());
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub fn at(mut self, record: &Record) -> Self {
        self.at = Some(Arc::new(Instance::of(record)));
        self
    }

    /// Sets how long the call may take, at most a year; default `Config::timeout`.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.time = time.min(MAX_TIMEOUT);
        self
    }

    /// Sets the key in the server's store, 1 to 1024 bytes, for `get`, `set`,
    /// `append` and `delete`.
    pub fn cache(mut self, key: impl Into<String>) -> Self {
        self.request.cache = Some(key.into());
        self
    }

    /// Sets an entry of the metadata that travels with the call: the function reads it with
    /// [`Message::meta`](crate::Message::meta). Names are not empty; names and values together have
    /// 8 KiB at most. More is a [`BadMessage`](crate::CallErrorKind::BadMessage), and nothing is sent.
    pub fn meta(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.request.meta.insert(name, value);
        self
    }

    /// Sends the call, and returns its answer with the metadata that the function set on it. Awaiting
    /// the call itself returns the payload alone.
    ///
    /// ```no_run
    /// # async fn example(client: palm_peer::Client) -> Result<(), palm_peer::CallError> {
    /// let answer = client.call("text.greet", "").meta("user", "Ada").answer().await?;
    /// println!("{:?} in {:?}", answer.payload(), answer.meta().get("language"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn answer(mut self) -> Result<Answer, CallError> {
        self.send().await
    }

    async fn send(&mut self) -> Result<Answer, CallError> {
        let mesh = &self.client.mesh;
        let called = mesh.call(
            &mut self.request,
            &self.payload,
            self.time,
            self.at.as_ref(),
        );
        called.await.map_err(CallError::of_call)
    }
}

impl<'a> IntoFuture for Call<'a> {
    type Output = Result<Bytes, CallError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(mut self) -> Self::IntoFuture {
        Box::pin(async move { self.send().await.map(Answer::into_payload) })
    }
}
