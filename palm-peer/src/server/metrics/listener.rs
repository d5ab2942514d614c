//! Serves the metrics over HTTP, for Prometheus, on a thread of its own: also while functions block
//! all others.
//!
//! Everything is bounded: the connections at once, the time and the length of a request. Each
//! connection gets one answer.

use super::{CONTENT_TYPE, encode};
use crate::{
    io::{
        executor::{self, TcpListener, TcpStream},
        tasks::{self, Name},
        timer,
    },
    server::state::ServerState,
};
use futures::{
    AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, StreamExt as _,
    channel::oneshot,
    future::{pending, select},
    stream::FuturesUnordered,
};
use palm_proto::http::{MAX_HEAD, Reply, reply_to};
use std::{
    convert::Infallible,
    io,
    net::{Shutdown, SocketAddr, TcpListener as StdListener},
    pin::pin,
    sync::Arc,
    time::Duration,
};

/// Where the metrics are.
const PATH: &str = "/metrics";

/// How many connections are served at once; others wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 8;

/// How long a request may take to arrive, and its answer to be read.
const READ_WITHIN: Duration = Duration::from_secs(2);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The wait after a connection could not be accepted, as when no descriptor is left.
const RETRY: Duration = Duration::from_millis(250);

/// How many bytes behind a request are read, so that the answer is not lost in a reset.
const MAX_REST: usize = 64 * 1024;

/// An open listener. Closed on drop.
pub(crate) struct MetricsListener {
    address: SocketAddr,
    _closing: oneshot::Sender<()>,
}

impl MetricsListener {
    /// Opens it at `address`; port 0 lets the system choose. Fails when that cannot be bound.
    pub(crate) fn open(address: SocketAddr, state: &Arc<ServerState>) -> io::Result<Self> {
        let listener = StdListener::bind(address)?;
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let listener = Arc::new(TcpListener::from(listener));
        let (closing_tx, closing) = oneshot::channel();
        let (closing, served) = (closing.shared(), Arc::clone(state));
        let serving = move || {
            let (listener, state, closing) =
                (Arc::clone(&listener), Arc::clone(&served), closing.clone());
            async move {
                select(pin!(serve(&listener, &state)), closing).await;
            }
        };
        let supervisor = &state.supervisor;
        tasks::run_on_thread(supervisor, Name::MetricsListener, "palm-metrics", serving)?;
        log::info!("the metrics are at http://{address}{PATH}");
        Ok(Self {
            address,
            _closing: closing_tx,
        })
    }

    /// Returns the address that it listens on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn serve(listener: &TcpListener, state: &Arc<ServerState>) -> Infallible {
    let mut connections = FuturesUnordered::new();
    loop {
        let is_full = connections.len() >= MAX_CONNECTIONS;
        let accepting = async {
            if is_full {
                pending().await
            } else {
                listener.accept().await
            }
        };
        let mut accepting = pin!(accepting.fuse());
        futures::select! {
            accepted = accepting => match accepted {
                Ok((stream, _)) => connections.push(answer_one(stream, state)),
                Err(error) => {
                    log::debug!("no connection for metrics is accepted for now: {error}");
                    timer::sleep(RETRY).await;
                }
            },
            () = connections.select_next_some() => {}
        }
    }
}

/// Serves a connection. What goes wrong with it is the other side's affair.
async fn answer_one(mut stream: TcpStream, state: &Arc<ServerState>) {
    let _ = timer::timeout(ANSWER_WITHIN, exchange(&mut stream, state)).await;
}

async fn exchange(stream: &mut TcpStream, state: &Arc<ServerState>) -> io::Result<()> {
    executor::tune(stream)?;
    let Ok(reply) = timer::timeout(READ_WITHIN, read_request(stream)).await else {
        return Ok(());
    };
    let Some(reply) = reply? else { return Ok(()) };
    let (content_type, body) = match reply {
        Reply::Document { .. } => {
            let text = encode(state).map_err(|error| io::Error::other(error.to_string()))?;
            (CONTENT_TYPE, text)
        }
        Reply::NotFound => ("text/plain", format!("the metrics are at {PATH}\n")),
        Reply::NotAllowed | Reply::Invalid | Reply::TooLong => {
            ("text/plain", format!("{}\n", reply.status()))
        }
    };
    let mut answer = reply.head(content_type, body.len());
    if reply != (Reply::Document { content: false }) {
        answer.push_str(&body);
    }
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown(Shutdown::Write)?;
    let mut rest = [0; 1024];
    for _ in 0..MAX_REST / rest.len() {
        if stream.read(&mut rest).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// Returns what to answer; `None` if the connection ends before a request is complete.
async fn read_request(stream: &mut TcpStream) -> io::Result<Option<Reply>> {
    let mut received = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        if let Some(reply) = reply_to(&received, PATH) {
            return Ok(Some(reply));
        }
        debug_assert!(received.len() < MAX_HEAD);
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(None);
        }
        received.extend_from_slice(&buffer[..count]);
    }
}
