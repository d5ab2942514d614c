//! Five hosts with a mesh, three members of etcd and a load, and one fault after the other.

use crate::{
    fault::{Fault, HOSTS, MEMBERS, has_path, is_reached_from_outside, reached_by, reaches_etcd},
    load::{Load, lock},
    view::{BEAT, Deletion, View},
};
use futures::executor::block_on;
use palm_peer::{Client, Config};
use palm_tests::{Host, Network, Process, eventually, example};
use std::{
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(30);
const PREFIX: &str = "/mesh";
const POLL: Duration = Duration::from_millis(50);
/// Flags for shorter periods and timeouts, with the same logic.
const FLAGS: [&str; 6] = ["--ttl", "5", "--probe-period", "2", "--probe-timeout", "1"];
/// How long before it is observed a removal may have been decided: a lease or a series of probes,
/// and the delay of etcd.
const DECIDED_WITHIN: Duration = Duration::from_secs(8);
/// How long the mesh may take to become healthy after healing.
const HEALTHY_WITHIN: Duration = Duration::from_secs(15);
/// How long after healing a watch of etcd may take to report events.
const VIEW_WITHIN: Duration = Duration::from_secs(3);
/// Within what time a server is reached again that can be, and a job goes on.
pub(crate) const REACHED_WITHIN: Duration = Duration::from_secs(5);

/// The results of one step.
pub(crate) struct Row {
    pub faults: String,
    pub removed: usize,
    pub expired: usize,
    pub leaders: usize,
    pub call_gap: Duration,
    pub job_gap: Duration,
    pub retried: u64,
    pub healthy: Option<Duration>,
    pub violations: Vec<String>,
}

/// The mesh under test. The fields are dropped in this order.
pub(crate) struct World<'a> {
    network: &'a Network,
    load: Option<Load>,
    looking: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    view: Arc<Mutex<View>>,
    /// The URLs of etcd's members.
    members: Vec<String>,
    beats: u64,
    servers: Vec<Process>,
    uuids: Vec<String>,
    /// Which faults there were from when on.
    timeline: Vec<(Instant, Vec<Fault>)>,
    _etcd: Vec<(Process, TempDir)>,
    lenience: Duration,
}

fn is_first(host: usize) -> bool {
    host % 2 == 1
}

impl<'a> World<'a> {
    /// Starts everything, and waits until it is healthy.
    pub(crate) fn start(network: &'a Network, lenience: Duration) -> Self {
        let hosts: Vec<_> = HOSTS.iter().map(|name| network.host(name)).collect();
        let urls: Vec<_> = hosts[..MEMBERS]
            .iter()
            .map(|host| format!("http://{}:2379", host.address()))
            .collect();
        let peers: Vec<_> = hosts[..MEMBERS]
            .iter()
            .enumerate()
            .map(|(at, host)| peer(at, host))
            .collect();
        let etcd = (0..MEMBERS)
            .map(|at| start_member(at, hosts[at], &urls[at], &peers.join(",")))
            .collect();
        let endpoints = urls.join(",");
        put_soon(&urls, "/started", "yes").expect("etcd takes a key");
        let view = Arc::new(Mutex::new(View::follow(&urls, PREFIX)));
        let stop = Arc::<AtomicBool>::default();
        let looking = Some(look(Arc::clone(&view), Arc::clone(&stop)));
        let started: Vec<_> = hosts
            .iter()
            .enumerate()
            .map(|(at, host)| start_server(at, host, &endpoints))
            .collect();
        let (servers, uuids): (Vec<_>, Vec<_>) = started.into_iter().unzip();
        eventually("the mesh is healthy", SOON, || {
            lock(&view).complaint(&uuids).is_none().then_some(())
        });
        let settings = Config::default().etcd(urls.clone()).prefix(PREFIX.into());
        let client = block_on(Client::connect(settings)).expect("a client connects");
        eventually("the client sees both names", SOON, || {
            (client.reachable().len() == 2).then_some(())
        });
        let load = Load::start(&client, &uuids);
        let began = Instant::now();
        let calls = || {
            load.calls
                .iter()
                .chain([&load.results])
                .all(|calls| calls.first_since(began).is_some())
        };
        eventually("calls and the job go on", SOON, || calls().then_some(()));
        let (load, timeline) = (Some(load), vec![(began, Vec::new())]);
        Self {
            network,
            load,
            looking,
            stop,
            view,
            members: urls,
            beats: 0,
            servers,
            uuids,
            timeline,
            _etcd: etcd,
            lenience,
        }
    }

    fn load(&self) -> &Load {
        self.load.as_ref().expect("it goes on")
    }

    /// Applies these faults for this long, heals, and waits until everything is healthy.
    pub(crate) fn step(&mut self, faults: &[Fault], hold: Duration) -> Row {
        let begin = Instant::now();
        let (deletions, leaders) = self.counts();
        let (retried, errors) = (self.load().progress.retried(), self.errors());
        self.timeline.push((begin, faults.to_vec()));
        for fault in faults {
            fault.apply(self.network);
        }
        thread::sleep(hold);
        self.network.heal();
        let healed = Instant::now();
        self.timeline.push((healed, Vec::new()));
        let mut violations = Vec::new();
        let healthy = self
            .await_health(healed)
            .map_err(|why| violations.push(why))
            .ok();
        violations.extend(self.await_view());
        let deleted = lock(&self.view).deletions[deletions..].to_vec();
        violations.extend(deleted.iter().filter_map(|deletion| self.verdict(deletion)));
        let time = (begin, healed, Instant::now());
        let call_gap = self.call_gap(faults, time, &deleted, &mut violations);
        let job_gap = self.job_gap(faults, time, errors, &mut violations);
        let removed = deleted
            .iter()
            .filter(|deletion| deletion.reason.is_some())
            .count();
        Row {
            faults: faults
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", "),
            removed,
            expired: deleted.len() - removed,
            leaders: self.counts().1 - leaders,
            call_gap,
            job_gap,
            retried: self.load().progress.retried() - retried,
            healthy,
            violations,
        }
    }

    /// The longest time in which a server was not reached that the client could reach, except
    /// those that lost their registration. One that was cut off is to be reached within the same
    /// time after healing.
    fn call_gap(
        &self,
        faults: &[Fault],
        (begin, healed, end): (Instant, Instant, Instant),
        deleted: &[Deletion],
        violations: &mut Vec<String>,
    ) -> Duration {
        let mut longest = Duration::ZERO;
        for (host, (uuid, calls)) in self.uuids.iter().zip(&self.load().calls).enumerate() {
            let since = if is_reached_from_outside(faults, host) {
                begin
            } else {
                healed
            };
            let gap = calls.longest_gap(since, end);
            if deleted.iter().any(|deletion| deletion.uuid == *uuid) {
                continue;
            }
            longest = longest.max(gap);
            if gap > REACHED_WITHIN + self.lenience {
                violations.push(format!(
                    "the server on {} was not reached for {gap:.1?}",
                    HOSTS[host]
                ));
            }
        }
        longest
    }

    /// The longest time in which the job had no result, though there was a way through both of its
    /// stages, or after healing.
    fn job_gap(
        &self,
        faults: &[Fault],
        (begin, healed, end): (Instant, Instant, Instant),
        errors: usize,
        violations: &mut Vec<String>,
    ) -> Duration {
        let has_path = has_path(faults, is_first);
        let gap = self
            .load()
            .results
            .longest_gap(if has_path { begin } else { healed }, end);
        if gap > REACHED_WITHIN + self.lenience {
            violations.push(format!("the job had no result for {gap:.1?}"));
        }
        let errors = lock(&self.load().outcome).errors[errors..].to_vec();
        if has_path && !errors.is_empty() {
            let count = errors.len();
            violations.push(format!(
                "{count} messages failed, though there was a way: {}",
                errors[0]
            ));
        }
        gap
    }

    fn counts(&self) -> (usize, usize) {
        let view = lock(&self.view);
        (view.deletions.len(), view.leaders)
    }

    fn errors(&self) -> usize {
        lock(&self.load().outcome).errors.len()
    }

    fn await_health(&self, healed: Instant) -> Result<Duration, String> {
        loop {
            let complaint = self.complaint(healed);
            let took = healed.elapsed();
            match complaint {
                None => return Ok(took),
                Some(why) if took > HEALTHY_WITHIN + self.lenience => {
                    return Err(format!("not healthy {took:.1?} after healing: {why}"));
                }
                Some(_) => thread::sleep(POLL),
            }
        }
    }

    /// Waits until the view is up to date. Returns whether it can be relied on.
    fn await_view(&mut self) -> Option<String> {
        self.beats += 1;
        let beat = self.beats.to_string();
        if let Err(error) = put_soon(&self.members, &format!("{PREFIX}{BEAT}"), &beat) {
            return Some(format!("etcd takes no key {SOON:?} after healing: {error}"));
        }
        for within in [VIEW_WITHIN, SOON] {
            let start = Instant::now();
            while start.elapsed() < within {
                if lock(&self.view).has_heard(&beat) {
                    return None;
                }
                thread::sleep(POLL);
            }
            println!(
                "{} watches of etcd are deaf and begin anew",
                lock(&self.view).follow_again(&beat)
            );
        }
        Some("the watches of etcd do not tell what happens".into())
    }

    fn complaint(&self, healed: Instant) -> Option<String> {
        let uncalled = || {
            let mut calls = HOSTS.iter().zip(&self.load().calls);
            let host = calls
                .find(|(_, calls)| calls.first_since(healed).is_none())?
                .0;
            Some(format!("the server on {host} has answered no call"))
        };
        let stuck = || {
            self.load()
                .results
                .first_since(healed)
                .is_none()
                .then(|| "the job stands still".to_owned())
        };
        lock(&self.view)
            .complaint(&self.uuids)
            .or_else(uncalled)
            .or_else(stuck)
    }

    /// Whether a server was to be removed: two others reached it at each moment at which that may
    /// have been decided, or it could renew its lease.
    fn verdict(&self, Deletion { uuid, at, reason }: &Deletion) -> Option<String> {
        let (at, reason) = (*at, reason.as_deref());
        let host = self.uuids.iter().position(|known| known == uuid)?;
        let since = at.checked_sub(DECIDED_WITHIN).unwrap_or(at);
        let ends = self
            .timeline
            .iter()
            .skip(1)
            .map(|(end, _)| *end)
            .chain([at]);
        let during = self
            .timeline
            .iter()
            .zip(ends)
            .filter(|((begin, _), end)| *begin <= at && *end >= since);
        let mut during = during.map(|((_, faults), _)| faults);
        let reached = during.clone().all(|faults| reached_by(faults, host) >= 2);
        let by_others =
            reached && during.all(|faults| reason.is_some() || reaches_etcd(faults, host));
        by_others.then(|| {
            let how = reason.map_or("lost its lease".to_owned(), |reason| {
                format!("was removed because {reason}")
            });
            format!(
                "the server on {}, {uuid}, {how}, though others reach it",
                HOSTS[host]
            )
        })
    }

    /// Returns the unusual log lines of the servers.
    pub(crate) fn logs(&self) -> String {
        let words = [
            "WARN", "ERROR", "CRITICAL", "Deleted", "resign", "leading", "joined", "removed",
        ];
        let of_server = |(host, server): (&&str, &Process)| {
            let lines = server
                .lines()
                .into_iter()
                .filter(|line| words.iter().any(|word| line.contains(word)));
            let lines: Vec<_> = lines.collect();
            format!(
                "--- on {host}:\n{}\n",
                lines[lines.len().saturating_sub(60)..].join("\n")
            )
        };
        HOSTS.iter().zip(&self.servers).map(of_server).collect()
    }

    /// Ends the load. Returns how many messages there were, and what is wrong with their results.
    pub(crate) fn finish(&mut self) -> (u64, Vec<String>) {
        let (sent, outcome) = self.load.take().expect("it went on").finish();
        let mut violations = outcome.wrong;
        if outcome.results != sent {
            violations.push(format!("{sent} messages had {} results", outcome.results));
        }
        (sent, violations)
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.looking.take().map(JoinHandle::join));
    }
}

fn look(view: Arc<Mutex<View>>, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            lock(&view).update();
            thread::sleep(POLL);
        }
    })
}

fn peer(at: usize, host: &Host) -> String {
    format!("m{at}=http://{}:2380", host.address())
}

/// A member of etcd, alone in its namespace with its ports.
fn start_member(at: usize, host: &Host, client: &str, members: &str) -> (Process, TempDir) {
    let folder = TempDir::with_prefix("palm-chaos-").expect("a temporary folder");
    let peer = format!("http://{}:2380", host.address());
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let flags = [
        ("name", format!("m{at}")),
        ("data-dir", data.display().to_string()),
        ("listen-client-urls", client.to_owned()),
        ("advertise-client-urls", client.to_owned()),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer),
        ("initial-cluster", members.to_owned()),
        // Without pre-vote, a member that receives but cannot send would end each of etcd's
        // leaders.
        ("pre-vote", "true".to_owned()),
        ("logger", "zap".to_owned()),
        ("log-outputs", log.display().to_string()),
    ];
    let flags = flags.map(|(flag, value)| format!("--{flag}={value}"));
    let process = host.builder("etcd").args(flags).start();
    (process, folder)
}

/// Puts a key at the first member that takes it. Each is asked by itself, over a new connection and
/// for a short time: one that is still without the others holds up no other, as etcdctl's own
/// choice among several endpoints would. Returns the errors of all.
fn put(members: &[String], key: &str, value: &str) -> Result<(), String> {
    let mut errors = Vec::new();
    for member in members {
        let mut command = Command::new("etcdctl");
        command
            .args(["--dial-timeout", "1s", "--command-timeout", "3s"])
            .args(["put", key, value])
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", member);
        match command.output() {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                let error = String::from_utf8_lossy(&output.stderr);
                let error = error.lines().last().unwrap_or_default();
                errors.push(format!("{member}: {error}"));
            }
            Err(error) => errors.push(format!("{member}: {error}")),
        }
    }
    Err(errors.join("; "))
}

/// Puts a key, again and again for [`SOON`]. Returns the last errors.
fn put_soon(members: &[String], key: &str, value: &str) -> Result<(), String> {
    let start = Instant::now();
    loop {
        match put(members, key, value) {
            Err(error) if start.elapsed() > SOON => return Err(error),
            Err(_) => thread::sleep(POLL),
            Ok(()) => return Ok(()),
        }
    }
}

fn start_server(at: usize, host: &Host, etcd: &str) -> (Process, String) {
    let run = host
        .builder(example("stage"))
        .args(["run", "--debug", "--etcd", etcd]);
    let run = run
        .args(["--ip", &host.address().to_string()])
        .args(FLAGS)
        .env("PALM_PREFIX", PREFIX);
    let process = run
        .env("PALM_TEST_STAGE", if is_first(at) { "b" } else { "a" })
        .start();
    let (line, _) = process.wait_for_line(|line| line.contains(" joined as "), SOON);
    let words: Vec<_> = line.split_whitespace().collect();
    let uuid = words[words.len() - 3].to_owned();
    (process, uuid)
}
