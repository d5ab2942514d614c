//! A hostile server in the mesh: it answers the leader well enough to be published, and then does
//! what the test wants.

use palm_tests::{Etcd, eventually, wire::Wire};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};
use uuid::Uuid;

use super::SOON;

/// One received message.
pub(super) struct Asked {
    pub header: Value,
    pub me: String,
}

impl Asked {
    /// What the header of a proper answer has.
    pub(super) fn header(&self) -> Value {
        let mut header = json!({"palm": 1, "stage": self.header["stage"].as_u64().unwrap_or(0), "server": self.me});
        for field in ["job", "idx"] {
            if !self.header[field].is_null() {
                header[field] = self.header[field].clone();
            }
        }
        header
    }

    pub(super) fn answer(&self, wire: &mut Wire, payload: &[u8]) -> io::Result<()> {
        wire.message(&[self.header().to_string().as_bytes(), payload])
    }

    fn function(&self) -> &str {
        let stage = usize::try_from(self.header["stage"].as_u64().unwrap_or(0)).unwrap_or(0);
        self.header["pipeline"][stage]
            .as_str()
            .and_then(|target| target.rsplit('.').next())
            .unwrap_or_default()
    }
}

/// What was registered over a native link; docs/protocol.md has the compact headers.
#[derive(Default)]
struct Templates(HashMap<[u8; 2], Value>);

impl Templates {
    /// Returns the header of a request as JSON; `None` for a registration.
    fn read(&mut self, header: &[u8]) -> Option<Value> {
        match *header {
            [1, 0, a, b, _, _, _, _, ref json @ ..] => {
                let template = serde_json::from_slice(json).expect("a template");
                self.0.insert([a, b], template);
                None
            }
            [2, _, stage, a, b, ref rest @ ..] => {
                let mut request = self.0[&[a, b]].clone();
                let idx = rest[..8].try_into().expect("8 bytes");
                request["stage"] = stage.into();
                request["idx"] = u64::from_be_bytes(idx).into();
                Some(request)
            }
            [4 | 5, ..] => None,
            _ => Some(serde_json::from_slice(header).unwrap_or_default()),
        }
    }
}

/// What it does with a new connection; `false` when that was all.
pub(super) type Opening = Arc<dyn Fn(&mut Wire, &str) -> io::Result<bool> + Send + Sync>;
/// What it does when it is asked something.
pub(super) type Reply = Arc<dyn Fn(&mut Wire, &Asked) -> io::Result<()> + Send + Sync>;

/// What is bad about it; what is not is as it should be.
#[derive(Clone, Default)]
pub(super) struct Mind {
    pub opening: Option<Opening>,
    pub probe: Option<Reply>,
    pub call: Option<Reply>,
    /// Whether it behaves until it is published.
    pub bides_its_time: bool,
}

impl Mind {
    pub(super) fn called(
        reply: impl Fn(&mut Wire, &Asked) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            call: Some(Arc::new(reply)),
            ..Self::default()
        }
    }

    pub(super) fn probed(
        reply: impl Fn(&mut Wire, &Asked) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            probe: Some(Arc::new(reply)),
            ..Self::default()
        }
    }

    pub(super) fn opened(
        opening: impl Fn(&mut Wire, &str) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Self {
        Self {
            opening: Some(Arc::new(opening)),
            ..Self::default()
        }
    }

    /// Behaves until it is published.
    pub(super) fn later(self) -> Self {
        Self {
            bides_its_time: true,
            ..self
        }
    }
}

struct Inner {
    uuid: String,
    mind: Mind,
    /// Whether it still behaves.
    good: AtomicBool,
    ended: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
    opened: AtomicUsize,
}

/// The server; dropped, it is gone with all its connections.
pub(super) struct Rogue {
    inner: Arc<Inner>,
    address: SocketAddr,
}

impl Rogue {
    /// Listens, registers as `name`, and waits for nothing.
    pub(super) fn start(etcd: &Etcd, name: &str, mind: Mind) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let inner = Arc::new(Inner {
            uuid: Uuid::new_v4().to_string(),
            good: AtomicBool::new(mind.bides_its_time),
            mind,
            ended: AtomicBool::new(false),
            streams: Mutex::default(),
            opened: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&inner);
        thread::spawn(move || accept(&listener, &serving));
        let rogue = Self { inner, address };
        rogue.register(etcd, name);
        rogue
    }

    /// As [`Rogue::start`]; then waits until clients can find it, and lets it loose.
    pub(super) fn published(etcd: &Etcd, name: &str, mind: Mind) -> Self {
        let rogue = Self::start(etcd, name, mind);
        rogue.await_published(etcd);
        rogue.turn_bad();
        rogue
    }

    /// Waits until clients can find it.
    pub(super) fn await_published(&self, etcd: &Etcd) {
        eventually("a rogue is published", SOON, || {
            etcd.etcdctl(&["get", "--prefix", "/pipelines/"])
                .contains(&self.inner.uuid)
                .then_some(())
        });
    }

    /// No longer behaves. Its connections are closed, so that all must be opened again.
    pub(super) fn turn_bad(&self) {
        if self.inner.good.swap(false, Ordering::SeqCst) {
            self.cut();
        }
    }

    fn register(&self, etcd: &Etcd, name: &str) {
        let record = json!({
            "host": "127.0.0.1", "pid": 1, "when": "2026-01-01T00:00:00.000000", "leader": null, "server": name,
            "ports": [self.address.port()], "kind": "registered", "functions": ["f", "_ping", "_log_query"],
            "uuid": self.inner.uuid, "configured": false,
        });
        put_record(etcd, &self.inner.uuid, &record.to_string());
    }

    /// Ends all connections that it has.
    fn cut(&self) {
        for stream in self.inner.streams.lock().expect("no panic").drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    pub(super) fn uuid(&self) -> &str {
        &self.inner.uuid
    }

    /// How many connections it has had.
    pub(super) fn opened(&self) -> usize {
        self.inner.opened.load(Ordering::SeqCst)
    }
}

/// Puts a record on a lease of its own, as a server does.
pub(super) fn put_record(etcd: &Etcd, uuid: &str, record: &str) {
    put_on_lease(etcd, |_| format!("/servers/{uuid}"), record);
}

/// Puts a value on a new lease, under the key that `key` makes of the lease. Returns the lease.
pub(super) fn put_on_lease(etcd: &Etcd, key: impl FnOnce(&str) -> String, value: &str) -> String {
    let granted = etcd.etcdctl(&["lease", "grant", "3600"]);
    let lease = granted
        .split_whitespace()
        .nth(1)
        .expect("a lease")
        .to_owned();
    etcd.etcdctl(&[
        "put",
        &format!("--lease={lease}"),
        "--",
        &key(&lease),
        value,
    ]);
    lease
}

impl Drop for Rogue {
    fn drop(&mut self) {
        self.inner.ended.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes who accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, inner: &Arc<Inner>) {
    for stream in listener.incoming() {
        if inner.ended.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        inner.opened.fetch_add(1, Ordering::SeqCst);
        if let Ok(copy) = stream.try_clone() {
            inner.streams.lock().expect("no panic").push(copy);
        }
        let inner = Arc::clone(inner);
        thread::spawn(move || {
            let end = stream.try_clone();
            // However it goes, the connection ends with it, although a copy is held elsewhere.
            let _ = Wire::of(stream).and_then(|mut wire| serve(&mut wire, &inner));
            let _ = end.map(|end| end.shutdown(std::net::Shutdown::Both));
        });
    }
}

fn serve(wire: &mut Wire, inner: &Inner) -> io::Result<()> {
    let good = || inner.good.load(Ordering::SeqCst);
    if let Some(opening) = inner.mind.opening.as_ref().filter(|_| !good())
        && !opening(wire, &inner.uuid)?
    {
        return Ok(());
    }
    if inner.mind.opening.is_none() || good() {
        wire.open_as_router()?;
    }
    let mut templates = Templates::default();
    loop {
        let frames = wire.answer()?;
        let Some(header) = templates.read(&frames[0]) else {
            continue;
        };
        let asked = Asked {
            header,
            me: inner.uuid.clone(),
        };
        if asked.header["hello"].is_string() {
            wire.message(&[
                json!({"palm": 1, "server": inner.uuid})
                    .to_string()
                    .as_bytes(),
                b"",
            ])?;
            continue;
        }
        let reply = match asked.function() {
            "_log_query" | "_ping" => &inner.mind.probe,
            _ => &inner.mind.call,
        };
        match reply.as_ref().filter(|_| !good()) {
            Some(reply) => reply(wire, &asked)?,
            None => asked.answer(wire, b"I")?,
        }
    }
}
