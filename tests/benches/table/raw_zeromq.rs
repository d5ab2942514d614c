//! The zeromq crate without PALM: a DEALER, and a ROUTER that sends back what it gets.

use std::{
    env,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{executor::block_on, lock::Mutex};
use palm_tests::Process;
use zeromq::{DealerSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

use crate::{
    Outcome,
    measure::{Load, Subject, Turn},
};

/// Runs the server, in its own process; prints its address.
pub(crate) async fn serve() -> Outcome<()> {
    let mut socket = RouterSocket::new();
    println!("{}", socket.bind("tcp://127.0.0.1:0").await?);
    loop {
        let message = socket.recv().await?;
        socket.send(message).await?;
    }
}

/// The client, and its server.
pub(crate) struct RawZeromq {
    socket: Arc<Mutex<DealerSocket>>,
    _server: Process,
}

impl RawZeromq {
    /// Starts the server, and connects.
    pub(crate) fn start() -> Outcome<Self> {
        let server = Process::start(env::current_exe()?, ["serve-zeromq"]);
        let (endpoint, _) =
            server.wait_for_line(|line| line.starts_with("tcp://"), Duration::from_secs(20));
        let mut socket = DealerSocket::new();
        block_on(socket.connect(&endpoint))?;
        Ok(Self {
            socket: Arc::new(Mutex::new(socket)),
            _server: server,
        })
    }
}

async fn turn(socket: &mut DealerSocket, load: &Load) -> Outcome<Turn> {
    let start = Instant::now();
    let mut sent = Vec::new();
    for payload in &load.payloads {
        sent.push(Instant::now());
        socket.send(ZmqMessage::from(payload.clone())).await?;
    }
    let mut trips = Vec::new();
    let mut open = load.in_flight();
    while open > 0 {
        let answer = socket
            .recv()
            .await?
            .into_vec()
            .pop()
            .ok_or("an answer without frames")?;
        // One connection and one server keep the order.
        let place = trips.len() % load.in_flight();
        load.verify(place, &answer);
        trips.push(sent[place].elapsed());
        if start.elapsed() < load.time {
            sent[place] = Instant::now();
            socket
                .send(ZmqMessage::from(load.payloads[place].clone()))
                .await?;
        } else {
            open -= 1;
        }
    }
    Ok(Turn::new(trips, start.elapsed()))
}

impl Subject for RawZeromq {
    fn turn(&mut self, load: &Load) -> Outcome<Turn> {
        let (socket, load) = (Arc::clone(&self.socket), load.clone());
        palm_peer::block_on(async move { turn(&mut *socket.lock().await, &load).await })
    }
}
