//! Administration of the mesh.

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

/// Shows and clears what the mesh stores in etcd. Cheap to clone. Works under any executor.
///
/// Every request is bounded by `Config::join_timeout`, within which each endpoint of etcd is tried.
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
    /// Connects, and checks that etcd answers. Writes nothing.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for a setting that is out of
    /// its bounds; [`ErrorKind::EtcdUnreachable`](crate::ErrorKind::EtcdUnreachable), with the
    /// endpoints, when etcd does not answer within `join_timeout`;
    /// [`ErrorKind::EtcdRefused`](crate::ErrorKind::EtcdRefused) when it refuses.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        let config = ValidConfig::new(config)?;
        let files = crate::config::tls::read(&config).await?;
        let mesh = MeshAdmin::new(
            crate::config::etcd::start("palm-admin", &config, files.as_ref())?,
            &config,
        );
        mesh.check().await?;
        Ok(Self { mesh })
    }

    /// Returns all entries under `/servers/`, including invalid ones, and which server leads,
    /// at one revision.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn servers(&self) -> Result<Vec<ServerEntry>, Error> {
        self.mesh.servers().await
    }

    /// Returns a stream of all entries: now, and again whenever a record or the leader changes.
    /// Does not poll; changes within 50 ms are combined. Never ends.
    ///
    /// An error means that etcd is unavailable and the last entries may be stale. The stream
    /// continues: the next entries come when etcd is back.
    ///
    /// ```no_run
    /// # async fn example(admin: palm_peer::Admin) {
    /// use futures::StreamExt;
    ///
    /// let mut changes = admin.watch();
    /// while let Some(entries) = changes.next().await {
    ///     match entries {
    ///         Ok(entries) => println!("{} servers", entries.len()),
    ///         Err(error) => eprintln!("may be stale: {}", error.report()),
    ///     }
    /// }
    /// # }
    /// ```
    pub fn watch(
        &self,
    ) -> impl Stream<Item = Result<Vec<ServerEntry>, Error>> + Send + Unpin + use<> {
        let told = stream::unfold(self.mesh.watch(), async |mut view| {
            Some((view.next().await, view))
        });
        Box::pin(told)
    }

    /// Removes a server permanently, in one transaction. Returns the removed entry. The server
    /// stays out: serving ends there with [`ErrorKind::Evicted`](crate::ErrorKind::Evicted). `name`
    /// is that of an entry, so invalid ones can be removed as well. When the future is dropped, it
    /// may have been removed or not.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when there is no such entry; else as
    /// [`connect`](Self::connect): then it is unknown whether it was removed, and it is safe to try
    /// again. [`ErrorKind::NotRecorded`](crate::ErrorKind::NotRecorded) when the record was
    /// deleted, but etcd is out of space and refused the tombstone that keeps the server out.
    pub async fn remove(&self, name: &str) -> Result<ServerEntry, Error> {
        self.mesh.remove(name).await
    }

    /// Clears all keys of the mesh in etcd, in one transaction. Running servers re-register at
    /// once, with the same uuids. When the future is dropped, they may have been cleared or not.
    ///
    /// # Errors
    /// As [`connect`](Self::connect): then it is unknown whether it was cleared, and it is
    /// safe to try again.
    pub async fn reset(&self) -> Result<ResetReport, Error> {
        Ok(ResetReport {
            coming: self.mesh.reset().await?,
        })
    }
}

/// What a reset cleared, and which servers re-registered.
///
/// ```no_run
/// # async fn example(admin: palm_peer::Admin) -> Result<(), palm_peer::Error> {
/// use std::time::Duration;
///
/// let mut report = admin.reset().await?;
/// println!("cleared {} servers", report.removed().len());
/// for entry in report.missing_after(Duration::from_secs(5), Duration::from_secs(60)).await {
///     println!("{} is not back", entry.name);
/// }
/// # Ok(()) }
/// ```
#[must_use]
pub struct ResetReport {
    coming: ResetTracker,
}

impl fmt::Debug for ResetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResetReport")
            .field("removed", &self.removed().len())
            .finish_non_exhaustive()
    }
}

impl ResetReport {
    /// Returns the entries that were cleared, including invalid ones.
    #[must_use]
    pub fn removed(&self) -> &[ServerEntry] {
        &self.coming.removed
    }

    /// Returns whether the mark `/reset` was put. If not, etcd is out of space: everything is
    /// cleared, and the servers re-register once etcd has space again.
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.coming.marked
    }

    /// Waits until every cleared server is registered again, or none has re-registered for
    /// `quiet`, but at most `limit` in total. Returns those that are still missing. So a large
    /// mesh gets the time that it needs, and a dead server delays the result only by `quiet`. May
    /// be called again, to continue waiting, also after the future was dropped. Invalid entries
    /// are not waited for.
    pub async fn missing_after(&mut self, quiet: Duration, limit: Duration) -> Vec<&ServerEntry> {
        self.coming.wait(quiet, limit).await;
        self.coming.missing.values().collect()
    }
}
