//! An etcd, its servers, and palm-cli.

use crate::common::await_joined;
use palm_tests::{Etcd, Process, binary, eventually, example};
use std::{
    ffi::OsStr,
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

/// Long enough for anything that must happen at all.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// The exit status and output of a program.
#[derive(Debug)]
pub(super) struct Outcome {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Outcome {
    /// What it printed; it must have ended with this status.
    #[track_caller]
    pub(super) fn text(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        String::from_utf8(self.stdout).expect("text")
    }

    /// What it printed; it must have done what it was asked, and said nothing else.
    #[track_caller]
    pub(super) fn done(self) -> String {
        assert_eq!(self.stderr, "");
        self.text(0)
    }

    /// What it complained of; it must have ended with this status and printed nothing.
    #[track_caller]
    pub(super) fn failed(self, code: i32) -> String {
        assert_eq!(
            (self.code, self.stdout.as_slice()),
            (Some(code), &b""[..]),
            "{self:?}"
        );
        assert!(self.stderr.starts_with("palm-cli: "), "{}", self.stderr);
        self.stderr
    }
}

/// A command without what the test's own environment says of a mesh, and with 30 s at most.
pub(super) fn bounded(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", "30"]).arg(program);
    for name in [
        "PALM_ETCD",
        "PALM_PREFIX",
        "PALM_USER",
        "ETCDCTL_ENDPOINTS",
        "NO_COLOR",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs a program to its end, with `input` on stdin, no terminal, and 30 s at most.
pub(super) fn run(
    program: impl AsRef<OsStr>,
    args: &[&str],
    env: &[(&str, &str)],
    input: &[u8],
) -> Outcome {
    let mut command = bounded(program);
    command
        .args(args)
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("timeout(1) starts");
    let mut stdin = child.stdin.take().expect("a piped stdin");
    let input = input.to_owned();
    // Who does not read its input closes it.
    let feeding = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("its output");
    feeding.join().expect("input that is written");
    Outcome {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// An etcd and what is on it.
pub(super) struct World {
    pub etcd: Etcd,
}

/// A server of the mesh; gone when it is dropped.
#[must_use]
pub(super) struct Server {
    pub process: Process,
    pub uuid: String,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            etcd: Etcd::start(),
        }
    }

    /// Runs palm-cli on this etcd.
    pub(super) fn cli(&self, args: &[&str]) -> Outcome {
        self.cli_with(args, &[], b"")
    }

    pub(super) fn cli_with(&self, args: &[&str], env: &[(&str, &str)], input: &[u8]) -> Outcome {
        let endpoint = self.etcd.endpoint();
        let env: Vec<_> = [("PALM_ETCD", endpoint.as_str())]
            .into_iter()
            .chain(env.iter().copied())
            .collect();
        run(binary("palm-cli"), args, &env, input)
    }

    /// Starts a `printf` and waits until clients can find it.
    pub(super) fn server(&self) -> Server {
        self.server_in("")
    }

    pub(super) fn server_in(&self, prefix: &str) -> Server {
        self.server_of("printf", prefix)
    }

    /// Starts the server of this example and waits until clients can find it.
    pub(super) fn server_of(&self, name: &str, prefix: &str) -> Server {
        let process = Process::builder(example(name))
            .args(["run", "--etcd", &self.etcd.endpoint(), "--prefix", prefix])
            .start();
        let [uuid, _] = await_joined(&process);
        self.await_configured(prefix, &uuid);
        eventually("the server is published", SOON, || {
            self.stored(&format!("{prefix}/pipelines/{name}/{uuid}"))
                .contains(&uuid)
                .then_some(())
        });
        Server { process, uuid }
    }

    pub(super) fn await_configured(&self, prefix: &str, uuid: &str) {
        eventually("the server is configured", SOON, || {
            self.stored(&format!("{prefix}/servers/{uuid}"))
                .contains(r#""configured": true"#)
                .then_some(())
        });
    }

    /// What lies under a key, and nothing when there is no such key.
    pub(super) fn stored(&self, key: &str) -> String {
        let text = self.etcd.etcdctl(&["get", "--print-value-only", key]);
        text.strip_suffix('\n').unwrap_or(&text).to_owned()
    }

    /// All keys that begin so.
    pub(super) fn keys(&self, prefix: &str) -> Vec<String> {
        let text = self
            .etcd
            .etcdctl(&["get", "--keys-only", "--prefix", prefix]);
        text.lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// Puts a value that may be too long for a command line.
    pub(super) fn put(&self, key: &str, value: &str) {
        let args = ["--endpoints", &self.etcd.endpoint(), "put", "--", key];
        run("etcdctl", &args, &[("ETCDCTL_API", "3")], value.as_bytes()).text(0);
    }

    /// Puts a server's record, as another program may.
    pub(super) fn put_record(&self, uuid: &str, more: &str) -> String {
        let json = record(uuid, more);
        self.put(&format!("/servers/{uuid}"), &json);
        json
    }
}

/// A record of a server that does not run.
pub(super) fn record(uuid: &str, more: &str) -> String {
    format!(
        concat!(
            r#"{{"host": "127.0.0.1", "pid": 1, "when": "2016-02-16T11:28:59.088608", "leader": null, "server": "ghost", "#,
            r#""ports": [1], "kind": "registered", "functions": ["f"], "uuid": "{uuid}", "configured": false{more}}}"#
        ),
        uuid = uuid,
        more = more
    )
}
