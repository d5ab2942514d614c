//! Monitors a link while something is outstanding: carries out what [`Liveness`] decides.

use super::Link;
use crate::{
    io::{tcp_state::Ends, timer},
    sync::lock,
};
use futures::task::AtomicWaker;
use palm_proto::{
    limits::log_throttle::LogThrottle,
    liveness::{Liveness, Step},
};
use std::{
    future::poll_fn,
    sync::{
        Arc, LazyLock, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Instant,
};
use uuid::Uuid;

/// Throttles the log lines about dead connections per server: a hostile one may let each
/// new connection die.
static LOGGED: LazyLock<Mutex<LogThrottle<Uuid>>> = LazyLock::new(Mutex::default);

/// The target of a link, for the log and for queries to the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Where {
    /// The server.
    pub server: Uuid,
    /// The TCP connection.
    pub ends: Ends,
}

/// The state shared between a link and its monitor.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// Whether the monitor runs. Cleared before it sleeps, so that a call usually costs
    /// one atomic load.
    awake: AtomicBool,
    watch: AtomicWaker,
    unanswered: AtomicU64,
    interests: AtomicUsize,
    suspect: AtomicBool,
    /// How many of the unanswered messages are known to have arrived.
    arrived: AtomicU64,
    /// Whether the connection was black-holed.
    swallowed: AtomicBool,
    /// Whether the link has ended.
    broken: AtomicBool,
    /// Whether the server said goodbye.
    closed_by_goodbye: AtomicBool,
}

/// The fate of the messages sent over a link, which can be queried after the link is gone.
#[derive(Debug, Clone)]
pub(crate) struct Fate(pub(super) Arc<Pulse>);

impl Fate {
    /// Returns how many of the posted messages are known to have arrived.
    pub(crate) fn arrived(&self) -> u64 {
        self.0.arrived.load(Ordering::SeqCst)
    }

    /// Returns whether the connection was given up as black-holed.
    pub(crate) fn swallowed(&self) -> bool {
        self.0.swallowed.load(Ordering::SeqCst)
    }

    /// Returns whether the server said goodbye, so that nothing is lost.
    pub(crate) fn closed_by_goodbye(&self) -> bool {
        self.0.closed_by_goodbye()
    }
}

impl Pulse {
    /// Wakes the monitor: something is outstanding, or the link has ended.
    pub(super) fn stir(&self) {
        if !self.awake.load(Ordering::SeqCst) && !self.awake.swap(true, Ordering::SeqCst) {
            self.watch.wake();
        }
    }

    /// Counts a message whose answer does not come over this link. Returns its number.
    pub(super) fn sent_unanswered(&self) -> u64 {
        let number = self.unanswered.fetch_add(1, Ordering::SeqCst) + 1;
        self.stir();
        number
    }

    /// Takes in the server's goodbye. Returns whether it is the first.
    pub(super) fn part(&self) -> bool {
        !self.closed_by_goodbye.swap(true, Ordering::SeqCst)
    }

    pub(super) fn closed_by_goodbye(&self) -> bool {
        self.closed_by_goodbye.load(Ordering::SeqCst)
    }

    /// The link has ended.
    pub(super) fn end(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.stir();
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    pub(super) fn unanswered(&self) -> u64 {
        self.unanswered.load(Ordering::SeqCst)
    }

    pub(super) fn has_interest(&self) -> bool {
        self.interests.load(Ordering::SeqCst) > 0
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    async fn stirred(&self) {
        poll_fn(|cx| {
            self.watch.register(cx.waker());
            if self.awake.load(Ordering::SeqCst) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

/// A guard that keeps a link monitored although no answer is due.
#[derive(Debug)]
pub(crate) struct Interest(Arc<Pulse>);

impl Interest {
    pub(super) fn new(pulse: &Arc<Pulse>) -> Self {
        pulse.interests.fetch_add(1, Ordering::SeqCst);
        pulse.stir();
        Self(Arc::clone(pulse))
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.0.interests.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Monitors a link until it ends.
pub(super) async fn run(link: Weak<Link>, pulse: Arc<Pulse>, place: Where) {
    let Some(answers) = link.upgrade().map(|link| link.sender.answers_pings()) else {
        return;
    };
    let mut liveness = Liveness::new(answers, Instant::now());
    loop {
        pulse.stirred().await;
        // Anything outstanding from here on wakes the monitor again.
        pulse.awake.store(false, Ordering::SeqCst);
        let wait = {
            let Some(link) = link.upgrade().filter(|link| !link.is_broken()) else {
                return;
            };
            look(&link, &mut liveness, &place)
        };
        pulse
            .suspect
            .store(liveness.is_suspect(), Ordering::Relaxed);
        pulse.arrived.store(liveness.arrived(), Ordering::SeqCst);
        if let Some(wait) = wait {
            pulse.awake.store(true, Ordering::SeqCst);
            // A process may monitor thousands of links.
            timer::sleep_until(timer::coarse(wait)).await;
        }
    }
}

/// Carries out the next step. Returns when to check again; `None`: when something is sent.
fn look(link: &Link, liveness: &mut Liveness, place: &Where) -> Option<Instant> {
    let now = Instant::now();
    loop {
        match liveness.look(now, &link.seen()) {
            Step::Idle => return None,
            Step::Wait(at) => return Some(at),
            // The reader notices the end of the connection.
            Step::Ping(number) => drop(link.sender.ping(number)),
            Step::Inspect => {
                if liveness.delivered(place.ends.delivery()) {
                    let (server, peer) = (place.server, place.ends.peer());
                    if let Some(suppressed) = lock(&LOGGED).should_log(server, now) {
                        log::warn!(
                            "the connection to server {server} at {peer} is dead: what is sent is not acknowledged{suppressed}"
                        );
                    }
                    link.pulse.swallowed.store(true, Ordering::SeqCst);
                    link.end();
                    return None;
                }
            }
        }
    }
}
