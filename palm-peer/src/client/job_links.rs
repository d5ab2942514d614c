//! The links of one job: opened to all instances that its messages may go through, and listened to for their end.

use crate::{
    client::{
        failure_detector,
        link::{Interest, Link},
        link_pool::OPEN_WITHIN,
        mesh::Mesh,
    },
    io::timer,
};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use palm_proto::types::instance::Instance;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long after a link could not be opened to try again, while the instance is published.
const AGAIN: Duration = Duration::from_secs(1);

/// What became of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkEvent {
    /// There is one now.
    Open,
    /// It ended after a goodbye, and nothing is lost with it.
    ClosedByGoodbye,
    /// It broke, or its instance gives no sign of life.
    Gone(Uuid),
    /// It could not be opened, so an instance that a stage may have chosen cannot answer.
    Unreachable(Uuid),
}

/// How a link ended, or whether its instance gave a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkEnd {
    Broken { closed_by_goodbye: bool },
    Alive,
    Unresponsive,
}

/// The links that a job uses, kept although their server may no longer be published, until they end.
pub(crate) struct Links {
    mesh: Arc<Mesh>,
    kept: HashMap<Uuid, Arc<Link>>,
    /// While messages are under way, all links are watched: an answer may come over any of them, also over one that nothing
    /// was sent over.
    watched: HashMap<Uuid, Interest>,
    busy: bool,
    /// Links being opened, whether or not a message is for them yet: a stage that forwards a message may choose their
    /// instances, and these must be able to answer.
    preparing: FuturesUnordered<BoxFuture<'static, Arc<Instance>>>,
    /// Whose they are.
    prepared: HashSet<Uuid>,
    /// Waits for the end of the links, and for signs of life.
    ends: FuturesUnordered<BoxFuture<'static, (Uuid, LinkEnd)>>,
}

impl Links {
    pub(crate) fn new(mesh: Arc<Mesh>) -> Self {
        Self {
            mesh,
            kept: HashMap::new(),
            watched: HashMap::new(),
            busy: false,
            preparing: FuturesUnordered::new(),
            prepared: HashSet::new(),
            ends: FuturesUnordered::new(),
        }
    }

    /// Says whether messages are under way.
    pub(crate) fn set_busy(&mut self, busy: bool) {
        if std::mem::replace(&mut self.busy, busy) == busy {
            return;
        }
        self.watched.clear();
        if busy {
            self.watched.extend(self.kept.iter().map(|(instance, link)| (*instance, link.watch())));
        }
    }

    /// The link to an instance, if messages can be sent over it.
    pub(crate) fn open(&self, instance: Uuid) -> Option<&Arc<Link>> {
        self.kept.get(&instance).filter(|link| link.is_open())
    }

    /// Whether the end of an instance's link will be told, if it has one.
    pub(crate) fn keeps(&self, instance: Uuid) -> bool {
        self.kept.contains_key(&instance)
    }

    /// Whether it will be told when an instance cannot answer any more, or cannot answer at all.
    pub(crate) fn tells_of(&self, instance: Uuid) -> bool {
        self.keeps(instance) || self.prepared.contains(&instance)
    }

    /// Has a link to each of these opened, for as long as it is published.
    pub(crate) fn prepare<'a>(&mut self, instances: impl Iterator<Item = &'a Arc<Instance>>) {
        for instance in instances {
            if !self.watch(instance.uuid) && self.prepared.insert(instance.uuid) {
                self.preparing.push(prepare(Arc::clone(&self.mesh), Arc::clone(instance), Duration::ZERO).boxed());
            }
        }
    }

    /// Takes a link that was opened into use, and waits for its end, once. Says whether there is one.
    pub(crate) fn watch(&mut self, instance: Uuid) -> bool {
        if self.open(instance).is_some() {
            return true;
        }
        let Some(link) = self.mesh.open_link(instance) else { return false };
        let fate = link.fate();
        self.ends.push(
            link.broken()
                .map(move |()| (instance, LinkEnd::Broken { closed_by_goodbye: fate.closed_by_goodbye() }))
                .boxed(),
        );
        if self.busy {
            self.watched.insert(instance, link.watch());
        }
        self.kept.insert(instance, link);
        true
    }

    /// Has an instance that is no longer published show that it still answers.
    pub(crate) fn question(&mut self, instance: Uuid) {
        if let Some(link) = self.kept.get(&instance) {
            self.ends.push(check_liveness(instance, Arc::clone(link)));
        }
    }

    /// How many entries there are in all that is remembered of instances.
    #[cfg(test)]
    pub(crate) fn size(&self) -> usize {
        let Self { kept, watched, preparing, prepared, ends, .. } = self;
        kept.len() + watched.len() + preparing.len() + prepared.len() + ends.len()
    }

    /// What has happened to them, one after the other.
    pub(crate) fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<LinkEvent> {
        if let Poll::Ready(Some(instance)) = self.preparing.poll_next_unpin(cx) {
            return Poll::Ready(self.was_prepared(&instance));
        }
        let (instance, end) = loop {
            match self.ends.poll_next_unpin(cx) {
                // It finishes what it has; its link ends when it is done.
                Poll::Ready(Some((_, LinkEnd::Alive))) => {}
                Poll::Ready(Some(ended)) => break ended,
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        };
        if end != LinkEnd::Unresponsive && self.kept.get(&instance).is_some_and(|link| link.is_broken()) {
            self.kept.remove(&instance);
            self.watched.remove(&instance);
        }
        let closed_by_goodbye = end == LinkEnd::Broken { closed_by_goodbye: true };
        Poll::Ready(if closed_by_goodbye { LinkEvent::ClosedByGoodbye } else { LinkEvent::Gone(instance) })
    }

    /// The attempt to open a link has ended. It is tried again while the instance is published.
    fn was_prepared(&mut self, instance: &Arc<Instance>) -> LinkEvent {
        if self.watch(instance.uuid) {
            self.prepared.remove(&instance.uuid);
            return LinkEvent::Open;
        }
        if self.mesh.directory().contains(instance.uuid) {
            self.preparing.push(prepare(Arc::clone(&self.mesh), Arc::clone(instance), AGAIN).boxed());
        } else {
            self.prepared.remove(&instance.uuid);
        }
        LinkEvent::Unreachable(instance.uuid)
    }
}

/// Opens a link, if that can be done; the link is the mesh's.
async fn prepare(mesh: Arc<Mesh>, instance: Arc<Instance>, pause: Duration) -> Arc<Instance> {
    timer::sleep(pause).await;
    // A message that needs it will be told why there is none, and so must not have more time than this.
    let _ = mesh.link_to(&instance, Instant::now() + OPEN_WITHIN * 2).await;
    instance
}

/// Asks an instance whether it still answers. The end of its link, which may come first, is told by the link itself: after a
/// goodbye nothing is lost with it.
fn check_liveness(instance: Uuid, link: Arc<Link>) -> BoxFuture<'static, (Uuid, LinkEnd)> {
    let answers = failure_detector::answers(instance, link);
    answers.map(move |answers| (instance, if answers { LinkEnd::Alive } else { LinkEnd::Unresponsive })).boxed()
}
