//! The place of a link, which is opened again when it has ended.

use crate::{
    client::{
        dialer::{Dialer, OpenError},
        link::Link,
        replies::ReplyRouter,
    },
    sync::lock,
};
use palm_proto::types::instance::Instance;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How long after a link could not be opened to try again, if there is another way.
const AGAIN: Duration = Duration::from_secs(1);

/// The place of one instance's link.
#[derive(Default)]
pub(super) struct Slot {
    link: Mutex<Option<Arc<Link>>>,
    /// Held while a link is being opened, so that one is. Holds what became of the last one that could not be.
    opening: futures::lock::Mutex<Option<Failed>>,
    /// When opening one failed last, if it has not succeeded since.
    failed: Mutex<Option<Instant>>,
    /// Whether one is being opened in the background.
    reopening: AtomicBool,
}

/// An attempt to open a link.
struct Failed {
    at: Instant,
    /// How long it was given.
    time: Duration,
    error: OpenError,
}

impl Slot {
    pub(super) fn current(&self) -> Option<Arc<Link>> {
        lock(&self.link).clone().filter(|link| link.is_open())
    }

    /// Whether there was trouble on the way there last: what is new should go another way.
    pub(super) fn is_failing(&self) -> bool {
        lock(&self.link).as_ref().map_or_else(|| lock(&self.failed).is_some(), |link| !link.is_open())
    }

    /// Whether it is time to try again. A connection that stands, but answers no PING, may recover by itself.
    pub(super) fn should_reopen(&self) -> bool {
        lock(&self.link).as_ref().is_none_or(|link| link.is_broken())
            && lock(&self.failed).is_none_or(|at| at.elapsed() >= AGAIN)
            && !self.reopening.swap(true, Ordering::Relaxed)
    }

    pub(super) fn in_flight(&self) -> usize {
        lock(&self.link).as_ref().map_or(0, |link| link.in_flight())
    }

    pub(super) async fn open(
        &self,
        dialer: &Dialer,
        instance: &Instance,
        time: Duration,
        jobs: ReplyRouter,
    ) -> Result<Arc<Link>, OpenError> {
        let began = Instant::now();
        let mut failed = self.opening.lock().await;
        if let Some(link) = self.current() {
            return Ok(link);
        }
        // A caller that waited through most of an attempt does not repeat it: many would wait for each other in turn.
        if let Some(failed) = failed.as_ref().filter(|failed| failed.at >= began + time / 2 && failed.time >= time) {
            return Err(failed.error.clone());
        }
        match dialer.open_for_jobs(&instance.endpoint, instance.uuid, time, jobs).await {
            Ok(link) => {
                *lock(&self.link) = Some(Arc::clone(&link));
                *lock(&self.failed) = None;
                Ok(link)
            }
            Err(error) => {
                *lock(&self.failed) = Some(Instant::now());
                *failed = Some(Failed { at: Instant::now(), time, error: error.clone() });
                Err(error)
            }
        }
    }
}

/// A slot whose link is being opened in the background, until this is dropped.
pub(super) struct Reopening(pub(super) Arc<Slot>);

impl Drop for Reopening {
    fn drop(&mut self) {
        self.0.reopening.store(false, Ordering::Relaxed);
    }
}
