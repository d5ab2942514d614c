//! The leader's links to all servers: for probes, and to detect the end of a process at once.

use crate::{
    client::{
        dialer::{Dialer, OpenError},
        failure_detector::{self, Finding},
        link::{Link, NoReply},
        link_pool::LinkPool,
        replies::ReplyRouter,
        witnesses,
    },
    io::{fd_limit, timer},
    sync::lock,
};
use bytes::Bytes;
use futures::future::{BoxFuture, Either, FutureExt as _, select};
use palm_proto::{
    limits::connection_limiter::{may_keep_link, may_open_probe},
    registry::Testimony,
    types::message::Request,
};
use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// The level from which a server's log lines come in full.
const LEVEL: &str = "ERROR";

/// The wait before opening a connection is tried again when this process lacks a resource for it.
const LOCAL_RETRY: Duration = Duration::from_millis(30);

/// Why a probe has no answer.
#[derive(Debug)]
pub(super) struct ProbeError {
    /// The message.
    pub reason: String,
    /// Whether it was not sent because this process lacks a resource: then it says nothing
    /// about the server.
    pub local: bool,
}

impl From<String> for ProbeError {
    fn from(reason: String) -> Self {
        Self {
            reason,
            local: false,
        }
    }
}

impl From<OpenError> for ProbeError {
    fn from(error: OpenError) -> Self {
        Self {
            reason: error.to_string(),
            local: error.is_local(),
        }
    }
}

/// A link that was opened, with a future that ends when it breaks.
type Opened = (Uuid, BoxFuture<'static, ()>);

/// The links of one leader.
#[derive(Clone)]
pub(crate) struct Links {
    pool: Arc<LinkPool>,
    timeout: Duration,
    /// The links opened since the last call, to be watched for their end.
    opened: Arc<Mutex<Vec<Opened>>>,
}

impl Links {
    /// Creates it without links; each may take `timeout` to open.
    pub(crate) fn new(dialer: Dialer, timeout: Duration) -> Self {
        Self {
            pool: Arc::new(LinkPool::new(dialer, ReplyRouter::default())),
            timeout,
            opened: Arc::default(),
        }
    }

    /// Drops the links to servers that are no longer registered.
    pub(crate) fn keep_only(&self, registered: impl Fn(Uuid) -> bool) {
        self.pool.retain(registered);
    }

    /// Returns the links opened since the last call, each with a future that ends when
    /// the link breaks.
    pub(crate) fn newly_opened(&self) -> Vec<Opened> {
        std::mem::take(&mut lock(&self.opened))
    }

    /// Asks for the log digest, over a new connection if `fresh`. Over the old one, half of
    /// the time is left for a new connection: a server to which only the old path is dead
    /// misses no probe.
    pub(super) fn probe(
        &self,
        uuid: Uuid,
        endpoint: String,
        fresh: bool,
    ) -> impl Future<Output = Result<String, ProbeError>> + Send + 'static {
        let links = self.clone();
        async move {
            let old = links
                .pool
                .connected(uuid, &endpoint)
                .filter(|link| !link.is_suspect());
            let Some(old) = old else {
                return links.ask_anew(uuid, &endpoint).await;
            };
            if fresh {
                return match links.ask_anew(uuid, &endpoint).await {
                    // Then only the old connection can give an answer.
                    Err(error) if error.local => Ok(links.ask(&old, uuid).await??),
                    asked => asked,
                };
            }
            let asking = links.ask(&old, uuid).boxed();
            let asking = match select(asking, timer::sleep(links.timeout / 2)).await {
                Either::Left((Ok(reply), _)) => return Ok(reply?),
                Either::Left((Err(_), _)) => return links.ask_anew(uuid, &endpoint).await,
                Either::Right(((), asking)) => asking,
            };
            // The old connection may still answer: then the server is slow, and the path works.
            match select(asking, links.ask_anew(uuid, &endpoint)).await {
                Either::Left((Ok(reply), _)) => Ok(reply?),
                Either::Right((reply @ Ok(_), _)) => reply,
                Either::Left((Err(_), anew)) => anew.await,
                Either::Right((Err(error), asking)) => match asking.await {
                    Ok(reply) => Ok(reply?),
                    Err(_) => Err(error),
                },
            }
        }
    }

    /// Boxed, because most probes do not need it, and would be several times as large with it.
    fn ask_anew<'a>(
        &'a self,
        uuid: Uuid,
        endpoint: &'a str,
    ) -> BoxFuture<'a, Result<String, ProbeError>> {
        let asking = async move {
            let link = self.open_anew(uuid, endpoint).await?;
            self.keep(uuid, endpoint, &link);
            Ok(self.ask(&link, uuid).await??)
        };
        asking.boxed()
    }

    /// Opens a connection. Where descriptors are scarce, probes take turns: each waits for half of
    /// its time at most.
    async fn open_anew(&self, uuid: Uuid, endpoint: &str) -> Result<Arc<Link>, OpenError> {
        let end = Instant::now() + self.timeout / 2;
        loop {
            let opened = if fd_limit::lowest_free()
                .is_some_and(|free| may_open_probe(fd_limit::limit(), free))
            {
                self.pool.dial(uuid, endpoint, self.timeout).await
            } else {
                Err(OpenError::Local(
                    "this process has too few file descriptors left".into(),
                ))
            };
            match opened {
                Err(error) if error.is_local() && Instant::now() < end => {
                    timer::sleep(LOCAL_RETRY).await;
                }
                opened => return opened,
            }
        }
    }

    /// Returns the server's answer, or why there is none.
    async fn ask(&self, link: &Arc<Link>, uuid: Uuid) -> Result<Result<String, String>, String> {
        let mut request = Request::call(format!("{uuid}._log_query"));
        request.give_time(self.timeout);
        // The registry counts the miss. A late answer counts as well, while the
        // registry still probes.
        let deadline = Instant::now() + self.timeout * 3;
        let level = Bytes::from_static(LEVEL.as_bytes());
        let reply = link
            .request(&mut request, &level, deadline)
            .map_err(|failure| failure.message)?;
        let reply = reply.await.map_err(|none| match none {
            NoReply::Broken => "the connection broke".to_owned(),
            NoReply::TimedOut => "no answer".to_owned(),
        })?;
        Ok(match reply.answer.error {
            None => Ok(String::from_utf8_lossy(&reply.payload).into_owned()),
            Some(failure) => Err(format!("{}: {}", failure.kind, failure.message)),
        })
    }

    /// Asks `witness` to reach another server, for no longer than `time`.
    pub(super) fn ask_about(
        &self,
        about: Uuid,
        (witness, endpoint): (Uuid, String),
        time: Duration,
    ) -> impl Future<Output = Testimony> + Send + 'static {
        let links = self.clone();
        async move {
            match links.link(witness, &endpoint, time / 4).await {
                // Less than the timeout of the answer, so that the answer is in time.
                Ok(link) => witnesses::ask(&link, witness, about, time * 3 / 4).await,
                Err(_) => Testimony::None,
            }
        }
    }

    /// After a link broke: whether the process is proven gone. If it is there after all, the
    /// new link is kept.
    pub(crate) fn prove_gone(
        &self,
        uuid: Uuid,
        endpoint: String,
    ) -> impl Future<Output = bool> + Send + 'static {
        let links = self.clone();
        async move {
            match failure_detector::check(&links.pool, uuid, &endpoint).await {
                Finding::Gone => true,
                Finding::Reconnected(link) => {
                    links.keep(uuid, &endpoint, &link);
                    false
                }
                // A link that was replaced by a newer one says nothing when it ends.
                Finding::Connected(_) | Finding::Unknown => false,
            }
        }
    }

    async fn link(
        &self,
        uuid: Uuid,
        endpoint: &str,
        patience: Duration,
    ) -> Result<Arc<Link>, OpenError> {
        if let Some(link) = self.pool.connected(uuid, endpoint) {
            return Ok(link);
        }
        let opened = self.pool.dial(uuid, endpoint, patience).await?;
        self.keep(uuid, endpoint, &opened);
        Ok(opened)
    }

    /// Keeps a new link in the place of the one before, which ends with the last request under way
    /// over it. Where descriptors are scarce, it is not kept: clients of this server need them, and
    /// each probe opens one.
    fn keep(&self, uuid: Uuid, endpoint: &str, link: &Arc<Link>) {
        if !fd_limit::lowest_free().is_some_and(|free| may_keep_link(fd_limit::limit(), free)) {
            return;
        }
        lock(&self.opened).push((uuid, link.broken().boxed()));
        self.pool.keep(uuid, endpoint, link);
    }
}

#[cfg(test)]
mod tests;
