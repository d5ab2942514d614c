//! Jumps of the wall clock, which is used for timestamps only, and decides nothing.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::{Mesh, QUICK, SOON, Server, calls::Calls};
use palm_tests::{Etcd, Process, ProcessBuilder, binary, eventually, example};
use std::{fs, path::PathBuf, process::Command, time::Duration};

/// The library that shows a program another time; `None` where it is not installed,
/// which it says aloud.
fn faketime() -> Option<PathBuf> {
    let found = fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let found = found.chain([PathBuf::from("/usr/lib"), PathBuf::from("/usr/local/lib")]);
    let library = found
        .map(|folder| folder.join("faketime/libfaketime.so.1"))
        .find(|path| path.exists());
    if library.is_none() {
        eprintln!(
            "SKIPPED: no tests with a clock that jumps: there is no libfaketime (Debian: faketime)"
        );
    }
    library
}

/// A clock on the wall that the test can put to any time, while its processes run. What they
/// measure by is left alone, as it is when a machine's clock is put.
struct Wall {
    library: PathBuf,
    folder: tempfile::TempDir,
}

impl Wall {
    fn new(library: PathBuf) -> Self {
        let wall = Self {
            library,
            folder: tempfile::tempdir().expect("a folder"),
        };
        wall.put("+0");
        wall
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("time")
    }

    fn put(&self, offset: &str) {
        // Atomically, so that no reader sees half of it.
        let fresh = self.folder.path().join("fresh");
        fs::write(&fresh, format!("{offset}\n")).expect("a file");
        fs::rename(fresh, self.path()).expect("in its place");
    }

    fn hang_before(&self, program: ProcessBuilder) -> ProcessBuilder {
        program
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", self.path())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
    }

    fn server(&self, mesh: &Mesh, etcd: &Etcd, name: &str) -> Server {
        let program = Process::builder(example(name))
            .args(["run", "--debug", "--etcd", &etcd.endpoint()])
            .args(QUICK);
        mesh.start_program(self.hang_before(program))
    }

    /// What `palm-cli` says before this clock.
    fn cli(&self, etcd: &Etcd, args: &[&str]) -> String {
        let program = Process::builder(binary("palm-cli")).args([
            "--etcd",
            &etcd.endpoint(),
            "--prefix",
            "/wall",
        ]);
        let cli = self.hang_before(program.args(args)).start();
        assert!(cli.wait(SOON).success(), "{args:?}: {:?}", cli.lines());
        cli.lines().join("\n")
    }
}

/// The year that the clock of `date` shows, some seconds from now.
fn year_after(seconds: i64) -> String {
    let date = Command::new("date")
        .args(["-u", "-d", &format!("{seconds} seconds"), "+%Y-%m"])
        .output()
        .expect("date");
    String::from_utf8(date.stdout)
        .expect("text")
        .trim()
        .to_owned()
}

fn lease(mesh: &Mesh, server: &Server) -> u64 {
    mesh.state()[&format!("/servers/{}", server.uuid)].lease
}

#[test]
fn clock_jumps_lose_no_lease_no_term_and_no_call() {
    let Some(library) = faketime() else { return };
    let wall = Wall::new(library);
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/wall", &QUICK);
    let leader = wall.server(&mesh, &etcd, "printf");
    mesh.await_published(&[&leader.uuid]);
    let other = wall.server(&mesh, &etcd, "text");
    mesh.await_published(&[&other.uuid]);
    let leases = [lease(&mesh, &leader), lease(&mesh, &other)];
    let calls = Calls::start(mesh.options());

    for seconds in [3600, -86_400, 10 * 365 * 86_400, -20 * 365 * 86_400, 0] {
        let before = leader.processor_time();
        wall.put(&format!("{seconds:+}"));
        // It has jumped, for all readers.
        let shown = year_after(seconds);
        eventually(&format!("the log tells of {shown}"), SOON, || {
            // The leader asks as well, and may have been first.
            wall.cli(&etcd, &["call", "text.shout", "hello"]);
            wall.cli(&etcd, &["call", "printf._log_query", "DEBUG"])
                .contains(&shown)
                .then_some(())
        });
        // Longer than a lease lives, and than a round of probes takes: time itself is tested here.
        std::thread::sleep(Duration::from_secs(4));
        assert_eq!(wall.cli(&etcd, &["call", "text.shout", "hello"]), "HELLO");
        assert!(
            wall.cli(&etcd, &["status"])
                .contains("2 servers of 2 names: 2 configured"),
            "{seconds} s"
        );
        assert_eq!(
            [lease(&mesh, &leader), lease(&mesh, &other)],
            leases,
            "{seconds} s: a lease was lost"
        );
        assert_eq!(
            mesh.leading().expect("a leader").1,
            leader.uuid,
            "{seconds} s: the lead was lost"
        );
        let used = leader.processor_time().saturating_sub(before);
        assert!(
            used < Duration::from_secs(3),
            "{seconds} s: the leader used {used:?} of a processor"
        );
    }
    calls.all_went_well(100);
    for words in ["in doubt", "lost", "does not answer", "no longer leading"] {
        let said = [leader.lines_with(words), other.lines_with(words)].concat();
        assert!(said.is_empty(), "{said:?}");
    }
    other.terminate();
    assert!(other.wait(SOON).success());
}

/// What a server says of itself is of its own clock: nothing is made of that.
#[test]
fn servers_with_clocks_years_apart_form_one_mesh() {
    let Some(library) = faketime() else { return };
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/wall", &QUICK);
    let [late, early] = ["-20y", "+10y"].map(|offset| {
        let wall = Wall::new(library.clone());
        wall.put(offset);
        wall
    });
    let leader = late.server(&mesh, &etcd, "printf");
    mesh.await_published(&[&leader.uuid]);
    let other = early.server(&mesh, &etcd, "text");
    mesh.await_published(&[&leader.uuid, &other.uuid]);
    assert_eq!(
        early.cli(&etcd, &["call", "printf.printf", "hello"]),
        "hello"
    );
    assert_eq!(late.cli(&etcd, &["call", "text.shout", "hello"]), "HELLO");
    let when = |server: &Server| {
        mesh.state()[&format!("/servers/{}", server.uuid)].json()["when"].to_string()
    };
    let (late, early) = (when(&leader), when(&other));
    assert!(
        late.as_str() < "\"2015" && early.as_str() > "\"2030",
        "{late} {early}"
    );
    leader.kill();
    mesh.await_lead(&other.uuid, SOON);
    mesh.await_published(&[&other.uuid]);
}
