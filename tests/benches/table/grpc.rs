//! gRPC by tonic: a unary echo, with its one message and its one method written by hand
//! instead of generated.

use std::{
    convert::Infallible,
    env,
    future::{Ready, ready},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use palm_tests::Process;
use tokio::runtime::Runtime;
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{BoxFuture, Service, http, http::uri::PathAndQuery},
    server::{NamedService, UnaryService},
    transport::{Channel, Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;

use crate::{
    Outcome,
    measure::{Caller, Load, Subject, Turn, callers},
};

const METHOD: &str = "/palm.bench.Echo/Echo";

/// The message, in both directions.
#[derive(Clone, PartialEq, prost::Message)]
struct Parcel {
    #[prost(bytes = "bytes", tag = "1")]
    payload: Bytes,
}

type Codec = ProstCodec<Parcel, Parcel>;

#[derive(Clone, Copy)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "palm.bench.Echo";
}

impl UnaryService<Parcel> for Echo {
    type Response = Parcel;
    type Future = Ready<Result<Response<Parcel>, Status>>;

    fn call(&mut self, request: Request<Parcel>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

/// What tonic's generator would have written for a service with one method.
impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async {
            if request.uri().path() != METHOD {
                return Ok(Status::unimplemented("there is one method").into_http());
            }
            Ok(tonic::server::Grpc::new(Codec::default())
                .unary(Self, request)
                .await)
        })
    }
}

/// Runs the server, in its own process; prints its address.
pub(crate) fn serve() -> Outcome<()> {
    Runtime::new()?.block_on(async {
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into())?.with_nodelay(Some(true));
        println!("http://{}", incoming.local_addr()?);
        Ok(Server::builder()
            .add_service(Echo)
            .serve_with_incoming(incoming)
            .await?)
    })
}

/// The client, and its server.
pub(crate) struct Tonic {
    runtime: Runtime,
    channel: Channel,
    _server: Process,
}

impl Tonic {
    /// Starts the server, and connects.
    pub(crate) fn start() -> Outcome<Self> {
        let server = Process::start(env::current_exe()?, ["serve-tonic"]);
        let (url, _) =
            server.wait_for_line(|line| line.starts_with("http://"), Duration::from_secs(20));
        let runtime = Runtime::new()?;
        let channel = runtime.block_on(Channel::from_shared(url)?.connect())?;
        Ok(Self {
            runtime,
            channel,
            _server: server,
        })
    }
}

impl Caller for tonic::client::Grpc<Channel> {
    async fn call(&mut self, payload: Bytes) -> Outcome<Bytes> {
        self.ready().await?;
        let request = Request::new(Parcel { payload });
        let answer = self
            .unary(request, PathAndQuery::from_static(METHOD), Codec::default())
            .await?;
        Ok(answer.into_inner().payload)
    }
}

impl Subject for Tonic {
    fn turn(&mut self, load: &Load) -> Outcome<Turn> {
        let caller = tonic::client::Grpc::new(self.channel.clone());
        self.runtime
            .block_on(self.runtime.spawn(callers(load.clone(), caller)))?
    }
}
