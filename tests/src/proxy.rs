//! A TCP proxy that a test can stall and cut.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{eventually, free_port};

/// A TCP proxy on a free loopback port in front of another address; at first it passes everything.
///
/// With a proxy between one peer and etcd, only that peer can be cut off.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    Stall,
    Swallow,
    Cut,
}

/// Whether bytes go to the server, or come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    There,
    Back,
}

#[derive(Debug)]
struct Shared {
    upstream: Mutex<SocketAddr>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    next: u64,
    /// Both ends of each connection; removing an entry ends the connection.
    connections: HashMap<u64, Vec<TcpStream>>,
}

impl Proxy {
    /// Puts a proxy in front of `upstream`, which need not listen yet.
    ///
    /// # Panics
    ///
    /// When no port can be bound.
    #[must_use]
    pub fn start(upstream: SocketAddr) -> Self {
        let state = State {
            mode: Mode::Pass,
            next: 0,
            connections: HashMap::new(),
        };
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let proxy = Self {
            address,
            shared,
            listening: Mutex::new(None),
        };
        proxy.listen();
        proxy
    }

    /// Returns its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns its URL: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections are open through it.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.state().connections.len()
    }

    /// Passes everything; bytes that were stalled arrive now.
    pub fn pass(&self) {
        self.turn(Mode::Pass);
    }

    /// Closes all connections and refuses new ones, like a host without a listener.
    pub fn cut(&self) {
        self.turn(Mode::Cut);
    }

    /// Passes no bytes and keeps connections open, including new ones, as when a cable is pulled.
    pub fn stall(&self) {
        self.turn(Mode::Stall);
    }

    /// Passes what clients send, and drops every byte of the answers: requests are carried out, but
    /// not answered. A connection whose answers have a gap cannot be used afterwards:
    /// [`cut`](Self::cut) it before you [`pass`](Self::pass).
    pub fn swallow(&self) {
        self.turn(Mode::Swallow);
    }

    /// Closes all connections, and passes new ones to another address, as when a name resolves to
    /// another machine.
    pub fn redirect(&self, upstream: SocketAddr) {
        self.cut();
        *self
            .shared
            .upstream
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = upstream;
        self.pass();
    }

    fn turn(&self, mode: Mode) {
        let mut listening = self
            .listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut state = self.shared.state();
        state.mode = mode;
        if mode == Mode::Cut {
            for end in state.connections.drain().flat_map(|(_, ends)| ends) {
                let _ = end.shutdown(Shutdown::Both);
            }
        }
        drop(state);
        self.shared.changed.notify_all();
        let accepting = listening.take();
        *listening = match (mode, accepting) {
            (Mode::Cut, Some(accepting)) => {
                // Wakes the accepting thread, which then sees the mode, ends and
                // closes its listener.
                let _ = TcpStream::connect(self.address);
                let _ = accepting.join();
                None
            }
            (Mode::Pass | Mode::Stall | Mode::Swallow, None) => Some(self.accepting()),
            (_, same) => same,
        };
    }

    fn listen(&self) {
        *self
            .listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(self.accepting());
    }

    fn accepting(&self) -> JoinHandle<()> {
        let listener = eventually("the proxy's port is free", Duration::from_secs(5), || {
            TcpListener::bind(self.address).ok()
        });
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Some(id) = shared.admit(&near) else {
                    return;
                };
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.carry(id, &near));
            }
        })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts a new connection; `None` once the proxy is cut.
    fn admit(&self, near: &TcpStream) -> Option<u64> {
        let mut state = self.state();
        if state.mode == Mode::Cut {
            return None;
        }
        let id = state.next;
        state.next += 1;
        state
            .connections
            .insert(id, near.try_clone().into_iter().collect());
        Some(id)
    }

    /// Waits until a stall ends. Returns whether the connection stays open.
    fn may_move(&self, id: u64) -> bool {
        let stalled =
            |state: &mut State| state.mode == Mode::Stall && state.connections.contains_key(&id);
        let state = self
            .changed
            .wait_while(self.state(), stalled)
            .unwrap_or_else(PoisonError::into_inner);
        state.connections.contains_key(&id)
    }

    /// Serves one connection until it ends.
    fn carry(&self, id: u64, near: &TcpStream) {
        if let Some(far) = self.reach(id, near) {
            thread::scope(|scope| {
                scope.spawn(|| self.pump(id, &far, near, Way::Back));
                self.pump(id, near, &far, Way::There);
            });
        }
        self.state().connections.remove(&id);
    }

    /// Connects to the upstream, once the proxy passes; `None` when there is no listener, or the
    /// connection must end.
    fn reach(&self, id: u64, near: &TcpStream) -> Option<TcpStream> {
        if !self.may_move(id) {
            return None;
        }
        let upstream = *self.upstream.lock().unwrap_or_else(PoisonError::into_inner);
        let far = TcpStream::connect_timeout(&upstream, Duration::from_secs(5)).ok()?;
        near.set_nodelay(true).and(far.set_nodelay(true)).ok()?;
        let end = far.try_clone().ok()?;
        self.state().connections.get_mut(&id)?.push(end);
        Some(far)
    }

    /// Copies bytes in one direction until its end, then half-closes the other side.
    fn pump(&self, id: u64, mut from: &TcpStream, mut to: &TcpStream, way: Way) {
        let mut buffer = [0; 16 * 1024];
        loop {
            let read = from.read(&mut buffer);
            if !self.may_move(id) {
                return;
            }
            match read {
                Ok(n) if n > 0 && way == Way::Back && self.state().mode == Mode::Swallow => {}
                Ok(n) if n > 0 && to.write_all(&buffer[..n]).is_ok() => {}
                Ok(_) => break,
                Err(_) => {
                    let _ = from.shutdown(Shutdown::Both);
                    break;
                }
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}
