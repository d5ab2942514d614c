//! Frames over bare TCP with async-std, whose sockets PALM uses too: a length and a payload, and a
//! server that sends back what it gets. This is the floor: no call can cost less on this executor.

use std::{
    env,
    sync::Arc,
    time::{Duration, Instant},
};

use async_std::{
    io::{ReadExt as _, WriteExt as _},
    net::{TcpListener, TcpStream},
};
use futures::{executor::block_on, lock::Mutex};
use palm_tests::Process;

use crate::{
    Outcome,
    measure::{Load, Subject, Turn},
};

/// The bytes of a frame's length.
const LENGTH: usize = 4;
const READ: usize = 64 * 1024;

/// Runs the server, in its own process; prints its address. It does not look at the frames.
pub(crate) async fn serve() -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("tcp://{}", listener.local_addr()?);
    let (mut stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let mut bytes = vec![0; READ];
    loop {
        let count = stream.read(&mut bytes).await?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&bytes[..count]).await?;
    }
}

/// The client, and its server.
pub(crate) struct RawTcp {
    connection: Arc<Mutex<Connection>>,
    _server: Process,
}

struct Connection {
    stream: TcpStream,
    /// What was read and is no whole frame yet.
    received: Vec<u8>,
}

impl RawTcp {
    /// Starts the server, and connects.
    pub(crate) fn start() -> Outcome<Self> {
        let server = Process::start(env::current_exe()?, ["serve-tcp"]);
        let (endpoint, _) =
            server.wait_for_line(|line| line.starts_with("tcp://"), Duration::from_secs(20));
        let stream = block_on(TcpStream::connect(endpoint.trim_start_matches("tcp://")))?;
        stream.set_nodelay(true)?;
        let connection = Connection {
            stream,
            received: Vec::new(),
        };
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
            _server: server,
        })
    }
}

fn append(frames: &mut Vec<u8>, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a short payload");
    frames.extend_from_slice(&length.to_le_bytes());
    frames.extend_from_slice(payload);
}

impl Connection {
    /// Waits for at least one frame, and passes all that have come.
    async fn receive(&mut self, mut frame: impl FnMut(&[u8])) -> Outcome<()> {
        let mut bytes = vec![0; READ];
        let mut any = false;
        while !any {
            let count = self.stream.read(&mut bytes).await?;
            if count == 0 {
                return Err("the server has ended".into());
            }
            self.received.extend_from_slice(&bytes[..count]);
            let mut done = 0;
            while let Some((length, rest)) = self.received[done..].split_first_chunk::<LENGTH>() {
                let length = usize::try_from(u32::from_le_bytes(*length))?;
                let Some(payload) = rest.get(..length) else {
                    break;
                };
                frame(payload);
                done += LENGTH + length;
                any = true;
            }
            self.received.drain(..done);
        }
        Ok(())
    }

    async fn turn(&mut self, load: &Load) -> Outcome<Turn> {
        let start = Instant::now();
        let mut frames = Vec::new();
        for payload in &load.payloads {
            append(&mut frames, payload);
        }
        let mut sent = vec![Instant::now(); load.in_flight()];
        self.stream.write_all(&frames).await?;
        let (mut trips, mut open) = (Vec::new(), load.in_flight());
        while open > 0 {
            frames.clear();
            let goes_on = start.elapsed() < load.time;
            self.receive(|answer| {
                // One connection keeps the order.
                let place = trips.len() % load.in_flight();
                load.verify(place, answer);
                trips.push(sent[place].elapsed());
                if goes_on {
                    sent[place] = Instant::now();
                    append(&mut frames, &load.payloads[place]);
                } else {
                    open -= 1;
                }
            })
            .await?;
            self.stream.write_all(&frames).await?;
        }
        Ok(Turn::new(trips, start.elapsed()))
    }
}

impl Subject for RawTcp {
    fn turn(&mut self, load: &Load) -> Outcome<Turn> {
        let (connection, load) = (Arc::clone(&self.connection), load.clone());
        palm_peer::block_on(async move { connection.lock().await.turn(&load).await })
    }
}
