//! Probing: rounds over all servers, and the series of probes for a server that missed one.

use super::{Action, Entry, OVERSLEPT, RETRY, Registry, Token, suspicion::Charge};
use log::Level;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Each server is probed over a new connection once in this many rounds.
const FRESH_EVERY: u64 = 6;
/// Up to this number of servers, a round is logged as pylm logs it (docs/pylm-compatibility.md),
/// and probes all of them at its start. Above, only changes and one line for each round are logged.
pub const MAX_LISTED: usize = 20;
/// By how much each further server extends the part of the period over which the probes are spread.
const SPREAD: Duration = Duration::from_millis(2);
/// The probes of a mesh are sent in groups, so that the leader wakes up once for each: as many at a
/// time as in a mesh of [`MAX_LISTED`] servers.
const GROUP: Duration = SPREAD.saturating_mul(20);
/// How much later than a period after its last answer a server's turn may come: more than the delay
/// of a late timer, so that servers keep their places in the period; little enough that a silent
/// server is removed within 15 s with the default settings.
const SLACK: Duration = Duration::from_millis(500);

impl Registry {
    pub(super) fn start_round(&mut self, now: Instant) {
        self.next_round = now + self.period;
        self.rounds += 1;
        let count = self.servers.len();
        if count == 0 {
            // No server is left that this leader could fail to reach.
            self.evidence.clear();
            self.unreached.clear();
            self.log(Level::Info, "No servers found");
            self.log_summary(0);
            return;
        }
        self.log(
            self.detail(),
            format!("Found {count} servers, probing all of them"),
        );
        self.log(self.detail(), format!("{count} servers remaining"));
        self.round = Some(0);
        let uuids: Vec<Uuid> = self.servers.keys().copied().collect();
        for uuid in uuids {
            self.give_turn(uuid, now);
            self.schedule(uuid);
        }
    }

    /// Schedules the probe of a server at its place in the round that begins now. A series of
    /// probes in progress then replaces it.
    ///
    /// A place moves when the mesh grows, but a server never waits much longer than a period after
    /// its last answer.
    fn give_turn(&mut self, uuid: Uuid, now: Instant) {
        let place = now + place(uuid, self.window());
        let longest = self.period + SLACK;
        if let Some(entry) = self
            .servers
            .get_mut(&uuid)
            .filter(|entry| entry.doom.is_none())
        {
            entry.turn_at = Some(match entry.answered_at {
                Some(at) if !entry.is_failing => place.min(at + longest),
                _ => place,
            });
        }
    }

    /// Gives a server that has registered a turn in the current round, if its place is still to
    /// come: the one in the next round may be almost two periods away. The mesh may still grow, so
    /// the latest possible place is used.
    pub(super) fn join_round(&mut self, uuid: Uuid, now: Instant) {
        if self.window().is_zero() {
            return;
        }
        let place = (self.next_round + place(uuid, self.longest_window())).checked_sub(self.period);
        if let Some(entry) = self.servers.get_mut(&uuid) {
            entry.turn_at = place.filter(|at| *at > now);
        }
    }

    /// Returns the part of the period over which the probes of a round are spread, each server at
    /// its own place: zero for a few servers, most of the period for thousands.
    fn window(&self) -> Duration {
        let further = self.servers.len().saturating_sub(MAX_LISTED);
        SPREAD
            .saturating_mul(u32::try_from(further).unwrap_or(u32::MAX))
            .min(self.longest_window())
    }

    fn longest_window(&self) -> Duration {
        self.period.mul_f64(0.8)
    }

    /// Returns the level of the lines that pylm logs for each server and round.
    pub(super) fn detail(&self) -> Level {
        if self.servers.len() > MAX_LISTED {
            Level::Debug
        } else {
            Level::Info
        }
    }

    /// Ends the round when no probe is in flight and no series is unfinished.
    pub(super) fn end_round_if_over(&mut self, now: Instant) {
        let Some(dead) = self.round else { return };
        let overdue = now >= self.next_round;
        if self.schedule.busy == 0 || overdue {
            self.round = None;
            self.suspect_oneself();
            self.log_summary(dead);
        }
    }

    fn log_summary(&mut self, dead: usize) {
        let remaining = self.servers.len();
        if remaining > MAX_LISTED {
            let text = format!(
                "{remaining} servers remaining, {dead} dead, {} still being probed",
                self.schedule.busy
            );
            return self.log(Level::Info, text);
        }
        self.log(Level::Info, format!("{dead} dead servers"));
        self.log(Level::Info, format!("{remaining} servers remaining"));
    }

    /// Probes a server: at once if a series of probes is under way, else when its turn in the queue
    /// comes ([`Registry::run_due`]).
    pub(super) fn probe(&mut self, uuid: Uuid, now: Instant) {
        let Some(entry) = self.servers.get_mut(&uuid) else {
            return;
        };
        if !entry.probes.is_empty() || entry.retry_at.is_some() {
            self.send_probe(uuid, now);
        } else if entry.queued.is_none() {
            let is_unreachable = entry.is_failing && !entry.record.configured;
            entry.queued = Some(self.schedule.enqueue(is_unreachable));
        }
    }

    /// Sends a probe, and schedules the next one of the series in case no answer comes. Each has
    /// its full timeout, so a dead server is found `timeout + (misses - 1) * RETRY` after the first
    /// probe. All but the first, and sometimes the first, use a new connection.
    pub(super) fn send_probe(&mut self, uuid: Uuid, now: Instant) {
        let max = self.most_misses;
        let token = Token(self.next_token);
        // Spreads the servers over the rounds.
        let has_turn = (self.rounds + u64::from(uuid.as_bytes()[15])).is_multiple_of(FRESH_EVERY);
        let Some(entry) = self.servers.get_mut(&uuid) else {
            return;
        };
        self.next_token += 1;
        entry.sent += 1;
        if entry.sent == 1 {
            entry.missed.clear();
        }
        entry.retry_at = (entry.sent < max).then_some(now + RETRY);
        entry.probes.push((token, now + self.timeout));
        let fresh = has_turn || entry.sent > 1;
        self.actions.push(Action::Probe {
            uuid,
            endpoint: entry.record.endpoint(),
            token,
            fresh,
        });
    }

    /// A probe could not be sent because of a local error. It is not a miss, and the series ends
    /// without a result until the next round.
    pub(super) fn unsent(&mut self, uuid: Uuid, token: Token, reason: &str, now: Instant) {
        let Some(entry) = self.servers.get_mut(&uuid) else {
            return;
        };
        if !entry.end_probe(token) {
            return;
        }
        entry.retry_at = None;
        let endpoint = entry.record.endpoint();
        if let Some(suppressed) = self.unsent_lines.should_log((), now) {
            let text = format!(
                "Server {uuid} at {endpoint} could not be probed, because of a local error of this leader: {reason}; \
                 this does not count as a miss; raise this leader's limit of open files (ulimit -n, LimitNOFILE=) if none are \
                 left{suppressed}"
            );
            self.log(Level::Warn, text);
        }
    }

    pub(super) fn answered(&mut self, uuid: Uuid, token: Token, digest: &str, now: Instant) {
        let in_round = self.round.is_some();
        let Some(entry) = self.servers.get_mut(&uuid) else {
            return;
        };
        let is_late = entry.doom.is_none() && entry.missed.contains(&token);
        if !entry.end_probe(token) && !is_late {
            return;
        }
        entry.acquit();
        entry.answered_at = Some(now);
        entry.is_failing = false;
        entry.last_error = None;
        // A digest with a full entry reports an error.
        let level = if digest.contains(':') {
            Level::Info
        } else {
            self.detail()
        };
        if in_round && level <= self.verbosity {
            self.log_digest(uuid, level, digest);
        }
        self.reconcile(uuid);
    }

    fn log_digest(&mut self, uuid: Uuid, level: Level, digest: &str) {
        if let Some(Entry { record, .. }) = self.servers.get(&uuid) {
            let line = format!("{uuid}/{}/{} : b'{digest}'", record.server, record.kind);
            self.log(level, line);
        }
    }

    pub(super) fn unanswered(&mut self, uuid: Uuid, token: Token, reason: String, now: Instant) {
        let max = self.most_misses;
        let Some(entry) = self.servers.get_mut(&uuid) else {
            return;
        };
        if !entry.end_probe(token) {
            return;
        }
        entry.misses += 1;
        entry.missed.push(token);
        entry.is_failing = true;
        let endpoint = entry.record.endpoint();
        let (misses, configured) = (entry.misses, entry.record.configured);
        if configured {
            self.log(
                Level::Warn,
                format!("Server {uuid} missed probe {misses} of {max} at {endpoint}: {reason}"),
            );
        } else if entry.last_error.as_ref() != Some(&reason) {
            let text = format!(
                "Server {uuid} stays unconfigured: it does not answer at {endpoint}: {reason}"
            );
            entry.last_error = Some(reason);
            self.log(Level::Warn, text);
        }
        // No decision falls before the last miss, so witnesses have as long as that.
        let rest = RETRY * max.saturating_sub(misses);
        if misses == 1 {
            self.inquire(uuid, self.timeout.max(rest), now);
        } else if configured && misses < max {
            self.inquire(uuid, rest, now);
        }
        if !configured && misses >= max {
            self.mention_loopback(uuid, now);
        }
        if configured && misses >= max {
            self.charge(uuid, Charge::SILENT, now);
        }
    }

    /// A process that this leader had reached is gone. One that it never reached may only have
    /// advertised a wrong address.
    pub(super) fn gone(&mut self, uuid: Uuid, now: Instant) {
        if let Some(entry) = self
            .servers
            .get_mut(&uuid)
            .filter(|entry| entry.answered_at.is_some())
        {
            entry.is_failing = true;
            self.charge(uuid, Charge::GONE, now);
        }
    }

    pub(super) fn tick_server(&mut self, uuid: Uuid, now: Instant) {
        while let Some(token) = self.overdue_probe(uuid, now) {
            let reason = format!("no answer within {:?}", self.timeout);
            self.unanswered(uuid, token, reason, now);
        }
        if self
            .servers
            .get(&uuid)
            .and_then(|e| e.inquiry.as_ref())
            .is_some_and(|inquiry| now >= inquiry.deadline)
        {
            self.end_inquiry(uuid, now);
        }
        let Some(entry) = self.servers.get_mut(&uuid) else {
            return;
        };
        let has_turn = entry.turn_at.take_if(|at| now >= *at).is_some() && !entry.is_questioned();
        if has_turn || entry.retry_at.is_some_and(|at| now >= at) {
            self.probe(uuid, now);
        }
    }

    fn overdue_probe(&self, uuid: Uuid, now: Instant) -> Option<Token> {
        let probes = &self.servers.get(&uuid)?.probes;
        probes
            .iter()
            .find(|(_, deadline)| now >= *deadline)
            .map(|(token, _)| *token)
    }

    /// This process was paused (SIGSTOP, VM suspend), so outstanding probe deadlines
    /// are meaningless. The series start again, with new probes: the answers to the old
    /// ones may be lost.
    pub(super) fn reset_probes_after_pause(&mut self, now: Instant) {
        if now <= self.deadline() + OVERSLEPT {
            return;
        }
        self.next_round = self.next_round.max(now);
        let questioned = |entry: &Entry| {
            entry.is_in_series() || entry.inquiry.is_some() || entry.charge.is_some()
        };
        let questioned = self
            .servers
            .iter_mut()
            .filter(|(_, entry)| questioned(entry));
        let again: Vec<Uuid> = questioned
            .map(|(uuid, entry)| {
                entry.acquit();
                *uuid
            })
            .collect();
        for uuid in &again {
            self.schedule(*uuid);
        }
        for uuid in again {
            self.probe(uuid, now);
            self.schedule(uuid);
        }
    }
}

/// Returns when in a round a server is probed, if the probes are spread over `window`. Uuids are
/// random, except for their version bits.
fn place(uuid: Uuid, window: Duration) -> Duration {
    let bytes = uuid.as_bytes();
    let phase = f64::from(u16::from_be_bytes([bytes[14], bytes[15]])) / 65_536.0;
    GROUP.mul_f64(window.mul_f64(phase).div_duration_f64(GROUP).floor())
}
