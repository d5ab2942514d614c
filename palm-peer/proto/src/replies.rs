//! Which replies of a server were asked for.
//!
//! A server answers each request once, so a client knows how many replies may come, also of
//! requests that it has given up (*late* replies). What comes beyond that is unsolicited:
//! [`UnsolicitedReplies`] says when it is too much. So a server can neither fill a client's memory
//! nor keep it busy, whatever it sends.

#[cfg(test)]
mod tests;

use crate::limits::rate_limiter::RateLimiter;
use foldhash::{HashMap, HashMapExt as _};
use std::time::Instant;
use uuid::Uuid;

/// The maximum of unsolicited replies in a second.
pub const MAX_UNSOLICITED_PER_SECOND: u32 = 10_000;

/// The maximum number of reports per attempt that a message was rerouted, or lost.
pub const MAX_REPORTS: u32 = 8;

/// What a reply is.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrived<T> {
    /// It is for this receiver.
    For(T),
    /// Its request was given up.
    Late,
    /// It answers no request.
    Unsolicited,
}

/// The messages of a client's jobs, each job with its receiver (`T`).
#[derive(Debug)]
pub struct JobReplies<T> {
    jobs: HashMap<Uuid, JobRoute<T>>,
    /// The number of given-up requests whose replies may still come.
    late: u64,
}

#[derive(Debug)]
struct JobRoute<T> {
    receiver: T,
    /// What may still come for each message, even if the job has ended.
    expected: HashMap<u64, Expected>,
}

/// The answers and reports that may still come for a message.
#[derive(Debug, Default)]
struct Expected {
    /// Replies: one for each attempt.
    replies: u32,
    /// Reports: up to [`MAX_REPORTS`] per attempt.
    reports: u32,
}

impl<T> Default for JobReplies<T> {
    fn default() -> Self {
        Self {
            jobs: HashMap::new(),
            late: 0,
        }
    }
}

impl<T> JobReplies<T> {
    /// A job begins: as many replies are for its receiver as are [registered](Self::register).
    pub fn open(&mut self, job: Uuid, receiver: T) {
        self.jobs.insert(
            job,
            JobRoute {
                receiver,
                expected: HashMap::new(),
            },
        );
    }

    /// An attempt of this message is about to be sent, and may have one reply.
    pub fn register(&mut self, job: Uuid, idx: u64) {
        if let Some(route) = self.jobs.get_mut(&job) {
            let expected = route.expected.entry(idx).or_default();
            expected.replies += 1;
            expected.reports += MAX_REPORTS;
        }
    }

    /// Takes back one [`register`](Self::register): it was not sent after all.
    pub fn unregister(&mut self, job: Uuid, idx: u64) {
        if let Some(route) = self.jobs.get_mut(&job) {
            route.take_reply(idx);
        }
    }

    /// Further replies to this message are dropped.
    pub fn discard(&mut self, job: Uuid, idx: u64) {
        let left = self
            .jobs
            .get_mut(&job)
            .and_then(|route| route.expected.remove(&idx));
        self.late += left.map_or(0, |expected| u64::from(expected.replies));
    }

    /// A job is over: further replies are dropped.
    pub fn close(&mut self, job: Uuid) {
        let expected = self
            .jobs
            .remove(&job)
            .map(|route| route.expected)
            .unwrap_or_default();
        self.late += expected
            .into_values()
            .map(|expected| u64::from(expected.replies))
            .sum::<u64>();
    }

    /// A reply has come, with the job and number that it has, or a report, which is no reply.
    pub fn arrived(&mut self, job: Uuid, idx: Option<u64>, is_report: bool) -> Arrived<&T> {
        if let Some(route) = self.jobs.get_mut(&job)
            && idx.is_some_and(|idx| {
                if is_report {
                    route.take_report(idx)
                } else {
                    route.take_reply(idx)
                }
            })
        {
            return Arrived::For(&route.receiver);
        }
        if is_report {
            Arrived::Unsolicited
        } else {
            take_late(&mut self.late)
        }
    }
}

impl<T> JobRoute<T> {
    /// Takes one of the replies that a message may get, if there is one left.
    fn take_reply(&mut self, idx: u64) -> bool {
        let Some(expected) = self.expected.get_mut(&idx) else {
            return false;
        };
        expected.replies -= 1;
        if expected.replies == 0 {
            self.expected.remove(&idx);
        }
        true
    }

    /// Uses up one of the allowed reports, if one is left.
    fn take_report(&mut self, idx: u64) -> bool {
        let Some(expected) = self
            .expected
            .get_mut(&idx)
            .filter(|expected| expected.reports > 0)
        else {
            return false;
        };
        expected.reports -= 1;
        true
    }
}

fn take_late<T>(late: &mut u64) -> Arrived<T> {
    match late.checked_sub(1) {
        Some(left) => {
            *late = left;
            Arrived::Late
        }
        None => Arrived::Unsolicited,
    }
}

/// Counts what comes over one link: an honest server sends nothing unsolicited.
#[derive(Debug)]
pub struct UnsolicitedReplies {
    unsolicited: RateLimiter,
    all: u32,
}

impl UnsolicitedReplies {
    /// Nothing has come yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            unsolicited: RateLimiter::new(MAX_UNSOLICITED_PER_SECOND, now),
            all: 0,
        }
    }

    /// Counts a reply. Returns whether the link may stay: not after too many unsolicited replies.
    #[must_use]
    pub fn count(&mut self, was_asked_for: bool, now: impl FnOnce() -> Instant) -> bool {
        self.all = self.all.wrapping_add(1);
        was_asked_for || self.unsolicited.try_acquire(now())
    }

    /// Whether others should run first: a link that always has more to read must not keep a
    /// thread for itself.
    #[must_use]
    pub fn should_yield(&self) -> bool {
        self.all.is_multiple_of(256)
    }
}
