//! A mesh under test: servers as processes, and the history of their keys in etcd.

// Each test file uses a part of it. Tests fail by panicking.
#![allow(dead_code, clippy::expect_used, clippy::unwrap_used)]

pub(crate) mod calls;
pub(crate) mod history;
pub(crate) mod running_job;

use history::{Event, History};
use palm_peer::Config;
use palm_tests::{Etcd, Process, ProcessBuilder, eventually, example};
use std::{collections::BTreeMap, ops::Deref, time::Duration};

/// The timeout of operations that take milliseconds on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// Flags for shorter periods and timeouts, with the same logic.
pub(crate) const QUICK: [&str; 6] = ["--ttl", "3", "--probe-period", "2", "--probe-timeout", "1"];

/// The servers of one prefix, and the history of their keys.
pub(crate) struct Mesh<'a> {
    etcd: &'a Etcd,
    prefix: String,
    flags: Vec<String>,
    history: History,
}

/// Waits until a server process has joined. Returns its uuid and its endpoint, which it logs.
#[track_caller]
pub(crate) fn await_joined(process: &Process) -> [String; 2] {
    let (line, _) = process.wait_for_line(|line| line.contains(" joined as "), SOON);
    let words: Vec<_> = line.split_whitespace().collect();
    [words[words.len() - 3], words[words.len() - 1]].map(str::to_owned)
}

/// A server process that has joined.
pub(crate) struct Server {
    process: Process,
    /// Its uuid.
    pub uuid: String,
    /// Where it listens.
    pub endpoint: String,
}

impl Deref for Server {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl Server {
    /// Returns those of its lines that contain `words`.
    pub(crate) fn lines_with(&self, words: &str) -> Vec<String> {
        self.lines()
            .into_iter()
            .filter(|line| line.contains(words))
            .collect()
    }

    /// Waits for a line that contains `words`, which must be the only one by then, and
    /// returns it. A server's log line may be written a moment after its effect is visible in
    /// etcd or to a caller.
    #[track_caller]
    pub(crate) fn wait_for_the_one_line_with(&self, words: &str) -> String {
        self.wait_for_line(|line| line.contains(words), SOON);
        let [line] = &self.lines_with(words)[..] else {
            panic!("more than one line with {words:?}: {:#?}", self.lines())
        };
        line.clone()
    }
}

impl<'a> Mesh<'a> {
    /// Creates a mesh without servers, whose servers will have these flags.
    pub(crate) fn new(etcd: &'a Etcd, prefix: &str, flags: &[&str]) -> Self {
        Self::as_user(etcd, prefix, flags, "")
    }

    /// As [`Mesh::new`], in an etcd with authentication, as `name:password`.
    pub(crate) fn as_user(etcd: &'a Etcd, prefix: &str, flags: &[&str], user: &str) -> Self {
        let flags = flags.iter().map(ToString::to_string).collect();
        Self {
            etcd,
            prefix: prefix.to_owned(),
            flags,
            history: History::follow(etcd, prefix, user),
        }
    }

    /// Starts a server with these URLs of etcd, and waits until it has joined.
    pub(crate) fn start_at(&self, program: &str, etcd: &str) -> Server {
        let program = Process::builder(example(program))
            .arg("run")
            .args(["--debug", "--etcd", etcd])
            .args(&self.flags);
        self.start_program(program)
    }

    /// Starts a server program in any language, which gets the mesh's prefix from its environment.
    pub(crate) fn start_program(&self, program: ProcessBuilder) -> Server {
        let process = program.env("PALM_PREFIX", &self.prefix).start();
        let [uuid, endpoint] = await_joined(&process);
        Server {
            process,
            uuid,
            endpoint,
        }
    }

    /// Starts a server, and waits until it has joined.
    pub(crate) fn start(&self, program: &str) -> Server {
        self.start_at(program, &self.etcd.endpoint())
    }

    /// Starts servers one after the other, each once the previous one is configured: the first
    /// leads, the others are next in line.
    pub(crate) fn start_in_line(&self, program: &str, count: usize) -> Vec<Server> {
        let start = |_| {
            let server = self.start(program);
            self.await_published(&[&server.uuid]);
            self.await_in_line(&server.uuid);
            server
        };
        (0..count).map(start).collect()
    }

    /// Returns the history of the mesh's keys.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// What etcd holds now, by key without the prefix.
    pub(crate) fn state(&self) -> BTreeMap<String, Event> {
        self.history.state()
    }

    /// A key of the mesh.
    pub(crate) fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The key of the election, and the uuid, of the candidate that leads.
    pub(crate) fn leading(&self) -> Option<(String, String)> {
        let state = self.state();
        let candidates = state
            .into_iter()
            .filter(|(key, _)| key.starts_with("/election/"));
        let oldest = candidates.min_by_key(|(_, candidate)| candidate.created);
        oldest.map(|(key, candidate)| (key, candidate.value))
    }

    /// Waits until this server is a candidate, which may be after it is published.
    pub(crate) fn await_in_line(&self, uuid: &str) {
        let stands = |(key, event): (String, Event)| {
            (key.starts_with("/election/") && event.value == uuid).then_some(())
        };
        eventually(&format!("{uuid} stands"), SOON, || {
            self.state().into_iter().find_map(stands)
        });
    }

    /// Waits until this server leads.
    pub(crate) fn await_lead(&self, uuid: &str, within: Duration) {
        eventually(&format!("{uuid} leads"), within, || {
            self.leading().filter(|(_, leader)| leader == uuid)
        });
    }

    /// Waits until all of these servers are configured by the current leader, and published.
    pub(crate) fn await_published(&self, uuids: &[&str]) {
        self.await_published_within(uuids, SOON);
    }

    /// As [`Mesh::await_published`], with another bound.
    pub(crate) fn await_published_within(&self, uuids: &[&str], within: Duration) {
        eventually(
            &format!("{uuids:?} are configured and published"),
            within,
            || {
                let (_, leader) = self.leading()?;
                let state = self.state();
                let configured = |uuid: &&str| {
                    let record = state.get(&format!("/servers/{uuid}")).map(Event::json);
                    record.is_some_and(|record| {
                        record["configured"] == true && record["leader"] == leader.as_str()
                    })
                };
                let published =
                    |uuid: &&str| state.iter().any(|(key, event)| publishes(key, event, uuid));
                uuids
                    .iter()
                    .all(|uuid| configured(uuid) && published(uuid))
                    .then_some(())
            },
        );
    }

    /// Whether a server is registered.
    pub(crate) fn is_registered(&self, uuid: &str) -> bool {
        self.state().contains_key(&format!("/servers/{uuid}"))
    }

    /// Config for a client or a server within the test.
    pub(crate) fn options(&self) -> Config {
        self.options_at(&self.etcd.endpoint())
    }

    /// Config for a client or a server within the test that finds etcd at this URL.
    pub(crate) fn options_at(&self, etcd: &str) -> Config {
        // `scripts/test-tls` runs all tests of the mesh over TLS, through the environment.
        let defaults = Config::from_env().expect("an environment that fits");
        let mut settings = defaults
            .etcd(vec![etcd.to_owned()])
            .prefix(self.prefix.clone());
        for flag in self.flags.chunks_exact(2) {
            settings
                .set(
                    &flag[0].trim_start_matches("--").replace('-', "_"),
                    &flag[1],
                )
                .expect("a flag is a setting");
        }
        settings
    }

    /// Removes a server as `palm-cli rm` does.
    pub(crate) fn remove(&self, uuid: &str) {
        let note = r#"{"why":"admin","reason":"an administrator removed it","when":"2026-01-01T00:00:00.000000"}"#;
        let (record, departed) = (self.key("/servers/"), self.key("/departed/"));
        // In double quotes: etcdctl drops text between single quotes.
        transact(
            self.etcd,
            &[
                &format!("del {record}{uuid}"),
                &format!("put {departed}{uuid} {note:?}"),
            ],
        );
    }

    /// Resets the mesh as `palm-cli reset` does.
    pub(crate) fn reset(&self) {
        let folders = ["/servers/", "/election/", "/pipelines/", "/departed/"];
        let mut operations = folders
            .map(|folder| format!("del --prefix {}", self.key(folder)))
            .to_vec();
        let when = r#"{"when":"2026-01-01T00:00:00.000000"}"#;
        operations.push(format!("put {} {when:?}", self.key("/reset")));
        transact(
            self.etcd,
            &operations.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }
}

/// Puts the record of a server without a listener. Returns its uuid.
pub(crate) fn put_ghost(mesh: &Mesh<'_>) -> String {
    let uuid = "0b7c4f5e-7f64-4d0c-9c3b-5d6f1f0e8a11";
    let record = serde_json::json!({
        "host": "127.0.0.1", "pid": 1, "when": "2026-01-01T00:00:00.000000", "leader": null, "server": "ghost",
        "ports": [palm_tests::free_port()], "kind": "registered", "functions": ["f"], "uuid": uuid, "configured": false,
    });
    mesh.etcd.etcdctl(&[
        "put",
        &mesh.key(&format!("/servers/{uuid}")),
        &record.to_string(),
    ]);
    uuid.to_owned()
}

/// Returns whether `uuid` is published after this event.
pub(crate) fn publishes(key: &str, event: &Event, uuid: &str) -> bool {
    key.starts_with("/pipelines/") && !event.deleted && event.value.contains(uuid)
}

/// Carries out etcdctl's operations in one transaction.
pub(crate) fn transact(etcd: &Etcd, operations: &[&str]) {
    let script = format!("\n{}\n\n\n", operations.join("\n"));
    let process = Process::builder("sh")
        .args(["-c", "printf '%s' \"$SCRIPT\" | etcdctl txn"])
        .env("SCRIPT", script)
        .env("ETCDCTL_API", "3")
        .env("ETCDCTL_ENDPOINTS", etcd.endpoint())
        .start();
    assert!(
        process.wait(SOON).success(),
        "etcdctl txn: {:?}",
        process.lines()
    );
    assert!(
        process.lines().contains(&"SUCCESS".to_owned()),
        "etcdctl txn: {:?}",
        process.lines()
    );
}
