//! The client of one endpoint.

use std::{sync::Arc, time::Duration};

use etcd_client::{Client, ConnectOptions, KvClient, WatchClient};

use super::{life::Life, watch_stream::WatchStream};

/// A host that is down does not answer at all: known sooner than by the request's own limit.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often an open stream is tried with a ping. etcd closes the connection of who pings more often than its
/// `--grpc-keepalive-min-time`, 5 s unless set (seen: with pings every second each watch broke after 4 s); nor does it
/// bear pings when no stream is open, so there are none then.
const PING_PERIOD: Duration = Duration::from_secs(6);

/// How long the answer to a ping may take before the connection is given up.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection without a stream may be idle before the system checks that the other host is still there: pings
/// are sent over streams only.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The largest answer we take. The crate's 4 MiB would be too little for a list of a few thousand servers.
const MAX_ANSWER: usize = 256 << 20;

/// A client of one endpoint.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) life: Life,
    pub(super) watches: Arc<WatchStream>,
    pub(super) place: ConnectionId,
}

/// Which client of which endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConnectionId {
    pub(super) endpoint: usize,
    pub(super) generation: u64,
}

impl Connection {
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(super) fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(MAX_ANSWER)
    }

    pub(super) fn watch(&self) -> WatchClient {
        self.client.watch_client().max_decoding_message_size(MAX_ANSWER)
    }
}

/// How to connect, but for TLS and user.
pub(super) fn options() -> ConnectOptions {
    ConnectOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_keep_alive(PING_PERIOD, PING_TIMEOUT)
        .with_keep_alive_while_idle(false)
        .with_tcp_keepalive(TCP_KEEP_ALIVE)
        // A member that lost touch with the others would else serve a watch that is silent for ever.
        .with_require_leader(true)
}
