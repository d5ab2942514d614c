//! A proxy in front of etcd that delays or loses the responses to unary requests,
//! while streams pass.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

const PREFACE: usize = 24;
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
/// What gRPC puts before a message. A request of no more is one for the status of
/// etcd, a sign of life.
const EMPTY_MESSAGE: usize = 5;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
/// Of DATA and HEADERS: the sender is done. Of SETTINGS: an acknowledgement.
const END_OR_ACK: u8 = 1;
/// The setting `HEADER_TABLE_SIZE` at 0: no header refers to one before it, so that answers may
/// overtake each other.
const NO_TABLE: [u8; 6] = [0, 1, 0, 0, 0, 0];

/// A proxy for gRPC without TLS that delays the responses to unary requests, like an etcd with a
/// slow disk. Streams (watches, lease renewals) and responses to pings are not delayed. At first
/// nothing is. It can lose one response as well.
#[derive(Debug)]
pub struct SlowAnswers {
    address: SocketAddr,
    shared: Arc<Settings>,
    connections: Arc<AtomicUsize>,
}

/// What the test wants.
#[derive(Debug, Default)]
struct Settings {
    delay: Mutex<Duration>,
    /// How many responses still pass before one is lost.
    lost_after: Mutex<Option<usize>>,
}

/// The shared state of the two directions of one connection.
#[derive(Debug, Default)]
struct Streams {
    /// Those on which the client has said all: unary requests.
    unary: HashSet<u32>,
    /// The bytes of the requests.
    requested: HashMap<u32, usize>,
    /// The number that the client gave up.
    given_up: HashSet<u32>,
}

/// A frame of HTTP/2, header included.
struct Frame(Vec<u8>);

type Shared<T> = Arc<Mutex<T>>;

impl SlowAnswers {
    /// Puts the proxy in front of `upstream`. It serves until the test's process ends.
    ///
    /// # Panics
    ///
    /// When no port can be bound.
    #[must_use]
    pub fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::<Settings>::default();
        let connections = Arc::<AtomicUsize>::default();
        let (settings, count) = (Arc::clone(&shared), Arc::clone(&connections));
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                let settings = Arc::clone(&settings);
                thread::spawn(move || drop(carry(near, upstream, &settings)));
            }
        });
        Self {
            address,
            shared,
            connections,
        }
    }

    /// Returns its URL: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections were opened through it, ever.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Delays each response from now on by this time.
    pub fn delay(&self, time: Duration) {
        *lock(&self.shared.delay) = time;
    }

    /// Passes `after` more responses, besides those to requests for the status. Then closes the
    /// connection on which the next one begins, without passing any of it: the request was carried
    /// out, and its response is lost. What follows passes again. No stream may be opened meanwhile:
    /// its response counts as well.
    pub fn lose_response(&self, after: usize) {
        *lock(&self.shared.lost_after) = Some(after);
    }

    /// Whether the response that was to be lost is lost.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        lock(&self.shared.lost_after).is_none()
    }
}

impl Settings {
    /// Whether the response that begins now is to be lost.
    fn loses_next(&self) -> bool {
        let mut lost_after = lock(&self.lost_after);
        let loses = *lost_after == Some(0);
        *lost_after = lost_after.and_then(|left| left.checked_sub(1));
        loses
    }
}

fn carry(near: TcpStream, upstream: SocketAddr, settings: &Settings) -> io::Result<()> {
    let far = TcpStream::connect(upstream)?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let streams = Shared::<Streams>::default();
    let seen = Arc::clone(&streams);
    let (client, server) = (near.try_clone()?, far.try_clone()?);
    thread::spawn(move || {
        let _ = requests(&client, &server, &seen);
        let _ = server.shutdown(Shutdown::Both);
    });
    let ended = answers(&far, near.try_clone()?, &streams, settings);
    let _ = near.shutdown(Shutdown::Both);
    ended
}

/// Passes on what the client sends, and notes which of its streams are unary.
fn requests(
    mut client: &TcpStream,
    mut server: &TcpStream,
    streams: &Mutex<Streams>,
) -> io::Result<()> {
    let mut preface = [0; PREFACE];
    client.read_exact(&mut preface)?;
    server.write_all(&preface)?;
    loop {
        let mut frame = Frame::read(client)?;
        if frame.kind() == DATA {
            let bytes = frame.0.len() - HEAD;
            *lock(streams).requested.entry(frame.stream()).or_default() += bytes;
        }
        match frame.kind() {
            SETTINGS if frame.flags() & END_OR_ACK == 0 => frame.append(NO_TABLE),
            DATA | HEADERS if frame.flags() & END_OR_ACK != 0 => {
                lock(streams).unary.insert(frame.stream());
            }
            RESET => {
                lock(streams).given_up.insert(frame.stream());
            }
            _ => {}
        }
        server.write_all(&frame.0)?;
    }
}

/// Passes on what the server sends: the answers to unary requests later, in their order.
fn answers(
    server: &TcpStream,
    client: TcpStream,
    streams: &Shared<Streams>,
    settings: &Settings,
) -> io::Result<()> {
    let client = Arc::new(Mutex::new(client));
    let (tx, rx) = mpsc::channel::<(Instant, Frame)>();
    let (late, seen) = (Arc::clone(&client), Arc::clone(streams));
    thread::spawn(move || {
        for (due, frame) in rx {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if !lock(&seen).given_up.contains(&frame.stream())
                && lock(&late).write_all(&frame.0).is_err()
            {
                return;
            }
        }
    });
    let mut last = Instant::now();
    let mut begun = HashSet::new();
    loop {
        let frame = Frame::read(server)?;
        let is_answer = matches!(frame.kind(), DATA | HEADERS | CONTINUATION | RESET);
        // etcd answers a unary request before it knows that the request has ended, so this counts
        // the responses on all streams.
        let counts = lock(streams).requested.get(&frame.stream()) > Some(&EMPTY_MESSAGE);
        if is_answer && counts && begun.insert(frame.stream()) && settings.loses_next() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if is_answer && lock(streams).unary.contains(&frame.stream()) {
            last = last.max(Instant::now() + *lock(&settings.delay));
            let _ = tx.send((last, frame));
        } else {
            lock(&client).write_all(&frame.0)?;
        }
    }
}

impl Frame {
    fn read(mut from: &TcpStream) -> io::Result<Self> {
        let mut bytes = vec![0; HEAD];
        from.read_exact(&mut bytes)?;
        let length =
            usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
        bytes.resize(HEAD + length, 0);
        from.read_exact(&mut bytes[HEAD..])?;
        Ok(Self(bytes))
    }

    fn kind(&self) -> u8 {
        self.0[3]
    }

    fn flags(&self) -> u8 {
        self.0[4]
    }

    fn stream(&self) -> u32 {
        u32::from_be_bytes([self.0[5] & 0x7f, self.0[6], self.0[7], self.0[8]])
    }

    fn append(&mut self, setting: [u8; 6]) {
        self.0.extend(setting);
        let length = u32::try_from(self.0.len() - HEAD).expect("a frame of settings is short");
        self.0[..3].copy_from_slice(&length.to_be_bytes()[1..]);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
