//! Happy Eyeballs (RFC 8305, sections 4 and 5): the order in which the addresses of a host name are
//! tried, and when.
//!
//! Otherwise one black-holed address would delay a connection for the minutes that the system
//! keeps trying it.
//!
//! An address is also tried again beside an attempt that has no answer: TCP waits for 1 s before it
//! repeats the first packet of a connection, so that over a path with packet loss it would often
//! take longer than a connection may.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// How long an attempt runs before the next one starts beside it.
pub(crate) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// How often each address is tried again. Each attempt takes a descriptor.
const REPEATS: usize = 1;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Connect to this address, beside the attempts that run.
    Start(SocketAddr),
    /// Wait for the running attempts, at most until this time.
    WaitUntil(Instant),
    /// Wait for the running attempts: there is no other address.
    Wait,
    /// All have failed.
    GiveUp,
}

/// The attempts to reach one host.
#[derive(Debug)]
pub struct Attempts {
    untried: VecDeque<SocketAddr>,
    /// Those that are tried again after all were tried.
    repeats: VecDeque<SocketAddr>,
    /// Those that have not failed.
    left: Vec<SocketAddr>,
    /// When the next attempt starts.
    next: Instant,
}

impl Attempts {
    /// Creates the attempts for these addresses, the preferred one first.
    #[must_use]
    pub fn new(addresses: &[SocketAddr], now: Instant) -> Self {
        let sorted = interleave(addresses);
        Self {
            repeats: sorted.repeat(REPEATS).into(),
            left: sorted.clone(),
            untried: sorted.into(),
            next: now,
        }
    }

    /// Returns what to do now. After [`Step::Start`], call again.
    pub fn step(&mut self, now: Instant) -> Step {
        if self.left.is_empty() {
            return Step::GiveUp;
        }
        let queue = if self.untried.is_empty() {
            let left = &self.left;
            self.repeats.retain(|address| left.contains(address));
            &mut self.repeats
        } else {
            &mut self.untried
        };
        let Some(address) = queue.front().copied() else {
            return Step::Wait;
        };
        if now < self.next {
            return Step::WaitUntil(self.next);
        }
        queue.pop_front();
        self.next = now + ATTEMPT_DELAY;
        Step::Start(address)
    }

    /// An attempt at this address has failed: the next address is tried at once. Returns
    /// whether this is news.
    pub fn failed(&mut self, address: SocketAddr, now: Instant) -> bool {
        if !self.untried.is_empty() {
            self.next = now;
        }
        let pos = self.left.iter().position(|left| *left == address);
        pos.map(|pos| self.left.remove(pos)).is_some()
    }
}

/// Alternates between IPv6 and IPv4, beginning with the family of the first address, so that a
/// family that does not work costs one delay. The order within a family stays: the system has
/// sorted them by RFC 6724, which puts IPv6 first where it works.
fn interleave(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (preferred, other): (Vec<_>, Vec<_>) = addresses
        .iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let mut other = other.into_iter();
    let mut sorted: Vec<SocketAddr> = Vec::with_capacity(addresses.len());
    for address in preferred {
        sorted.push(address);
        sorted.extend(other.next());
    }
    sorted.extend(other);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter()
            .map(|ip| SocketAddr::new(ip.parse().expect("an address"), 80))
            .collect()
    }

    #[test]
    fn families_alternate_and_begin_with_the_systems_choice() {
        for (given, wanted) in [
            (
                &["::1", "::2", "::3", "1.1.1.1"][..],
                &["::1", "1.1.1.1", "::2", "::3"][..],
            ),
            (
                &["1.1.1.1", "2.2.2.2", "::1"],
                &["1.1.1.1", "::1", "2.2.2.2"],
            ),
            (
                &["1.1.1.1", "::1", "::2", "::3"],
                &["1.1.1.1", "::1", "::2", "::3"],
            ),
            (&["1.1.1.1", "2.2.2.2"], &["1.1.1.1", "2.2.2.2"]),
            (&[], &[]),
        ] {
            assert_eq!(interleave(&addresses(given)), addresses(wanted));
        }
    }

    /// How an attempt ends: how long after its start, in ms, and whether it
    /// succeeds. `None`: never.
    type End = Option<(u32, bool)>;

    /// Plays the attempts through. Returns when each was started, in ms, and when one succeeded,
    /// or all had failed.
    fn play(ends: &[End]) -> (Vec<u128>, Option<(u128, bool)>) {
        let list: Vec<_> = (1..=ends.len()).map(|i| format!("10.0.0.{i}")).collect();
        let list = addresses(&list.iter().map(String::as_str).collect::<Vec<_>>());
        let start = Instant::now();
        let (mut now, mut started, mut running) = (start, Vec::new(), Vec::new());
        let mut attempts = Attempts::new(&list, now);
        loop {
            let step = attempts.step(now);
            let next_end = running.iter().min().copied();
            let at = match step {
                // Those that are tried again do not answer either.
                Step::Start(_) if started.len() == list.len() => continue,
                Step::Start(address) => {
                    assert_eq!(address, list[started.len()]);
                    running.extend(
                        ends[started.len()]
                            .map(|(after, success)| (now + MS * after, success, address)),
                    );
                    started.push((now - start).as_millis());
                    continue;
                }
                Step::GiveUp => return (started, Some(((now - start).as_millis(), false))),
                Step::Wait if next_end.is_none() => return (started, None),
                Step::Wait => None,
                Step::WaitUntil(at) => {
                    assert!(at > now, "it would spin");
                    Some(at)
                }
            };
            match next_end {
                Some((end, success, address)) if at.is_none_or(|at| end <= at) => {
                    now = end;
                    if success {
                        return (started, Some(((now - start).as_millis(), true)));
                    }
                    running.retain(|other| *other != (end, success, address));
                    assert!(attempts.failed(address, now));
                }
                _ => now = at.expect("a time, for nothing ends before"),
            }
        }
    }

    #[test]
    fn the_next_address_waits_for_a_delay_or_a_failure() {
        for (ends, starts, outcome) in [
            // The first works: no other is bothered.
            (&[Some((200, true)), None][..], &[0][..], Some((200, true))),
            (&[None, Some((10, true))], &[0, 250], Some((260, true))),
            (
                &[Some((0, false)), Some((10, true))],
                &[0, 0],
                Some((10, true)),
            ),
            (
                &[Some((100, false)), None, Some((5, true))],
                &[0, 100, 350],
                Some((355, true)),
            ),
            // A slow one still wins if it comes first.
            (
                &[Some((400, true)), None, None],
                &[0, 250],
                Some((400, true)),
            ),
            (
                &[Some((10, false)), Some((20, false)), Some((30, false))],
                &[0, 10, 30],
                Some((60, false)),
            ),
            (&[None, None, None], &[0, 250, 500], None),
            (
                &[None, Some((50, false)), Some((1, true))],
                &[0, 250, 300],
                Some((301, true)),
            ),
            (&[], &[], Some((0, false))),
        ] {
            assert_eq!(play(ends), (starts.to_vec(), outcome), "{ends:?}");
        }
    }

    #[test]
    fn an_address_without_an_answer_is_tried_again_until_it_fails() {
        let list = addresses(&["10.0.0.1", "10.0.0.2"]);
        let start = Instant::now();
        let mut attempts = Attempts::new(&list, start);
        let mut started = Vec::new();
        let mut now = start;
        loop {
            match attempts.step(now) {
                Step::Start(address) => {
                    let at = list.iter().position(|listed| *listed == address);
                    started.push(((now - start).as_millis(), at.expect("one of them")));
                    if started.len() == 3 {
                        assert!(attempts.failed(list[1], now), "it is refused");
                        assert!(!attempts.failed(list[1], now));
                    }
                }
                Step::WaitUntil(at) => now = at,
                Step::Wait => break,
                Step::GiveUp => panic!("the first may still answer"),
            }
        }
        assert_eq!(started, [(0, 0), (250, 1), (500, 0)]);
        assert!(attempts.failed(list[0], now));
        assert_eq!(attempts.step(now), Step::GiveUp);
    }

    #[test]
    fn a_working_address_among_any_others_is_found_in_time() {
        let mut random = fastrand::Rng::with_seed(8305);
        for _ in 0..10_000 {
            let mut ends: Vec<End> = (0..random.usize(..8))
                .map(|_| random.bool().then(|| (random.u32(..1000), false)))
                .collect();
            let before = u128::try_from(random.usize(..=ends.len())).expect("small");
            ends.insert(usize::try_from(before).expect("small"), Some((20, true)));
            let (started, outcome) = play(&ends);
            let (at, success) = outcome.expect("it ends");
            assert!(success && at <= before * 250 + 20, "{at} {ends:?}");
            assert!(started.len() <= ends.len());
        }
    }
}
