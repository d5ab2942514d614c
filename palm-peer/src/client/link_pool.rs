//! The links of one process to other servers: one to each, opened when it is needed and again
//! when it has ended.

use crate::{
    client::{
        dialer::{Dialer, OpenError},
        link::Link,
        replies::ReplyRouter,
    },
    io::{executor, tasks::Name},
    sync::lock,
};
use foldhash::HashMap;
use futures::future::join_all;
use palm_proto::{backoff::LinkEnds, types::instance::Instance};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long a link may take to open before another instance is tried.
pub(crate) const OPEN_WITHIN: Duration = Duration::from_secs(2);

/// The wait before a failed link is opened again, if there are other instances.
const AGAIN: Duration = Duration::from_secs(1);

/// The links to other servers, by their uuids.
pub(crate) struct LinkPool {
    dialer: Dialer,
    /// Routes the answers to jobs.
    jobs: ReplyRouter,
    slots: Mutex<HashMap<Uuid, Arc<Slot>>>,
    /// Open links to servers that were forgotten, and where they lead.
    retired: Mutex<HashMap<Uuid, (String, Weak<Link>)>>,
}

impl LinkPool {
    /// No links yet. Answers to jobs go to `jobs`.
    pub(crate) fn new(dialer: Dialer, jobs: ReplyRouter) -> Self {
        Self {
            dialer,
            jobs,
            slots: Mutex::default(),
            retired: Mutex::default(),
        }
    }

    /// How many servers it remembers.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        lock(&self.slots).len()
    }

    fn slot(&self, server: Uuid) -> Option<Arc<Slot>> {
        lock(&self.slots).get(&server).cloned()
    }

    /// The link to a server, if something can be sent over it, and is likely to get there.
    pub(crate) fn open_link(&self, server: Uuid) -> Option<Arc<Link>> {
        self.slot(server)?.open_link()
    }

    /// The link to a server at this endpoint, if its connection has not ended.
    pub(crate) fn connected(&self, server: Uuid, endpoint: &str) -> Option<Arc<Link>> {
        self.slot(server)?.state().connected(endpoint)
    }

    /// How many requests to a server wait for their answers.
    pub(crate) fn in_flight(&self, server: Uuid) -> usize {
        self.slot(server).map_or(0, |slot| {
            slot.state()
                .link
                .as_ref()
                .map_or(0, |(_, link)| link.in_flight())
        })
    }

    /// The link to an instance, opened within `time` if need be. Of several callers, one opens it.
    /// It is kept while `keep` says so: asked now, and up to the caller later
    /// ([`LinkPool::retire`]).
    pub(crate) async fn link_to(
        &self,
        instance: &Instance,
        time: Duration,
        keep: impl FnOnce() -> bool,
    ) -> Result<Arc<Link>, OpenError> {
        let slot = {
            let mut slots = lock(&self.slots);
            match slots.get(&instance.uuid) {
                Some(slot) => Arc::clone(slot),
                None if keep() => {
                    let slot = self.unretire(instance).unwrap_or_default();
                    Arc::clone(slots.entry(instance.uuid).or_insert(slot))
                }
                None => Arc::default(),
            }
        };
        if let Some(link) = slot.open_link() {
            return Ok(link);
        }
        slot.open(&self.dialer, instance, time, self.jobs.clone())
            .await
    }

    /// Opens another link to a server, whether or not there is one; it is not kept unless
    /// [`LinkPool::keep`] says so.
    pub(crate) async fn dial(
        &self,
        server: Uuid,
        endpoint: &str,
        time: Duration,
    ) -> Result<Arc<Link>, OpenError> {
        self.dialer
            .open_for_jobs(endpoint, server, time, self.jobs.clone())
            .await
    }

    /// Keeps a link in the place of the one before, which ends with the last request
    /// under way over it.
    pub(crate) fn keep(&self, server: Uuid, endpoint: &str, link: &Arc<Link>) {
        let slot = Arc::clone(lock(&self.slots).entry(server).or_default());
        slot.state().opened(endpoint, Arc::clone(link));
    }

    /// Returns whether the last attempt to reach an instance failed. If so, it is retried
    /// in the background.
    pub(crate) fn is_failing(&self, instance: &Arc<Instance>) -> bool {
        let Some(slot) = self.slot(instance.uuid) else {
            return false;
        };
        if !slot.state().is_failing() {
            return false;
        }
        if slot.should_reopen() {
            let (dialer, jobs, instance) =
                (self.dialer.clone(), self.jobs.clone(), Arc::clone(instance));
            let reopening = Reopening(slot);
            executor::spawn(Name::LinkReopen, async move {
                // The slot stores the outcome.
                let _ = reopening
                    .0
                    .open(&dialer, &instance, OPEN_WITHIN, jobs)
                    .await;
            });
        }
        true
    }

    /// Whether this process had a link to a server at this endpoint.
    pub(crate) fn was_at(&self, server: Uuid, endpoint: &str) -> bool {
        self.slot(server).is_some_and(|slot| {
            slot.state()
                .link
                .as_ref()
                .is_some_and(|(at, _)| at == endpoint)
        })
    }

    /// Takes in that the link to a server at this endpoint has ended, once. Returns how
    /// long to wait before looking why: not at all at first, longer for a server that ends
    /// each of its links.
    pub(crate) fn take_end(&self, server: Uuid, endpoint: &str) -> Option<Duration> {
        self.slot(server)?
            .state()
            .take_end(endpoint, Instant::now())
    }

    /// Forgets a server. Returns the link there, if something could be sent over it; answers under
    /// way keep it until they are in. It is used again if the server comes back meanwhile: a second
    /// link would take over the answers to messages of jobs that watch the first.
    pub(crate) fn retire(&self, server: Uuid) -> Option<Arc<Link>> {
        let slot = lock(&self.slots).remove(&server)?;
        let (endpoint, link) = slot.state().link.clone()?;
        if !link.is_open() {
            return None;
        }
        let mut retired = lock(&self.retired);
        retired.retain(|_, (_, link)| link.strong_count() > 0);
        retired.insert(server, (endpoint, Arc::downgrade(&link)));
        Some(link)
    }

    /// Returns the slot of a server that comes back, if its link still works and leads to
    /// the same endpoint.
    fn unretire(&self, instance: &Instance) -> Option<Arc<Slot>> {
        let (endpoint, link) = lock(&self.retired).remove(&instance.uuid)?;
        let link = link
            .upgrade()
            .filter(|link| endpoint == instance.endpoint && link.is_open())?;
        let slot = Slot::default();
        slot.state().opened(&endpoint, link);
        Some(Arc::new(slot))
    }

    /// Forgets all servers but these.
    pub(crate) fn retain(&self, wanted: impl Fn(Uuid) -> bool) {
        let mut forgotten = Vec::new();
        lock(&self.slots).retain(|server, slot| {
            let keep = wanted(*server);
            if !keep {
                forgotten.push(Arc::clone(slot));
            }
            keep
        });
        // What the end of a link wakes must find no lock held.
        drop(forgotten);
    }

    /// Waits until the kernels of the other servers have everything that was sent over the links.
    pub(crate) async fn flushed(&self) {
        let links: Vec<_> = lock(&self.slots)
            .values()
            .filter_map(|slot| slot.open_link())
            .collect();
        join_all(links.iter().map(|link| link.flushed())).await;
    }
}

/// The place of one server's link.
#[derive(Default)]
struct Slot {
    state: Mutex<SlotState>,
    /// Locked while a link is being opened, so that only one is. Contains the last failure.
    opening: futures::lock::Mutex<Option<FailedAttempt>>,
    /// Whether a link is being opened in the background.
    reopening: AtomicBool,
}

#[derive(Default)]
struct SlotState {
    /// The latest link, and where it leads. It may have ended.
    link: Option<(String, Arc<Link>)>,
    /// Whether its end was taken in.
    end_taken: bool,
    ends: LinkEnds,
    /// When opening last failed, if it has not succeeded since.
    failed: Option<Instant>,
}

impl SlotState {
    fn opened(&mut self, endpoint: &str, link: Arc<Link>) {
        self.link = Some((endpoint.to_owned(), link));
        self.end_taken = false;
        self.failed = None;
    }

    fn connected(&self, endpoint: &str) -> Option<Arc<Link>> {
        let (at, link) = self.link.as_ref()?;
        (at == endpoint && !link.is_broken()).then(|| Arc::clone(link))
    }

    /// Whether there was trouble last: what is new should go another way.
    fn is_failing(&self) -> bool {
        match &self.link {
            Some((_, link)) => !link.is_open(),
            None => self.failed.is_some(),
        }
    }

    fn take_end(&mut self, endpoint: &str, now: Instant) -> Option<Duration> {
        let (at, link) = self.link.as_ref()?;
        if at != endpoint || !link.is_broken() || self.end_taken {
            return None;
        }
        self.end_taken = true;
        Some(self.ends.ended(now, fastrand::f64()))
    }
}

/// An attempt to open a link that failed.
struct FailedAttempt {
    at: Instant,
    /// Its timeout.
    time: Duration,
    error: OpenError,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, SlotState> {
        lock(&self.state)
    }

    fn open_link(&self) -> Option<Arc<Link>> {
        let state = self.state();
        let (_, link) = state.link.as_ref()?;
        link.is_open().then(|| Arc::clone(link))
    }

    /// Returns whether it is time to try again. An open connection without answers to PINGs may
    /// recover by itself.
    fn should_reopen(&self) -> bool {
        let state = self.state();
        state.link.as_ref().is_none_or(|(_, link)| link.is_broken())
            && state.failed.is_none_or(|at| at.elapsed() >= AGAIN)
            && !self.reopening.swap(true, Ordering::Relaxed)
    }

    async fn open(
        &self,
        dialer: &Dialer,
        instance: &Instance,
        time: Duration,
        jobs: ReplyRouter,
    ) -> Result<Arc<Link>, OpenError> {
        let began = Instant::now();
        let mut failed = self.opening.lock().await;
        if let Some(link) = self.open_link() {
            return Ok(link);
        }
        // A caller that waited through most of an attempt does not repeat it: many would wait for
        // each other in turn.
        if let Some(failed) = failed
            .as_ref()
            .filter(|failed| failed.at >= began + time / 2 && failed.time >= time)
        {
            return Err(failed.error.clone());
        }
        match dialer
            .open_for_jobs(&instance.endpoint, instance.uuid, time, jobs)
            .await
        {
            Ok(link) => {
                self.state().opened(&instance.endpoint, Arc::clone(&link));
                Ok(link)
            }
            Err(error) => {
                let at = Instant::now();
                self.state().failed = Some(at);
                *failed = Some(FailedAttempt {
                    at,
                    time,
                    error: error.clone(),
                });
                Err(error)
            }
        }
    }
}

/// A slot whose link is being opened in the background, until this is dropped.
struct Reopening(Arc<Slot>);

impl Drop for Reopening {
    fn drop(&mut self) {
        self.0.reopening.store(false, Ordering::Relaxed);
    }
}
