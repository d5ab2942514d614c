//! Servers whose clients read at once, in bursts, seldom or never, send short and long
//! messages, and leave.
//!
//! A connection is read by a task that sleeps until it is woken, as in the ingress. After each step
//! it is checked that no task sleeps that could go on, and that memory is within its bounds; in the
//! end, that every client that reads got all its responses.

mod client;

use self::client::{Client, Reading, Task};
use super::{IDLE, MS, PAUSE_AT, WINDOW, WINDOW_BYTES};
use crate::limits::flow_control::{FlowControl, Room, Sent, Wake};
use fastrand::Rng;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

/// From how many bytes on a frame needs a permit.
const LONG: u64 = 16 * 1024;

/// How many functions of one connection run at once, at most.
const MAX_RUNNING: usize = 32;

const MIB: u64 = 1024 * 1024;

struct World {
    random: Rng,
    now: Instant,
    flow: FlowControl,
    max_unread: u64,
    max_total: u64,
    clients: BTreeMap<u64, Client>,
    next_id: u64,
    /// Disconnected by the server, by the way they read.
    victims: Vec<Reading>,
    /// All the responses that clients read.
    read: u64,
    /// Bytes of long frames that have a permit.
    held: u64,
    /// The connections that wait for a permit, in the order in which they asked.
    permits_asked: VecDeque<u64>,
    /// Whether the dispatch loop runs. It stops for a while now and then.
    is_dispatching: bool,
    largest_frame: u64,
}

impl World {
    fn new(seed: u64, max_unread: u64, max_total: u64) -> Self {
        Self {
            random: Rng::with_seed(seed),
            now: Instant::now(),
            flow: FlowControl::new(max_unread, max_total),
            max_unread,
            max_total,
            clients: BTreeMap::new(),
            next_id: 0,
            victims: Vec::new(),
            read: 0,
            held: 0,
            permits_asked: VecDeque::new(),
            is_dispatching: true,
            largest_frame: 0,
        }
    }

    fn connect(&mut self, reading: Reading, messages: usize, max_size: u64, response: u64) {
        let to_send: VecDeque<_> = (0..messages)
            .map(|_| 1 << self.random.u32(0..=max_size.ilog2()))
            .collect();
        self.largest_frame = self
            .largest_frame
            .max(to_send.iter().copied().max().unwrap_or(0));
        self.flow.open(self.next_id, self.now);
        let native = self.random.bool();
        self.clients.insert(
            self.next_id,
            Client::new(native, reading, to_send, response, self.now),
        );
        self.next_id += 1;
    }

    /// Lets one thing happen to one client, or time pass.
    fn step(&mut self) {
        let ids: Vec<_> = self.clients.keys().copied().collect();
        let id = ids[self.random.usize(..ids.len())];
        match self.random.u8(0..16) {
            0..4 => self.client_sends(id),
            4..7 => self.read_from(id),
            7..10 if self.is_dispatching => self.take(id),
            10..12 => self.complete(id),
            12..14 => self.client_reads(id),
            14 if self.clients[&id].disconnected => self.close(id),
            _ => self.now += self.random.u32(0..100) * MS,
        }
        if self.random.u8(0..50) == 0 {
            self.is_dispatching = !self.is_dispatching;
        }
        self.check();
    }

    fn client(&mut self, id: u64) -> &mut Client {
        self.clients.get_mut(&id).expect("a client")
    }

    fn client_sends(&mut self, id: u64) {
        let client = self.client(id);
        let Some(size) = client.to_send.pop_front() else {
            return;
        };
        client.arrived.push_back(size);
        if client.task == Task::Input {
            client.task = Task::Running;
        }
    }

    /// The connection's task runs until it has to wait, if it was woken.
    fn read_from(&mut self, id: u64) {
        let backlog: u64 = self.clients.values().map(|client| client.unread).sum();
        let is_full = backlog > self.max_total;
        while self.clients[&id].task == Task::Running {
            let room = self.flow.room(id);
            let client = self.client(id);
            let next = client.arrived.front().copied();
            match (room, next) {
                (Room::Ended, _) => return,
                (Room::Paused { .. }, _) => client.task = Task::Room,
                (Room::Messages(_), None) => client.task = Task::Input,
                (Room::Messages(_), Some(size)) if size >= LONG && !client.permitted => {
                    self.ask_permit(id, size);
                }
                (Room::Messages(room), Some(size)) => {
                    assert!(room > 0, "there is no room");
                    assert!(!is_full, "too much waits for all");
                    assert!(client.unread < PAUSE_AT, "too much waits for it");
                    client.arrived.pop_front();
                    client.permitted = false;
                    client.passed += 1;
                    client.queued.push_back(size);
                    let (passed, native) = (client.passed, client.native);
                    self.flow.passed(id, passed);
                    if native {
                        self.flow.queued(id, size);
                    }
                }
            }
        }
    }

    fn ask_permit(&mut self, id: u64, size: u64) {
        let passed = self.clients[&id].passed;
        let Some(wake) = self.flow.ask_permit(id, size, passed) else {
            self.client(id).task = Task::Permit;
            if !self.permits_asked.contains(&id) {
                self.permits_asked.push_back(id);
            }
            return;
        };
        let first = self.permits_asked.pop_front().unwrap_or(id);
        assert_eq!(first, id, "another one asked for a permit before");
        self.client(id).permitted = true;
        self.held += size;
        self.wake(wake);
    }

    fn take(&mut self, id: u64) {
        let until = self.now + self.random.u32(0..200) * MS;
        let client = self.client(id);
        if client.running.len() >= MAX_RUNNING {
            return;
        }
        let Some(size) = client.queued.pop_front() else {
            return;
        };
        client.running.push(until);
        if size >= LONG {
            self.held -= size;
        }
        let bytes = if self.clients[&id].native { size } else { 0 };
        let wake = self.flow.taken(id, 1, bytes);
        self.wake(wake);
    }

    fn complete(&mut self, id: u64) {
        let now = self.now;
        let client = self.client(id);
        let response = client.response;
        let Some(done) = client.running.iter().position(|until| *until <= now) else {
            return;
        };
        client.running.swap_remove(done);
        if client.responses.is_empty() {
            client.last_read = now;
        }
        let idle = self.idle();
        let Sent {
            accepted,
            disconnect,
        } = self.flow.send(id, response, now);
        if accepted {
            self.client(id).responses.push_back(response);
            self.client(id).unread += response;
        }
        let alone = disconnect == [id] && self.clients[&id].unread >= self.max_unread;
        if !alone {
            self.check_disconnected(&disconnect, &idle, (!accepted).then_some((id, response)));
        }
        for victim in &disconnect {
            assert!(!self.clients[victim].disconnected, "disconnected twice");
            self.client(*victim).disconnected = true;
            self.victims.push(self.clients[victim].reading);
        }
    }

    /// Checks that these connections, whose turn to be disconnected it is, are those with the
    /// largest backlogs, of those that take nothing first, and no more than needed. The response
    /// that was dropped counts.
    fn check_disconnected(&self, disconnect: &[u64], idle: &[u64], dropped: Option<(u64, u64)>) {
        let backlog = |id: u64| {
            let dropped = dropped.filter(|(to, _)| *to == id);
            self.clients[&id].unread + dropped.map_or(0, |(_, bytes)| bytes)
        };
        let rank = |id: &u64| (idle.contains(id), backlog(*id));
        let open = self
            .clients
            .iter()
            .filter(|(_, client)| !client.disconnected);
        let (victims, spared): (Vec<u64>, Vec<u64>) = open
            .map(|(id, _)| *id)
            .partition(|id| disconnect.contains(id));
        let Some(least) = victims.iter().map(rank).min() else {
            return;
        };
        assert!(
            spared.iter().map(rank).all(|rank| rank <= least),
            "one was spared that holds more, or that reads less"
        );
        let left: u64 = spared.iter().map(|id| backlog(*id)).sum();
        assert!(
            left + least.1 > self.max_total,
            "one too many was disconnected"
        );
    }

    /// The open connections that have taken nothing for a while.
    fn idle(&self) -> Vec<u64> {
        let idle = |client: &Client| {
            !client.disconnected
                && !client.responses.is_empty()
                && self.now >= client.last_read + IDLE
        };
        self.clients
            .iter()
            .filter(|(_, client)| idle(client))
            .map(|(id, _)| *id)
            .collect()
    }

    fn client_reads(&mut self, id: u64) {
        let now = self.now;
        let client = self.client(id);
        let is_time = match client.reading {
            Reading::AtOnce => true,
            Reading::Within(time) => now >= client.last_read + time / 2,
            Reading::Never => false,
        };
        if !is_time || client.disconnected || client.responses.is_empty() {
            return;
        }
        let mut bytes = 0;
        for _ in 0..self.random.usize(1..8) {
            let client = self.clients.get_mut(&id).expect("a client");
            let Some(response) = client.responses.pop_front() else {
                break;
            };
            bytes += response;
            client.read_messages += 1;
            client.unread -= response;
            self.read += 1;
        }
        self.client(id).last_read = now;
        let client = &self.clients[&id];
        let messages = if client.native {
            u64::MAX
        } else {
            client.read_messages
        };
        let wake = self.flow.written(id, bytes, messages, now);
        self.wake(wake);
    }

    fn close(&mut self, id: u64) {
        let Some(client) = self.clients.remove(&id) else {
            return;
        };
        self.held -= client
            .queued
            .iter()
            .filter(|size| **size >= LONG)
            .sum::<u64>();
        self.held -= client
            .arrived
            .front()
            .filter(|_| client.permitted)
            .unwrap_or(&0);
        self.permits_asked.retain(|other| *other != id);
        let (_, wake) = self.flow.close(id);
        self.wake(wake);
    }

    fn wake(&mut self, wake: Wake) {
        for (id, client) in &mut self.clients {
            if (wake.all || wake.some.contains(&Some(*id)))
                && matches!(client.task, Task::Room | Task::Permit)
            {
                client.task = Task::Running;
            }
        }
    }

    fn check(&self) {
        let mut open = 0;
        let mut total = 0;
        for (id, client) in &self.clients {
            let unread = client.unread;
            total += unread;
            assert!(
                client.queued.len() as u64 <= WINDOW,
                "more than the window is not taken"
            );
            let queued = client.queued.iter().rev().skip(1).sum::<u64>();
            assert!(
                !client.native || queued < WINDOW_BYTES,
                "more bytes than the window and a message are not taken"
            );
            assert!(
                unread < self.max_unread + client.response,
                "more waits for one than may"
            );
            if client.disconnected {
                continue;
            }
            open += unread;
            let can_go_on = match client.task {
                Task::Room => !matches!(self.flow.current_room(*id), Room::Paused { .. }),
                Task::Permit => self.flow.permits.next() == Some(*id),
                Task::Input => !client.arrived.is_empty(),
                Task::Running => false,
            };
            assert!(
                !can_go_on,
                "connection {id} waits for {:?} and is not woken",
                client.task
            );
        }
        assert!(open <= self.max_total, "more waits for all than may");
        assert!(
            self.held <= self.max_total.max(self.largest_frame),
            "more has permits than may"
        );
        // One that was disconnected while its response was sent counts that too,
        // until it is closed.
        assert!(self.flow.unread >= total, "not all that waits is counted");
    }

    /// Lets all that is left happen, however long it takes.
    fn finish(&mut self) {
        for _ in 0..100_000 {
            let gone: Vec<_> = self
                .clients
                .iter()
                .filter(|(_, client)| client.disconnected)
                .map(|(id, _)| *id)
                .collect();
            for id in gone {
                self.close(id);
            }
            let waits = |client: &&Client| client.reading != Reading::Never && !client.is_done();
            if self.clients.values().find(waits).is_none() {
                return;
            }
            self.now += 50 * MS;
            let ids: Vec<_> = self.clients.keys().copied().collect();
            for id in ids {
                for event in [
                    Self::client_sends,
                    Self::read_from,
                    Self::take,
                    Self::complete,
                    Self::client_reads,
                ] {
                    (0..8).for_each(|_| event(self, id));
                }
                self.check();
            }
        }
        let waiting: Vec<_> = self
            .clients
            .iter()
            .filter(|(_, client)| !client.is_done())
            .collect();
        panic!("no progress: {waiting:#?}");
    }
}

/// A failed check names the seed.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

#[test]
fn memory_stays_bounded_and_no_wake_up_is_lost() {
    let mut disconnected = 0;
    for seed in 0..2000 {
        let _seed = Seed(seed);
        let mut random = Rng::with_seed(seed);
        let max_total = 1 << random.u32(16..25);
        let max_unread = max_total.min(1 << random.u32(14..25));
        let mut world = World::new(seed, max_unread, max_total);
        for _ in 0..random.usize(1..9) {
            let reading = match random.u8(0..4) {
                0 => Reading::Never,
                1 => Reading::Within(random.u32(1..3000) * MS),
                _ => Reading::AtOnce,
            };
            world.connect(
                reading,
                random.usize(0..300),
                1 << random.u32(0..20),
                1 << random.u32(0..21),
            );
        }
        for _ in 0..random.usize(0..1000) {
            if world.clients.is_empty() {
                break;
            }
            world.step();
        }
        world.finish();
        disconnected += world.victims.len();
    }
    assert!(
        disconnected > 500,
        "{disconnected}: the limits are not reached"
    );
}

/// Clients that read in time are never disconnected, whatever those beside them do
/// that do not read.
#[test]
fn only_clients_that_do_not_read_are_disconnected() {
    let mut disconnected = 0;
    for seed in 0..300 {
        let _seed = Seed(seed);
        let mut random = Rng::with_seed(seed);
        // Four readers of which each has its running calls' responses waiting for it, and
        // what came before.
        let mut world = World::new(seed, 16 * MIB, 64 * MIB);
        for _ in 0..random.usize(1..5) {
            let reading = [Reading::AtOnce, Reading::Within(IDLE / 2)][random.usize(0..2)];
            world.connect(
                reading,
                random.usize(10..100),
                1 << random.u32(0..20),
                1 << random.u32(0..16),
            );
        }
        let readers = world
            .clients
            .values()
            .map(|client| client.to_send.len() as u64)
            .sum::<u64>();
        for _ in 0..random.usize(1..20) {
            world.connect(
                Reading::Never,
                random.usize(10..100),
                1 << random.u32(0..20),
                1 << random.u32(17..22),
            );
        }
        for _ in 0..1000 {
            world.step();
        }
        world.finish();
        disconnected += world.victims.len();
        assert!(
            world
                .victims
                .iter()
                .all(|reading| *reading == Reading::Never),
            "{:?}",
            world.victims
        );
        assert_eq!(world.read, readers, "not all responses were read");
    }
    assert!(
        disconnected > 500,
        "{disconnected}: the limits are not reached"
    );
}

/// One that does not read holds no more than its share, so that with few of them no connection is
/// closed and none waits.
#[test]
fn a_client_that_does_not_read_stops_nobody_else() {
    for seed in 0..100 {
        let _seed = Seed(seed);
        let mut world = World::new(seed, 16 * MIB, 64 * MIB);
        world.connect(Reading::AtOnce, 200, 1 << 10, 1 << 10);
        world.connect(Reading::Never, 500, 1 << 10, 1 << 17);
        world.finish();
        assert_eq!((world.read, world.victims.len()), (200, 0));
        (0..2000).for_each(|_| world.step());
        let silent = world.clients[&1].unread;
        assert!(
            silent <= PAUSE_AT + (WINDOW + MAX_RUNNING as u64 + 1) * (1 << 17),
            "{silent}"
        );
    }
}
