//! Decides whether a server that the leader cannot reach is dead, or only the path between them.
//!
//! A timeout alone proves nothing (Das, Gupta, Motivala: SWIM, 2002). As soon as a server misses a
//! probe, or its process seems to be gone, other servers (witnesses) are asked to reach it over new
//! connections. One success keeps the server. A leader that does not reach what others reach
//! resigns; when most of the mesh is unreachable to all, nothing is removed.

use super::{Action, Entry, RETRY, Registry, Token};
use crate::{config, types::record::Record};
use log::Level;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How many witnesses are asked.
const WITNESSES: usize = 3;
/// After how many rounds in a row in which it did not reach what others reach, or any other server,
/// a leader resigns.
const ROUNDS_TO_RESIGN: u32 = 2;

/// The answer of a witness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Testimony {
    /// It reached the server.
    Reached,
    /// It did not reach the server.
    NotReached,
    /// It could not be asked, or does not know the question.
    None,
}

/// The questions to witnesses about one server.
#[derive(Debug)]
pub(super) struct Inquiry {
    /// One for each time that witnesses were asked.
    tokens: Vec<Token>,
    /// Later answers do not count.
    pub(super) deadline: Instant,
    open: usize,
}

/// What witnesses found about a server during the current series of probes.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// The witness that reached it.
    reached_by: Option<Uuid>,
    /// How many did not reach it.
    not_reached: usize,
}

/// Why a server is to be removed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Charge {
    pub(super) reason: &'static str,
    /// Whether its process seems to be gone.
    pub(super) gone: bool,
}

impl Charge {
    pub(super) const SILENT: Self = Self {
        reason: "it does not answer",
        gone: false,
    };
    pub(super) const GONE: Self = Self {
        reason: "its process is gone",
        gone: true,
    };
}

impl Entry {
    /// Returns whether nothing suggests that it is dead.
    fn is_well(&self) -> bool {
        self.is_reachable() && self.answered_at.is_some() && !self.is_failing
    }

    pub(super) fn acquit(&mut self) {
        self.inquiry = None;
        self.charge = None;
        self.findings = Findings::default();
        self.missed.clear();
        self.end_series();
        self.sent = 0;
        self.misses = 0;
    }
}

impl Registry {
    /// Asks witnesses whether they reach a server, for no longer than `time`. Within a series they
    /// are asked more than once, and further answers are added to the findings: packets may be lost
    /// on their way too.
    pub(super) fn inquire(&mut self, uuid: Uuid, time: Duration, now: Instant) {
        let witnesses = self.witnesses(uuid);
        let Some(entry) = self.servers.get_mut(&uuid) else {
            return;
        };
        if entry.misses <= 1 && entry.inquiry.is_none() {
            entry.findings = Findings::default();
        }
        if witnesses.is_empty() || entry.findings.reached_by.is_some() {
            return;
        }
        let token = Token(self.next_token);
        self.next_token += 1;
        let inquiry = entry.inquiry.get_or_insert_with(|| Inquiry {
            tokens: Vec::new(),
            deadline: now,
            open: 0,
        });
        inquiry.tokens.push(token);
        inquiry.deadline = inquiry.deadline.max(now + time);
        inquiry.open += witnesses.len();
        self.actions.push(Action::Ask {
            uuid,
            token,
            witnesses,
            time,
        });
    }

    /// Returns random servers that are considered alive, and their endpoints.
    fn witnesses(&mut self, about: Uuid) -> Vec<(Uuid, String)> {
        let mut chosen: Vec<(Uuid, String)> = Vec::with_capacity(WITNESSES);
        let able = self
            .servers
            .iter()
            .filter(|(uuid, entry)| **uuid != about && **uuid != self.me && entry.is_well());
        // Reservoir sampling (Vitter, 1985: algorithm R).
        for (seen, (uuid, entry)) in able.enumerate() {
            let place = if seen < WITNESSES {
                seen
            } else {
                self.random.usize(..=seen)
            };
            let witness = || (*uuid, entry.record.endpoint());
            match chosen.get_mut(place) {
                Some(earlier) => *earlier = witness(),
                None if place < WITNESSES => chosen.push(witness()),
                None => {}
            }
        }
        chosen
    }

    pub(super) fn testified(
        &mut self,
        uuid: Uuid,
        token: Token,
        (witness, testimony): (Uuid, Testimony),
        now: Instant,
    ) {
        let Some(entry) = self.servers.get_mut(&uuid) else {
            return;
        };
        let Some(inquiry) = entry
            .inquiry
            .as_mut()
            .filter(|inquiry| inquiry.tokens.contains(&token))
        else {
            return;
        };
        inquiry.open -= 1;
        match testimony {
            Testimony::Reached => {
                entry.findings.reached_by = Some(witness);
                inquiry.open = 0;
            }
            Testimony::NotReached => entry.findings.not_reached += 1,
            Testimony::None => {}
        }
        if inquiry.open == 0 {
            self.end_inquiry(uuid, now);
        }
    }

    pub(super) fn end_inquiry(&mut self, uuid: Uuid, now: Instant) {
        let Some(entry) = self.servers.get_mut(&uuid) else {
            return;
        };
        entry.inquiry = None;
        if !entry.record.configured
            && let Some(witness) = entry.findings.reached_by
        {
            return self.path_is_broken(uuid, witness, now);
        }
        self.decide(uuid, now);
    }

    /// Marks a server for removal, once witnesses have been asked.
    pub(super) fn charge(&mut self, uuid: Uuid, charge: Charge, now: Instant) {
        let Some(entry) = self.servers.get_mut(&uuid) else {
            return;
        };
        if entry.doom.is_some() {
            return;
        }
        let asked = entry.inquiry.is_some()
            || entry.findings.reached_by.is_some()
            || entry.findings.not_reached > 0;
        entry.charge = Some(charge);
        entry.end_series();
        if !asked {
            self.inquire(uuid, self.timeout, now);
        }
        self.decide(uuid, now);
    }

    fn decide(&mut self, uuid: Uuid, now: Instant) {
        let Some(entry) = self.servers.get(&uuid) else {
            return;
        };
        if entry.inquiry.is_some() {
            return;
        }
        let Some(charge) = entry.charge else { return };
        let was_not_reached = entry.findings.not_reached > 0;
        if let Some(witness) = entry.findings.reached_by {
            return self.path_is_broken(uuid, witness, now);
        }
        let configured = || {
            self.servers
                .iter()
                .filter(|(_, entry)| entry.record.configured)
        };
        let mut others = configured()
            .filter(|(other, _)| **other != uuid && **other != self.me)
            .peekable();
        let is_cut_off = !was_not_reached
            && others.peek().is_some()
            && !others.any(|(_, entry)| entry.is_well());
        // Only servers that were probed as long ago as this one count: others have not had their
        // turn in the round yet.
        let since = if charge.gone {
            self.period + self.timeout
        } else {
            self.timeout + RETRY * self.most_misses
        };
        let answered = |entry: &Entry| {
            entry.is_well() && entry.answered_at.is_some_and(|at| at + since >= now)
        };
        let answered = configured().filter(|(_, entry)| answered(entry)).count();
        let failing = configured().filter(|(_, entry)| entry.is_failing).count();
        if is_cut_off || (failing > 1 && failing > answered) {
            return self.hold(uuid, (failing, failing + answered), is_cut_off, now);
        }
        self.remove(uuid, charge);
    }

    /// Keeps a server when most of the mesh is unreachable to all: that is no proof against any one
    /// server. Its lease decides.
    fn hold(
        &mut self,
        uuid: Uuid,
        (failing, count): (usize, usize),
        is_cut_off: bool,
        now: Instant,
    ) {
        if let Some(entry) = self.servers.get_mut(&uuid) {
            entry.acquit();
        }
        if is_cut_off {
            self.evidence.insert(uuid);
        }
        if let Some(suppressed) = self.held_lines.should_log((), now) {
            let text = format!(
                "{failing} of {count} servers cannot be reached, by this leader or by the servers that it asked: none of them \
                 is removed while their leases are renewed; check the network between the hosts{suppressed}"
            );
            self.log(Level::Warn, text);
        }
    }

    /// Keeps a server that a witness reaches.
    fn path_is_broken(&mut self, uuid: Uuid, witness: Uuid, now: Instant) {
        let Some(entry) = self.servers.get_mut(&uuid) else {
            return;
        };
        entry.acquit();
        let endpoint = entry.record.endpoint();
        // A loopback address means a different machine on each machine: it says nothing
        // about this leader.
        if !is_loopback(&entry.record) {
            self.evidence.insert(uuid);
        }
        if let Some(suppressed) = self.path_lines.should_log(uuid, now) {
            let text = format!(
                "Server {uuid} cannot be reached at {endpoint} from here, but server {witness} reaches it, so it stays: check \
                 the network between this leader and that server{suppressed}"
            );
            self.log(Level::Warn, text);
        }
        self.mention_loopback(uuid, now);
    }

    /// Logs what to do about a server that advertises a loopback address.
    pub(super) fn mention_loopback(&mut self, uuid: Uuid, now: Instant) {
        let Some(entry) = self
            .servers
            .get(&uuid)
            .filter(|entry| is_loopback(&entry.record))
        else {
            return;
        };
        let host = entry.record.host.clone();
        if let Some(suppressed) = self.loopback_lines.should_log(uuid, now) {
            let text = format!(
                "Server {uuid} advertises {host}, which other machines cannot reach: if it runs on another machine \
                 than this leader, set PALM_IP (--ip) there to an address that others reach{suppressed}"
            );
            self.log(Level::Warn, text);
        }
    }

    /// Decides at the end of a round whether this leader is the one that is cut off, and must
    /// resign. A series of probes may take longer than a round, so a round without a new finding
    /// about a server that still fails does not reset the count.
    pub(super) fn suspect_oneself(&mut self) {
        let evidence = std::mem::take(&mut self.evidence);
        self.unreached
            .retain(|uuid| self.servers.get(uuid).is_some_and(|entry| entry.is_failing));
        self.rounds_alone = match (evidence.is_empty(), self.unreached.is_empty()) {
            (false, _) => self.rounds_alone + 1,
            (true, false) => self.rounds_alone,
            (true, true) => 0,
        };
        self.unreached.extend(evidence);
        if self.rounds_alone >= ROUNDS_TO_RESIGN {
            self.rounds_alone = 0;
            let unreached = std::mem::take(&mut self.unreached).into_iter();
            let unreached = unreached
                .filter_map(|uuid| Some((uuid, self.endpoint(uuid)?)))
                .collect();
            self.actions.push(Action::Resign { unreached });
        }
    }
}

/// Returns whether a record advertises a loopback address, which only the server's own
/// machine can reach.
fn is_loopback(record: &Record) -> bool {
    config::is_loopback(record.host.trim_start_matches('[').trim_end_matches(']'))
}
