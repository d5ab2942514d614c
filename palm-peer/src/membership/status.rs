//! Tells whoever wants to know how the peer is doing: subscribers, and systemd.

use crate::{
    io::systemd::{self, Notice},
    sync::lock,
};
use futures::channel::mpsc;
use std::sync::Mutex;

/// What happened to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
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
pub struct State {
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
pub struct Announcer {
    state: Mutex<State>,
    /// Nobody any more, once the peer's life in the mesh is over.
    subscribers: Mutex<Option<Vec<mpsc::UnboundedSender<Event>>>>,
}

impl Announcer {
    /// The announcer of a peer that is about to join.
    pub fn new() -> Self {
        let joined = State { attached: true, ..State::default() };
        Self { state: Mutex::new(joined), subscribers: Mutex::new(Some(Vec::new())) }
    }

    /// How the peer is doing now.
    pub fn state(&self) -> State {
        *lock(&self.state)
    }

    /// All events from now on, until the end.
    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<Event> {
        let (tell, events) = mpsc::unbounded();
        if let Some(subscribers) = lock(&self.subscribers).as_mut() {
            // A server may be asked again and again while nothing happens to it.
            subscribers.retain(|subscriber| !subscriber.is_closed());
            subscribers.push(tell);
        }
        events
    }

    /// Takes an event in and passes it on, unless it changes nothing.
    pub fn announce(&self, event: Event) {
        let before = self.state();
        let state = after(before, event);
        if state == before {
            return;
        }
        *lock(&self.state) = state;
        if let Some(subscribers) = lock(&self.subscribers).as_mut() {
            subscribers.retain(|subscriber| subscriber.unbounded_send(event).is_ok());
        }
        if event == Event::Configured {
            systemd::notify(Notice::Ready);
        }
        systemd::notify(Notice::Status(words(state)));
        log::debug!("{event:?}");
    }

    /// The record was put anew: a leader has yet to reach the server.
    pub fn unconfigured(&self) {
        lock(&self.state).configured = false;
    }

    /// The peer's life in the mesh is over: it has no place there, and nothing happens to it any more.
    pub fn end(&self) {
        let evicted = self.state().evicted;
        *lock(&self.state) = State { evicted, ..State::default() };
        lock(&self.subscribers).take();
    }
}

fn after(state: State, event: Event) -> State {
    match event {
        Event::Configured => State { configured: true, ..state },
        Event::Elected => State { leading: true, ..state },
        Event::Deposed => State { leading: false, ..state },
        Event::Detached => State { attached: false, ..state },
        Event::Rejoined => State { attached: true, ..state },
        Event::Evicted => State { evicted: true, attached: false, configured: false, leading: false },
    }
}

fn words(state: State) -> &'static str {
    match state {
        State { evicted: true, .. } => "evicted by an administrator",
        State { attached: false, .. } => "serving, but etcd is in doubt",
        State { leading: true, configured: true, .. } => "serving, leading the mesh",
        State { leading: true, .. } => "leading the mesh, not configured",
        State { configured: true, .. } => "serving",
        _ => "waiting to be configured",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_stops_listening_is_forgotten() {
        let announcer = Announcer::new();
        for _ in 0..100_000 {
            drop(announcer.subscribe());
        }
        assert_eq!(lock(&announcer.subscribers).as_ref().map(Vec::len), Some(1));
    }
}
