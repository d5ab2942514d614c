//! The protocol of simulated servers: ZMTP's handshake, greetings, and the functions that
//! the leader calls.

use super::{
    Mode,
    etcd::{Store, key},
};
use bytes::Bytes;
use palm_tests::wire;
use serde_json::{Value, json};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
    sync::Mutex,
    task::JoinSet,
};
use uuid::Uuid;

/// The bits of a frame's flags.
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;
/// The longest frame that is read.
const MAX_FRAME: u64 = 1 << 20;
/// How long a probe of another server may take, unless the request says.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The answering server and its mode.
pub(super) struct Face {
    pub uuid: Uuid,
    pub name: String,
    pub mode: AtomicU8,
    /// Where it looks up other servers.
    pub store: Store,
}

impl Face {
    fn is_mute(&self) -> bool {
        self.mode.load(Ordering::Relaxed) == Mode::Mute as u8
    }

    /// Waits while it is mute, like requests to a stopped process.
    async fn heard(&self) {
        while self.is_mute() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Accepts connections. Dropping it ends all of them, as the end of a process does.
pub(super) async fn serve(listener: TcpListener, face: Arc<Face>) {
    let mut connections = JoinSet::new();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let face = Arc::clone(&face);
            connections.spawn(converse(stream, face));
        } else {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Sends the answers. A slow one must not delay the others.
type Out = Arc<Mutex<OwnedWriteHalf>>;

async fn converse(stream: TcpStream, face: Arc<Face>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (input, mut output) = stream.into_split();
    let mut input = BufReader::with_capacity(2048, input);
    face.heard().await;
    output.write_all(&opening("ROUTER")).await?;
    input.read_exact(&mut [0; 64]).await?;
    frame(&mut input).await?;
    let out: Out = Arc::new(Mutex::new(output));
    let (mut message, mut probes) = (Vec::new(), JoinSet::new());
    loop {
        let (flags, body) = frame(&mut input).await?;
        let said = if flags & COMMAND != 0 {
            pong(&body)
        } else {
            message.push(body);
            if flags & MORE != 0 {
                continue;
            }
            let request = Request::read(&std::mem::take(&mut message));
            if let Some(request) = request
                .as_ref()
                .filter(|request| request.function == "_probe")
            {
                probes.spawn(probe(Arc::clone(&face), Arc::clone(&out), request.clone()));
                while probes.try_join_next().is_some() {}
                continue;
            }
            request.map_or(Vec::new(), |request| {
                request.answer(&face, &run(&face, &request))
            })
        };
        face.heard().await;
        out.lock().await.write_all(&said).await?;
    }
}

/// The greeting and READY of a peer.
fn opening(socket: &str) -> Vec<u8> {
    [
        wire::greeting().as_slice(),
        &wire::ready(&[("Socket-Type", socket.as_bytes())]),
    ]
    .concat()
}

async fn frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, Bytes)> {
    let flags = stream.read_u8().await?;
    let length = if flags & LONG == 0 {
        u64::from(stream.read_u8().await?)
    } else {
        stream.read_u64().await?
    };
    if length > MAX_FRAME {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; usize::try_from(length).unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    Ok((flags, body.into()))
}

/// Returns the answer to a PING, which repeats its context.
fn pong(command: &[u8]) -> Vec<u8> {
    match command
        .strip_prefix(b"\x04PING")
        .and_then(|rest| rest.get(2..))
    {
        Some(context) => wire::frame(COMMAND, &[b"\x04PONG", context].concat()),
        None => Vec::new(),
    }
}

/// A greeting, or a request for a function.
#[derive(Clone)]
struct Request {
    /// The fields that the answer repeats.
    header: Value,
    /// Empty: a greeting.
    function: String,
    payload: Bytes,
}

impl Request {
    /// `None` when it needs no answer.
    fn read(frames: &[Bytes]) -> Option<Self> {
        let header: Value = serde_json::from_slice(frames.first()?).ok()?;
        if header.get("bye").is_some_and(Value::is_string) {
            return None;
        }
        let function = header["pipeline"][stage(&header)]
            .as_str()
            .and_then(|target| target.rsplit('.').next());
        let function = function.unwrap_or_default().to_owned();
        Some(Self {
            function,
            header,
            payload: frames.get(1).cloned().unwrap_or_default(),
        })
    }

    fn answer(&self, face: &Face, result: &[u8]) -> Vec<u8> {
        let mut answer = json!({ "palm": 1, "server": face.uuid });
        if self.header.get("hello").is_none() {
            answer["stage"] = stage(&self.header).into();
            for field in ["job", "idx"] {
                if let Some(value) = self.header.get(field).filter(|value| !value.is_null()) {
                    answer[field] = value.clone();
                }
            }
        }
        [
            wire::frame(MORE, answer.to_string().as_bytes()),
            wire::frame(0, result),
        ]
        .concat()
    }
}

fn stage(header: &Value) -> usize {
    header["stage"]
        .as_u64()
        .and_then(|stage| usize::try_from(stage).ok())
        .unwrap_or(0)
}

/// Returns the answer of a function: an idle server has logged nothing; other functions echo.
fn run(face: &Face, request: &Request) -> Bytes {
    match request.function.as_str() {
        "_log_query" => Bytes::new(),
        "_ping" => json!({
            "uuid": face.uuid, "server": face.name, "uptime": 1.0, "requests": 0, "errors": 0, "in_flight": 0,
            "queued": 0, "p50_us": null, "p99_us": null
        })
        .to_string()
        .into(),
        _ => request.payload.clone(),
    }
}

/// Answers `_probe`: whether another server is at the endpoint in its record.
async fn probe(face: Arc<Face>, out: Out, request: Request) {
    let time = request.header["timeout_ms"]
        .as_u64()
        .map_or(PROBE_TIMEOUT, Duration::from_millis);
    let asked = String::from_utf8_lossy(&request.payload).into_owned();
    let reached = tokio::time::timeout(time.mul_f64(0.9), reach(&face, &asked)).await;
    let finding = match reached {
        Ok(Ok(())) => json!({ "reached": true }),
        Ok(Err(error)) => json!({ "reached": false, "reason": error.to_string() }),
        Err(_) => json!({ "reached": false, "reason": "no answer" }),
    };
    let said = request.answer(&face, finding.to_string().as_bytes());
    face.heard().await;
    let _ = out.lock().await.write_all(&said).await;
}

/// Connects to the endpoint in a server's record, and asks for its uuid.
async fn reach(face: &Face, uuid: &str) -> io::Result<()> {
    let found = face
        .store
        .range(key(&format!("/servers/{uuid}")))
        .await
        .map_err(io::Error::other)?;
    let record = found.kvs.first().ok_or(io::ErrorKind::NotFound)?;
    let record: Value = serde_json::from_slice(&record.value)?;
    let port = record["ports"][0]
        .as_u64()
        .and_then(|port| u16::try_from(port).ok())
        .unwrap_or(0);
    let mut stream =
        TcpStream::connect((record["host"].as_str().unwrap_or_default(), port)).await?;
    let hello = json!({ "palm": 1, "hello": face.uuid, "identify": true }).to_string();
    stream
        .write_all(&[opening("DEALER"), wire::frame(0, hello.as_bytes())].concat())
        .await?;
    let mut stream = BufReader::new(stream);
    stream.read_exact(&mut [0; 64]).await?;
    frame(&mut stream).await?;
    let (_, answer) = frame(&mut stream).await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    if answer["server"] == uuid {
        Ok(())
    } else {
        Err(io::Error::other("another server answers there"))
    }
}
