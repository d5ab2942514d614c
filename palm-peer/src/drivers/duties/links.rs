//! The leader's links to all servers: for probes, and to notice at once when a process ends.

use crate::{
    decisions::backoff::{HELD, wait_after_end},
    drivers::{
        dialer::{Dialer, OpenError},
        link::Link,
        lock::lock,
    },
    facts::message::Request,
    ports::timer,
};
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// The level from on which a server's log lines come in full.
const LEVEL: &str = "ERROR";

/// How long to wait for a greeting, try after try, after a link broke. A process that is being killed closes its
/// connections before the port that it listens on: the first try may still be let in, and never be answered.
const RECONNECT_MS: [u64; 4] = [50, 150, 300, 1000];
/// How long to wait between these tries.
const BETWEEN: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Open {
    links: HashMap<Uuid, (String, Arc<Link>)>,
    /// How often in a row a server's link has not held, and when it last ended.
    ends: HashMap<Uuid, (u32, Instant)>,
    /// Opened since the last look, to be watched for their end.
    fresh: Vec<(Uuid, BoxFuture<'static, ()>)>,
}

impl Open {
    /// A link has ended: how long to wait before looking whether the process is gone.
    fn wait_after_end(&mut self, uuid: Uuid, now: Instant) -> Duration {
        let (count, last) = self.ends.entry(uuid).or_insert((0, now));
        *count = if now.saturating_duration_since(*last) > HELD { 0 } else { *count + 1 };
        *last = now;
        wait_after_end(*count, fastrand::f64())
    }
}

/// The links of one leader.
#[derive(Clone)]
pub struct Links {
    dialer: Dialer,
    timeout: Duration,
    open: Arc<Mutex<Open>>,
}

impl Links {
    /// No link yet; each may take `timeout` to open.
    pub fn new(dialer: Dialer, timeout: Duration) -> Self {
        Self { dialer, timeout, open: Arc::default() }
    }

    /// Drops the links to servers that are no longer registered.
    pub fn keep_only(&self, registered: impl Fn(Uuid) -> bool) {
        let mut open = lock(&self.open);
        open.links.retain(|uuid, _| registered(*uuid));
        open.ends.retain(|uuid, _| registered(*uuid));
    }

    /// The links opened since the last call, each with a future that ends when the link breaks.
    pub fn newly_opened(&self) -> Vec<(Uuid, BoxFuture<'static, ()>)> {
        std::mem::take(&mut lock(&self.open).fresh)
    }

    /// Asks for the log digest.
    pub fn probe(&self, uuid: Uuid, endpoint: String) -> impl Future<Output = Result<String, String>> + Send + 'static {
        let links = self.clone();
        async move {
            let link = links.link(uuid, &endpoint, links.timeout).await.map_err(|error| error.to_string())?;
            let mut request = Request::call(format!("{uuid}._log_query"));
            request.route = vec![uuid];
            request.give_time(links.timeout);
            let reply = link.request(&mut request, Bytes::from_static(LEVEL.as_bytes())).map_err(|f| f.message)?;
            // The registry counts the miss; this only forgets the request.
            let reply = timer::timeout(links.timeout * 2, reply).await;
            let reply = reply.map_err(|_| "no answer".to_owned())?.map_err(|_| "the connection broke".to_owned())?;
            match reply.answer.error {
                None => Ok(String::from_utf8_lossy(&reply.payload).into_owned()),
                Some(failure) => Err(format!("{}: {}", failure.kind, failure.message)),
            }
        }
    }

    /// After a link broke: whether the process is proven gone. If it is there after all, the new link is kept.
    pub fn prove_gone(&self, uuid: Uuid, endpoint: String) -> impl Future<Output = bool> + Send + 'static {
        let links = self.clone();
        let wait = lock(&self.open).wait_after_end(uuid, Instant::now());
        async move {
            timer::sleep(wait).await;
            for patience in RECONNECT_MS.map(Duration::from_millis) {
                match links.link(uuid, &endpoint, patience).await {
                    Err(error) if error.proves_gone() => return true,
                    Err(_) => timer::sleep(BETWEEN).await,
                    Ok(_) => return false,
                }
            }
            false
        }
    }

    async fn link(&self, uuid: Uuid, endpoint: &str, patience: Duration) -> Result<Arc<Link>, OpenError> {
        if let Some(link) = self.find(uuid, endpoint) {
            return Ok(link);
        }
        let opened = self.dialer.open(endpoint, uuid, patience).await?;
        let mut open = lock(&self.open);
        // Another probe may have opened one meanwhile; two would end each other's watch.
        if let Some((_, link)) = open.links.get(&uuid).filter(|(at, link)| at == endpoint && !link.is_broken()) {
            return Ok(Arc::clone(link));
        }
        open.fresh.push((uuid, opened.broken().boxed()));
        open.links.insert(uuid, (endpoint.to_owned(), Arc::clone(&opened)));
        Ok(opened)
    }

    fn find(&self, uuid: Uuid, endpoint: &str) -> Option<Arc<Link>> {
        let open = lock(&self.open);
        let (at, link) = open.links.get(&uuid)?;
        (at == endpoint && !link.is_broken()).then(|| Arc::clone(link))
    }
}
