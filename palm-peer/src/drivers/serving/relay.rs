//! Passes messages on to other servers: to the next stage of their pipeline, or, from a server that leaves, to another
//! instance.

use crate::{
    Options,
    drivers::{client::Mesh, dialer::Dialer},
    facts::{
        message::{Failure, FailureKind, Request},
        names,
    },
    ports::{etcd::Etcd, tasks::Supervisor},
};
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How many instances are tried before the client is told.
const TRIES: usize = 3;

/// A server's own way into the mesh. It learns what can be reached when it is first used.
pub struct Relay {
    dialer: Dialer,
    options: Options,
    supervisor: Supervisor,
    etcd: OnceLock<Etcd>,
    mesh: OnceLock<Arc<Mesh>>,
    connecting: futures::lock::Mutex<()>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("me", &self.dialer.me()).finish_non_exhaustive()
    }
}

impl Relay {
    /// The relay of the server that `dialer` opens links for.
    pub fn new(dialer: Dialer, options: Options, supervisor: Supervisor) -> Self {
        Self {
            dialer,
            options,
            supervisor,
            etcd: OnceLock::new(),
            mesh: OnceLock::new(),
            connecting: futures::lock::Mutex::new(()),
        }
    }

    /// Tells where etcd is.
    pub fn attach(&self, etcd: Etcd) {
        // A server joins once.
        let _ = self.etcd.set(etcd);
    }

    /// What can be reached, and the links there.
    ///
    /// # Errors
    /// `unreachable` when etcd does not tell.
    pub async fn mesh(&self) -> Result<Arc<Mesh>, Failure> {
        let _connecting = self.connecting.lock().await;
        if let Some(mesh) = self.mesh.get() {
            return Ok(Arc::clone(mesh));
        }
        let unreachable = |words: String| Failure::new(FailureKind::Unreachable, words);
        let etcd = self.etcd.get().ok_or_else(|| unreachable("this server has not joined".into()))?;
        let mesh = Mesh::connect(etcd.clone(), self.options.clone(), self.dialer.clone(), &self.supervisor).await;
        let mesh = mesh.map_err(|error| unreachable(error.to_string()))?;
        Ok(Arc::clone(self.mesh.get_or_init(|| mesh)))
    }

    /// Waits until the systems of the other servers have all that was passed on.
    pub async fn flushed(&self) {
        if let Some(mesh) = self.mesh.get() {
            mesh.flushed().await;
        }
    }

    /// Sends a message to its stage; from a server that is `leaving`, to another instance. Done on return where a link is open; else the rest is in the future, which ends in
    /// why the message could not be passed on.
    #[must_use]
    pub fn pass_on(
        self: &Arc<Self>,
        mut request: Request,
        payload: Bytes,
        deadline: Instant,
        leaving: bool,
    ) -> Option<BoxFuture<'static, Result<(), Failure>>> {
        let meant = request.route[request.stage];
        if !leaving && let Some(link) = self.mesh.get().and_then(|mesh| mesh.open_link(meant)) {
            give_time_left(&mut request, deadline);
            if link.post(&request, payload.clone()).is_ok() {
                return None;
            }
        }
        let relay = Arc::clone(self);
        Some(async move { relay.find_and_pass_on(request, payload, deadline, leaving).await }.boxed())
    }

    async fn find_and_pass_on(
        &self,
        mut request: Request,
        payload: Bytes,
        deadline: Instant,
        leaving: bool,
    ) -> Result<(), Failure> {
        let mesh = self.mesh().await?;
        let stage = request.stage;
        let target = request.pipeline[stage].clone();
        let pinned = names::split_target(&target).is_some_and(|(server, _)| server.parse::<Uuid>().is_ok());
        // The client has links to the instances that its own uuid selects; only these can answer it.
        let client = request.client.unwrap_or(self.dialer.me());
        // A server that leaves must not send to itself, though it may still be published.
        let mut avoided: Vec<Uuid> = leaving.then_some(self.dialer.me()).into_iter().collect();
        let mut last = Failure::new(FailureKind::Unreachable, format!("no instance for {target}"));
        for _ in 0..TRIES {
            let able = mesh.directory().resolve(&target, client)?;
            let meant = able.iter().find(|i| i.uuid == request.route[stage] && !avoided.contains(&i.uuid));
            let chosen = match meant {
                Some(instance) => Arc::clone(instance),
                None if pinned => break,
                None => match mesh.choose(&able, &avoided) {
                    Some(instance) => instance,
                    None => break,
                },
            };
            request.route[stage] = chosen.uuid;
            let sent = match mesh.link_to(&chosen, deadline).await {
                Ok(link) => {
                    give_time_left(&mut request, deadline);
                    link.post(&request, payload.clone())
                }
                Err(error) => Err(Failure::new(FailureKind::Unreachable, format!("{}: {error}", chosen.endpoint))),
            };
            match sent {
                Ok(()) => return Ok(()),
                Err(failure) => last = failure,
            }
            avoided.push(chosen.uuid);
        }
        Err(last)
    }
}

/// The next stage has the time that is left, or as little as there can be.
fn give_time_left(request: &mut Request, deadline: Instant) {
    request.give_time(deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
}
