//! Which client is at the other end of which connection, and which answers wait for a
//! client to greet.
//!
//! Everything here belongs to an open connection or has a time limit, so memory is bounded by the
//! number of connections and by [`MAX_HELD`] and [`MAX_HELD_BYTES`], whatever clients send. Each
//! operation takes logarithmic time.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::Hash,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long an answer waits for its client to greet: a server that forwards a message may learn of
/// an instance before the client does.
pub const HELD_FOR: Duration = Duration::from_secs(10);

/// How many answers may wait for their clients.
pub const MAX_HELD: usize = 4096;

/// How many bytes these answers may have in total.
pub const MAX_HELD_BYTES: usize = 64 * 1024 * 1024;

/// Who greeted over a connection, and when: a later greeting has a greater number.
#[derive(Debug, Clone, Copy)]
struct Greeting {
    client: Uuid,
    seq: u64,
}

/// An answer whose client has not greeted.
#[derive(Debug)]
struct Held<A> {
    client: Uuid,
    answer: A,
    bytes: usize,
    until: Instant,
}

/// The clients that greeted, their connections (`C`), and the answers (`A`) that wait for a
/// client to greet.
#[derive(Debug)]
pub struct ClientTable<C, A> {
    /// The latest greeting over each open connection.
    greetings: HashMap<C, Greeting>,
    /// The same by client, so that the last entry of a client is its most recent open connection.
    by_client: BTreeMap<(Uuid, u64), C>,
    /// The connections that asked for a goodbye.
    wants_goodbye: HashSet<C>,
    /// Whether the goodbye was sent.
    said_goodbye: bool,
    /// The connections that were sent a goodbye and have not acknowledged it.
    awaiting_ack: HashSet<C>,
    /// Answers that wait, oldest first, which is also the order in which they expire.
    held: BTreeMap<u64, Held<A>>,
    /// The same by client.
    held_by_client: BTreeSet<(Uuid, u64)>,
    held_bytes: usize,
    /// Numbers greetings and held answers.
    next_seq: u64,
}

impl<C, A> Default for ClientTable<C, A> {
    fn default() -> Self {
        Self {
            greetings: HashMap::new(),
            by_client: BTreeMap::new(),
            wants_goodbye: HashSet::new(),
            said_goodbye: false,
            awaiting_ack: HashSet::new(),
            held: BTreeMap::new(),
            held_by_client: BTreeSet::new(),
            held_bytes: 0,
            next_seq: 0,
        }
    }
}

impl<C: Clone + Eq + Hash, A> ClientTable<C, A> {
    /// Handles a greeting over this connection; `bye` asks for a goodbye. If it names a `client`,
    /// the connection is now that client's most recent one. A peer that only asks for the server's
    /// uuid may close the connection after the answer, so nothing else is sent over it. A
    /// connection that greets again belongs to the client that it named last. Returns the answers
    /// that wait for the client, oldest first.
    #[must_use]
    pub fn greeted(
        &mut self,
        client: Option<Uuid>,
        connection: &C,
        bye: bool,
        now: Instant,
    ) -> Vec<A> {
        if bye {
            self.wants_goodbye.insert(connection.clone());
        }
        let Some(client) = client else {
            return Vec::new();
        };
        let seq = self.seq();
        if let Some(former) = self
            .greetings
            .insert(connection.clone(), Greeting { client, seq })
        {
            self.by_client.remove(&(former.client, former.seq));
        }
        self.by_client.insert((client, seq), connection.clone());
        self.expire(now);
        let waiting: Vec<_> = self
            .held_by_client
            .range((client, 0)..=(client, u64::MAX))
            .map(|(_, seq)| *seq)
            .collect();
        waiting
            .into_iter()
            .filter_map(|seq| self.release(seq))
            .collect()
    }

    /// Handles the end of a connection. From now on the client's connection is the most recent one
    /// that is still open.
    pub fn disconnected(&mut self, connection: &C) {
        self.wants_goodbye.remove(connection);
        self.awaiting_ack.remove(connection);
        if let Some(greeting) = self.greetings.remove(connection) {
            self.by_client.remove(&(greeting.client, greeting.seq));
        }
    }

    /// Returns the most recent open connection of this client.
    pub fn connection(&self, client: Uuid) -> Option<&C> {
        self.by_client
            .range((client, 0)..=(client, u64::MAX))
            .next_back()
            .map(|(_, connection)| connection)
    }

    /// Keeps an answer of `bytes` until its client greets, for [`HELD_FOR`] at most. When there are
    /// too many, the oldest are dropped, and their clients send the messages again.
    pub fn hold(&mut self, client: Uuid, answer: A, bytes: usize, now: Instant) {
        let seq = self.seq();
        self.held.insert(
            seq,
            Held {
                client,
                answer,
                bytes,
                until: now + HELD_FOR,
            },
        );
        self.held_by_client.insert((client, seq));
        self.held_bytes += bytes;
        self.expire(now);
        while self.held.len() > MAX_HELD || self.held_bytes > MAX_HELD_BYTES {
            let Some((&oldest, _)) = self.held.first_key_value() else {
                break;
            };
            self.release(oldest);
        }
    }

    /// Drops the answers that have expired.
    pub fn expire(&mut self, now: Instant) {
        while let Some((&oldest, held)) = self.held.first_key_value()
            && held.until <= now
        {
            self.release(oldest);
        }
    }

    /// Returns when the next answer expires, if one waits.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.held.first_key_value().map(|(_, held)| held.until)
    }

    /// The connections to say goodbye to, each once. Each of them is waited for from now on.
    pub fn start_goodbye(&mut self) -> Vec<C> {
        self.said_goodbye = true;
        let connections: Vec<_> = std::mem::take(&mut self.wants_goodbye)
            .into_iter()
            .collect();
        self.awaiting_ack.extend(connections.iter().cloned());
        connections
    }

    /// Whether the goodbye was said.
    pub fn said_goodbye(&self) -> bool {
        self.said_goodbye
    }

    /// This connection has heard the goodbye, and sends nothing more.
    pub fn goodbye_acknowledged(&mut self, connection: &C) {
        self.awaiting_ack.remove(connection);
    }

    /// The number of connections whose goodbye is not acknowledged: they may have sent something
    /// before they received it.
    pub fn awaiting_ack(&self) -> usize {
        self.awaiting_ack.len()
    }

    fn seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }

    fn release(&mut self, seq: u64) -> Option<A> {
        let held = self.held.remove(&seq)?;
        self.held_by_client.remove(&(held.client, seq));
        self.held_bytes -= held.bytes;
        Some(held.answer)
    }
}
