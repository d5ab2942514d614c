//! The public API of servers.

pub(crate) mod active_calls;
pub(crate) mod certificate_expiry;
pub(crate) mod clients;
pub(crate) mod definition;
pub(crate) mod dispatch;
mod engine;
pub(crate) mod forward;
mod function_stats;
pub(crate) mod functions;
mod header;
pub(crate) mod liveness_check;
pub(crate) mod local;
pub(crate) mod message;
pub(crate) mod metrics;
mod middleware;
mod parallel;
pub(crate) mod parcel;
mod passing;
pub(crate) mod peer;
pub(crate) mod relay;
mod slot;
pub(crate) mod spawner;
pub(crate) mod startup_check;
pub(crate) mod state;
pub(crate) mod task;
mod typed;
pub(crate) mod unconfirmed;

pub use message::{FunctionError, Message};
pub use middleware::Next;
pub use typed::{ApplicationError, FromMessage, IntoAnswer, Json, State};

use self::{
    definition::{Definition, FunctionOptions, FunctionSpec, Functions, Profile},
    message::{Function, Outcome},
    middleware::Wrap,
    spawner::Spawner,
};

use crate::{
    error::{Error, ErrorKind},
    io::{executor, spans::Span},
    server::{local::LocalServer, peer::Peer},
};
use futures::{FutureExt as _, pin_mut};
use palm_proto::{
    config::{Config, ValidConfig},
    types::{answer::Answer, names},
};
use std::{
    collections::BTreeMap,
    future::{self, Future},
    sync::Arc,
};

/// A server: a name, a kind, and the functions that others can call.
///
/// ```
/// use palm_peer::{FunctionError, Message, Server};
///
/// async fn shout(message: Message) -> Result<Vec<u8>, FunctionError> {
///     Ok(message.payload().to_ascii_uppercase())
/// }
///
/// let server = Server::new("text")
///     .function("shout", shout)
///     .blocking("count", |message: Message| Ok::<_, FunctionError>(message.payload().len().to_string()));
/// # drop(server);
/// ```
///
/// A function takes a [`Message`], or its payload as [`Json`] or another [`FromMessage`], and returns
/// bytes, a string, [`Json`] or another [`IntoAnswer`]. Its error is any error. A closure that takes
/// the state of its server, and JSON:
///
/// ```
/// use palm_peer::{ApplicationError, Json, Server, State};
/// use serde::{Deserialize, Serialize};
/// use std::{collections::HashMap, sync::Mutex};
///
/// #[derive(Default)]
/// struct Shop {
///     stock: Mutex<HashMap<String, u32>>,
/// }
///
/// #[derive(Serialize, Deserialize)]
/// struct Order {
///     item: String,
///     count: u32,
/// }
///
/// fn server() -> Server<State<Shop>> {
///     Server::new("shop")
///         .with_state(Shop::default())
///         .function("add", async |shop: State<Shop>, Json(order): Json<Order>| {
///             let mut stock = shop.stock.lock().map_err(|_| "the stock is in disorder")?;
///             let left = stock.entry(order.item).or_default();
///             *left = left.checked_add(order.count).ok_or("the shop is full")?;
///             Ok(Json(*left))
///         })
///         .function("take", async |shop: State<Shop>, Json(order): Json<Order>| {
///             let mut stock = shop.stock.lock().map_err(|_| "the stock is in disorder")?;
///             let no_item = || ApplicationError::new("no_item", format!("there is no {}", order.item));
///             let left = stock.get_mut(&order.item).ok_or_else(no_item)?;
///             *left = left.checked_sub(order.count).ok_or("there are not so many")?;
///             Ok(Json(*left))
///         })
/// }
///
/// # async fn test() -> Result<(), palm_peer::FunctionError> {
/// let shop = server().local()?;
/// let order = |item: &str, count| Order { item: item.into(), count };
/// assert_eq!(shop.call_json::<_, u32>("add", &order("bolt", 3)).await?, 3);
/// assert_eq!(shop.call_json::<_, u32>("take", &order("bolt", 2)).await?, 1);
/// let error = shop.call_json::<_, u32>("take", &order("nut", 1)).await.expect_err("no nuts");
/// assert_eq!(error.code(), Some("no_item"));
/// # Ok(()) }
/// # palm_peer::block_on(test()).expect("the shop works");
/// ```
#[must_use = "a server does nothing until it joins"]
pub struct Server<S = ()> {
    name: String,
    kind: String,
    version: Option<String>,
    tags: Vec<String>,
    ready: bool,
    functions: BTreeMap<String, FunctionSpec>,
    order: Vec<String>,
    /// The middleware, the outermost first.
    wraps: Vec<Wrap>,
    invalid: Option<String>,
    /// Where functions run that wait.
    spawner: Spawner,
    #[cfg(feature = "bench")]
    without_ingress: bool,
    /// The state of the functions that are added from now on.
    state: S,
}

impl Server {
    /// Creates a server with this name, which all its instances share: 1 to 128 ASCII letters,
    /// digits, `_` and `-`. [`Server::join`] reports an invalid name.
    pub fn new(name: impl Into<String>) -> Self {
        let mut server = Self {
            name: name.into(),
            kind: "registered".into(),
            version: None,
            tags: Vec::new(),
            ready: true,
            functions: BTreeMap::new(),
            order: Vec::new(),
            wraps: Vec::new(),
            invalid: None,
            spawner: Spawner::default(),
            #[cfg(feature = "bench")]
            without_ingress: false,
            state: (),
        };
        server.check_name("a server", &server.name.clone());
        server
    }

    /// Gives the functions that are added from now on a state, which they share: they take it as
    /// their first argument, a [`State`]. Without a lock or an atomic in it, it cannot be changed.
    ///
    /// ```
    /// use palm_peer::{Server, State};
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// let server = Server::new("counter")
    ///     .with_state(AtomicU64::new(0))
    ///     .function("add", async |sum: State<AtomicU64>, number: String| {
    ///         let number: u64 = number.parse()?;
    ///         Ok((sum.fetch_add(number, Ordering::Relaxed) + number).to_string())
    ///     });
    /// # drop(server);
    /// ```
    pub fn with_state<S>(self, state: S) -> Server<State<S>> {
        self.replace_state(State::new(state))
    }

    /// Adds an asynchronous function. Many calls run concurrently (`Config::max_in_flight`,
    /// [`Server::limit`]), after they first waited also in parallel ([`Server::spawn_with`]); it must not block. At the caller's deadline its future is
    /// dropped, so what it awaits should be cancel-safe. A panic is answered with `panicked`, and
    /// the server continues.
    ///
    /// Its argument is a [`Message`], [`Json`] or another [`FromMessage`], its result bytes, a string,
    /// [`Json`] or another [`IntoAnswer`]. Its error is a [`FunctionError`], which `?` makes of any
    /// error.
    ///
    /// Its name is as for [`Server::new`], does not begin with `_`, and is none of `get`, `set`,
    /// `append` and `delete`; [`Server::join`] reports what is not.
    pub fn function<F, Fut, A, T>(self, name: impl Into<String>, function: F) -> Self
    where
        F: Fn(A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, FunctionError>> + Send + 'static,
        A: FromMessage,
        T: IntoAnswer,
    {
        self.add(name.into(), asynchronous(function))
    }

    /// Adds a function that blocks or computes for long; else as [`Server::function`]. It runs on a
    /// thread of a pool. At the caller's deadline the answer is `timed_out`; the function itself
    /// cannot be stopped and runs to its end.
    ///
    /// ```
    /// use palm_peer::{FunctionError, Server};
    ///
    /// fn sum(numbers: String) -> Result<String, FunctionError> {
    ///     let numbers: Vec<u64> = numbers.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    ///     Ok(numbers.into_iter().sum::<u64>().to_string())
    /// }
    ///
    /// # drop(
    /// Server::new("numbers").blocking("sum", sum)
    /// # );
    /// ```
    pub fn blocking<F, A, T>(self, name: impl Into<String>, function: F) -> Self
    where
        F: Fn(A) -> Result<T, FunctionError> + Send + Sync + 'static,
        A: FromMessage,
        T: IntoAnswer,
    {
        self.add(name.into(), blocking(function))
    }
}

impl<S: Send + Sync + 'static> Server<State<S>> {
    /// Adds an asynchronous function that takes the state; else as for a server without one.
    pub fn function<F, Fut, A, T>(self, name: impl Into<String>, function: F) -> Self
    where
        F: Fn(State<S>, A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, FunctionError>> + Send + 'static,
        A: FromMessage,
        T: IntoAnswer,
    {
        let state = self.state.clone();
        let function = asynchronous(move |argument| function(state.clone(), argument));
        self.add(name.into(), function)
    }

    /// Adds a function that blocks or computes for long, and takes the state; else as for a server
    /// without one.
    pub fn blocking<F, A, T>(self, name: impl Into<String>, function: F) -> Self
    where
        F: Fn(State<S>, A) -> Result<T, FunctionError> + Send + Sync + 'static,
        A: FromMessage,
        T: IntoAnswer,
    {
        let state = self.state.clone();
        let function = blocking(move |argument| function(state.clone(), argument));
        self.add(name.into(), function)
    }
}

impl<S> Server<S> {
    /// Sets the kind in the record, a name as for [`Server::new`], for programs that read records;
    /// default `registered`.
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = kind.into();
        self.check_name("a kind", &self.kind.clone());
        self
    }

    /// Sets the version of the program in the record, for people and programs that look at the mesh:
    /// 1 to 64 visible ASCII characters, without commas. The zone comes from the configuration
    /// ([`Config::zone`]).
    ///
    /// ```
    /// let server = palm_peer::Server::new("text").version(env!("CARGO_PKG_VERSION")).tag("gpu");
    /// # drop(server);
    /// ```
    pub fn version(mut self, version: impl Into<String>) -> Self {
        let version = version.into();
        self.check_label("version", &version);
        self.version = Some(version);
        self
    }

    /// Adds a tag to the record, valid as a version is; those of the configuration
    /// ([`Config::tags`]) follow. 32 at most in all.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        let tag = tag.into();
        self.check_label("tag", &tag);
        self.tags.push(tag);
        self
    }

    /// Sets whether the server may be called once it has joined; default `true`. To change it later,
    /// use [`Peer::set_ready`].
    pub fn ready(mut self, ready: bool) -> Self {
        self.ready = ready;
        self
    }

    /// Runs code around all functions of the server, also those that are added later; not around
    /// built-in ones. It gets each message, and what runs the rest: it may change the message or the
    /// [`Answer`], and their metadata, measure, refuse, retry, or add a timeout. Of several,
    /// the first is the outermost.
    ///
    /// ```
    /// use palm_peer::{ApplicationError, CallErrorKind, Message, Server};
    ///
    /// let server = Server::new("text")
    ///     .function("shout", async |text: String| Ok(text.to_uppercase()))
    ///     .wrap(|next, message| async move {
    ///         if message.payload().len() > 100 {
    ///             return Err(ApplicationError::new("too_long", "100 bytes at most").into());
    ///         }
    ///         let name = next.function().to_owned();
    ///         let answer = next.run(message).await;
    ///         log::info!("{name}: {}", if answer.is_ok() { "done" } else { "failed" });
    ///         answer
    ///     });
    ///
    /// # async fn test(server: Server) -> Result<(), palm_peer::FunctionError> {
    /// let text = server.local()?;
    /// assert_eq!(text.call("shout", "hello").await?, "HELLO");
    /// let error = text.call("shout", "hello".repeat(21)).await.expect_err("it is too long");
    /// assert_eq!(error.code(), Some("too_long"));
    /// # Ok(()) }
    /// # palm_peer::block_on(test(server)).expect("the middleware works");
    /// ```
    pub fn wrap<F, Fut>(mut self, middleware: F) -> Self
    where
        F: Fn(Next, Message) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Answer, FunctionError>> + Send + 'static,
    {
        self.wraps.push(middleware::closure(middleware));
        self
    }

    /// As [`Server::wrap`], with a layer of tower. Each function has a service of its own, which the
    /// layer makes of its [`Next`], and which is cloned for each message.
    ///
    /// With the feature `tower`.
    #[cfg(feature = "tower")]
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: tower_layer::Layer<Next> + Send + Sync + 'static,
        L::Service: tower_service::Service<
                Message,
                Response: Into<Answer>,
                Error: Into<FunctionError>,
                Future: Send,
            > + Clone
            + Send
            + 'static,
    {
        self.wraps.push(middleware::layer(layer));
        self
    }

    /// Has `ZeroMQ` itself listen, without TLS and unprotected, for the benchmark of what
    /// the ingress costs.
    #[cfg(feature = "bench")]
    #[doc(hidden)]
    pub fn without_ingress(mut self) -> Self {
        self.without_ingress = true;
        self
    }

    /// Returns the same server with another state for the functions that are added from now on.
    pub(crate) fn replace_state<N>(self, state: N) -> Server<N> {
        Server {
            name: self.name,
            kind: self.kind,
            version: self.version,
            tags: self.tags,
            ready: self.ready,
            functions: self.functions,
            order: self.order,
            wraps: self.wraps,
            invalid: self.invalid,
            spawner: self.spawner,
            #[cfg(feature = "bench")]
            without_ingress: self.without_ingress,
            state,
        }
    }

    fn add(mut self, name: String, function: FunctionSpec) -> Self {
        self.check_name("a function", &name);
        if names::BUILT_IN.contains(&name.as_str()) || names::is_reserved(&name) {
            self.invalid.get_or_insert(format!(
                "{name:?} is reserved: names that begin with _ and the built-in names are PALM's"
            ));
        }
        if self.functions.insert(name.clone(), function).is_some() {
            self.invalid
                .get_or_insert(format!("function {name:?} is defined twice"));
        }
        self.order.push(name);
        self
    }

    fn check_name(&mut self, what: &str, name: &str) {
        if !names::is_valid(name) {
            let text = format!(
                "{name:?} is not a valid name of {what}: use 1 to {} ASCII letters, digits, _ and -",
                names::LONGEST
            );
            self.invalid.get_or_insert(text);
        }
    }

    fn check_label(&mut self, what: &str, label: &str) {
        if !names::is_label(label) {
            self.invalid
                .get_or_insert(format!("{what} {}", names::no_label(label)));
        }
    }

    /// Runs the server within this process, without etcd and without sockets, to test its functions:
    /// see [`LocalServer`]. The configuration is the default one.
    ///
    /// ```
    /// use palm_peer::{CallErrorKind, FunctionError, Message, Server};
    ///
    /// async fn shout(message: Message) -> Result<String, FunctionError> {
    ///     Ok(std::str::from_utf8(message.payload())?.to_uppercase())
    /// }
    ///
    /// # async fn test() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let text = Server::new("text").function("shout", shout).local()?;
    /// assert_eq!(text.call("shout", "hello").await?, "HELLO");
    /// let error = text.call("shout", vec![0xff]).await.expect_err("that is not UTF-8");
    /// assert_eq!(error.kind(), CallErrorKind::Failed);
    /// # Ok(()) }
    /// # palm_peer::block_on(test()).expect("the functions work");
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for what [`Server::join`] would refuse: an invalid name, or
    /// names that are too long for a record in total.
    pub fn local(self) -> Result<LocalServer, Error> {
        self.local_with(Config::default())
    }

    /// As [`Server::local`], with another configuration, to test limits:
    /// `Config::default().max_payload(16)`. What concerns etcd, sockets and TLS is ignored.
    ///
    /// # Errors
    /// As [`Server::local`], and for a setting that is out of its bounds.
    pub fn local_with(self, config: Config) -> Result<LocalServer, Error> {
        LocalServer::start(self, config)
    }

    /// Joins the mesh: listens, registers in etcd and becomes a candidate for leadership. The
    /// server is reachable once [`Peer::serve`] runs and the leader has configured it, tens of
    /// milliseconds later.
    ///
    /// Works under any executor. When the future is dropped before it ends, joining is undone in
    /// the background. To also stop joining at a signal, use [`Server::run`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for a setting that is out of its bounds, an invalid name, or
    /// names that are too long for a record in total, [`ErrorKind::Bind`] when the address cannot
    /// be bound, [`ErrorKind::EtcdUnreachable`] when etcd does not answer within `join_timeout`,
    /// [`ErrorKind::EtcdRefused`] when it refuses. Nothing is left behind.
    pub async fn join(self, config: Config) -> Result<Peer, Error> {
        let config = ValidConfig::new(config)?;
        let joined = Peer::join(self.definition()?, config, future::pending::<()>()).await?;
        joined.ok_or_else(|| Error::new(ErrorKind::Io, "joining was stopped"))
    }

    /// Joins the mesh, serves until `shutdown` ends, then leaves: [`Server::join`] and
    /// [`Peer::serve`] in one, except that `shutdown` is awaited from the start. When it ends
    /// while the server joins, joining stops at once, what was put into etcd is removed, and
    /// this returns `Ok`.
    ///
    /// Not cancel-safe: when the future is dropped, the server leaves the mesh in the background,
    /// without a drain.
    ///
    /// ```no_run
    /// use palm_peer::{Config, FunctionError, Message, Server};
    ///
    /// async fn echo(message: Message) -> Result<palm_peer::Bytes, FunctionError> {
    ///     Ok(message.into_payload())
    /// }
    ///
    /// async fn run() -> Result<(), palm_peer::Error> {
    ///     let config = Config::from_env()?.prefix("/staging".into());
    ///     Server::new("echo").function("echo", echo).run(config, palm_peer::signals()?).await
    /// }
    ///
    /// fn main() -> Result<(), palm_peer::Error> {
    ///     palm_peer::block_on(run())
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`Server::join`] and [`Peer::serve`].
    pub async fn run(self, config: Config, shutdown: impl Future) -> Result<(), Error> {
        let config = ValidConfig::new(config)?;
        pin_mut!(shutdown);
        let Some(peer) = Peer::join(self.definition()?, config, &mut shutdown).await? else {
            log::info!("stopped while joining the mesh");
            return Ok(());
        };
        peer.serve(shutdown).await
    }

    fn definition(self) -> Result<Definition, Error> {
        if let Some(text) = self.invalid {
            return Err(Error::new(ErrorKind::InvalidConfig, text));
        }
        let mut functions = self.functions;
        for (name, function) in &mut functions {
            // The last one first: it is the innermost.
            for wrap in self.wraps.iter().rev() {
                function.call = wrap(Next::new(name, Arc::clone(&function.call)));
                // The middleware may compute.
                function.options.only_waits = false;
            }
        }
        let mut names = self.order;
        names.extend(names::BUILT_IN.map(String::from));
        Ok(Definition {
            profile: Profile {
                name: self.name,
                kind: self.kind,
                version: self.version,
                tags: self.tags,
                ready: self.ready,
                names,
            },
            functions: Functions {
                by_name: functions,
                spawner: self.spawner,
            },
            #[cfg(feature = "bench")]
            without_ingress: self.without_ingress,
        })
    }
}

/// Returns the function for the serving loop of an asynchronous function.
fn asynchronous<Fut, A, T>(function: impl Fn(A) -> Fut + Send + Sync + 'static) -> FunctionSpec
where
    Fut: Future<Output = Result<T, FunctionError>> + Send + 'static,
    A: FromMessage,
    T: IntoAnswer,
{
    let call: Function = Arc::new(move |message| match typed::argument(message) {
        Ok(argument) => {
            let running = function(argument);
            async move { running.await?.into_answer() }.boxed()
        }
        Err(error) => future::ready(Err(error)).boxed(),
    });
    FunctionSpec {
        call,
        options: FunctionOptions::default(),
    }
}

/// Returns the function for the serving loop of one that blocks.
fn blocking<A: FromMessage, T: IntoAnswer>(
    function: impl Fn(A) -> Result<T, FunctionError> + Send + Sync + 'static,
) -> FunctionSpec {
    let function = Arc::new(function);
    let call: Function = Arc::new(move |message: Message| {
        let function = Arc::clone(&function);
        let slot = message.slot.clone();
        let run = move || -> Outcome {
            // Held to the end of the function, which cannot be stopped. Nobody waits for one whose
            // time passed before a thread of the pool was free.
            let slot = slot.map(|slot| slot.upgrade().ok_or("it was stopped before it started"));
            let _held = slot.transpose()?;
            function(typed::argument(message)?)?.into_answer()
        };
        let span = Span::current();
        let answer = move || span.in_scope(run);
        // A panic is passed on, to distinguish it from an error.
        let work = move || std::panic::catch_unwind(std::panic::AssertUnwindSafe(answer));
        async move {
            executor::run_blocking(work)
                .await
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        }
        .boxed()
    });
    FunctionSpec {
        call,
        options: FunctionOptions {
            blocking: true,
            only_waits: true,
            ..FunctionOptions::default()
        },
    }
}
