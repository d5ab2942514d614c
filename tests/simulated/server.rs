//! What a simulated server says over its connections: ZMTP's handshake, greetings, and the functions that the leader asks.

use super::Mode;
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
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use uuid::Uuid;

/// The bits of a frame's flags.
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;
/// The longest frame that is read.
const MAX_FRAME: u64 = 1 << 20;

/// Who answers, and whether it does.
pub struct Face {
    pub uuid: Uuid,
    pub name: String,
    pub mode: AtomicU8,
}

impl Face {
    fn is_mute(&self) -> bool {
        self.mode.load(Ordering::Relaxed) == Mode::Mute as u8
    }

    /// Waits while it is mute, as what reaches a stopped process waits.
    async fn heard(&self) {
        while self.is_mute() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Lets in whoever connects. Dropped, it ends all connections, as the end of a process does.
pub async fn serve(listener: TcpListener, face: Arc<Face>) {
    let mut connections = JoinSet::new();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let face = Arc::clone(&face);
            connections.spawn(async move { converse(stream, &face).await });
        } else {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn converse(stream: TcpStream, face: &Face) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(2048, stream);
    face.heard().await;
    stream.write_all(&wire::greeting()).await?;
    stream.write_all(&wire::ready(&[("Socket-Type", b"ROUTER")])).await?;
    stream.read_exact(&mut [0; 64]).await?;
    frame(&mut stream).await?;
    let mut message = Vec::new();
    loop {
        let (flags, body) = frame(&mut stream).await?;
        let said = if flags & COMMAND != 0 {
            pong(&body)
        } else {
            message.push(body);
            if flags & MORE != 0 {
                continue;
            }
            reply(face, &std::mem::take(&mut message))
        };
        face.heard().await;
        stream.write_all(&said).await?;
    }
}

async fn frame(stream: &mut BufReader<TcpStream>) -> io::Result<(u8, Bytes)> {
    let flags = stream.read_u8().await?;
    let length = if flags & LONG == 0 { u64::from(stream.read_u8().await?) } else { stream.read_u64().await? };
    if length > MAX_FRAME {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; usize::try_from(length).unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    Ok((flags, body.into()))
}

/// The answer to a PING: the command's name and its time to live go, its context comes back.
fn pong(command: &[u8]) -> Vec<u8> {
    match command.strip_prefix(b"\x04PING").and_then(|rest| rest.get(2..)) {
        Some(context) => wire::frame(COMMAND, &[b"\x04PONG", context].concat()),
        None => Vec::new(),
    }
}

/// The answer to a message, or nothing to what is none.
fn reply(face: &Face, frames: &[Bytes]) -> Vec<u8> {
    let Some(Ok(header)) = frames.first().map(|header| serde_json::from_slice::<Value>(header)) else {
        return Vec::new();
    };
    let payload = frames.get(1).cloned().unwrap_or_default();
    if header.get("bye").is_some_and(Value::is_string) {
        return Vec::new();
    }
    let mut answer = json!({ "palm": 1, "server": face.uuid });
    let mut result = Bytes::new();
    if header.get("hello").is_none() {
        for field in ["job", "idx"] {
            if let Some(value) = header.get(field).filter(|value| !value.is_null()) {
                answer[field] = value.clone();
            }
        }
        let stage = header["stage"].as_u64().and_then(|stage| usize::try_from(stage).ok()).unwrap_or(0);
        answer["stage"] = stage.into();
        let target = header["pipeline"][stage].as_str().unwrap_or_default();
        result = run(face, target.rsplit('.').next().unwrap_or_default(), payload);
    }
    [wire::frame(MORE, answer.to_string().as_bytes()), wire::frame(0, &result)].concat()
}

/// What a function answers: an idle server has logged nothing; what is not built in echoes.
fn run(face: &Face, function: &str, payload: Bytes) -> Bytes {
    match function {
        "_log_query" => Bytes::new(),
        "_ping" => json!({
            "uuid": face.uuid, "server": face.name, "uptime": 1.0, "requests": 0, "errors": 0, "in_flight": 0,
            "queued": 0, "p50_us": null, "p99_us": null
        })
        .to_string()
        .into(),
        _ => payload,
    }
}
