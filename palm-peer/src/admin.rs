//! Administers the mesh.

mod mesh_admin;

use crate::{
    admin::mesh_admin::{MeshAdmin, ResetTracker},
    error::Error,
};
use futures::{Stream, stream};
use palm_proto::{
    config::{Config, ValidConfig},
    members::ServerEntry,
};
use std::{fmt, time::Duration};

/// Shows and clears what the mesh keeps in etcd. Cheap to clone. Works under any executor.
///
/// Every request is bounded by the options' `join_timeout`, within which each endpoint of etcd gets its turn.
///
/// ```no_run
/// # async fn example() -> Result<(), palm_peer::Error> {
/// use palm_peer::{Admin, ServerStatus, Config};
///
/// let admin = Admin::connect(Config::default()).await?;
/// for entry in admin.servers().await? {
///     if entry.state == ServerStatus::Broken {
///         admin.remove(&entry.name).await?;
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Admin {
    mesh: MeshAdmin,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    /// Makes sure that etcd answers. Writes nothing.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for a setting that is out of its bounds;
    /// [`ErrorKind::EtcdUnreachable`](crate::ErrorKind::EtcdUnreachable), with the endpoints, when it does not within
    /// `join_timeout`; [`ErrorKind::EtcdRefused`](crate::ErrorKind::EtcdRefused) when it refuses.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        let config = ValidConfig::new(config)?;
        let files = crate::config::tls::read(&config).await?;
        let mesh = MeshAdmin::new(crate::config::etcd::start("palm-admin", &config, files.as_ref())?, &config);
        mesh.check().await?;
        Ok(Self { mesh })
    }

    /// All entries under `/servers/`, broken ones too, and who leads, as they are at one moment.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn servers(&self) -> Result<Vec<ServerEntry>, Error> {
        self.mesh.servers().await
    }

    /// All entries now, and again whenever a record or the leader changes. Does not poll; changes within 50 ms are told
    /// as one. Never ends.
    ///
    /// An error says that etcd is away and what was told last may be out of date. The stream goes on: the next entries
    /// come when etcd is back.
    pub fn watch(&self) -> impl Stream<Item = Result<Vec<ServerEntry>, Error>> + Send + Unpin + use<> {
        let told = stream::unfold(self.mesh.watch(), async |mut view| Some((view.next().await, view)));
        Box::pin(told)
    }

    /// Takes a server out of the mesh, in one transaction; gives what was removed. The server stays out: serving ends there
    /// with [`ErrorKind::Evicted`](crate::ErrorKind::Evicted). `name` is an entry's, so that broken ones can go as well.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when there is no such entry; else as
    /// [`connect`](Self::connect): then whether it was removed is unknown, and it is safe to try again.
    /// [`ErrorKind::NotRecorded`](crate::ErrorKind::NotRecorded) when the record was deleted, but etcd is out of space and
    /// refused the note that keeps the server out.
    pub async fn remove(&self, name: &str) -> Result<ServerEntry, Error> {
        self.mesh.remove(name).await
    }

    /// Clears all that the mesh keeps in etcd, in one transaction. Servers that are alive come back at once, with the uuids
    /// that they had.
    ///
    /// # Errors
    /// As [`connect`](Self::connect): then whether it was cleared is unknown, and it is safe to try again.
    pub async fn reset(&self) -> Result<ResetReport, Error> {
        Ok(ResetReport { coming: self.mesh.reset().await? })
    }
}

/// What a reset cleared, and who came back.
#[must_use]
pub struct ResetReport {
    coming: ResetTracker,
}

impl fmt::Debug for ResetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reset").field("removed", &self.removed().len()).finish_non_exhaustive()
    }
}

impl ResetReport {
    /// The entries that there were, broken ones too.
    #[must_use]
    pub fn removed(&self) -> &[ServerEntry] {
        &self.coming.removed
    }

    /// Whether the mark `/reset` was put. If not, etcd is out of space: all is cleared, and the servers come back once etcd has
    /// space again.
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.coming.marked
    }

    /// Waits until every server that there was is registered again, or none has come back for as long as `quiet`, but no
    /// longer than `limit` in all; returns those that are not back. So a large mesh has the time that it takes, and a server that is dead
    /// delays the answer by `quiet` alone. May be called again, to wait on. What was broken cannot come back, and is not waited for.
    pub async fn missing_after(&mut self, quiet: Duration, limit: Duration) -> Vec<&ServerEntry> {
        self.coming.wait(quiet, limit).await;
        self.coming.missing.values().collect()
    }
}
