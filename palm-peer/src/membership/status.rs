//! Publishes the peer's status to subscribers and systemd.

use super::latest::{self, Latest, Sender};
use crate::{
    io::systemd::{self, Notice},
    sync::lock,
};
use std::sync::Mutex;

/// What happened to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeerEvent {
    /// A leader reached the server: clients can call it.
    Configured,
    /// The peer leads the mesh.
    Elected,
    /// The peer no longer leads the mesh.
    Deposed,
    /// The peer's registration is in doubt: its lease may have expired, or its record is gone. It
    /// is rejoining; the functions continue to serve.
    Detached,
    /// The peer is registered again.
    Rejoined,
    /// etcd has it that the server is ready again ([`Peer::set_ready`](crate::Peer::set_ready)):
    /// clients can call it as soon as the leader has published it.
    Ready,
    /// etcd has it that the server is not ready: clients do not find it any more.
    NotReady,
    /// An administrator removed the server. It stays out.
    Evicted,
}

/// The state of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
// The fields are independent of each other.
#[allow(clippy::struct_excessive_bools)]
#[non_exhaustive]
pub struct PeerState {
    /// Whether a leader has reached the server since it registered.
    pub configured: bool,
    /// Whether the peer leads the mesh.
    pub leading: bool,
    /// Whether the peer's registration in etcd is certain.
    pub attached: bool,
    /// Whether an administrator removed the server.
    pub evicted: bool,
    /// Whether the server is ready, as far as etcd has it: a moment after
    /// [`Peer::set_ready`](crate::Peer::set_ready), or when etcd is back.
    pub ready: bool,
}

/// How many events are kept for a subscriber that does not take them.
const MAX_EVENTS: usize = 64;

/// Keeps the state and passes it and the events on.
#[derive(Debug)]
pub(crate) struct StatusPublisher(Mutex<Status>);

#[derive(Debug)]
struct Status {
    state: PeerState,
    events: Vec<Sender<PeerEvent>>,
    watchers: Vec<Sender<PeerState>>,
    /// Whether the peer's life in the mesh is over.
    ended: bool,
}

impl Status {
    /// Takes a state in and passes it on, unless it is the same.
    fn change(&mut self, state: PeerState) -> bool {
        let changed = state != self.state;
        if changed {
            self.state = state;
            send(&mut self.watchers, state);
        }
        changed
    }
}

/// Passes an item on to all that are still there.
fn send<T: Copy>(subscribers: &mut Vec<Sender<T>>, item: T) {
    subscribers.retain(|subscriber| !subscriber.is_closed());
    for subscriber in subscribers {
        subscriber.send(item);
    }
}

/// Adds a subscriber, and forgets those that are gone: a server may be asked again and again while
/// nothing happens to it.
fn add<T>(subscribers: &mut Vec<Sender<T>>, tx: Sender<T>) {
    subscribers.retain(|subscriber| !subscriber.is_closed());
    subscribers.push(tx);
}

impl StatusPublisher {
    /// Creates the publisher of a peer that is about to join.
    pub(crate) fn new() -> Self {
        let state = PeerState {
            attached: true,
            ready: true,
            ..PeerState::default()
        };
        Self(Mutex::new(Status {
            state,
            events: Vec::new(),
            watchers: Vec::new(),
            ended: false,
        }))
    }

    /// Returns the current state.
    pub(crate) fn state(&self) -> PeerState {
        lock(&self.0).state
    }

    /// All events from now on, until the end; the latest [`MAX_EVENTS`] of those that nobody takes.
    pub(crate) fn subscribe(&self) -> Latest<PeerEvent> {
        let (tx, events) = latest::channel(MAX_EVENTS);
        let mut status = lock(&self.0);
        if !status.ended {
            add(&mut status.events, tx);
        }
        events
    }

    /// The state now, and whenever it has changed, until the end.
    pub(crate) fn watch(&self) -> Latest<PeerState> {
        let (tx, states) = latest::channel(1);
        let mut status = lock(&self.0);
        tx.send(status.state);
        if !status.ended {
            add(&mut status.watchers, tx);
        }
        states
    }

    /// Applies an event and publishes it, unless it changes nothing.
    pub(crate) fn announce(&self, event: PeerEvent) {
        let state = {
            let mut status = lock(&self.0);
            let state = after(status.state, event);
            if !status.change(state) {
                return;
            }
            send(&mut status.events, event);
            state
        };
        if event == PeerEvent::Configured {
            systemd::notify(Notice::Ready);
        }
        systemd::notify(Notice::Status(status_text(state)));
        log::debug!("{event:?}");
    }

    /// The record was put again: no leader has reached the server yet.
    pub(crate) fn unconfigured(&self) {
        let mut status = lock(&self.0);
        let state = PeerState {
            configured: false,
            ..status.state
        };
        status.change(state);
    }

    /// The peer has left the mesh: there are no further events.
    pub(crate) fn end(&self) {
        let mut status = lock(&self.0);
        let evicted = status.state.evicted;
        status.change(PeerState {
            evicted,
            ..PeerState::default()
        });
        status.ended = true;
        status.events.clear();
        status.watchers.clear();
    }
}

fn after(state: PeerState, event: PeerEvent) -> PeerState {
    match event {
        PeerEvent::Configured => PeerState {
            configured: true,
            ..state
        },
        PeerEvent::Elected => PeerState {
            leading: true,
            ..state
        },
        PeerEvent::Deposed => PeerState {
            leading: false,
            ..state
        },
        PeerEvent::Detached => PeerState {
            attached: false,
            ..state
        },
        PeerEvent::Rejoined => PeerState {
            attached: true,
            ..state
        },
        PeerEvent::Ready => PeerState {
            ready: true,
            ..state
        },
        PeerEvent::NotReady => PeerState {
            ready: false,
            ..state
        },
        PeerEvent::Evicted => PeerState {
            evicted: true,
            ..PeerState::default()
        },
    }
}

fn status_text(state: PeerState) -> &'static str {
    match state {
        PeerState { evicted: true, .. } => "evicted by an administrator",
        PeerState {
            attached: false, ..
        } => "serving, but etcd is in doubt",
        PeerState {
            ready: false,
            configured: true,
            leading: true,
            ..
        } => "not ready for calls, leading the mesh",
        PeerState {
            ready: false,
            configured: true,
            ..
        } => "not ready for calls",
        PeerState {
            leading: true,
            configured: true,
            ..
        } => "serving, leading the mesh",
        PeerState { leading: true, .. } => "leading the mesh, not configured",
        PeerState {
            configured: true, ..
        } => "serving",
        _ => "waiting to be configured",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt as _, StreamExt as _, executor::block_on};

    fn flapping(status: &StatusPublisher, times: usize) {
        for _ in 0..times {
            status.announce(PeerEvent::Elected);
            status.announce(PeerEvent::Deposed);
        }
    }

    #[test]
    fn subscribers_that_are_gone_are_forgotten() {
        let status = StatusPublisher::new();
        for _ in 0..100_000 {
            drop((status.subscribe(), status.watch()));
        }
        let kept = lock(&status.0);
        assert_eq!((kept.events.len(), kept.watchers.len()), (1, 1));
    }

    #[test]
    fn events_that_nobody_takes_are_bounded_and_the_latest_stay() {
        let status = StatusPublisher::new();
        let events = status.subscribe();
        flapping(&status, 100_000);
        status.announce(PeerEvent::Configured);
        status.end();
        let taken: Vec<_> = block_on(events.collect());
        assert_eq!(taken.len(), MAX_EVENTS);
        assert_eq!(
            taken[MAX_EVENTS - 3..],
            [
                PeerEvent::Elected,
                PeerEvent::Deposed,
                PeerEvent::Configured
            ]
        );
    }

    #[test]
    fn a_watch_begins_with_the_state_skips_to_the_latest_and_ends_with_the_peer() {
        let status = StatusPublisher::new();
        let mut states = status.watch();
        let next = |states: &mut Latest<PeerState>| block_on(states.next());
        let joined = PeerState {
            attached: true,
            ready: true,
            ..PeerState::default()
        };
        assert_eq!(next(&mut states), Some(joined));
        flapping(&status, 1000);
        status.announce(PeerEvent::Configured);
        assert_eq!(
            next(&mut states),
            Some(PeerState {
                configured: true,
                ..joined
            })
        );
        status.unconfigured();
        assert_eq!(next(&mut states), Some(joined));
        assert_eq!(states.next().now_or_never(), None, "nothing has changed");
        status.announce(PeerEvent::Evicted);
        status.end();
        let evicted = PeerState {
            evicted: true,
            ..PeerState::default()
        };
        assert_eq!(next(&mut states), Some(evicted));
        assert_eq!(next(&mut states), None);
        assert_eq!(
            block_on(status.watch().collect::<Vec<_>>()),
            [evicted],
            "a late watch has the last state"
        );
    }
}
