//! Forwards messages to other servers: to the next stage of their pipeline, or, from a leaving
//! server, to another instance.

use super::{parcel::Parcel, unconfirmed::UnconfirmedLinks};
use crate::{
    client::{dialer::Dialer, link::Link, mesh::Mesh},
    io::{etcd::Etcd, tasks::Supervisor},
};
use palm_proto::{
    config::ValidConfig,
    routing::not_avoided,
    types::{
        message::{CallErrorKind, CallFailure, Request, Rerouted},
        names,
    },
};
use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How many instances are tried before the message fails.
const TRIES: usize = 3;

/// A server's client side: its links to other servers. It reads the directory when
/// it is first used.
pub(crate) struct Relay {
    dialer: Dialer,
    config: ValidConfig,
    supervisor: Supervisor,
    etcd: OnceLock<Etcd>,
    mesh: OnceLock<Arc<Mesh>>,
    connecting: futures::lock::Mutex<()>,
    /// The forwarded messages that are not confirmed yet.
    pub(super) unconfirmed: UnconfirmedLinks,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("me", &self.dialer.me())
            .finish_non_exhaustive()
    }
}

impl Relay {
    /// Creates the relay of the server that `dialer` opens links for.
    pub(crate) fn new(dialer: Dialer, config: ValidConfig, supervisor: Supervisor) -> Self {
        Self {
            dialer,
            config,
            supervisor,
            etcd: OnceLock::new(),
            mesh: OnceLock::new(),
            connecting: futures::lock::Mutex::new(()),
            unconfirmed: UnconfirmedLinks::new(),
        }
    }

    /// Sets the handle to etcd.
    pub(crate) fn attach(&self, etcd: Etcd) {
        // A server joins once.
        let _ = self.etcd.set(etcd);
    }

    /// The handle to etcd, once the server joins.
    pub(crate) fn etcd(&self) -> Option<&Etcd> {
        self.etcd.get()
    }

    /// Returns the mesh with its links. Fails with `unreachable` when etcd does not answer.
    pub(crate) async fn mesh(&self) -> Result<Arc<Mesh>, CallFailure> {
        let _connecting = self.connecting.lock().await;
        if let Some(mesh) = self.mesh.get() {
            return Ok(Arc::clone(mesh));
        }
        let unreachable = |message: String| CallFailure::new(CallErrorKind::Unreachable, message);
        let etcd = self
            .etcd()
            .ok_or_else(|| unreachable("this server has not joined".into()))?;
        let mesh = Mesh::connect(
            etcd.clone(),
            self.config.clone(),
            self.dialer.clone(),
            &self.supervisor,
        )
        .await;
        let mesh = mesh.map_err(|error| unreachable(error.to_string()))?;
        Ok(Arc::clone(self.mesh.get_or_init(|| mesh)))
    }

    /// Waits until the kernels of the other servers have everything that was forwarded.
    pub(crate) async fn flushed(&self) {
        if let Some(mesh) = self.mesh.get() {
            mesh.flushed().await;
        }
    }

    /// Returns whether an instance is published, as far as this server knows.
    pub(crate) fn is_published(&self, instance: Uuid) -> bool {
        self.mesh
            .get()
            .is_some_and(|mesh| mesh.directory().contains(instance))
    }

    /// Sends a message to its stage over an open link. Returns it when there is none.
    pub(crate) fn pass_on(&self, parcel: Parcel) -> Result<(), Box<Parcel>> {
        let meant = parcel.request.route[parcel.request.stage];
        match self.mesh.get().and_then(|mesh| mesh.open_link(meant)) {
            Some(link) => self
                .post(&link, meant, parcel)
                .map_err(|unsent| Box::new(unsent.0)),
            None => Err(Box::new(parcel)),
        }
    }

    /// Sends a message over a link, and remembers it until it has arrived.
    fn post(
        &self,
        link: &Arc<Link>,
        to: Uuid,
        mut parcel: Parcel,
    ) -> Result<(), Box<(Parcel, CallFailure)>> {
        give_time_left(&mut parcel.request, parcel.deadline);
        let template = parcel.to.template.as_ref();
        match link.forward(&parcel.request, template, parcel.payload.clone()) {
            Ok(number) => {
                self.unconfirmed.posted(link, to, number, parcel);
                Ok(())
            }
            Err(failure) => Err(Box::new((parcel, failure))),
        }
    }

    /// Sends a message to its stage; from a server that is `leaving`, to another instance. Returns
    /// where it was sent instead of its route, or why it could not be forwarded.
    pub(super) async fn find_and_pass_on(
        &self,
        mut parcel: Parcel,
        leaving: bool,
    ) -> Result<Option<Rerouted>, CallFailure> {
        let mesh = self.mesh().await?;
        let (stage, deadline) = (parcel.request.stage, parcel.deadline);
        let from = parcel.request.route[stage];
        let target = parcel.request.pipeline[stage].clone();
        let pinned =
            names::split_target(&target).is_some_and(|(server, _)| server.parse::<Uuid>().is_ok());
        // The client has links to the instances that its own uuid selects; only
        // these can answer it.
        let client = parcel.request.client.unwrap_or(self.dialer.me());
        // A server that leaves must not send to itself, though it may still be published.
        let mut avoided = parcel.request.avoid.clone();
        avoided.extend(leaving.then_some(self.dialer.me()));
        let mut last = CallFailure::new(
            CallErrorKind::Unreachable,
            format!("no instance for {target}"),
        );
        for _ in 0..TRIES {
            // The client has links to those of its route, also to ones that its uuid alone would
            // not select, such as those of its zone.
            let meant = Some(parcel.request.route[stage]).filter(|uuid| !avoided.contains(uuid));
            let (able, meant) = {
                let directory = mesh.directory();
                let meant = meant.and_then(|uuid| directory.meant(&target, uuid));
                (directory.resolve(&target, client)?, meant)
            };
            // Does not wait for an instance that cannot be reached while there is another.
            let chosen = match meant.filter(|instance| pinned || !mesh.is_failing(instance)) {
                Some(instance) => instance,
                None if pinned => break,
                None => match mesh.choose(&not_avoided(&able, &avoided)) {
                    Some(instance) => instance,
                    None => break,
                },
            };
            parcel.request.route[stage] = chosen.uuid;
            match mesh.link_to(&chosen, deadline).await {
                Ok(link) => match self.post(&link, chosen.uuid, parcel) {
                    Ok(()) => {
                        let to = Some(chosen.uuid).filter(|to| *to != from);
                        return Ok(to.map(|to| Rerouted {
                            stage,
                            from,
                            to: Some(to),
                        }));
                    }
                    Err(unsent) => (parcel, last) = *unsent,
                },
                Err(error) => {
                    last = CallFailure::new(
                        CallErrorKind::Unreachable,
                        format!("{}: {error}", chosen.endpoint),
                    );
                }
            }
            avoided.push(chosen.uuid);
        }
        Err(last)
    }
}

/// The next stage has the time that is left, or as little as there can be.
fn give_time_left(request: &mut Request, deadline: Instant) {
    request.give_time(
        deadline
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1)),
    );
}
