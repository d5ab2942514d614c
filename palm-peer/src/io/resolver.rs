//! Host name resolution by the system, on dedicated threads.
//!
//! `getaddrinfo` blocks, and may hang as long as a nameserver does. On a shared pool it would
//! compete with the blocking functions of users. Here the numbers of threads and of waiting names
//! are bounded, callers have timeouts, and concurrent callers for one name share one lookup: a name
//! that hangs costs one thread.

use futures::channel::oneshot;
use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr, SocketAddrV6, ToSocketAddrs as _},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use super::{
    threads::{Name, panic_if_rigged, start_thread},
    timer,
};

/// How many lookups run at a time, each on a thread.
const MAX_THREADS: usize = 8;

/// How many names may wait for a thread.
const MAX_QUEUED: usize = 256;

/// How long a thread waits for another name before it ends.
const IDLE: Duration = Duration::from_secs(10);

/// The maximum time of a lookup, whatever the caller's timeout.
pub(crate) const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The result of a lookup, shared by all callers.
type Answer = Result<Vec<SocketAddr>, String>;

/// Resolves a name by the system; blocks.
type Lookup = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Returns the addresses of a host, in the system's order of preference. A numeric address needs no
/// lookup. Fails when there is no such host, or the system does not answer within `time` and
/// [`LOOKUP_TIMEOUT`]. The error names the host.
pub(crate) async fn resolve(host: &str, port: u16, time: Duration) -> io::Result<Vec<SocketAddr>> {
    static RESOLVER: OnceLock<Resolver> = OnceLock::new();
    if let Some(address) = numeric(host, port) {
        return Ok(vec![address]);
    }
    let resolver = RESOLVER.get_or_init(|| {
        Resolver::new(MAX_THREADS, MAX_QUEUED, |host| {
            Ok((host, 0).to_socket_addrs()?.collect())
        })
    });
    let mut addresses = resolver.resolve(host, time.min(LOOKUP_TIMEOUT)).await?;
    for address in &mut addresses {
        address.set_port(port);
    }
    Ok(addresses)
}

fn numeric(host: &str, port: u16) -> Option<SocketAddr> {
    // Unlike an IP address, a socket address may have a scope (`fe80::1%2`).
    let scoped = || {
        format!("[{host}]:{port}")
            .parse::<SocketAddrV6>()
            .ok()
            .map(SocketAddr::V6)
    };
    host.parse::<IpAddr>()
        .ok()
        .map(|ip| SocketAddr::new(ip, port))
        .or_else(scoped)
}

struct Resolver(Arc<Shared>);

struct Shared {
    lookup: Box<Lookup>,
    state: Mutex<State>,
    /// Notified of a name in the queue.
    queued: Condvar,
    max_threads: usize,
    max_queued: usize,
}

#[derive(Default)]
struct State {
    /// Names that wait for a thread.
    queue: VecDeque<String>,
    /// The callers that wait for each name, queued or being resolved.
    waiting: HashMap<String, Vec<oneshot::Sender<Answer>>>,
    threads: usize,
    idle: usize,
}

impl Resolver {
    fn new(
        max_threads: usize,
        max_queued: usize,
        lookup: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        let (state, queued) = (Mutex::default(), Condvar::new());
        Self(Arc::new(Shared {
            lookup: Box::new(lookup),
            state,
            queued,
            max_threads,
            max_queued,
        }))
    }

    async fn resolve(&self, host: &str, time: Duration) -> io::Result<Vec<SocketAddr>> {
        let failed = |kind, reason: &str| {
            io::Error::new(
                kind,
                format!("host name {host} cannot be resolved: {reason}"),
            )
        };
        let answer = self
            .0
            .enqueue(host)
            .map_err(|error| failed(error.kind(), &error.to_string()))?;
        match timer::timeout(time, answer).await {
            Err(_) => {
                let reason = if self.0.lock().queue.iter().any(|queued| queued == host) {
                    format!(
                        "{} other lookups have not ended within {time:?}",
                        self.0.max_threads
                    )
                } else {
                    format!("no answer within {time:?}")
                };
                Err(failed(
                    io::ErrorKind::TimedOut,
                    &format!("{reason}; check the nameservers of this host"),
                ))
            }
            Ok(Ok(Ok(addresses))) if addresses.is_empty() => {
                Err(failed(io::ErrorKind::NotFound, "it has no address"))
            }
            Ok(Ok(Ok(addresses))) => Ok(addresses),
            Ok(Ok(Err(reason))) => Err(failed(io::ErrorKind::NotFound, &reason)),
            Ok(Err(oneshot::Canceled)) => Err(failed(
                io::ErrorKind::Other,
                "the lookup ended without an answer",
            )),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the lookup of a name, unless one is running.
    fn enqueue(self: &Arc<Self>, host: &str) -> io::Result<oneshot::Receiver<Answer>> {
        let (tx, rx) = oneshot::channel();
        let mut state = self.lock();
        if let Some(waiting) = state.waiting.get_mut(host) {
            // Many callers may ask for a hanging name repeatedly; callers that gave up
            // make room first.
            if waiting.len() == waiting.capacity() {
                waiting.retain(|tx| !tx.is_canceled());
            }
            waiting.push(tx);
            return Ok(rx);
        }
        if state.queue.len() >= self.max_queued {
            let reason = format!(
                "{} other names are already queued; check the nameservers of this host",
                state.queue.len()
            );
            return Err(io::Error::other(reason));
        }
        if state.idle <= state.queue.len() && state.threads < self.max_threads {
            let shared = Arc::clone(self);
            let run = move || {
                panic_if_rigged(Name::Resolver);
                shared.run();
                Ok(())
            };
            match start_thread(Name::Resolver, "palm-resolver", run) {
                Ok(()) => state.threads += 1,
                Err(error) if state.threads == 0 => return Err(error),
                // The existing threads will process it.
                Err(error) => log::debug!("no further thread for host names: {error}"),
            }
        }
        state.waiting.insert(host.to_owned(), vec![tx]);
        state.queue.push_back(host.to_owned());
        self.queued.notify_one();
        Ok(rx)
    }

    /// Resolves one name after the other, until there is none for a while.
    fn run(&self) {
        let mut state = self.lock();
        loop {
            let Some(host) = state.queue.pop_front() else {
                state.idle += 1;
                let waited = self
                    .queued
                    .wait_timeout(state, IDLE)
                    .unwrap_or_else(PoisonError::into_inner);
                state = waited.0;
                state.idle -= 1;
                if waited.1.timed_out() && state.queue.is_empty() {
                    state.threads -= 1;
                    return;
                }
                continue;
            };
            drop(state);
            // A panic would lose the thread and the name.
            let answer = catch_unwind(AssertUnwindSafe(|| (self.lookup)(&host)))
                .unwrap_or_else(|_| Err(io::Error::other("the lookup panicked")))
                .map_err(|error| error.to_string());
            state = self.lock();
            for tx in state.waiting.remove(&host).into_iter().flatten() {
                // The caller may have given up.
                let _ = tx.send(answer.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{executor::block_on, future::join_all};
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
        time::Instant,
    };

    const SOON: Duration = Duration::from_secs(10);
    const LITTLE: Duration = Duration::from_millis(50);

    fn found() -> Vec<SocketAddr> {
        vec!["10.0.0.1:0".parse().expect("an address")]
    }

    /// A resolver whose names that begin with `hung` hang until the gate is opened; and the
    /// number of lookups.
    struct World {
        resolver: Resolver,
        gate: Arc<Mutex<()>>,
        lookups: Arc<AtomicUsize>,
    }

    impl World {
        fn new(threads: usize, queued: usize) -> Self {
            let (gate, lookups) = (Arc::new(Mutex::new(())), Arc::new(AtomicUsize::new(0)));
            let (closed, count) = (Arc::clone(&gate), Arc::clone(&lookups));
            let resolver = Resolver::new(threads, queued, move |host| {
                count.fetch_add(1, Ordering::SeqCst);
                if host.starts_with("hung") {
                    drop(closed.lock());
                }
                match host {
                    "unknown" => Err(io::Error::other("no such host")),
                    "panics" => panic!("of the test"),
                    "empty" => Ok(Vec::new()),
                    _ => Ok(found()),
                }
            });
            Self {
                resolver,
                gate,
                lookups,
            }
        }

        fn ask(&self, host: &str, time: Duration) -> Result<Vec<SocketAddr>, String> {
            block_on(self.resolver.resolve(host, time)).map_err(|error| error.to_string())
        }
    }

    #[test]
    fn a_name_that_hangs_costs_one_thread_and_a_named_error() {
        let world = World::new(2, 10);
        let closed = world.gate.lock().expect("nobody else has it");
        for _ in 0..20 {
            let error = world.ask("hung", LITTLE).expect_err("it hangs");
            assert!(
                error.contains("host name hung cannot be resolved: no answer within 50ms"),
                "{error}"
            );
        }
        assert_eq!(
            world.ask("db", SOON),
            Ok(found()),
            "another name is looked up meanwhile"
        );
        assert_eq!(
            world.lookups.load(Ordering::SeqCst),
            2,
            "all share one lookup"
        );
        assert!(
            world.resolver.0.lock().waiting["hung"].len() < 3,
            "waiters that gave up are removed"
        );
        drop(closed);
        assert_eq!(world.ask("hung", SOON), Ok(found()));
    }

    #[test]
    fn threads_and_waiting_names_are_bounded() {
        let world = World::new(2, 3);
        let closed = world.gate.lock().expect("nobody else has it");
        let enqueue = |name: &str| world.resolver.0.enqueue(name).expect("room");
        let _hung = ["hung1", "hung2"].map(enqueue);
        let deadline = Instant::now() + SOON;
        while world.lookups.load(Ordering::SeqCst) < 2 {
            assert!(Instant::now() < deadline, "a thread for each of them");
            thread::yield_now();
        }
        let _waiting = ["a", "b", "c"].map(enqueue);
        let full = world.ask("d", SOON).expect_err("no room");
        assert!(full.contains("3 other names are already queued"), "{full}");
        let waiting = world.ask("a", LITTLE).expect_err("it waits");
        assert!(
            waiting.contains("2 other lookups have not ended within 50ms"),
            "{waiting}"
        );
        assert_eq!(world.resolver.0.lock().threads, 2);
        drop(closed);
        assert_eq!(world.ask("a", SOON), Ok(found()));
    }

    #[test]
    fn answered_and_abandoned_names_leave_no_state() {
        let world = World::new(2, 1_000);
        let closed = world.gate.lock().expect("nobody else has it");
        let ask = |n| world.resolver.0.enqueue(&format!("hung{n}")).expect("room");
        let answered: Vec<_> = (0..500).map(ask).collect();
        let abandoned: Vec<_> = (500..1_000).map(ask).collect();
        drop(abandoned);
        drop(closed);
        let answers = block_on(join_all(answered));
        assert!(answers.iter().all(|answer| *answer == Ok(Ok(found()))));
        assert_eq!(world.ask("db", SOON), Ok(found()), "all before it are done");
        let deadline = Instant::now() + SOON;
        while !world.resolver.0.lock().waiting.is_empty() {
            assert!(Instant::now() < deadline, "some name is remembered");
            thread::yield_now();
        }
        assert_eq!(world.resolver.0.lock().queue.len(), 0);
    }

    #[test]
    fn concurrent_lookups_of_a_name_share_its_answer() {
        let world = World::new(4, 100);
        let closed = world.gate.lock().expect("nobody else has it");
        let asking = (0..50).map(|_| world.resolver.resolve("hung", SOON));
        let opener = thread::spawn({
            let lookups = Arc::clone(&world.lookups);
            move || {
                while lookups.load(Ordering::SeqCst) == 0 {
                    thread::yield_now();
                }
            }
        });
        let asking = join_all(asking);
        let answers = block_on(async {
            let mut asking = asking;
            // All have asked once they were polled.
            assert!(futures::poll!(&mut asking).is_pending());
            opener.join().expect("no panic");
            drop(closed);
            asking.await
        });
        assert!(
            answers
                .into_iter()
                .all(|answer| answer.is_ok_and(|answer| answer == found()))
        );
        assert_eq!(world.lookups.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_failed_lookup_names_the_host_and_affects_no_other() {
        let world = World::new(1, 10);
        for (host, reason) in [
            ("unknown", "no such host"),
            ("panics", "the lookup panicked"),
            ("empty", "no address"),
        ] {
            let error = world.ask(host, SOON).expect_err("no address");
            assert!(
                error.contains(&format!("host name {host}")) && error.contains(reason),
                "{error}"
            );
        }
        assert_eq!(world.ask("db", SOON), Ok(found()));
    }

    #[test]
    fn numeric_addresses_need_no_lookup() {
        for (host, wanted) in [
            ("10.0.0.1", "10.0.0.1:5"),
            ("::1", "[::1]:5"),
            ("fe80::1%2", "[fe80::1%2]:5"),
        ] {
            assert_eq!(numeric(host, 5), Some(wanted.parse().expect("an address")));
        }
        for name in ["localhost", "10.0.0", "db.example", "", "::x"] {
            assert_eq!(numeric(name, 5), None);
        }
    }
}
