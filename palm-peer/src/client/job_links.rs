//! The links of one job: opened to all instances that its messages may go through, and
//! watched for their end.

use crate::{
    client::{
        failure_detector,
        link::{Interest, Link},
        link_pool::OPEN_WITHIN,
        mesh::Mesh,
    },
    io::timer,
};
use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use palm_proto::types::instance::Instance;
use std::{
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// The wait before opening a link is tried again, while the instance is published.
const AGAIN: Duration = Duration::from_secs(1);

/// An event of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkEvent {
    /// It was opened.
    Open,
    /// It ended after a goodbye, and nothing is lost with it.
    ClosedByGoodbye,
    /// It broke, or its instance did not answer a liveness check.
    Gone(Uuid),
    /// It could not be opened, so its instance, which a stage may have chosen, cannot answer.
    Unreachable(Uuid),
}

/// How a link ended, or the result of a liveness check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkEnd {
    Broken { closed_by_goodbye: bool },
    Alive,
    Unresponsive,
}

/// The links that a job uses, kept until they end even if their server is no longer published.
pub(crate) struct Links {
    mesh: Arc<Mesh>,
    kept: HashMap<Uuid, Arc<Link>>,
    /// When the last link of an instance ended, while more may be reported of that instance.
    ended: HashMap<Uuid, Instant>,
    /// While messages are in flight, all links are watched: an answer may come over any of them,
    /// even one that nothing was sent over.
    watched: HashMap<Uuid, Interest>,
    busy: bool,
    /// Links being opened, with or without a message for them: a stage that forwards a message may
    /// choose their instances, which must be able to answer.
    preparing: FuturesUnordered<BoxFuture<'static, Arc<Instance>>>,
    /// The mesh that owns the links.
    prepared: HashSet<Uuid>,
    /// The awaited ends of links and liveness checks.
    ends: FuturesUnordered<BoxFuture<'static, (Uuid, LinkEnd)>>,
}

impl Links {
    pub(crate) fn new(mesh: Arc<Mesh>) -> Self {
        Self {
            mesh,
            kept: HashMap::new(),
            ended: HashMap::new(),
            watched: HashMap::new(),
            busy: false,
            preparing: FuturesUnordered::new(),
            prepared: HashSet::new(),
            ends: FuturesUnordered::new(),
        }
    }

    /// Sets whether messages are in flight.
    pub(crate) fn set_busy(&mut self, busy: bool) {
        if std::mem::replace(&mut self.busy, busy) == busy {
            return;
        }
        self.watched.clear();
        if busy {
            self.watched.extend(
                self.kept
                    .iter()
                    .map(|(instance, link)| (*instance, link.watch())),
            );
        }
    }

    /// Returns the link to an instance, if messages can be sent over it.
    pub(crate) fn open(&self, instance: Uuid) -> Option<&Arc<Link>> {
        self.kept.get(&instance).filter(|link| link.is_open())
    }

    /// Returns whether there is an open link to each instance of a route.
    pub(crate) fn are_open(&self, route: &[Uuid]) -> bool {
        route.iter().all(|instance| self.open(*instance).is_some())
    }

    /// Returns whether the end of an instance's link will be reported.
    pub(crate) fn keeps(&self, instance: Uuid) -> bool {
        self.kept.contains_key(&instance)
    }

    /// Returns whether it will be reported when an instance cannot answer.
    pub(crate) fn tells_of(&self, instance: Uuid) -> bool {
        self.keeps(instance) || self.prepared.contains(&instance)
    }

    /// Returns whether a link of this instance has ended since then: answers may have
    /// been lost with it.
    pub(crate) fn ended_since(&self, instance: Uuid, then: Instant) -> bool {
        self.ended
            .get(&instance)
            .is_some_and(|ended| *ended >= then)
    }

    /// Forgets the links of all instances of which nothing more is reported.
    pub(crate) fn forget_ended(&mut self) {
        let (kept, prepared) = (&self.kept, &self.prepared);
        self.ended
            .retain(|instance, _| kept.contains_key(instance) || prepared.contains(instance));
    }

    /// Opens a link to each of these, and retries while it is published.
    pub(crate) fn prepare<'a>(&mut self, instances: impl Iterator<Item = &'a Arc<Instance>>) {
        for instance in instances {
            if !self.watch(instance.uuid) && self.prepared.insert(instance.uuid) {
                self.preparing.push(
                    prepare(Arc::clone(&self.mesh), Arc::clone(instance), Duration::ZERO).boxed(),
                );
            }
        }
    }

    /// Starts to use a link that was opened, and to wait for its end. Returns whether there is one.
    pub(crate) fn watch(&mut self, instance: Uuid) -> bool {
        if self.open(instance).is_some() {
            return true;
        }
        let Some(link) = self.mesh.open_link(instance) else {
            return false;
        };
        let fate = link.fate();
        self.ends.push(
            link.broken()
                .map(move |()| {
                    (
                        instance,
                        LinkEnd::Broken {
                            closed_by_goodbye: fate.closed_by_goodbye(),
                        },
                    )
                })
                .boxed(),
        );
        if self.busy {
            self.watched.insert(instance, link.watch());
        }
        self.kept.insert(instance, link);
        true
    }

    /// Checks the liveness of an instance that is no longer published.
    pub(crate) fn question(&mut self, instance: Uuid) {
        if let Some(link) = self.kept.get(&instance) {
            self.ends.push(check_liveness(instance, Arc::clone(link)));
        }
    }

    /// How many entries there are in all that is remembered of instances.
    #[cfg(test)]
    pub(crate) fn size(&self) -> usize {
        let Self {
            kept,
            ended,
            watched,
            preparing,
            prepared,
            ends,
            ..
        } = self;
        kept.len() + ended.len() + watched.len() + preparing.len() + prepared.len() + ends.len()
    }

    /// What has happened to them, one after the other.
    pub(crate) fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<LinkEvent> {
        if let Poll::Ready(Some(instance)) = self.preparing.poll_next_unpin(cx) {
            return Poll::Ready(self.was_prepared(&instance));
        }
        let (instance, end) = loop {
            match self.ends.poll_next_unpin(cx) {
                // It finishes its messages; its link ends when it is done.
                Poll::Ready(Some((_, LinkEnd::Alive))) => {}
                Poll::Ready(Some(ended)) => break ended,
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        };
        if end != LinkEnd::Unresponsive
            && self
                .kept
                .get(&instance)
                .is_some_and(|link| link.is_broken())
        {
            self.kept.remove(&instance);
            self.ended.insert(instance, Instant::now());
            self.watched.remove(&instance);
        }
        let closed_by_goodbye = end
            == LinkEnd::Broken {
                closed_by_goodbye: true,
            };
        Poll::Ready(if closed_by_goodbye {
            LinkEvent::ClosedByGoodbye
        } else {
            LinkEvent::Gone(instance)
        })
    }

    /// Handles the end of an attempt to open a link. It is tried again while the
    /// instance is published.
    fn was_prepared(&mut self, instance: &Arc<Instance>) -> LinkEvent {
        if self.watch(instance.uuid) {
            self.prepared.remove(&instance.uuid);
            return LinkEvent::Open;
        }
        if self.mesh.directory().contains(instance.uuid) {
            self.preparing
                .push(prepare(Arc::clone(&self.mesh), Arc::clone(instance), AGAIN).boxed());
        } else {
            self.prepared.remove(&instance.uuid);
        }
        LinkEvent::Unreachable(instance.uuid)
    }
}

/// Opens a link, which belongs to the mesh.
async fn prepare(mesh: Arc<Mesh>, instance: Arc<Instance>, pause: Duration) -> Arc<Instance> {
    timer::sleep(pause).await;
    // A message that needs the link fails with the reason, so it must not wait longer than this.
    let _ = mesh
        .link_to(&instance, Instant::now() + OPEN_WITHIN * 2)
        .await;
    instance
}

/// Checks whether an instance still answers. The end of its link, which may come first, is reported
/// by the link itself: after a goodbye nothing is lost with it.
fn check_liveness(instance: Uuid, link: Arc<Link>) -> BoxFuture<'static, (Uuid, LinkEnd)> {
    let answers = failure_detector::answers(instance, link);
    answers
        .map(move |answers| {
            (
                instance,
                if answers {
                    LinkEnd::Alive
                } else {
                    LinkEnd::Unresponsive
                },
            )
        })
        .boxed()
}
