//! Who is at the other end of which connection.

use crate::ports::zmq::{Connection, Frames};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long an answer waits for its client to greet. A server that passes a message on may know an instance a moment before the
/// client does.
const HELD_FOR: Duration = Duration::from_secs(10);

/// How many answers may wait so.
const MOST_HELD: usize = 4096;

/// How many bytes these may have.
const MOST_HELD_BYTES: usize = 64 * 1024 * 1024;

/// An answer whose client has not greeted.
#[derive(Debug)]
struct Held {
    client: Uuid,
    frames: Frames,
    until: Instant,
}

impl Held {
    fn bytes(&self) -> usize {
        self.frames.iter().map(bytes::Bytes::len).sum()
    }
}

/// The clients that greeted, and their connections.
#[derive(Debug, Default)]
pub struct Clients {
    /// Which client greeted over which connection, and which connection is that client's now.
    greeted: HashMap<Connection, Uuid>,
    current: HashMap<Uuid, Connection>,
    /// Who wants to hear a goodbye.
    farewells: HashSet<Connection>,
    /// Whether it was said.
    taken_leave: bool,
    /// Who heard it, and has not said yet that nothing more comes.
    parting: HashSet<Connection>,
    /// Answers that wait, oldest first.
    held: VecDeque<Held>,
    held_bytes: usize,
}

impl Clients {
    /// A client greeted over this connection, which is that client's now. Gives the answers that wait for it.
    #[must_use]
    pub fn greeted(&mut self, client: Uuid, connection: &Connection, bye: bool) -> Vec<Frames> {
        if bye {
            self.farewells.insert(connection.clone());
        }
        self.greeted.insert(connection.clone(), client);
        self.current.insert(client, connection.clone());
        let all = std::mem::take(&mut self.held);
        let (held, others): (VecDeque<_>, _) = all.into_iter().partition(|held| held.client == client);
        self.held = others;
        self.held_bytes -= held.iter().map(Held::bytes).sum::<usize>();
        held.into_iter().map(|held| held.frames).collect()
    }

    /// Keeps an answer until its client greets, for a while. Of too many, the oldest go: their clients send again.
    pub fn hold(&mut self, client: Uuid, frames: Frames, now: Instant) {
        let held = Held { client, frames, until: now + HELD_FOR };
        self.held_bytes += held.bytes();
        self.held.push_back(held);
        while let Some(oldest) = self.held.front()
            && (oldest.until <= now || self.held.len() > MOST_HELD || self.held_bytes > MOST_HELD_BYTES)
        {
            self.held_bytes -= oldest.bytes();
            self.held.pop_front();
        }
    }

    /// A connection ended.
    pub fn disconnected(&mut self, connection: &Connection) {
        self.farewells.remove(connection);
        self.parting.remove(connection);
        // The client may have come back over another connection meanwhile.
        if let Some(client) = self.greeted.remove(connection)
            && self.current.get(&client) == Some(connection)
        {
            self.current.remove(&client);
        }
    }

    /// The connection that is this client's now.
    pub fn connection(&self, client: Uuid) -> Option<&Connection> {
        self.current.get(&client)
    }

    /// To whom to say goodbye, once. Each of them is waited for from now on.
    pub fn take_leave(&mut self) -> Vec<Connection> {
        self.taken_leave = true;
        let farewells = std::mem::take(&mut self.farewells);
        self.parting.extend(farewells.iter().cloned());
        farewells.into_iter().collect()
    }

    /// Whether the goodbye was said.
    pub fn have_taken_leave(&self) -> bool {
        self.taken_leave
    }

    /// This one has heard the goodbye, and sends nothing more.
    pub fn parted(&mut self, connection: &Connection) {
        self.parting.remove(connection);
    }

    /// How many have heard a goodbye, and may still have sent something before they did.
    pub fn parting(&self) -> usize {
        self.parting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const CLIENT: Uuid = Uuid::from_u128(1);

    fn answer(length: usize) -> Frames {
        vec![Bytes::from(vec![0; length])]
    }

    #[test]
    fn an_answer_waits_for_its_client_to_greet_but_not_for_ever() {
        let now = Instant::now();
        let mut clients = Clients::default();
        clients.hold(CLIENT, answer(1), now);
        clients.hold(Uuid::from_u128(2), answer(2), now);
        let connection = Connection::from_static(b"one");
        assert_eq!(clients.greeted(CLIENT, &connection, false), [answer(1)]);
        assert!(clients.greeted(CLIENT, &connection, false).is_empty());
        clients.hold(CLIENT, answer(3), now + HELD_FOR);
        assert_eq!((clients.held.len(), clients.held_bytes), (1, 3), "the second client's is too old");
    }

    #[test]
    fn what_waits_is_bounded() {
        let now = Instant::now();
        let mut clients = Clients::default();
        for _ in 0..MOST_HELD * 2 {
            clients.hold(CLIENT, answer(1), now);
        }
        assert_eq!((clients.held.len(), clients.held_bytes), (MOST_HELD, MOST_HELD));
        clients.hold(CLIENT, answer(MOST_HELD_BYTES), now);
        assert_eq!((clients.held.len(), clients.held_bytes), (1, MOST_HELD_BYTES));
    }

    #[test]
    fn who_says_goodbye_or_is_gone_is_not_waited_for() {
        let mut clients = Clients::default();
        let connections = [1_u8, 2, 3].map(|name| Connection::from(vec![name]));
        for (client, connection) in (1..).zip(&connections) {
            let _ = clients.greeted(Uuid::from_u128(client), connection, client < 3);
        }
        let mut left = clients.take_leave();
        left.sort();
        assert_eq!((left.as_slice(), clients.parting()), (&connections[..2], 2));
        clients.parted(&connections[0]);
        clients.disconnected(&connections[1]);
        assert_eq!(clients.parting(), 0);
    }
}
