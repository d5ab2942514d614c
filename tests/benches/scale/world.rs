//! A mesh to be measured: its etcd, servers and clients, and the resources that they have used.

use crate::{
    patience,
    simulated::{Swarm, SwarmConfig},
};
use palm_peer::{Client, Config};
use palm_tests::{Etcd, Mark, Metrics, Process, processor_time, resident, running_time};
use std::{
    env, thread,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// The TTL of simulated servers: the default of real ones.
pub(crate) const TTL: Duration = Duration::from_secs(10);
/// How often the leader probes every server: its default.
pub(crate) const PROBE_PERIOD: Duration = Duration::from_secs(10);
/// The names of simulated servers: of one instance, of at most 32, and of all others.
pub(crate) const NAMES: [&str; 3] = ["one", "some", "many"];
/// What real servers are called.
pub(crate) const REAL: &str = "real";
/// How many instances of a name a client keeps links to.
const LINKS: usize = 32;
/// How many real servers share a process, where there are many.
const REAL_IN_PROCESS: usize = 100;
/// Real servers that become candidates before all others: the leader and the next in line, which
/// take over from each other.
const LINE: usize = 8;
/// What a successor logs.
pub(crate) const LEADS: &str = ":leading the mesh, in term ";
/// The timeout of operations that take milliseconds on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Servers, without those in line and those that join later.
    pub n: usize,
    /// How many of these servers are real.
    pub real: usize,
    /// Clients that follow the mesh.
    pub clients: usize,
    /// Restarts of which a rolling restart consists here.
    pub restarts: usize,
}

/// A mesh of one N.
pub(crate) struct World {
    pub plan: Plan,
    pub etcd: Etcd,
    /// Processes with real servers, those in line first, and how many servers each has.
    pub real: Vec<(Process, usize)>,
    /// The index of the leader.
    pub leader: usize,
    pub swarm: Swarm,
    /// The servers of the swarm.
    pub simulated: Vec<Uuid>,
    /// Sees what clients see.
    pub client: Client,
}

/// How it came to be.
pub(crate) struct Formed {
    /// When all were configured, and when clients knew all; else how many were.
    pub configured: Result<Duration, usize>,
    pub published: Result<Duration, usize>,
    pub leader_cpu: f64,
    pub etcd_cpu: f64,
}

/// This program in another role.
pub(crate) fn role(words: &[&str]) -> Process {
    Process::start(env::current_exe().expect("this program"), words)
}

/// CPU time that a process has used, in seconds.
pub(crate) fn cpu(pid: u32) -> f64 {
    processor_time(pid).as_secs_f64()
}

/// Waits until `look` finds something, for as long as `within`.
pub(crate) fn wait_for<T>(within: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() > deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

impl World {
    /// Starts everything, and waits until all simulated servers are published. Panics when etcd or
    /// the first servers do not start.
    pub(crate) fn form(plan: Plan) -> (Self, Formed) {
        let etcd = Etcd::builder()
            .arg("--heartbeat-interval=100")
            .arg("--election-timeout=1000")
            .start();
        let url = etcd.endpoint();
        let mut real = Vec::new();
        for _ in 0..LINE {
            let process = role(&["peers", &url, REAL, "1"]);
            process.wait_for_line(|line| line.contains(" joined as "), SOON);
            real.push((process, 1));
        }
        let settings = Config::default().etcd(vec![url.clone()]);
        let options = settings;
        let client = palm_peer::block_on(Client::connect(options)).expect("etcd answers");
        let swarm = Swarm::start(SwarmConfig {
            etcd: url,
            ttl: TTL,
            rejoin_within: Duration::from_millis(200),
        });
        let mut world = Self {
            plan,
            etcd,
            real,
            leader: 0,
            swarm,
            simulated: Vec::new(),
            client,
        };
        wait_for(SOON, || (world.seen() == LINE).then_some(()))
            .expect("the first servers are published");
        let formed = world.populate();
        (world, formed)
    }

    fn populate(&mut self) -> Formed {
        let (n, within) = (self.plan.n, patience(self.plan.n));
        let (leader, etcd) = (self.leader_cpu(), self.etcd_cpu());
        let began = Instant::now();
        let url = self.etcd.endpoint();
        let mut left = self.plan.real;
        while left > 0 {
            let count = left.min(REAL_IN_PROCESS);
            self.real
                .push((role(&["peers", &url, REAL, &count.to_string()]), count));
            left -= count;
        }
        let simulated = n - self.plan.real;
        let (one, some) = (simulated.min(1), LINKS.min(simulated.saturating_sub(1) / 2));
        for (name, count) in NAMES.into_iter().zip([one, some, simulated - one - some]) {
            self.simulated.extend(self.swarm.add(name, count));
        }
        let timed = |done: Option<()>, count: usize| done.map(|()| began.elapsed()).ok_or(count);
        let configured = wait_for(within, || (self.published() == n + LINE).then_some(()));
        let configured = timed(configured, self.published());
        let published = wait_for(Duration::from_secs(5), || {
            (self.seen() == n + LINE).then_some(())
        });
        let published = timed(published, self.seen());
        Formed {
            configured,
            published,
            leader_cpu: self.leader_cpu() - leader,
            etcd_cpu: self.etcd_cpu() - etcd,
        }
    }

    /// How many servers there should be.
    pub(crate) fn servers(&self) -> usize {
        self.plan.n - self.plan.real + self.real.iter().map(|(_, count)| count).sum::<usize>()
    }

    /// How many servers are published in etcd.
    pub(crate) fn published(&self) -> usize {
        self.swarm
            .count("/pipelines/")
            .map_or(0, |(count, _)| count)
    }

    /// etcd's revision, which each transaction that writes adds one to.
    pub(crate) fn revision(&self) -> i64 {
        self.swarm
            .count("/pipelines/")
            .map_or(0, |(_, revision)| revision)
    }

    /// How many servers a client knows.
    pub(crate) fn seen(&self) -> usize {
        self.client
            .reachable()
            .iter()
            .map(|server| server.instances)
            .sum()
    }

    /// How many instances of a name a client knows.
    pub(crate) fn instances(&self, name: &str) -> usize {
        let all = self.client.reachable();
        all.iter()
            .find(|server| server.server == name)
            .map_or(0, |server| server.instances)
    }

    /// The process that leads.
    pub(crate) fn leader(&self) -> &Process {
        &self.real[self.leader].0
    }

    /// CPU time in seconds, here and below.
    pub(crate) fn leader_cpu(&self) -> f64 {
        cpu(self.leader().pid())
    }

    /// The same of the living threads of the leader and of the next in line, exactly: for a time in
    /// which none ends.
    pub(crate) fn running(&self) -> [f64; 2] {
        [0, 1].map(|place| running_time(self.real[self.leader + place].0.pid()).as_secs_f64())
    }

    pub(crate) fn etcd_cpu(&self) -> f64 {
        cpu(self.etcd.pid())
    }

    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn leader_rss(&self) -> f64 {
        resident(self.leader().pid()) as f64 / 1e6
    }

    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn etcd_rss(&self) -> f64 {
        resident(self.etcd.pid()) as f64 / 1e6
    }

    /// Starts real servers in one process, and waits until clients know them; says
    /// how long that took.
    pub(crate) fn add_real(&mut self, count: usize) -> Option<Duration> {
        let before = self.servers();
        let began = Instant::now();
        self.real.push((
            role(&["peers", &self.etcd.endpoint(), REAL, &count.to_string()]),
            count,
        ));
        wait_for(patience(count), || {
            (self.seen() == before + count).then(|| began.elapsed())
        })
    }

    /// Where the logs of all real servers end now.
    pub(crate) fn marks(&self) -> Vec<Mark> {
        self.real
            .iter()
            .map(|(process, _)| process.mark())
            .collect()
    }

    /// Returns how many servers the leaders have removed as unresponsive since then.
    pub(crate) fn evictions(&self, marks: &[Mark]) -> usize {
        let evicts =
            |line: &&String| line.contains("Deleted server ") && !line.contains("it killed itself");
        let of = |((process, _), mark): (&(Process, usize), &Mark)| {
            process.lines_after(*mark).iter().filter(evicts).count()
        };
        self.real.iter().zip(marks).map(of).sum()
    }
}

/// The work of etcd between two moments.
pub(crate) struct Work {
    before: Metrics,
    after: Metrics,
}

impl Work {
    pub(crate) fn between(before: Metrics, after: Metrics) -> Self {
        Self { before, after }
    }

    fn sum(&self, name: &str, label: &str) -> f64 {
        self.after.sum(name, label) - self.before.sum(name, label)
    }

    /// Bytes that etcd sent to its clients.
    pub(crate) fn sent(&self) -> f64 {
        self.sum("etcd_network_client_grpc_sent_bytes_total", "")
    }

    /// Requests of this method, such as `Txn`; of those that are streams, how many were opened.
    pub(crate) fn requests(&self, method: &str) -> f64 {
        self.sum(
            "grpc_server_started_total",
            &format!("grpc_method=\"{method}\""),
        )
    }

    /// Messages that came over streams of this method.
    pub(crate) fn messages(&self, method: &str) -> f64 {
        self.sum(
            "grpc_server_msg_received_total",
            &format!("grpc_method=\"{method}\""),
        )
    }

    /// Keys that were put.
    pub(crate) fn puts(&self) -> f64 {
        self.sum("etcd_mvcc_put_total", "")
    }

    /// Goroutines more than before.
    pub(crate) fn goroutines(&self) -> f64 {
        self.sum("go_goroutines", "")
    }
}

/// The results of a client that calls continuously.
pub(crate) struct Calls {
    process: Process,
}

/// What happened to its calls.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Count {
    pub calls: u64,
    pub errors: u64,
    /// How many of these, because no server of that name was published.
    pub missing: u64,
    /// The longest, in ms.
    pub longest: u64,
}

impl Calls {
    /// Calls functions of many servers all the time.
    pub(crate) fn start(world: &World) -> Self {
        let target = if world.instances(NAMES[2]) > 0 {
            "many.echo"
        } else {
            "real.echo"
        };
        let process = role(&["caller", &world.etcd.endpoint(), target]);
        process.wait_for_line(|line| line.starts_with("calls "), SOON);
        Self { process }
    }

    /// All calls so far. (It says so a few times a second.)
    pub(crate) fn count(&self) -> Count {
        let mut total = Count::default();
        for line in self.process.lines() {
            let numbers: Vec<u64> = line
                .split(' ')
                .skip(1)
                .filter_map(|word| word.parse().ok())
                .collect();
            if let [calls, errors, missing, longest] = numbers[..] {
                total = Count {
                    calls,
                    errors,
                    missing,
                    longest: total.longest.max(longest),
                };
            }
        }
        total
    }
}
