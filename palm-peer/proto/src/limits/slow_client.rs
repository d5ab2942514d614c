//! Timeouts of clients that make no progress.
//!
//! Both types are called while a connection waits, and return until when to wait.

use crate::zmtp::RejectReason;
use std::time::{Duration, Instant};

/// How long a client may accept none of the bytes that wait for it, or stop in the
/// middle of a message.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How often the rate of a long frame is checked, if others wait for a permit.
pub const RATE_CHECK_PERIOD: Duration = Duration::from_secs(5);

/// How many bytes of a long frame must have arrived per second.
pub const MIN_BYTES_PER_SECOND: u64 = 1024 * 1024;

/// Detects a client that does not read its responses.
#[derive(Debug, Default)]
pub struct SlowReader {
    /// How many bytes had been sent at the last call.
    sent: u64,
    /// Since when nothing more was sent.
    since: Option<Instant>,
}

impl SlowReader {
    /// Everything that waited was sent.
    pub fn flushed(&mut self) {
        self.since = None;
    }

    /// Bytes wait to be sent, and this many have been sent so far. Returns until when to
    /// wait for progress.
    ///
    /// # Errors
    /// When there was no progress for [`STALL_TIMEOUT`].
    pub fn waiting(&mut self, sent: u64, now: Instant) -> Result<Instant, RejectReason> {
        if sent != self.sent {
            self.sent = sent;
            self.since = None;
        }
        not_stalled(*self.since.get_or_insert(now) + STALL_TIMEOUT, now)
    }
}

/// Detects a client that does not complete its messages.
#[derive(Debug, Default)]
pub struct SlowSender {
    /// Since when it has sent nothing.
    since: Option<Instant>,
    /// The longest silence between two messages that it announced.
    max_silence: Option<Duration>,
    /// Since when the rate of a long frame is measured, and how many bytes were to come then.
    measured: Option<(Instant, u64)>,
    next_rate_check: Option<Instant>,
}

impl SlowSender {
    /// Something came, or a permit is awaited.
    pub fn progress(&mut self) {
        self.since = None;
    }

    /// Nothing is read, so nothing can come. `for_itself`: because the client does not
    /// read its responses.
    pub fn paused(&mut self, for_itself: bool) {
        self.since = None;
        if !for_itself {
            self.measured = None;
            self.next_rate_check = None;
        }
    }

    /// The client announced its longest silence; zero if it may be silent forever.
    pub fn announced(&mut self, max_silence: Duration) {
        self.max_silence = (!max_silence.is_zero()).then_some(max_silence);
    }

    /// Nothing has arrived, between two messages or within one. Returns until when to wait;
    /// `None` means forever.
    ///
    /// # Errors
    /// When nothing has arrived for too long.
    pub fn waiting(
        &mut self,
        within_message: bool,
        now: Instant,
    ) -> Result<Option<Instant>, RejectReason> {
        let Some(max) = (if within_message {
            Some(STALL_TIMEOUT)
        } else {
            self.max_silence
        }) else {
            return Ok(None);
        };
        not_stalled(*self.since.get_or_insert(now) + max, now).map(Some)
    }

    /// So many bytes of a long frame that has a permit have not come yet; zero if there is none.
    /// Returns when to check its rate again, if there is something to check.
    ///
    /// # Errors
    /// When it arrives too slowly, and others wait for the permit that it holds.
    pub fn check_rate(
        &mut self,
        left: u64,
        now: Instant,
        others_wait: impl FnOnce() -> bool,
    ) -> Result<Option<Instant>, RejectReason> {
        if left == 0 {
            self.measured = None;
            self.next_rate_check = None;
            return Ok(None);
        }
        let (since, bytes) = *self.measured.get_or_insert((now, left));
        let next = *self.next_rate_check.get_or_insert(now + RATE_CHECK_PERIOD);
        if now < next {
            return Ok(Some(next));
        }
        let seconds = now.saturating_duration_since(since).as_secs();
        if bytes.saturating_sub(left) < MIN_BYTES_PER_SECOND * seconds && others_wait() {
            return Err(RejectReason::Stalled);
        }
        self.next_rate_check = Some(now + RATE_CHECK_PERIOD);
        Ok(self.next_rate_check)
    }
}

fn not_stalled(until: Instant, now: Instant) -> Result<Instant, RejectReason> {
    if now < until {
        Ok(until)
    } else {
        Err(RejectReason::Stalled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_client_that_takes_nothing_is_stalled_after_the_timeout() {
        let (mut reader, start) = (SlowReader::default(), Instant::now());
        assert_eq!(reader.waiting(10, start), Ok(start + STALL_TIMEOUT));
        assert_eq!(
            reader.waiting(10, start + 29 * SECOND),
            Ok(start + STALL_TIMEOUT)
        );
        assert_eq!(
            reader.waiting(11, start + 29 * SECOND),
            Ok(start + 59 * SECOND),
            "a byte is progress"
        );
        assert_eq!(
            reader.waiting(11, start + 59 * SECOND),
            Err(RejectReason::Stalled)
        );
        reader.flushed();
        assert!(
            reader.waiting(11, start + 60 * SECOND).is_ok(),
            "nothing waited in between"
        );
    }

    #[test]
    fn silence_between_messages_is_bounded_only_if_it_was_announced() {
        let (mut sender, start) = (SlowSender::default(), Instant::now());
        assert_eq!(sender.waiting(false, start), Ok(None));
        assert_eq!(sender.waiting(true, start), Ok(Some(start + STALL_TIMEOUT)));
        assert_eq!(
            sender.waiting(true, start + STALL_TIMEOUT),
            Err(RejectReason::Stalled)
        );
        sender.progress();
        sender.announced(SECOND);
        assert_eq!(sender.waiting(false, start), Ok(Some(start + SECOND)));
        assert_eq!(
            sender.waiting(false, start + SECOND),
            Err(RejectReason::Stalled)
        );
        sender.announced(Duration::ZERO);
        assert_eq!(sender.waiting(false, start + 100 * SECOND), Ok(None));
    }

    #[test]
    fn silence_begins_again_after_progress_and_after_a_pause() {
        let (mut sender, start) = (SlowSender::default(), Instant::now());
        assert!(sender.waiting(true, start).is_ok());
        sender.progress();
        let mut now = start + 2 * STALL_TIMEOUT;
        assert_eq!(sender.waiting(true, now), Ok(Some(now + STALL_TIMEOUT)));
        for for_itself in [false, true] {
            sender.paused(for_itself);
            now += 2 * STALL_TIMEOUT;
            assert_eq!(sender.waiting(true, now), Ok(Some(now + STALL_TIMEOUT)));
        }
    }

    #[test]
    fn a_long_frame_must_keep_its_rate_while_others_wait() {
        let (mut sender, start) = (SlowSender::default(), Instant::now());
        let (bytes, check) = (40 * MIN_BYTES_PER_SECOND, RATE_CHECK_PERIOD);
        assert_eq!(
            sender.check_rate(bytes, start, || true),
            Ok(Some(start + check))
        );
        assert_eq!(
            sender.check_rate(bytes, start + check, || false),
            Ok(Some(start + 2 * check)),
            "nobody waits"
        );
        let enough = bytes - 10 * MIN_BYTES_PER_SECOND;
        assert_eq!(
            sender.check_rate(enough, start + 2 * check, || true),
            Ok(Some(start + 3 * check))
        );
        assert_eq!(
            sender.check_rate(enough, start + 3 * check, || true),
            Err(RejectReason::Stalled)
        );
        assert_eq!(
            sender.check_rate(0, start + 3 * check, || true),
            Ok(None),
            "it is complete"
        );
        // The time between two long frames does not count.
        let short = start + 3 * check + SECOND;
        assert_eq!(
            sender.check_rate(bytes, short, || true),
            Ok(Some(short + check))
        );
        assert_eq!(sender.check_rate(0, short + SECOND, || true), Ok(None));
        let next = short + 3 * SECOND;
        assert_eq!(
            sender.check_rate(bytes, next, || true),
            Ok(Some(next + check))
        );
        assert_eq!(
            sender.check_rate(enough, next + check, || true),
            Ok(Some(next + 2 * check))
        );
    }

    /// A client that sends fast enough is not disconnected because the server does not read for a
    /// while. One that is too slow while it is read, or is not read because it does not read
    /// itself, makes room soon.
    #[test]
    fn the_time_in_which_the_server_reads_nothing_does_not_count() {
        let (mut stalled, mut ended) = (0, 0);
        for seed in 0..2000 {
            let mut random = Rng::with_seed(seed);
            let (mut sender, start) = (SlowSender::default(), Instant::now());
            let per_second = MIN_BYTES_PER_SECOND * [0, 1, 3, 4, 8][random.usize(0..5)] / 2;
            let for_itself = random.bool();
            let (mut now, mut left, mut read) = (start, 64 * MIN_BYTES_PER_SECOND, Duration::ZERO);
            let mut is_paused = false;
            let end = loop {
                now += 100 * MS;
                if random.u8(0..20) == 0 {
                    is_paused = !is_paused;
                }
                if is_paused {
                    sender.paused(for_itself);
                    read += if for_itself { 100 * MS } else { Duration::ZERO };
                } else {
                    read += 100 * MS;
                    left = left.saturating_sub(per_second / 10);
                }
                if is_paused && !for_itself {
                    continue;
                }
                match sender.check_rate(left, now, || true) {
                    Ok(None) => break Ok(()),
                    Ok(Some(next)) => {
                        assert!(next > now && next <= now + RATE_CHECK_PERIOD, "seed {seed}");
                    }
                    Err(reason) => break Err(reason),
                }
            };
            let is_fast = per_second > MIN_BYTES_PER_SECOND;
            if is_fast && !for_itself {
                assert_eq!(end, Ok(()), "seed {seed}: it was as fast as it must be");
            }
            if !is_fast && for_itself {
                assert!(
                    end.is_err() && read < 2 * RATE_CHECK_PERIOD,
                    "seed {seed}: {read:?}"
                );
            }
            (stalled, ended) = (
                stalled + u32::from(end.is_err()),
                ended + u32::from(end.is_ok()),
            );
        }
        assert!(stalled > 500 && ended > 500, "{stalled}, {ended}");
    }

    /// Whenever a client takes something, it is disconnected exactly when it has taken nothing
    /// for the timeout.
    #[test]
    fn only_stalled_clients_are_disconnected() {
        let mut stalls = 0;
        for seed in 0..10_000 {
            let mut random = Rng::with_seed(seed);
            let mut reader = SlowReader::default();
            let (start, mut sent) = (Instant::now(), 0);
            let (mut now, mut moved) = (start, start);
            let mut pauses = (0..20)
                .map(|_| random.u32(0..31_000) * MS)
                .collect::<Vec<_>>();
            let stalled = loop {
                let Some(pause) = pauses.pop() else {
                    break false;
                };
                // Asked again when it said, or when something moves, whichever is first.
                let until = reader
                    .waiting(sent, now)
                    .expect("something was sent just now");
                if moved + pause >= until {
                    now = until;
                    break reader.waiting(sent, now).is_err();
                }
                now += pause;
                moved = now;
                sent += 1;
            };
            assert!(!stalled || now == moved + STALL_TIMEOUT, "seed {seed}");
            assert!(
                stalled || pauses.is_empty(),
                "seed {seed}: it was not disconnected"
            );
            stalls += u32::from(stalled);
        }
        assert!((1000..9000).contains(&stalls), "{stalls}");
    }
}
