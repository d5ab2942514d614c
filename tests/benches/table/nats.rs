//! NATS: request and reply through a broker, by async-nats.

use std::{process::Command, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use palm_tests::{Process, free_port};
use tokio::runtime::Runtime;

use crate::{
    Outcome,
    measure::{Caller, Load, Subject, Turn, callers},
};

const SUBJECT: &str = "echo";
const SOON: Duration = Duration::from_secs(20);
/// Debian installs it in a directory that is not in every user's `PATH`.
const PLACES: [&str; 2] = ["nats-server", "/usr/sbin/nats-server"];

/// Returns the path and the version of the broker's program; `None` if it is not installed.
pub(crate) fn installed() -> Option<(&'static str, String)> {
    PLACES.into_iter().find_map(|program| {
        let version = Command::new(program).arg("--version").output().ok()?.stdout;
        Some((
            program,
            String::from_utf8_lossy(&version).trim().replace(": v", " "),
        ))
    })
}

/// Runs the server, in its own process: a client of the broker that answers. Prints a line
/// when it listens.
pub(crate) fn serve(broker: String) -> Outcome<()> {
    let runtime = Runtime::new()?;
    let serving = runtime.spawn(async move {
        let client = async_nats::connect(broker).await?;
        let mut requests = client.subscribe(SUBJECT).await?;
        client.flush().await?;
        println!("subscribed");
        while let Some(request) = requests.next().await {
            let reply = request
                .reply
                .ok_or("a request without a place for its reply")?;
            client.publish(reply, request.payload).await?;
        }
        Ok(())
    });
    runtime.block_on(serving)?
}

/// The client, its server, and the broker between them.
pub(crate) struct Nats {
    runtime: Runtime,
    client: async_nats::Client,
    _processes: [Process; 2],
}

impl Nats {
    /// Starts broker and server, and connects.
    pub(crate) fn start() -> Outcome<Self> {
        let (program, _) =
            installed().ok_or("nats-server is not installed here (Debian: nats-server)")?;
        let port = free_port().to_string();
        let broker = Process::start(program, ["--addr", "127.0.0.1", "--port", &port]);
        broker.wait_for_line(|line| line.contains("Server is ready"), SOON);
        let url = format!("nats://127.0.0.1:{port}");
        let server = Process::start(std::env::current_exe()?, ["serve-nats", &url]);
        server.wait_for_line(|line| line == "subscribed", SOON);
        let runtime = Runtime::new()?;
        let client = runtime.block_on(async_nats::connect(url))?;
        Ok(Self {
            runtime,
            client,
            _processes: [server, broker],
        })
    }
}

impl Caller for async_nats::Client {
    async fn call(&mut self, payload: Bytes) -> Outcome<Bytes> {
        Ok(self.request(SUBJECT, payload).await?.payload)
    }
}

impl Subject for Nats {
    fn turn(&mut self, load: &Load) -> Outcome<Turn> {
        self.runtime.block_on(
            self.runtime
                .spawn(callers(load.clone(), self.client.clone())),
        )?
    }
}
