//! The door: all of a server that a stranger can reach.
//!
//! It owns the public listener. Behind it, `ZeroMQ` listens on a Unix socket in a private folder, and sees a connection only
//! once its handshake is done, and a frame only once its header was found within the limits.

mod account;
mod arrivals;
mod entry;
mod folder;
mod ledger;
mod outside;
mod pump;
pub mod tally;

use self::{entry::Place, folder::Folder, ledger::Ledger, tally::Tally};
use crate::{
    Options,
    decisions::{admission::Admission, zmtp::frames::Limits},
    drivers::lock::lock,
    ports::{
        runtime::{self, TcpListener, TcpStream, UnixStream},
        timer,
        tls::Credentials,
        zmq::{self, Connection, Frames, Heard},
    },
};
use futures::{
    FutureExt as _,
    channel::oneshot,
    future::{BoxFuture, Either, Shared as SharedFuture, select},
    pin_mut,
    task::AtomicWaker,
};
use std::{
    fs::File,
    future::poll_fn,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, atomic::AtomicU64},
    task::Poll,
    time::Duration,
};

/// How many descriptors must be free for a connection to go on to the inner socket: two for itself, and some for the program
/// that we are part of.
const SPARE_TO_ENTER: usize = 8;

/// How many must be free for a connection to be accepted: those that were accepted before it must be able to enter.
const SPARE_TO_ACCEPT: usize = 32;

/// After how long it is tried again to accept when there was no descriptor left and none of ours was released.
const RETRY: Duration = Duration::from_millis(250);

/// How long closing waits for the connections to end.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Connections to the inner socket that say nothing. `ZeroMQ` treats a lone connection in a way of its own, and when that
/// comes or goes while others do, may wait with a lock in hand for a task that waits for this lock. With these, none is alone.
const ANCHORS: [&[u8]; 3] = [b"anchor 1", b"anchor 2", b"anchor 3"];

const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// What the tasks of the door share.
#[derive(Debug)]
struct Shared {
    limits: Limits,
    admission: Mutex<Admission>,
    ledger: Arc<Ledger>,
    tally: Arc<Tally>,
    /// What TLS is made of, where it is spoken.
    credentials: Option<Arc<Credentials>>,
    /// Numbers the connections, which makes their identities.
    connections: AtomicU64,
    /// Woken when a connection has ended.
    ended: AtomicWaker,
    /// Ends with the door.
    closing: SharedFuture<oneshot::Receiver<()>>,
    socket: PathBuf,
    /// Who may connect to the inner socket.
    turn: futures::lock::Mutex<()>,
    /// Copied to see whether there are descriptors left.
    spare: File,
}

impl Shared {
    fn admission(&self) -> MutexGuard<'_, Admission> {
        lock(&self.admission)
    }

    /// Waits until a connection has ended, or for a moment: others may release descriptors too, and of several tasks that
    /// wait here only the last is woken.
    async fn released(&self) {
        let mut first = true;
        let ended = poll_fn(|cx| {
            self.ended.register(cx.waker());
            if std::mem::take(&mut first) { Poll::Pending } else { Poll::Ready(()) }
        });
        select(ended, timer::sleep(RETRY)).await;
    }
}

/// An open door. Closed on drop.
#[derive(Debug)]
pub struct Door {
    ledger: Arc<Ledger>,
    folder: Option<Folder>,
    _anchors: Vec<UnixStream>,
    /// Dropped, it ends the accepting and the handshakes under way.
    _closing: oneshot::Sender<()>,
}

/// Hears what comes in.
pub struct Receiver {
    socket: zmq::Receiver,
    ledger: Arc<Ledger>,
}

/// Sends answers out.
#[derive(Clone)]
pub struct Sender {
    socket: zmq::Sender,
    ledger: Arc<Ledger>,
    /// Whether there is a door, which counts what is sent.
    counting: bool,
}

impl Receiver {
    /// Waits for what comes next. Cancel-safe.
    pub async fn hear(&mut self) -> Heard {
        let heard = self.socket.hear().await;
        if let Heard::Message(connection, _) = &heard {
            self.ledger.taken(connection);
        }
        heard
    }
}

impl Sender {
    /// As [`zmq::Sender::send`]. What is for a connection that leaves too much unread is dropped, and so is the connection.
    #[must_use]
    pub fn send(&self, to: &Connection, frames: Frames) -> Option<BoxFuture<'static, ()>> {
        if self.counting && !self.ledger.send(to, zmq::wire_length(&frames)) {
            return None;
        }
        self.socket.send(to, frames)
    }
}

impl Door {
    /// Opens a door at `address`, with TLS if there are credentials; port 0 lets the system choose. Gives the address that it
    /// is at.
    ///
    /// # Errors
    /// When the address cannot be bound, or there is no place for the inner socket.
    pub async fn open(
        address: SocketAddr,
        options: &Options,
        tally: Arc<Tally>,
        credentials: Option<Arc<Credentials>>,
    ) -> io::Result<(Self, Sender, Receiver, SocketAddr)> {
        let listener = StdListener::bind(address)?;
        let bound = listener.local_addr()?;
        let ledger = Arc::new(Ledger::new(options.max_unread as u64, options.max_held as u64));
        let (tell_closing, closing) = oneshot::channel();
        let mut anchors = Vec::new();
        let (folder, (sender, receiver)) = if options.door {
            let (folder, inner) = Folder::create()?;
            let sockets = zmq::listen(inner).await?;
            let shared = Arc::new(Shared {
                limits: Limits::for_payloads(options.max_payload),
                admission: Mutex::new(Admission::new(options.max_connections, options.max_per_address)),
                ledger: Arc::clone(&ledger),
                tally,
                credentials,
                connections: AtomicU64::new(0),
                ended: AtomicWaker::new(),
                closing: closing.shared(),
                socket: folder.socket(),
                turn: futures::lock::Mutex::new(()),
                spare: File::open("/dev/null")?,
            });
            for anchor in ANCHORS {
                let connecting = timer::timeout(RETRY * 20, shared.connect(&Connection::from_static(anchor))).await;
                let anchored = connecting.ok().and_then(Result::ok);
                anchors.push(anchored.ok_or_else(|| io::Error::other("the inner socket lets nobody in"))?);
            }
            listener.set_nonblocking(true)?;
            runtime::spawn(accept(shared, TcpListener::from(listener)));
            (Some(folder), sockets)
        } else {
            (None, zmq::listen(listener).await?)
        };
        let sender = Sender { socket: sender, ledger: Arc::clone(&ledger), counting: folder.is_some() };
        let receiver = Receiver { socket: receiver, ledger: Arc::clone(&ledger) };
        Ok((Self { ledger, folder, _anchors: anchors, _closing: tell_closing }, sender, receiver, bound))
    }

    /// Waits until everything that was sent was accepted by the other sides' systems. One whose side takes nothing is cut
    /// off after a while; do not wait for that.
    pub async fn settled(&self) {
        self.ledger.settled().await;
    }

    /// Closes the door for good, after its [`Sender`]s and its [`Receiver`] are dropped, and leaves nothing behind.
    pub async fn close(mut self) {
        let (folder, ledger) = (self.folder.take(), Arc::clone(&self.ledger));
        drop(self);
        // The other sides are told, as far as their connections have a way to; whoever does not listen is not waited for.
        let _ = timer::timeout(LAST_WORDS, ledger.emptied()).await;
        if let Some(folder) = folder {
            folder.remove().await;
        }
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let accepting = accept_all(&shared, &listener);
    pin_mut!(accepting);
    if let Either::Left((never, _)) = select(accepting, shared.closing.clone()).await {
        match never {}
    }
}

async fn accept_all(shared: &Arc<Shared>, listener: &TcpListener) -> std::convert::Infallible {
    loop {
        // While there are too few descriptors, who comes waits in the system's queue.
        if !shared.has_descriptors(SPARE_TO_ACCEPT) {
            shared.tally.pause("there are too few file descriptors left");
            shared.descriptors(SPARE_TO_ACCEPT).await;
        }
        match listener.accept().await {
            Ok((tcp, from)) => admit(shared, tcp, from),
            // The other side gave up before we came to it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                shared.tally.pause(&error.to_string());
                shared.released().await;
            }
        }
    }
}

fn admit(shared: &Arc<Shared>, tcp: TcpStream, from: SocketAddr) {
    match Place::take(shared, from.ip()) {
        Ok(place) => runtime::spawn(entry::host(Arc::clone(shared), place, tcp)),
        Err(refusal) => shared.tally.refuse(refusal, from.ip(), ""),
    }
}
