//! PALM: servers with their ingress, found through etcd; a client that calls them, or runs
//! jobs through them.

use std::{
    env,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{
    StreamExt as _,
    executor::block_on,
    future::{pending, try_join_all},
};
use palm_peer::{Client, Config, FunctionError, Message, Server};
use palm_tests::{Etcd, Process, eventually};

use crate::{
    Outcome,
    measure::{Caller, Load, Subject, Turn, callers, place_of},
};

/// A thousand servers take a while to start on a busy machine.
const SOON: Duration = Duration::from_secs(120);
/// How many servers share a process, where there are many.
const IN_A_PROCESS: usize = 250;
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

/// Runs so many servers of one name, in this process.
pub(crate) async fn serve_many(etcd: String, name: String, count: usize) -> Outcome<()> {
    let serving = (0..count).map(|_| serve(etcd.clone(), name.clone()));
    try_join_all(serving).await.map(drop)
}

/// An etcd, and servers that echo.
pub(crate) struct Mesh {
    client: Client,
    _servers: Vec<Process>,
    etcd: Etcd,
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
        let client = connect(&etcd, processes.len())?;
        Ok(Self {
            client,
            _servers: processes,
            etcd,
        })
    }

    /// Starts so many instances of the first server, in as few processes as can be, and waits until
    /// all can be reached.
    pub(crate) fn of_instances(count: usize) -> Outcome<Self> {
        let me = env::current_exe()?;
        let etcd = Etcd::start();
        let here = |place: usize| (count - place).min(IN_A_PROCESS).to_string();
        let processes = (0..count)
            .step_by(IN_A_PROCESS)
            .map(|place| {
                let words = ["serve-palm-many", &etcd.endpoint(), NAMES[0], &here(place)];
                Process::start(&me, words)
            })
            .collect();
        let client = connect(&etcd, count)?;
        Ok(Self {
            client,
            _servers: processes,
            etcd,
        })
    }

    /// Calls to the first server, both on the library's executor.
    pub(crate) fn calls(&self) -> Calls {
        Calls {
            clients: [self.client.clone()].into(),
            elsewhere: false,
        }
    }

    /// The same from so many clients, which share the calls in flight.
    pub(crate) fn calls_of_clients(&self, count: usize) -> Outcome<Calls> {
        let clients = (0..count).map(|_| connect(&self.etcd, 1));
        Ok(Calls {
            clients: clients.collect::<Outcome<_>>()?,
            elsewhere: false,
        })
    }

    /// Calls to a server elsewhere, from elsewhere.
    pub(crate) fn calls_elsewhere(&self) -> Calls {
        Calls {
            clients: [self.client.clone()].into(),
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

/// Connects a client, and waits until it can reach so many instances.
fn connect(etcd: &Etcd, instances: usize) -> Outcome<Client> {
    let options = Config::default().etcd(vec![etcd.endpoint()]);
    let client = block_on(Client::connect(options))?;
    eventually("all servers can be reached", SOON, || {
        let reachable = client.reachable();
        let known: usize = reachable.iter().map(|server| server.instances).sum();
        (known >= instances).then_some(())
    });
    Ok(client)
}

/// The client, or several, that call.
#[derive(Clone)]
pub(crate) struct Calls {
    clients: Arc<[Client]>,
    elsewhere: bool,
}

impl Caller for Calls {
    async fn call(&mut self, payload: Bytes) -> Outcome<Bytes> {
        Ok(self.clients[place_of(&payload) % self.clients.len()]
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
