//! A server with one function for unit tests of the client's side.

use crate::{
    Config, FunctionError, Message, Server,
    client::{Client, dialer::Dialer},
};
use futures::{channel::oneshot, executor::block_on};
use palm_proto::{config::ValidConfig, types::instance::Instance};
use palm_tests::{Etcd, eventually};
use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};
use uuid::Uuid;

/// The bound of waits.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A server `b` with the function `f`, which returns its payload. It has its own etcd.
pub(crate) struct TestServer {
    pub(crate) config: Config,
    pub(crate) client: Client,
    pub(crate) instance: Arc<Instance>,
    /// Until it is stopped.
    serving: Option<Serving>,
    _etcd: Etcd,
}

struct Serving {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<(), crate::Error>>,
}

impl TestServer {
    /// Starts it, and waits until it is published.
    pub(crate) fn start() -> Self {
        let etcd = Etcd::start();
        let config = Config::default().etcd(vec![etcd.endpoint()]);
        let (stop, stopped) = oneshot::channel::<()>();
        let server = Server::new("b").function("f", async |m: Message| {
            Ok::<_, FunctionError>(m.into_payload())
        });
        let served = config.clone();
        let thread = thread::spawn(move || block_on(server.run(served, stopped)));
        let client = block_on(Client::connect(config.clone())).expect("connects");
        let able = eventually("the server is published", SOON, || {
            client.mesh.resolve("b.f").ok()
        });
        Self {
            config,
            client,
            instance: Arc::clone(&able[0]),
            serving: Some(Serving { stop, thread }),
            _etcd: etcd,
        }
    }

    /// Opens links in the name of another client.
    pub(crate) fn dialer(&self) -> Dialer {
        let config = ValidConfig::new(self.config.clone()).expect("valid");
        Dialer::new(Uuid::new_v4(), &config, None)
    }

    /// Shuts it down gracefully: then its port refuses connections.
    pub(crate) fn stop(&mut self) {
        if let Some(Serving { stop, thread }) = self.serving.take() {
            stop.send(()).expect("it runs");
            thread.join().expect("no panic").expect("it served");
        }
    }
}
