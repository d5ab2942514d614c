//! Simulated servers: thousands of lightweight ones in one process, which the leader, etcd and the
//! clients cannot distinguish from real ones.
//!
//! Each has an address, a lease, a record and a candidacy of its own, renews, registers again when
//! it is removed or its lease is lost, and answers greetings, `_ping`, `_log_query` and `_probe`;
//! any other function echoes. They share what only costs the process that simulates: one
//! connection to etcd, a few streams of renewals, one watch. A simulated server never leads: one
//! whose turn it would be goes to the end of the line, so a real server must stand as well.
//! Failures come on command.

// Each test program uses a part of it. Tests fail by panicking.
#![allow(dead_code, missing_docs, clippy::expect_used, clippy::unwrap_used)]

mod election;
mod etcd;
mod lease_keeper;
mod registration;
mod server;

use etcd::{Store, folder};
use palm_peer::Timestamp;
use palm_tests::free_port;
use registration::{register, rejoin};
use server::{Face, serve};
use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    sync::{Notify, Semaphore},
    task::AbortHandle,
};
use tonic::Status;
use uuid::Uuid;

/// How many register at a time.
const MAX_REGISTERING: usize = 64;
/// How many servers have addresses that differ in the last byte alone.
const ADDRESSES: usize = 250;

/// How a simulated server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// It answers, and renews its lease.
    Alive,
    /// It renews its lease and accepts connections, but does not answer, like a server whose
    /// dispatch loop hangs.
    Mute,
    /// It is dead, as after `kill -9`: connections are refused, the lease is not renewed.
    Killed,
}

/// The configuration of a [`Swarm`].
#[derive(Debug, Clone)]
pub(crate) struct SwarmConfig {
    /// etcd's URL.
    pub etcd: String,
    /// Of the leases.
    pub ttl: Duration,
    /// A server that was removed registers again after a random part of this.
    pub rejoin_within: Duration,
}

/// Simulated servers, on one thread. Dropping them ends them as `kill -9` does.
pub(crate) struct Swarm {
    runtime: Option<Runtime>,
    shared: Arc<Shared>,
}

/// The state shared by all servers of a swarm.
struct Shared {
    config: SwarmConfig,
    store: Store,
    /// The second byte of all addresses, and the port.
    block: u8,
    port: u16,
    servers: RwLock<Vec<Arc<Simulated>>>,
    by_uuid: RwLock<HashMap<Uuid, Arc<Simulated>>>,
    registering: Semaphore,
    candidates_changed: Notify,
    /// Whether a real server led at the last check, and none has gone since.
    is_led: AtomicBool,
    rejoined: AtomicU64,
}

/// One server.
struct Simulated {
    face: Arc<Face>,
    host: Ipv4Addr,
    held: Mutex<Held>,
    serving: Mutex<Option<AbortHandle>>,
}

/// Its keys in etcd.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    /// 0: none.
    lease: i64,
    /// When the record was put; 0: there is none.
    written: i64,
    /// Whether it is a candidate, as far as it knows.
    stands: bool,
    /// Whether the record is being put.
    registering: bool,
}

impl Swarm {
    /// Creates a swarm without servers. Panics when the system refuses a thread.
    pub(crate) fn start(config: SwarmConfig) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let entered = runtime.enter();
        let shared = Arc::new(Shared {
            store: Store::new(&config.etcd),
            config,
            block: fastrand::u8(100..250),
            port: free_port(),
            servers: RwLock::default(),
            by_uuid: RwLock::default(),
            registering: Semaphore::new(MAX_REGISTERING),
            candidates_changed: Notify::new(),
            is_led: AtomicBool::new(true),
            rejoined: AtomicU64::new(0),
        });
        for stream in 0..lease_keeper::STREAMS {
            runtime.spawn(lease_keeper::renew(Arc::clone(&shared), stream));
        }
        runtime.spawn(follow(Arc::clone(&shared)));
        runtime.spawn(election::step_aside(Arc::clone(&shared)));
        drop(entered);
        Self {
            runtime: Some(runtime),
            shared,
        }
    }

    /// Adds servers of this name, which register as fast as they can; returns their uuids. Panics
    /// when one cannot listen at its address.
    pub(crate) fn add(&self, name: &str, count: usize) -> Vec<Uuid> {
        let runtime = self
            .runtime
            .as_ref()
            .expect("a runtime until it is dropped");
        let mut uuids = Vec::with_capacity(count);
        for _ in 0..count {
            let uuid = Uuid::new_v4();
            let (mode, store) = (AtomicU8::new(Mode::Alive as u8), self.shared.store.clone());
            let face = Face {
                uuid,
                name: name.to_owned(),
                mode,
                store,
            };
            let mut servers = self.shared.servers.write().unwrap();
            let server = Arc::new(Simulated {
                face: Arc::new(face),
                host: address(self.shared.block, servers.len()),
                held: Mutex::default(),
                serving: Mutex::default(),
            });
            servers.push(Arc::clone(&server));
            drop(servers);
            self.shared
                .by_uuid
                .write()
                .unwrap()
                .insert(uuid, Arc::clone(&server));
            runtime.block_on(self.shared.listen(&server));
            runtime.spawn(register(Arc::clone(&self.shared), server));
            uuids.push(uuid);
        }
        uuids
    }

    /// How many have a record, as far as they know.
    pub(crate) fn registered(&self) -> usize {
        let servers = self.shared.servers.read().unwrap();
        servers
            .iter()
            .filter(|server| server.held.lock().unwrap().written != 0)
            .count()
    }

    /// How many keys lie under this prefix in etcd, and at which revision of etcd; `None` when etcd
    /// does not answer.
    pub(crate) fn count(&self, prefix: &str) -> Option<(usize, i64)> {
        let runtime = self
            .runtime
            .as_ref()
            .expect("a runtime until it is dropped");
        let counting = self.shared.store.range(etcd::RangeRequest {
            count_only: true,
            ..folder(prefix)
        });
        let counted = runtime.block_on(counting).ok()?;
        Some((
            usize::try_from(counted.count).ok()?,
            counted.header?.revision,
        ))
    }

    /// Returns how often servers had to register again.
    pub(crate) fn rejoined(&self) -> u64 {
        self.shared.rejoined.load(Ordering::Relaxed)
    }

    /// Changes the behaviour of these servers. Panics when the address of one that is
    /// revived is in use.
    pub(crate) fn set(&self, uuids: &[Uuid], mode: Mode) {
        let runtime = self
            .runtime
            .as_ref()
            .expect("a runtime until it is dropped");
        for server in self.find(uuids) {
            let before = server.face.mode.swap(mode as u8, Ordering::Relaxed);
            if mode == Mode::Killed {
                // Its listener and connections end with the task.
                if let Some(serving) = server.serving.lock().unwrap().take() {
                    serving.abort();
                }
                *server.held.lock().unwrap() = Held::default();
            } else if before == Mode::Killed as u8 {
                runtime.block_on(self.shared.listen(&server));
            }
            if mode == Mode::Alive {
                runtime.spawn(register(Arc::clone(&self.shared), server));
            }
        }
    }

    /// Revokes the leases of these servers, as if they had expired. Panics when etcd does not do
    /// it.
    pub(crate) fn lose_leases(&self, uuids: &[Uuid]) {
        let runtime = self
            .runtime
            .as_ref()
            .expect("a runtime until it is dropped");
        for server in self.find(uuids) {
            let lease = server.held.lock().unwrap().lease;
            runtime
                .block_on(self.shared.store.revoke(lease))
                .expect("etcd revokes a lease");
        }
    }

    fn find(&self, uuids: &[Uuid]) -> Vec<Arc<Simulated>> {
        let known = self.shared.by_uuid.read().unwrap();
        uuids.iter().map(|uuid| Arc::clone(&known[uuid])).collect()
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
    }
}

fn address(block: u8, place: usize) -> Ipv4Addr {
    let byte = |number: usize| u8::try_from(number).expect("no more than 60,000 servers");
    Ipv4Addr::new(
        127,
        block,
        byte(place / ADDRESSES),
        byte(1 + place % ADDRESSES),
    )
}

impl Shared {
    async fn listen(&self, server: &Simulated) {
        let listener = TcpListener::bind((server.host, self.port))
            .await
            .expect("a free address on the loopback");
        let serving = tokio::spawn(serve(listener, Arc::clone(&server.face)));
        *server.serving.lock().unwrap() = Some(serving.abort_handle());
    }
}

impl Held {
    /// Whether it has a record, but no candidacy.
    fn waits_to_stand(self) -> bool {
        self.written != 0 && !self.stands
    }
}

impl Simulated {
    fn is_alive(&self) -> bool {
        self.face.mode.load(Ordering::Relaxed) == Mode::Alive as u8
    }

    /// Its record, as protocol.md says.
    fn record(&self, port: u16) -> String {
        let (uuid, name, when) = (
            self.face.uuid,
            &self.face.name,
            Timestamp::from(SystemTime::now()),
        );
        format!(
            concat!(
                r#"{{"host": "{host}", "pid": {pid}, "when": "{when}", "leader": null, "server": "{name}", "ports": [{port}], "#,
                r#""kind": "registered", "functions": ["echo", "_ping", "_log_query", "get", "set", "append", "delete"], "#,
                r#""uuid": "{uuid}", "configured": false}}"#
            ),
            host = self.host,
            pid = std::process::id(),
            when = when,
            name = name,
            port = port,
            uuid = uuid
        )
    }

    /// Clears the record and the lease if it is this one. Returns whether it was.
    fn lost_lease(&self, lease: i64) -> bool {
        let mut held = self.held.lock().unwrap();
        let lost = held.lease == lease;
        if lost {
            held.lease = 0;
            held.written = 0;
        }
        lost
    }

    /// Clears the record if it was written before `revision`. Returns whether it must be put again.
    fn lost(&self, revision: i64) -> bool {
        let mut held = self.held.lock().unwrap();
        let lost = held.written != 0 && held.written < revision;
        if lost {
            held.written = 0;
        }
        lost && self.is_alive()
    }
}

/// Follows the servers' records and the candidates' keys: lists, watches, and lists again when
/// the watch breaks.
async fn follow(shared: Arc<Shared>) {
    loop {
        let _: Result<(), Status> = follow_once(&shared).await;
        tokio::time::sleep(Duration::from_millis(500).mul_f64(0.5 + fastrand::f64())).await;
    }
}

async fn follow_once(shared: &Arc<Shared>) -> Result<(), Status> {
    let listed = shared
        .store
        .range(etcd::RangeRequest {
            keys_only: true,
            ..folder("/servers/")
        })
        .await?;
    let revision = listed.header.unwrap_or_default().revision;
    let there: Vec<_> = listed
        .kvs
        .iter()
        .filter_map(|kv| uuid_of(&kv.key))
        .collect();
    let there: std::collections::HashSet<_> = there.into_iter().collect();
    let servers = shared.servers.read().unwrap().clone();
    for server in servers
        .into_iter()
        .filter(|server| !there.contains(&server.face.uuid))
    {
        if server.lost(revision + 1) {
            tokio::spawn(rejoin(Arc::clone(shared), server));
        }
    }
    shared.candidates_changed.notify_one();
    let (mut deletions, _open) = shared
        .store
        .deletions(&["/servers/", "/election/"], revision + 1)
        .await?;
    while let Some(answer) = deletions.message().await? {
        if answer.canceled {
            break;
        }
        for kv in answer.events.into_iter().filter_map(|event| event.kv) {
            let Some(uuid) = uuid_of(&kv.key) else {
                shared.is_led.store(false, Ordering::Relaxed);
                shared.candidates_changed.notify_one();
                continue;
            };
            let server = shared.by_uuid.read().unwrap().get(&uuid).cloned();
            if let Some(server) = server.filter(|server| server.lost(kv.mod_revision)) {
                tokio::spawn(rejoin(Arc::clone(shared), server));
            }
        }
    }
    Ok(())
}

fn uuid_of(key: &[u8]) -> Option<Uuid> {
    std::str::from_utf8(key)
        .ok()?
        .strip_prefix("/servers/")?
        .parse()
        .ok()
}
