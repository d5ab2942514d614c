//! How a server's functions run: where those go on that have to wait, how many calls of one run at
//! once, and for how long.

use super::{Server, definition::FunctionOptions, spawner::Spawner};
use palm_proto::types::message::MAX_TIMEOUT;
use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

impl<S> Server<S> {
    /// Has asynchronous functions run in parallel, on an executor of several threads.
    ///
    /// Each function is polled once where the server is served; many end there. One that has to wait
    /// is given to this closure as a future, which it must spawn: such functions then use all threads
    /// of that executor, and one that computes for long after it waited neither delays other calls nor
    /// the answers to health checks. What is longer than a few milliseconds before a function first
    /// waits belongs into [`Server::blocking`] all the same.
    ///
    /// Without this, functions that wait run on threads of the library if the server is served inside
    /// of [`block_on`](crate::block_on) (or by `palm_peer::main`), one for each core. Under another executor they all run
    /// in the future that serves, one at a time.
    ///
    /// At its deadline, and when the server stops, the future is dropped as soon as it waits again.
    /// If the executor drops it before it ends, the caller gets
    /// [`Unreachable`](crate::CallErrorKind::Unreachable). The executor may be any, but the first poll happens
    /// where the server is served: a function that needs the runtime of tokio needs a server that is
    /// served there.
    ///
    /// ```no_run
    /// use palm_peer::{Config, FunctionError, Server};
    ///
    /// # mod tokio { pub fn spawn<T>(_: T) {} }
    /// async fn serve(server: Server) -> Result<(), palm_peer::Error> {
    ///     let server = server.spawn_with(|function| {
    ///         tokio::spawn(function);
    ///     });
    ///     server.run(Config::from_env()?, palm_peer::signals()?).await
    /// }
    /// ```
    pub fn spawn_with<F>(mut self, spawn: F) -> Self
    where
        F: Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync + 'static,
    {
        self.spawner = Spawner::new(Arc::new(spawn));
        self
    }

    /// Limits how many calls of the function that was added last run at once, at least 1.
    ///
    /// More calls wait in the server's queue (`Config::max_queued`), where clients take turns, and
    /// hold up no other function; at their deadlines they leave it with `timed_out`. The limit of all
    /// functions (`Config::max_in_flight`) holds as well. A call keeps its place until the function has
    /// really ended, also after its caller has got an error. `_ping` says how many calls of a function
    /// run and wait.
    ///
    /// ```
    /// use palm_peer::{FunctionError, Server};
    /// use std::time::Duration;
    ///
    /// async fn shout(text: String) -> Result<String, FunctionError> {
    ///     Ok(text.to_uppercase())
    /// }
    ///
    /// fn render(page: String) -> Result<Vec<u8>, FunctionError> {
    ///     # let _ = page;
    ///     // ...
    ///     # Ok(Vec::new())
    /// }
    ///
    /// let server = Server::new("text")
    ///     .function("shout", shout)
    ///     .timeout(Duration::from_secs(2))
    ///     .blocking("render", render)
    ///     .limit(4)
    ///     .timeout(Duration::from_secs(10));
    /// # drop(server);
    /// ```
    pub fn limit(mut self, max: usize) -> Self {
        if max == 0 {
            self.refuse("limit(0): at least one call must be able to run");
        }
        match self.last_added() {
            Some(options) => options.limit = Some(max),
            None => self.refuse("limit belongs behind the function that it limits"),
        }
        self
    }

    /// Sets how long a call of the function that was added last may run, without the time that it
    /// waits in the queue. Its caller's deadline holds as well: the earlier one counts, and is what
    /// [`Message::deadline`](crate::Message::deadline) returns.
    ///
    /// After that time the caller gets `timed_out`, and the function is stopped: its future is dropped.
    /// A blocking function cannot be stopped. It runs to its end on its thread, keeps its place in the
    /// function's [limit](Server::limit), and counts as `overdue` in `_ping` until then.
    pub fn timeout(mut self, time: Duration) -> Self {
        if time.is_zero() {
            self.refuse("timeout(0): no call could end in time");
        }
        match self.last_added() {
            Some(options) => options.timeout = Some(time.min(MAX_TIMEOUT)),
            None => self.refuse("timeout belongs behind the function that it is for"),
        }
        self
    }

    fn last_added(&mut self) -> Option<&mut FunctionOptions> {
        let function = self.functions.get_mut(self.order.last()?)?;
        Some(&mut function.options)
    }

    fn refuse(&mut self, reason: &str) {
        let server = &self.name;
        self.invalid
            .get_or_insert(format!("server {server}: {reason}"));
    }
}

#[cfg(test)]
mod tests;
