//! Publishes the peer's status to subscribers and systemd.

use crate::{
    io::systemd::{self, Notice},
    sync::lock,
};
use futures::channel::mpsc;
use std::sync::Mutex;

/// What happened to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeerEvent {
    /// A leader reached the server: clients can, too.
    Configured,
    /// The peer leads the mesh.
    Elected,
    /// The peer no longer leads the mesh.
    Deposed,
    /// The peer cannot count on its place in etcd: its lease is in doubt, or its record is gone. It works on coming back;
    /// the functions go on serving.
    Detached,
    /// The peer has its place in etcd again.
    Rejoined,
    /// A person removed the server. It stays out.
    Evicted,
}

/// How a peer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
// Four answers to four questions; no two of them make a third.
#[allow(clippy::struct_excessive_bools)]
#[non_exhaustive]
pub struct PeerState {
    /// Whether a leader has reached the server since it registered.
    pub configured: bool,
    /// Whether the peer leads the mesh.
    pub leading: bool,
    /// Whether the peer has its place in etcd and can count on it.
    pub attached: bool,
    /// Whether a person removed the server.
    pub evicted: bool,
}

/// Keeps the state and passes the events on.
#[derive(Debug)]
pub(crate) struct StatusPublisher {
    state: Mutex<PeerState>,
    /// Nobody any more, once the peer's life in the mesh is over.
    subscribers: Mutex<Option<Vec<mpsc::UnboundedSender<PeerEvent>>>>,
}

impl StatusPublisher {
    /// The announcer of a peer that is about to join.
    pub(crate) fn new() -> Self {
        let joined = PeerState { attached: true, ..PeerState::default() };
        Self { state: Mutex::new(joined), subscribers: Mutex::new(Some(Vec::new())) }
    }

    /// How the peer is doing now.
    pub(crate) fn state(&self) -> PeerState {
        *lock(&self.state)
    }

    /// All events from now on, until the end.
    pub(crate) fn subscribe(&self) -> mpsc::UnboundedReceiver<PeerEvent> {
        let (tx, events) = mpsc::unbounded();
        if let Some(subscribers) = lock(&self.subscribers).as_mut() {
            // A server may be asked again and again while nothing happens to it.
            subscribers.retain(|subscriber| !subscriber.is_closed());
            subscribers.push(tx);
        }
        events
    }

    /// Takes an event in and passes it on, unless it changes nothing.
    pub(crate) fn announce(&self, event: PeerEvent) {
        let before = self.state();
        let state = after(before, event);
        if state == before {
            return;
        }
        *lock(&self.state) = state;
        if let Some(subscribers) = lock(&self.subscribers).as_mut() {
            subscribers.retain(|subscriber| subscriber.unbounded_send(event).is_ok());
        }
        if event == PeerEvent::Configured {
            systemd::notify(Notice::Ready);
        }
        systemd::notify(Notice::Status(words(state)));
        log::debug!("{event:?}");
    }

    /// The record was put anew: a leader has yet to reach the server.
    pub(crate) fn unconfigured(&self) {
        lock(&self.state).configured = false;
    }

    /// The peer's life in the mesh is over: it has no place there, and nothing happens to it any more.
    pub(crate) fn end(&self) {
        let evicted = self.state().evicted;
        *lock(&self.state) = PeerState { evicted, ..PeerState::default() };
        lock(&self.subscribers).take();
    }
}

fn after(state: PeerState, event: PeerEvent) -> PeerState {
    match event {
        PeerEvent::Configured => PeerState { configured: true, ..state },
        PeerEvent::Elected => PeerState { leading: true, ..state },
        PeerEvent::Deposed => PeerState { leading: false, ..state },
        PeerEvent::Detached => PeerState { attached: false, ..state },
        PeerEvent::Rejoined => PeerState { attached: true, ..state },
        PeerEvent::Evicted => PeerState { evicted: true, attached: false, configured: false, leading: false },
    }
}

fn words(state: PeerState) -> &'static str {
    match state {
        PeerState { evicted: true, .. } => "evicted by an administrator",
        PeerState { attached: false, .. } => "serving, but etcd is in doubt",
        PeerState { leading: true, configured: true, .. } => "serving, leading the mesh",
        PeerState { leading: true, .. } => "leading the mesh, not configured",
        PeerState { configured: true, .. } => "serving",
        _ => "waiting to be configured",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_listeners_are_removed() {
        let status = StatusPublisher::new();
        for _ in 0..100_000 {
            drop(status.subscribe());
        }
        assert_eq!(lock(&status.subscribers).as_ref().map(Vec::len), Some(1));
    }
}
