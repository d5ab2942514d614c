//! Whether a connection still works: when to send a PING, and what a missing PONG means.
//!
//! A timeout alone does not distinguish a dead path from a busy process: a function may block
//! the executor that would answer the PING. The kernels distinguish them: that of a reachable
//! host acknowledges the PING's bytes, whatever its processes do; over a dead path, no
//! acknowledgement comes.

use std::time::{Duration, Instant};

/// How long nothing may have arrived, while something is outstanding, before a PING is sent.
pub(crate) const SILENCE: Duration = Duration::from_secs(1);

/// How long the answer to a PING may take before the connection is suspect.
pub(crate) const PONG_WITHIN: Duration = Duration::from_secs(2);

/// How often a suspect connection is checked, and one whose PING is not written yet.
const LOOK: Duration = Duration::from_millis(250);

/// What was observed on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Whether an answer over it, or its end, is awaited.
    pub outstanding: bool,
    /// The number of messages sent so far that no answer over this connection follows. Only a PONG
    /// shows that they arrived.
    pub unanswered: u64,
    /// When bytes arrived last.
    pub received_at: Instant,
    /// Returns the number of the last PING that was answered.
    pub pong: u64,
    /// The number of bytes queued to be sent so far.
    pub queued: u64,
    /// How many of them the system has taken.
    pub written: u64,
}

/// What the kernel knows about the bytes that it sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The peer's kernel has acknowledged them, or reports a full receive window: the path works.
    Acknowledged,
    /// They are being retransmitted: the path is dead.
    Unacknowledged,
    /// Neither, or the kernel does not report it.
    Unknown,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do until something is sent.
    Idle,
    /// Check again at this time.
    Wait(Instant),
    /// Send a PING with this number, and check again.
    Ping(u64),
    /// Query the kernel for [`Delivery`], and pass it to [`Liveness::delivered`].
    Inspect,
}

/// A PING that was sent.
#[derive(Debug)]
struct Ping {
    /// The number of unanswered messages before it: its PONG shows that they arrived.
    covers: u64,
    /// It is sent once the system has taken more bytes than this.
    behind: u64,
    /// Since when it is sent, or since when the system has taken none of the bytes before it.
    since: Instant,
    /// The number of bytes that the system had taken by then.
    written: u64,
    /// Whether it is sent.
    sent: bool,
}

/// What is known of one connection.
#[derive(Debug)]
pub struct Liveness {
    /// Whether the peer answers PINGs.
    answers: bool,
    /// Since when something is outstanding.
    since: Option<Instant>,
    number: u64,
    ping: Option<Ping>,
    /// How many of the unanswered messages are known to have arrived.
    arrived: u64,
    suspect: bool,
    /// When a suspect connection is checked next.
    next: Instant,
}

impl Liveness {
    /// Creates the state of a new connection. Without `answers`, the peer does not know PING, and
    /// only TCP's own timeouts apply.
    #[must_use]
    pub fn new(answers: bool, now: Instant) -> Self {
        Self {
            answers,
            since: None,
            number: 0,
            ping: None,
            arrived: 0,
            suspect: false,
            next: now,
        }
    }

    /// Returns whether a PING was not answered in time, and nothing has arrived since: new messages
    /// should take another path.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// Returns how many of the messages without an answer are known to have arrived.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Checks the connection. Returns what to do.
    pub fn look(&mut self, now: Instant, seen: &Seen) -> Step {
        self.handle_pong(seen);
        if !self.answers || !(seen.outstanding || seen.unanswered > self.arrived) {
            self.since = None;
            self.ping = None;
            self.suspect = false;
            return Step::Idle;
        }
        let since = *self.since.get_or_insert(now);
        let Some(ping) = &mut self.ping else {
            let due = since.max(seen.received_at) + SILENCE;
            return if now < due {
                Step::Wait(due)
            } else {
                self.ping(now, seen)
            };
        };
        if seen.received_at > ping.since {
            // Something has arrived since, so it works, with or without the PONG.
            self.ping = None;
            self.suspect = false;
            self.since = Some(seen.received_at);
            return Step::Wait(seen.received_at + SILENCE);
        }
        if !ping.sent && seen.written != ping.written {
            // A long message before it is still being sent.
            ping.since = now;
            ping.written = seen.written;
            ping.sent = seen.written > ping.behind;
        }
        let due = ping.since + PONG_WITHIN;
        if now < due {
            return Step::Wait(if ping.sent { due } else { due.min(now + LOOK) });
        }
        if now < self.next {
            return Step::Wait(self.next);
        }
        self.suspect = true;
        self.next = now + LOOK;
        Step::Inspect
    }

    /// Takes what the kernel knows. Returns whether the connection is dead.
    #[must_use]
    pub fn delivered(&mut self, delivery: Delivery) -> bool {
        self.suspect && delivery == Delivery::Unacknowledged
    }

    fn handle_pong(&mut self, seen: &Seen) {
        if let Some(ping) = &self.ping
            && seen.pong == self.number
        {
            self.arrived = self.arrived.max(ping.covers);
            self.ping = None;
            self.suspect = false;
            self.since = Some(seen.received_at);
        }
    }

    fn ping(&mut self, now: Instant, seen: &Seen) -> Step {
        self.number += 1;
        self.ping = Some(Ping {
            covers: seen.unanswered,
            behind: seen.queued,
            since: now,
            written: seen.written,
            sent: false,
        });
        Step::Ping(self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A connection, and a clock.
    struct World {
        liveness: Liveness,
        start: Instant,
        now: Instant,
        seen: Seen,
    }

    impl World {
        fn new() -> Self {
            let start = Instant::now();
            let seen = Seen {
                outstanding: false,
                unanswered: 0,
                received_at: start,
                pong: 0,
                queued: 100,
                written: 100,
            };
            Self {
                liveness: Liveness::new(true, start),
                start,
                now: start,
                seen,
            }
        }

        /// Lets time pass as the driver does, until `end`, in ms: says what was done, and when.
        fn run(&mut self, end: u32) -> Vec<(u128, Step)> {
            let end = self.start + MS * end;
            let mut steps = Vec::new();
            loop {
                let step = self.liveness.look(self.now, &self.seen);
                match step {
                    Step::Wait(at) => {
                        assert!(at > self.now, "it would spin");
                        if at > end {
                            break;
                        }
                        self.now = at;
                        continue;
                    }
                    Step::Idle => {
                        break;
                    }
                    Step::Ping(_) => {
                        self.seen.queued += 9;
                        if self.seen.written + 9 == self.seen.queued {
                            self.seen.written += 9;
                        }
                    }
                    Step::Inspect => {}
                }
                steps.push(((self.now - self.start).as_millis(), step));
            }
            self.now = end;
            steps
        }

        fn receive(&mut self) {
            self.seen.received_at = self.now;
        }

        fn pong(&mut self, number: u64) {
            self.receive();
            self.seen.pong = number;
        }
    }

    #[test]
    fn idle_connections_are_not_probed() {
        let mut world = World::new();
        assert_eq!(world.run(1_000_000), []);
        assert_eq!(world.liveness.look(world.now, &world.seen), Step::Idle);
    }

    #[test]
    fn silence_is_measured_from_the_question() {
        let mut world = World::new();
        world.run(60_000);
        world.seen.outstanding = true;
        let steps = world.run(63_100);
        assert_eq!(
            steps[..2],
            [(61_000, Step::Ping(1)), (63_000, Step::Inspect)]
        );
        assert!(world.liveness.is_suspect());
        assert!(
            world.liveness.delivered(Delivery::Unacknowledged),
            "a dead path is found out within 5 s"
        );
    }

    #[test]
    fn a_silent_peer_is_suspect_until_it_sends() {
        let mut world = World::new();
        world.seen.outstanding = true;
        world.run(10_000);
        assert!(world.liveness.is_suspect());
        assert!(
            !world.liveness.delivered(Delivery::Acknowledged)
                && !world.liveness.delivered(Delivery::Unknown)
        );
        world.pong(1);
        assert_eq!(world.run(10_900), []);
        assert!(!world.liveness.is_suspect());
        assert!(
            !world.liveness.delivered(Delivery::Unacknowledged),
            "an old finding says nothing any more"
        );
    }

    #[test]
    fn a_long_wait_sends_a_ping_each_second() {
        let mut world = World::new();
        world.seen.outstanding = true;
        for second in 1..100_u32 {
            let steps = world.run(second * 1000);
            assert_eq!(
                steps,
                [(u128::from(second) * 1000, Step::Ping(u64::from(second)))]
            );
            world.pong(u64::from(second));
        }
    }

    #[test]
    fn one_pong_confirms_a_message_without_an_answer() {
        let mut world = World::new();
        world.seen.unanswered = 1;
        assert_eq!(world.run(1000), [(1000, Step::Ping(1))]);
        // What is sent after the PING is not covered by it.
        world.seen.unanswered = 2;
        world.pong(1);
        assert_eq!(world.run(2000), [(2000, Step::Ping(2))]);
        world.pong(2);
        assert_eq!(world.run(60_000), []);
        assert_eq!(world.liveness.look(world.now, &world.seen), Step::Idle);
    }

    #[test]
    fn other_bytes_prove_liveness_but_not_delivery() {
        let mut world = World::new();
        world.seen.unanswered = 1;
        world.run(1500);
        world.receive();
        assert_eq!(world.run(2600), [(2500, Step::Ping(2))]);
        world.pong(2);
        assert_eq!(world.run(60_000), []);
    }

    #[test]
    fn a_message_still_being_written_is_not_silence() {
        let mut world = World::new();
        world.seen.outstanding = true;
        world.seen.queued = 1_000_000;
        assert_eq!(world.run(1000), [(1000, Step::Ping(1))]);
        for second in 1..40 {
            world.seen.written += 25_000 - 1;
            assert_eq!(world.run(1000 + second * 1000), [], "{second}");
        }
        // Now it stalls.
        let steps = world.run(50_000);
        assert!(
            matches!(steps[0], (40_000..43_000, Step::Inspect)),
            "{:?}",
            steps[0]
        );
    }

    #[test]
    fn a_peer_that_knows_no_ping_is_never_suspect() {
        let mut world = World::new();
        world.liveness = Liveness::new(false, world.start);
        world.seen.outstanding = true;
        assert_eq!(world.run(60_000), []);
        assert!(!world.liveness.is_suspect());
    }
}
