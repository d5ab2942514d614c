//! The client of one endpoint.

use std::{sync::Arc, time::Duration};

use etcd_client::{Client, ConnectOptions, KvClient, WatchClient};

use super::{life::Life, watch_stream::WatchStream};

/// The connect timeout: a host that is down does not answer at all, and is detected before the
/// request's own timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The interval of HTTP/2 pings while a stream is open. etcd closes the connection of a client that
/// pings more often than its `--grpc-keepalive-min-time`, 5 s by default (observed: with pings
/// every second each watch broke after 4 s), or while no stream is open.
const PING_PERIOD: Duration = Duration::from_secs(6);

/// How long the answer to a ping may take before the connection is closed.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection without a stream may be idle before TCP keep-alive checks the other host:
/// pings are only sent while a stream is open.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The largest accepted response. The crate's default of 4 MiB is too little for a listing of a few
/// thousand servers.
const MAX_ANSWER: usize = 256 << 20;

/// A client of one endpoint.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) life: Life,
    pub(super) watches: Arc<WatchStream>,
    pub(super) place: ConnectionId,
}

/// Identifies a client of an endpoint.
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
        self.client
            .kv_client()
            .max_decoding_message_size(MAX_ANSWER)
    }

    pub(super) fn watch(&self) -> WatchClient {
        self.client
            .watch_client()
            .max_decoding_message_size(MAX_ANSWER)
    }
}

/// Returns the connect options, except for TLS and user.
pub(super) fn options() -> ConnectOptions {
    ConnectOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_keep_alive(PING_PERIOD, PING_TIMEOUT)
        .with_keep_alive_while_idle(false)
        .with_tcp_keepalive(TCP_KEEP_ALIVE)
        // Otherwise a member that is partitioned from the others would serve a watch
        // that stays silent.
        .with_require_leader(true)
}
