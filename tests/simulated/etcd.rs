//! The few requests of etcd's API v3 that a simulated server makes, over one HTTP/2 connection
//! for all of them.
//!
//! The needed messages (etcd's `rpc.proto`) are written by hand, because a client library opens one
//! stream per lease: here thousands of servers in one process renew theirs over a few streams.

use bytes::Bytes;
use futures::{Stream, channel::mpsc};
use std::time::Duration;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum size of a message: a list of ten thousand candidates is long.
const MAX_MESSAGE: usize = 64 << 20;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ResponseHeader {
    #[prost(int64, tag = "3")]
    pub revision: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(int64, tag = "2")]
    pub create_revision: i64,
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
    #[prost(int64, tag = "6")]
    pub lease: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    #[prost(int64, tag = "3")]
    pub limit: i64,
    /// 1: ascending.
    #[prost(int32, tag = "5")]
    pub sort_order: i32,
    /// 2: by create revision.
    #[prost(int32, tag = "6")]
    pub sort_target: i32,
    #[prost(bool, tag = "8")]
    pub keys_only: bool,
    #[prost(bool, tag = "9")]
    pub count_only: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KeyValue>,
    #[prost(int64, tag = "4")]
    pub count: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    #[prost(int64, tag = "3")]
    pub lease: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DeleteRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Operation {
    #[prost(message, tag = "2")]
    Put(PutRequest),
    #[prost(message, tag = "3")]
    Delete(DeleteRequest),
}

#[derive(Clone, PartialEq, prost::Message)]
struct RequestOp {
    #[prost(oneof = "Operation", tags = "2, 3")]
    operation: Option<Operation>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TxnRequest {
    #[prost(message, repeated, tag = "2")]
    success: Vec<RequestOp>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TxnResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

/// `LeaseGrantRequest` and its response, whose field numbers differ.
#[derive(Clone, PartialEq, prost::Message)]
struct LeaseGrantRequest {
    #[prost(int64, tag = "1")]
    ttl: i64,
    #[prost(int64, tag = "2")]
    id: i64,
}

/// `LeaseKeepAliveRequest` and `LeaseRevokeRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LeaseId {
    #[prost(int64, tag = "1")]
    pub id: i64,
}

/// The answers about a lease.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LeaseResponse {
    #[prost(int64, tag = "2")]
    pub id: i64,
    /// 0 or less: the lease is gone.
    #[prost(int64, tag = "3")]
    pub ttl: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WatchCreate {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    range_end: Bytes,
    #[prost(int64, tag = "3")]
    start_revision: i64,
    /// 0: no puts.
    #[prost(int32, repeated, tag = "5")]
    filters: Vec<i32>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create: Option<WatchCreate>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WatchResponse {
    #[prost(bool, tag = "4")]
    pub canceled: bool,
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Event {
    #[prost(message, optional, tag = "2")]
    pub kv: Option<KeyValue>,
}

/// A put in a transaction.
pub(super) fn put(key: impl Into<Bytes>, value: impl Into<Bytes>, lease: i64) -> Operation {
    Operation::Put(PutRequest {
        key: key.into(),
        value: value.into(),
        lease,
    })
}

/// A deletion in a transaction.
pub(super) fn delete(key: impl Into<Bytes>) -> Operation {
    Operation::Delete(DeleteRequest { key: key.into() })
}

/// The range of one key.
pub(super) fn key(key: &str) -> RangeRequest {
    RangeRequest {
        key: key.to_owned().into(),
        ..RangeRequest::default()
    }
}

/// Returns the range of all keys with this prefix.
pub(super) fn folder(prefix: &str) -> RangeRequest {
    RangeRequest {
        key: prefix.to_owned().into(),
        range_end: end(prefix),
        ..RangeRequest::default()
    }
}

fn end(prefix: &str) -> Bytes {
    let mut bytes = prefix.as_bytes().to_vec();
    if let Some(last) = bytes.last_mut() {
        *last += 1;
    }
    bytes.into()
}

/// A connection to etcd that reconnects as needed.
#[derive(Clone)]
pub(super) struct Store(Channel);

impl Store {
    /// Connects at the first request. Panics when `endpoint` is not a URL.
    pub(super) fn new(endpoint: &str) -> Self {
        let endpoint = Endpoint::from_shared(endpoint.to_owned()).expect("a URL of etcd");
        let endpoint = endpoint
            .connect_timeout(Duration::from_secs(2))
            .tcp_nodelay(true);
        // A frozen etcd, or a vanished host, does not answer pings: then the connection is closed.
        let endpoint = endpoint
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        Self(endpoint.connect_lazy())
    }

    async fn ask<Q, A>(&self, method: &'static str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.0.clone()).max_decoding_message_size(MAX_MESSAGE);
        let asking = async {
            grpc.ready()
                .await
                .map_err(|error| Status::unavailable(error.to_string()))?;
            let codec: ProstCodec<Q, A> = ProstCodec::default();
            grpc.unary(
                Request::new(request),
                PathAndQuery::from_static(method),
                codec,
            )
            .await
        };
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, asking).await;
        Ok(answer
            .map_err(|_| Status::deadline_exceeded("etcd does not answer"))??
            .into_inner())
    }

    async fn stream<Q, A>(
        &self,
        method: &'static str,
        requests: impl Stream<Item = Q> + Send + 'static,
    ) -> Result<Streaming<A>, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.0.clone()).max_decoding_message_size(MAX_MESSAGE);
        grpc.ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        Ok(grpc
            .streaming(
                Request::new(requests),
                PathAndQuery::from_static(method),
                codec,
            )
            .await?
            .into_inner())
    }

    /// Reads.
    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        self.ask("/etcdserverpb.KV/Range", request).await
    }

    /// Runs these operations in one transaction. Returns its revision.
    pub(super) async fn transact(&self, operations: Vec<Operation>) -> Result<i64, Status> {
        let success = operations
            .into_iter()
            .map(|operation| RequestOp {
                operation: Some(operation),
            })
            .collect();
        let answer: TxnResponse = self
            .ask("/etcdserverpb.KV/Txn", TxnRequest { success })
            .await?;
        Ok(answer.header.unwrap_or_default().revision)
    }

    /// Grants a lease.
    pub(super) async fn grant(&self, ttl: Duration) -> Result<i64, Status> {
        let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let granted: LeaseResponse = self
            .ask(
                "/etcdserverpb.Lease/LeaseGrant",
                LeaseGrantRequest { ttl, id: 0 },
            )
            .await?;
        Ok(granted.id)
    }

    /// Revokes a lease, which deletes all keys on it.
    pub(super) async fn revoke(&self, id: i64) -> Result<(), Status> {
        self.ask::<_, LeaseResponse>("/etcdserverpb.Lease/LeaseRevoke", LeaseId { id })
            .await
            .map(drop)
    }

    /// Renews the leases from the stream `leases`.
    pub(super) async fn keep_alive(
        &self,
        leases: mpsc::UnboundedReceiver<LeaseId>,
    ) -> Result<Streaming<LeaseResponse>, Status> {
        self.stream("/etcdserverpb.Lease/LeaseKeepAlive", leases)
            .await
    }

    /// Watches the deletions under these prefixes from a revision on. The stream ends when
    /// `open` is dropped.
    pub(super) async fn deletions(
        &self,
        prefixes: &[&str],
        from: i64,
    ) -> Result<(Streaming<WatchResponse>, impl Send + use<>), Status> {
        let (tx, requests) = mpsc::unbounded();
        for prefix in prefixes {
            let range = folder(prefix);
            let create = WatchCreate {
                key: range.key,
                range_end: range.range_end,
                start_revision: from,
                filters: vec![0],
            };
            let _ = tx.unbounded_send(WatchRequest {
                create: Some(create),
            });
        }
        Ok((
            self.stream("/etcdserverpb.Watch/Watch", requests).await?,
            tx,
        ))
    }
}
