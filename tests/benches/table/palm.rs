//! PALM: servers with their ingress, found through etcd; a client that calls them, or runs
//! jobs through them.

use std::{
    env,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt as _, executor::block_on, future::pending};
use palm_peer::{Client, Config, FunctionError, Message, Server};
use palm_tests::{Etcd, Process, eventually};

use crate::{
    Outcome,
    measure::{Caller, Load, Subject, Turn, callers},
};

const SOON: Duration = Duration::from_secs(30);
const NAMES: [&str; 3] = ["one", "two", "three"];
/// A server on another executor than the library's own.
const ELSEWHERE: &str = "elsewhere";
/// The default window of a job.
const WINDOW_BYTES: usize = 64 * 1024 * 1024;

async fn echo(message: Message) -> Result<Bytes, FunctionError> {
    Ok(message.into_payload())
}

/// A server, in a process of its own.
pub(crate) async fn serve(etcd: String, name: String) -> Outcome<()> {
    let options = Config::default().etcd(vec![etcd]);
    Ok(Server::new(name)
        .function("echo", echo)
        .join(options)
        .await?
        .serve(pending::<()>())
        .await?)
}

/// An etcd, and servers that echo.
pub(crate) struct Mesh {
    client: Client,
    _servers: Vec<Process>,
    _etcd: Etcd,
}

impl Mesh {
    /// Starts so many, and one elsewhere if that is wanted, and waits until all can be reached.
    pub(crate) fn start(servers: usize, elsewhere: bool) -> Outcome<Self> {
        let me = env::current_exe()?;
        let etcd = Etcd::start();
        let start = |role: &str, name: &str| Process::start(&me, [role, &etcd.endpoint(), name]);
        let mut processes: Vec<_> = NAMES[..servers]
            .iter()
            .map(|name| start("serve-palm", name))
            .collect();
        if elsewhere {
            processes.push(start("serve-palm-elsewhere", ELSEWHERE));
        }
        let options = Config::default().etcd(vec![etcd.endpoint()]);
        let client = block_on(Client::connect(options))?;
        eventually("all servers can be reached", SOON, || {
            (client.reachable().len() == processes.len()).then_some(())
        });
        Ok(Self {
            client,
            _servers: processes,
            _etcd: etcd,
        })
    }

    /// Calls to the first server, both on the library's executor.
    pub(crate) fn calls(&self) -> Calls {
        Calls {
            client: self.client.clone(),
            elsewhere: false,
        }
    }

    /// Calls to a server elsewhere, from elsewhere.
    pub(crate) fn calls_elsewhere(&self) -> Calls {
        Calls {
            client: self.client.clone(),
            elsewhere: true,
        }
    }

    /// Jobs through so many servers.
    pub(crate) fn jobs(&self, stages: usize) -> Outcome<Jobs> {
        if !(1..=NAMES.len()).contains(&stages) {
            return Err(format!("there are {} servers to be stages", NAMES.len()).into());
        }
        Ok(Jobs {
            client: self.client.clone(),
            stages,
        })
    }
}

/// The client, as one that calls.
#[derive(Clone)]
pub(crate) struct Calls {
    client: Client,
    elsewhere: bool,
}

impl Caller for Calls {
    async fn call(&mut self, payload: Bytes) -> Outcome<Bytes> {
        Ok(self
            .client
            .call(
                if self.elsewhere {
                    "elsewhere.echo"
                } else {
                    "one.echo"
                },
                payload,
            )
            .await?)
    }
}

impl Subject for Calls {
    fn turn(&mut self, load: &Load) -> Outcome<Turn> {
        let callers = callers(load.clone(), self.clone());
        if self.elsewhere {
            block_on(callers)
        } else {
            palm_peer::block_on(callers)
        }
    }
}

/// The client, as one that runs jobs: as many messages under way as the load says,
/// results in order.
pub(crate) struct Jobs {
    client: Client,
    stages: usize,
}

impl Subject for Jobs {
    fn turn(&mut self, load: &Load) -> Outcome<Turn> {
        let pipeline = NAMES[..self.stages]
            .iter()
            .map(|name| format!("{name}.echo"));
        let load = load.clone();
        let (start, time, payloads) = (Instant::now(), load.time, load.payloads.clone());
        let messages = (0..).map_while(move |idx| {
            (start.elapsed() < time).then(|| payloads[idx % payloads.len()].clone())
        });
        let job = self
            .client
            .job(pipeline)
            .window(load.in_flight(), WINDOW_BYTES);
        palm_peer::block_on(async move {
            let mut results = job.run_iter(messages)?;
            let mut count = 0;
            while let Some((idx, result)) = results.next().await {
                assert_eq!(
                    usize::try_from(idx)?,
                    count,
                    "results come in order, none is missing"
                );
                load.verify(count % load.in_flight(), &result?);
                count += 1;
            }
            Ok(Turn::counted(count, start.elapsed()))
        })
    }
}
