//! The accepted connections: the wakers of tasks that wait for flow control
//! ([`palm_proto::limits::flow_control`]).

use super::outbox::Outbox;
use crate::{io::zmq, sync::lock};
use foldhash::{HashMap, HashMapExt as _};
use futures::task::AtomicWaker;
use palm_proto::{
    limits::flow_control::{FlowControl, Room, Wake},
    registrations::Registered,
    zmtp::RejectReason,
};
use std::{
    future::poll_fn,
    hash::{Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

/// All connections that were accepted.
#[derive(Debug)]
pub(super) struct ConnectionTable {
    state: Mutex<State>,
    /// Notified when something was written, or a connection has ended.
    flushed: AtomicWaker,
}

#[derive(Debug)]
struct State {
    flow: FlowControl,
    connections: HashMap<u64, Arc<ConnectionState>>,
}

/// A connection, as the dispatch loop knows it.
#[derive(Debug, Clone)]
pub(crate) enum Connection {
    /// One to a peer of the library, served by the ingress.
    Native(Arc<ConnectionState>),
    /// One to any other client, served by `ZeroMQ`.
    Inner(zmq::Connection),
}

impl PartialEq for Connection {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Native(one), Self::Native(other)) => one.id == other.id,
            (Self::Inner(one), Self::Inner(other)) => one == other,
            _ => false,
        }
    }
}

impl Eq for Connection {}

impl Hash for Connection {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Native(connection) => connection.id.hash(state),
            Self::Inner(identity) => identity.hash(state),
        }
    }
}

impl Connection {
    /// Returns its number; `None` for one that is not of the ingress.
    fn id(&self) -> Option<u64> {
        match self {
            Self::Native(connection) => Some(connection.id),
            Self::Inner(identity) => identity.as_ref().try_into().ok().map(u64::from_be_bytes),
        }
    }
}

/// The state shared by the two tasks of a connection, and the dispatch loop.
#[derive(Debug)]
pub(crate) struct ConnectionState {
    id: u64,
    pong: Mutex<Option<Vec<u8>>>,
    to_server: AtomicWaker,
    to_client: AtomicWaker,
    /// What the loop has sent over a native connection, and is not being written yet.
    outbox: Outbox,
    /// Whether the writer will be woken when the loop has nothing more to send for now.
    in_batch: AtomicBool,
    /// Whether a native connection ends once everything is written.
    finishing: AtomicBool,
    /// What the peer has registered over a native connection.
    registered: Mutex<Registered>,
}

impl ConnectionState {
    /// Returns what the dispatch loop has sent.
    pub(super) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Returns what the peer has registered.
    pub(crate) fn registered(&self) -> MutexGuard<'_, Registered> {
        lock(&self.registered)
    }

    /// Something was put into the outbox. Returns whether it is the first since the last
    /// [`ConnectionState::end_batch`], which must follow.
    pub(super) fn begin_batch(&self) -> bool {
        !self.in_batch.swap(true, Ordering::AcqRel)
    }

    /// Has the outbox written.
    pub(super) fn end_batch(&self) {
        self.in_batch.store(false, Ordering::Release);
        self.to_client.wake();
    }

    /// Returns whether the connection ends once everything is written.
    pub(super) fn is_finishing(&self) -> bool {
        self.finishing.load(Ordering::Acquire)
    }

    /// Queues a PONG, to be sent between two messages; of several, only the last is sent.
    pub(super) fn pong(&self, frame: Vec<u8>) {
        lock(&self.pong).replace(frame);
        self.to_client.wake();
    }

    /// Takes the queued PONG.
    pub(super) fn take_pong(&self) -> Option<Vec<u8>> {
        lock(&self.pong).take()
    }

    /// Returns whether a PONG is queued.
    pub(super) fn has_pong(&self) -> bool {
        lock(&self.pong).is_some()
    }

    /// Registers the task towards the client to be woken when there is something new for it.
    pub(super) fn register_to_client(&self, cx: &Context<'_>) {
        self.to_client.register(cx.waker());
    }

    /// Registers the task towards the server to be woken when there may be room again. Must be
    /// called before [`ConnectionTable::room`].
    pub(super) fn register_to_server(&self, cx: &Context<'_>) {
        self.to_server.register(cx.waker());
    }

    fn wake_both(&self) {
        self.to_server.wake();
        self.to_client.wake();
    }
}

/// Returns the identity of a connection at the inner socket.
pub(super) fn identity(id: u64) -> zmq::Connection {
    zmq::Connection::copy_from_slice(&id.to_be_bytes())
}

impl ConnectionTable {
    /// Creates it without connections; see [`FlowControl::new`].
    pub(super) fn new(max_unread: u64, max_total: u64) -> Self {
        let flow = FlowControl::new(max_unread, max_total);
        Self {
            state: Mutex::new(State {
                flow,
                connections: HashMap::new(),
            }),
            flushed: AtomicWaker::new(),
        }
    }

    /// Adds a connection, with a unique number.
    pub(super) fn open(&self, id: u64) -> Arc<ConnectionState> {
        let (pong, to_server, to_client) =
            (Mutex::default(), AtomicWaker::new(), AtomicWaker::new());
        let connection = Arc::new(ConnectionState {
            id,
            pong,
            to_server,
            to_client,
            outbox: Outbox::default(),
            in_batch: AtomicBool::new(false),
            finishing: AtomicBool::new(false),
            registered: Mutex::default(),
        });
        let mut state = lock(&self.state);
        state.flow.open(id, Instant::now());
        state.connections.insert(id, Arc::clone(&connection));
        connection
    }

    /// Removes it. Returns why it ended, if the server ended it.
    pub(super) fn close(&self, connection: &ConnectionState) -> Option<RejectReason> {
        let mut reason = None;
        self.wake(|state| {
            state.connections.remove(&connection.id);
            let (ended, wake) = state.flow.close(connection.id);
            reason = ended;
            wake
        });
        self.flushed.wake();
        reason
    }

    /// See [`FlowControl::held`].
    pub(super) fn held(&self) -> (u64, u64) {
        lock(&self.state).flow.held()
    }

    /// How much may be read from a connection.
    pub(super) fn room(&self, connection: &ConnectionState) -> Room {
        lock(&self.state).flow.room(connection.id)
    }

    /// Returns whether a connection must end.
    pub(super) fn is_ended(&self, connection: &ConnectionState) -> bool {
        lock(&self.state).flow.is_ended(connection.id)
    }

    /// See [`FlowControl::passed`].
    pub(super) fn passed(&self, connection: &ConnectionState, messages: u64) {
        lock(&self.state).flow.passed(connection.id, messages);
    }

    /// See [`FlowControl::queued`].
    pub(super) fn queued(&self, connection: &ConnectionState, bytes: u64) {
        lock(&self.state).flow.queued(connection.id, bytes);
    }

    /// Waits for the permit of a long frame; see [`FlowControl::ask_permit`]. The task must be
    /// [registered](ConnectionState::register_to_server).
    pub(super) fn poll_permit(
        &self,
        connection: &ConnectionState,
        bytes: u64,
        messages: u64,
    ) -> Poll<()> {
        let mut permitted = Poll::Pending;
        self.wake(|state| {
            let wake = state.flow.ask_permit(connection.id, bytes, messages);
            if wake.is_some() {
                permitted = Poll::Ready(());
            }
            wake.unwrap_or_default()
        });
        permitted
    }

    /// Returns whether a long frame waits for a permit.
    pub(super) fn are_permits_awaited(&self) -> bool {
        lock(&self.state).flow.are_permits_awaited()
    }

    /// The dispatch loop took this many messages, of which this many bytes were
    /// [queued](Self::queued).
    pub(super) fn taken(&self, connection: &Connection, messages: u64, bytes: u64) {
        if let Some(id) = connection.id() {
            self.wake(|state| state.flow.taken(id, messages, bytes));
        }
    }

    /// Has all native connections end once everything is written: nobody receives any more.
    pub(super) fn finish_native(&self) {
        let connections: Vec<_> = lock(&self.state).connections.values().cloned().collect();
        for connection in connections {
            connection.finishing.store(true, Ordering::Release);
            connection.to_client.wake();
        }
    }

    /// The dispatch loop is about to send this many bytes. Returns whether it may.
    pub(super) fn send(&self, connection: &Connection, bytes: u64) -> bool {
        let Some(id) = connection.id() else {
            return false;
        };
        let mut state = lock(&self.state);
        let sent = state.flow.send(id, bytes, Instant::now());
        let disconnect: Vec<_> = sent
            .disconnect
            .iter()
            .filter_map(|id| state.connections.get(id))
            .cloned()
            .collect();
        drop(state);
        for connection in disconnect {
            // Freed at once: until the connection's task runs, the loop may go on filling the
            // outboxes of others.
            connection.outbox.close();
            connection.wake_both();
        }
        sent.accepted
    }

    /// See [`FlowControl::written`].
    pub(super) fn written(&self, connection: &ConnectionState, bytes: u64, messages: u64) {
        self.wake(|state| {
            state
                .flow
                .written(connection.id, bytes, messages, Instant::now())
        });
        self.flushed.wake();
    }

    /// Ends a connection, with an optional reason. The first reason counts.
    pub(super) fn end(&self, connection: &ConnectionState, reason: Option<RejectReason>) {
        lock(&self.state).flow.end(connection.id, reason);
        connection.wake_both();
    }

    /// Waits until every connection has ended. For one task at a time, and not together with
    /// [`flushed`](Self::flushed).
    pub(super) async fn emptied(&self) {
        self.until(FlowControl::is_empty).await;
    }

    /// Waits until everything that was sent is written. For one task at a time.
    pub(super) async fn flushed(&self) {
        self.until(FlowControl::is_flushed).await;
    }

    async fn until(&self, done: impl Fn(&FlowControl) -> bool) {
        poll_fn(|cx| {
            self.flushed.register(cx.waker());
            if done(&lock(&self.state).flow) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Changes the state, and wakes the tasks that may read again. Not under the lock: waking may
    /// run code of the executor.
    fn wake(&self, change: impl FnOnce(&mut State) -> Wake) {
        let mut state = lock(&self.state);
        let Wake { some, all } = change(&mut state);
        let some = some.map(|id| id.and_then(|id| state.connections.get(&id).cloned()));
        let all: Vec<_> = if all {
            state.connections.values().cloned().collect()
        } else {
            Vec::new()
        };
        drop(state);
        for connection in some.into_iter().flatten().chain(all) {
            connection.to_server.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::timer;
    use futures::{FutureExt as _, executor::block_on};
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        thread,
        time::Duration,
    };

    fn inner(id: u64) -> Connection {
        Connection::Inner(identity(id))
    }

    #[test]
    fn flushed_means_all_is_written_or_the_connection_gone() {
        let table = ConnectionTable::new(u64::MAX, u64::MAX);
        let connection = table.open(1);
        block_on(table.flushed());
        assert!(table.send(&inner(1), 10));
        table.written(&connection, 9, 0);
        assert!(table.flushed().now_or_never().is_none());
        table.written(&connection, 1, 1);
        block_on(table.flushed());
        assert!(table.send(&inner(1), 10));
        assert!(table.emptied().now_or_never().is_none());
        table.close(&connection);
        block_on(table.flushed());
        block_on(table.emptied());
        assert!(!table.send(&inner(1), 10));
        assert!(!table.send(
            &Connection::Inner(zmq::Connection::from_static(b"not of the ingress")),
            10
        ));
    }

    /// Waits for room, and for the permit of a long frame, as the task that reads a
    /// connection does.
    async fn pass(table: &ConnectionTable, connection: &ConnectionState, passed: u64, long: u64) {
        poll_fn(|cx| {
            connection.register_to_server(cx);
            match table.room(connection) {
                Room::Messages(_) if long > 0 => table.poll_permit(connection, long, passed),
                Room::Messages(_) => Poll::Ready(()),
                Room::Paused { .. } | Room::Ended => Poll::Pending,
            }
        })
        .await;
        table.passed(connection, passed + 1);
    }

    /// The dispatch loop takes and answers on one thread while four others read and write
    /// their connections.
    #[test]
    fn no_thread_waits_for_ever() {
        const MESSAGES: u64 = 10_000;
        const MAX: u64 = 1 << 40;
        let table = ConnectionTable::new(MAX, MAX);
        let connections: Vec<_> = (0..4).map(|id| table.open(id)).collect();
        let (queue_tx, queue) = std::sync::mpsc::channel();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for connection in &connections {
                let (queue_tx, table) = (queue_tx.clone(), &table);
                scope.spawn(move || {
                    let passing = async {
                        for passed in 0..MESSAGES {
                            let long = if passed % 8 == connection.id {
                                MAX / 10 * 6
                            } else {
                                0
                            };
                            pass(table, connection, passed, long).await;
                            queue_tx.send(connection.id).expect("a dispatch loop");
                        }
                    };
                    let passed = block_on(timer::timeout(Duration::from_secs(120), passing));
                    assert!(
                        passed.is_ok(),
                        "connection {} waits for ever: {table:?}",
                        connection.id
                    );
                });
            }
            drop(queue_tx);
            scope.spawn(|| {
                let mut sent = [0_u64; 4];
                while !is_over.load(Ordering::Relaxed) {
                    for (connection, sent) in connections.iter().zip(&mut sent) {
                        *sent += 1;
                        table.written(connection, 300_000, *sent);
                    }
                    thread::yield_now();
                }
            });
            for id in queue {
                table.taken(&inner(id), 1, 0);
                assert!(table.send(&inner(id), 100_000));
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
}
