//! Remembers what was passed on until it is known to have arrived. When the connection breaks
//! before, and the next stage is not gone, it is passed on again: the client, whose own connections
//! stand, would not notice.

use super::parcel::Parcel;
use crate::{
    client::link::{Fate, Link},
    io::{executor, tasks::Name, timer},
    sync::lock,
};
use foldhash::HashMap;
use futures::{
    FutureExt as _, StreamExt as _,
    channel::mpsc::{self, UnboundedReceiver, UnboundedSender},
};
use palm_proto::unconfirmed::Unconfirmed;
use std::{
    sync::{Arc, Mutex, Weak},
    time::Duration,
};
use uuid::Uuid;

/// How often is looked what has arrived, while something is in doubt.
const LOOK: Duration = Duration::from_secs(2);

/// Messages that were lost on their way to a stage.
pub(crate) struct Lost {
    pub(super) to: Uuid,
    pub(super) parcels: Vec<Parcel>,
    /// Whether the connection lost them. Otherwise it may have ended with the process, which the
    /// client notices as well.
    pub(super) swallowed: bool,
}

/// What is in doubt on one link.
struct UnconfirmedLink {
    link: Weak<Link>,
    /// `None` once the link has ended.
    sent: Mutex<Option<Unconfirmed<Parcel>>>,
    /// Has the watch over it begin.
    wake: Mutex<mpsc::Sender<()>>,
}

/// The unconfirmed messages of the latest link to each server.
type ByServer = Arc<Mutex<HashMap<Uuid, Arc<UnconfirmedLink>>>>;

/// What is in doubt on all links.
pub(crate) struct UnconfirmedLinks {
    of: ByServer,
    lost: UnboundedSender<Lost>,
    /// For the serving loop to take.
    losses: Mutex<Option<UnboundedReceiver<Lost>>>,
}

impl UnconfirmedLinks {
    pub(crate) fn new() -> Self {
        let (lost, losses) = mpsc::unbounded();
        Self {
            of: Arc::default(),
            lost,
            losses: Mutex::new(Some(losses)),
        }
    }

    /// Where losses are sent; taken once.
    pub(crate) fn losses(&self) -> UnboundedReceiver<Lost> {
        lock(&self.losses)
            .take()
            .unwrap_or_else(|| mpsc::unbounded().1)
    }

    /// A message was posted over the link to this server, under this number.
    pub(crate) fn posted(&self, link: &Arc<Link>, to: Uuid, number: u64, parcel: Parcel) {
        let unconfirmed_link = self.unconfirmed_link(link, to);
        let mut sent = lock(&unconfirmed_link.sent);
        let Some(unconfirmed) = &mut *sent else {
            drop(sent);
            report_lost(&self.lost, &link.fate(), to, vec![parcel]);
            return;
        };
        unconfirmed.arrived(link.fate().arrived());
        if unconfirmed.is_empty() {
            // When it is full, the watch is about to look.
            let _ = lock(&unconfirmed_link.wake).try_send(());
        }
        unconfirmed.sent(number, parcel.size(), parcel);
    }

    fn unconfirmed_link(&self, link: &Arc<Link>, to: Uuid) -> Arc<UnconfirmedLink> {
        let mut links = lock(&self.of);
        if let Some(unconfirmed_link) = links.get(&to).filter(|unconfirmed_link| {
            std::ptr::eq(unconfirmed_link.link.as_ptr(), Arc::as_ptr(link))
        }) {
            return Arc::clone(unconfirmed_link);
        }
        let (wake, woken) = mpsc::channel(1);
        let unconfirmed_link = Arc::new(UnconfirmedLink {
            link: Arc::downgrade(link),
            sent: Mutex::new(Some(Unconfirmed::default())),
            wake: Mutex::new(wake),
        });
        let entry = RemoveOnDrop {
            of: Arc::clone(&self.of),
            to,
            link: Arc::clone(&unconfirmed_link),
        };
        let watch = watch(link.fate(), link.broken(), entry, woken, self.lost.clone());
        executor::spawn(Name::PostedWatch, watch);
        links.insert(to, Arc::clone(&unconfirmed_link));
        unconfirmed_link
    }
}

/// Unconfirmed messages that are kept until this is dropped.
struct RemoveOnDrop {
    of: ByServer,
    to: Uuid,
    link: Arc<UnconfirmedLink>,
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let mut links = lock(&self.of);
        // A later link may have taken its place.
        if links
            .get(&self.to)
            .is_some_and(|unconfirmed_link| Arc::ptr_eq(unconfirmed_link, &self.link))
        {
            links.remove(&self.to);
        }
    }
}

/// Forgets what has arrived, and tells what may be lost when the link has ended.
async fn watch(
    fate: Fate,
    broken: impl Future<Output = ()> + Send,
    entry: RemoveOnDrop,
    mut woken: mpsc::Receiver<()>,
    lost: UnboundedSender<Lost>,
) {
    let mut broken = std::pin::pin!(broken.fuse());
    let mut look = timer::sleep(Duration::ZERO).fuse();
    loop {
        futures::select_biased! {
            () = broken => break,
            // Nothing is sent over a link that was replaced, but it may still break.
            () = woken.select_next_some() => look = timer::sleep(LOOK).fuse(),
            () = look => {
                if let Some(unconfirmed) = &mut *lock(&entry.link.sent) {
                    unconfirmed.arrived(fate.arrived());
                    if !unconfirmed.is_empty() {
                        look = timer::sleep(LOOK).fuse();
                    }
                }
            }
        }
    }
    let Some(mut unconfirmed) = lock(&entry.link.sent).take() else {
        return;
    };
    unconfirmed.arrived(fate.arrived());
    report_lost(&lost, &fate, entry.to, unconfirmed.lost().collect());
}

fn report_lost(lost: &UnboundedSender<Lost>, fate: &Fate, to: Uuid, parcels: Vec<Parcel>) {
    if !fate.closed_by_goodbye() && !parcels.is_empty() {
        // The receiver is gone when the server has ended.
        let _ = lost.unbounded_send(Lost {
            to,
            parcels,
            swallowed: fate.swallowed(),
        });
    }
}

#[cfg(test)]
mod tests;
