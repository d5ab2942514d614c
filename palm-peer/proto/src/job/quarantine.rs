//! The queue for final attempts of messages whose attempts were lost with servers.
//!
//! One of them may be a poison message. If all were sent at once, the others could lose their final
//! attempt with it. So they are sent one by one: the next one when the previous one has ended, or
//! has run for a while without harm.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How long one that does not end delays the next one at most.
const SETTLED: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Quarantine {
    waiting: VecDeque<u64>,
    /// The message whose attempt is in flight, and until when the next one waits for it.
    out: Option<(u64, Instant)>,
    /// The time from which the pace is derived: see `wait`.
    attempt_timeout: Duration,
}

impl Quarantine {
    pub(super) fn new(attempt_timeout: Duration) -> Self {
        Self {
            waiting: VecDeque::new(),
            out: None,
            attempt_timeout,
        }
    }

    pub(super) fn join(&mut self, idx: u64) {
        self.waiting.push_back(idx);
    }

    /// Removes a message whose attempt is over.
    pub(super) fn leave(&mut self, idx: u64) {
        if self.out.is_some_and(|(out, _)| out == idx) {
            self.out = None;
        }
    }

    /// Returns, once, the message that is to be sent now.
    pub(super) fn next(&mut self, now: Instant) -> Option<u64> {
        if self.out.is_some_and(|(_, until)| now < until) {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.out = Some((next, now + wait(self.waiting.len(), self.attempt_timeout)));
        Some(next)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + usize::from(self.out.is_some())
    }

    /// Returns when to call [`Quarantine::next`] again, unless a message leaves before.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.waiting.is_empty() {
            return None;
        }
        self.out.map(|(_, until)| until)
    }
}

/// Returns how long the next one waits for one that does not end, with so many waiting: all must
/// be sent within a fourth of `attempt_timeout`, or slow messages in a long queue would miss
/// their deadlines.
fn wait(waiting: usize, attempt_timeout: Duration) -> Duration {
    let share = attempt_timeout / 4 / u32::try_from(waiting.max(1)).unwrap_or(u32::MAX);
    share.min(SETTLED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_quarantine_queue_moves_faster() {
        for (waiting, attempt_timeout, expected) in [
            (0, 10_000, 100),
            (25, 10_000, 100),
            (100, 10_000, 25),
            (1, 80, 20),
        ] {
            let (attempt_timeout, expected) = (
                Duration::from_millis(attempt_timeout),
                Duration::from_millis(expected),
            );
            assert_eq!(
                wait(waiting, attempt_timeout),
                expected,
                "{waiting} with {attempt_timeout:?}"
            );
        }
    }

    #[test]
    fn the_next_is_sent_when_the_previous_ended_or_settled() {
        let now = Instant::now();
        let mut lane = Quarantine::new(Duration::from_secs(10));
        for idx in 0..3 {
            lane.join(idx);
        }
        assert_eq!((lane.next(now), lane.next(now)), (Some(0), None));
        assert_eq!(lane.due(), Some(now + SETTLED));
        lane.leave(7);
        assert_eq!(lane.next(now), None, "another's end is not its end");
        lane.leave(0);
        assert_eq!(lane.next(now), Some(1));
        assert_eq!(lane.next(now + SETTLED), Some(2));
        assert_eq!((lane.due(), lane.next(now + SETTLED * 2)), (None, None));
    }
}
