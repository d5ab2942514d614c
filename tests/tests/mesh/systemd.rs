//! Servers under a real systemd, by the units in `systemd/`.
//!
//! Each test boots a systemd of its own. Where namespaces are not allowed (they ask for root), the
//! tests say so and pass; with `PALM_TESTS_NEED_SYSTEMD=1` they fail instead.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    env, fs,
    io::{self, Write},
    path::Path,
    time::Duration,
};

use palm_tests::{
    Etcd, eventually, example,
    systemd::{Holds, PrivateSystemd},
};

const TEMPLATE: &str = include_str!("../../../systemd/palm-server@.service");
const SLICE: &str = include_str!("../../../systemd/palm.slice");

const FIRST: &str = "palm-server@printf-1";
const SECOND: &str = "palm-server@printf-2";
const SOON: Duration = Duration::from_secs(20);

/// An etcd, and a systemd with the units, the program `printf` and two configured instances of it.
struct World {
    etcd: Etcd,
    systemd: PrivateSystemd,
}

impl World {
    /// `second`: what `printf-2.env` says beyond the program; `drop_in`: for `printf-2` alone.
    fn new(second: &str, drop_in: &str) -> Option<Self> {
        let etcd = Etcd::start();
        let program = example("printf");
        let mesh = format!("PALM_ETCD={}\nPALM_PORT=0\n", etcd.endpoint());
        let one = "PALM_SERVER=/usr/local/lib/palm/printf\n";
        let two = format!("{one}{second}\n");
        let files = [
            (
                "/usr/local/lib/palm/printf",
                Holds::CopyOf(program.as_path()),
            ),
            ("/etc/palm/mesh.env", Holds::Text(&mesh)),
            ("/etc/palm/printf-1.env", Holds::Text(one)),
            ("/etc/palm/printf-2.env", Holds::Text(&two)),
        ];
        let systemd = boot(
            &[("palm-server@printf-2.service.d/test.conf", drop_in)],
            &files,
        )?;
        Some(Self { etcd, systemd })
    }

    /// Both servers, started one after the other: so the first leads.
    fn started() -> Option<Self> {
        let world = Self::new("", "")?;
        world.start_both();
        Some(world)
    }

    fn start_both(&self) {
        for unit in [FIRST, SECOND] {
            self.succeeds(&["start", unit]);
        }
    }

    fn succeeds(&self, systemctl: &[&str]) {
        let output = self.systemd.systemctl(systemctl);
        assert!(
            output.status.success(),
            "systemctl {systemctl:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn state(&self, unit: &str) -> String {
        self.systemd.property(unit, "ActiveState")
    }

    fn pid(&self, unit: &str) -> u32 {
        self.systemd
            .main_pid(unit)
            .unwrap_or_else(|| panic!("{unit} does not run"))
    }

    fn signal(&self, signal: &str, pid: u32) {
        assert!(
            self.systemd
                .run(&["kill", signal, &pid.to_string()])
                .status
                .success(),
            "kill {signal} {pid}"
        );
    }

    /// The record of the server with this process id.
    fn record(&self, pid: u32) -> Option<Record> {
        let all = self
            .etcd
            .etcdctl(&["get", "--prefix", "--print-value-only", "/servers/"]);
        all.lines()
            .map(Record::new)
            .find(|record| record.field("pid") == pid.to_string())
    }

    /// The record of a unit that runs and is configured.
    fn configured(&self, unit: &str) -> Record {
        let record = self
            .record(self.pid(unit))
            .unwrap_or_else(|| panic!("{unit} is not in etcd"));
        assert_eq!(record.field("configured"), "true", "{unit} is ready");
        record
    }

    /// Waits until `unit` runs again under another process id, in the mesh; its new record.
    fn back(&self, unit: &str, old: u32) -> Record {
        eventually("the server is restarted and back in the mesh", SOON, || {
            let new = self.systemd.main_pid(unit).filter(|&new| new != old)?;
            let record = self
                .record(new)
                .filter(|record| record.field("configured") == "true")?;
            (self.state(unit) == "active").then_some(record)
        })
    }

    /// Waits until `unit` has logged a line that contains `text`.
    fn logs(&self, unit: &str, text: &str) {
        eventually(&format!("{unit} logs “{text}”"), SOON, || {
            self.systemd
                .journal(unit, 1000)
                .contains(text)
                .then_some(())
        });
    }
}

/// A record in etcd, looked at as text so that no code of PALM's is needed to read it.
struct Record(String);

impl Record {
    fn new(json: &str) -> Self {
        Self(json.replace([' ', '"'], ""))
    }

    fn field(&self, name: &str) -> &str {
        let (_, rest) = self
            .0
            .split_once(&format!("{name}:"))
            .unwrap_or_else(|| panic!("no {name} in {}", self.0));
        rest.split([',', '}'])
            .next()
            .expect("split yields one at least")
    }
}

fn boot(more: &[(&str, &str)], files: &[(&str, Holds<'_>)]) -> Option<PrivateSystemd> {
    let units = [
        &[("palm-server@.service", TEMPLATE), ("palm.slice", SLICE)],
        more,
    ]
    .concat();
    match PrivateSystemd::boot(&units, files) {
        Ok(systemd) => Some(systemd),
        Err(why) if env::var_os("PALM_TESTS_NEED_SYSTEMD").is_some() => panic!("{why}"),
        Err(why) => {
            // Not eprintln!, which the test harness swallows when a test passes.
            let _ = writeln!(io::stderr(), "SKIPPED: {why}");
            None
        }
    }
}

#[test]
fn the_units_pass_systemd_analyze() {
    let Some(systemd) = boot(&[], &[]) else {
        return;
    };
    let units = [
        "/etc/systemd/system/palm-server@.service",
        "/etc/systemd/system/palm.slice",
    ];
    let verified = systemd.run(&[&["systemd-analyze", "verify", "--man=no"], &units[..]].concat());
    let said = [verified.stdout, verified.stderr].concat();
    assert_eq!(
        String::from_utf8_lossy(&said),
        "",
        "systemd-analyze verify has no complaint"
    );
    assert!(verified.status.success());
}

#[test]
fn a_dropped_systemd_leaves_no_trace() {
    let Some(systemd) = boot(&[], &[]) else {
        return;
    };
    let init = Path::new("/proc").join(systemd.init_pid());
    assert!(init.exists());
    drop(systemd);
    assert!(!init.exists(), "its process 1 has ended");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    assert!(
        !mounts.contains("palm-systemd-"),
        "its mounts were seen by nobody else"
    );
}

#[test]
fn two_servers_join_and_the_journal_reads_as_with_pylm() {
    let Some(world) = World::started() else {
        return;
    };
    for unit in [FIRST, SECOND] {
        let record = world.configured(unit);
        assert_eq!(world.systemd.property(unit, "Slice"), "palm.slice");
        assert_ne!(
            world.systemd.property(unit, "StatusText"),
            "",
            "{unit} tells systemd how it is"
        );
        let uuid = record.field("uuid");
        world.logs(FIRST, &format!("INFO:registry:Server {uuid} configured"));
        world.logs(
            FIRST,
            &format!(
                "INFO:pipeliner:{uuid}: Server printf of type registered, implements ['printf', "
            ),
        );
    }
    let line = format!(
        "printf-1[{}]: INFO:pipeliner:***** List of servers *****",
        world.pid(FIRST)
    );
    eventually("pylm's own command shows the list", SOON, || {
        world
            .systemd
            .journalctl(&["-n", "-u", FIRST])
            .contains(&line)
            .then_some(())
    });
}

#[test]
fn a_server_is_ready_only_once_it_is_configured() {
    // Nothing answers on this address (it is reserved for documentation), so the server
    // cannot be configured.
    let Some(world) = World::new("PALM_IP=192.0.2.1\nPALM_BIND=127.0.0.1", "") else {
        return;
    };
    world.succeeds(&["start", "--no-block", SECOND]);
    eventually("its record is in etcd", SOON, || {
        world.record(world.systemd.main_pid(SECOND)?)
    });
    assert_eq!(world.state(SECOND), "activating");

    world.succeeds(&["start", FIRST]);
    world.configured(FIRST);
    assert_eq!(
        world.state(SECOND),
        "activating",
        "the mesh configures, but not this one"
    );
    let record = world.record(world.pid(SECOND)).expect("it stays in etcd");
    assert_eq!(record.field("configured"), "false");
}

#[test]
fn the_journal_has_the_priority_of_each_line() {
    let Some(world) = World::new("PALM_IP=192.0.2.1\nPALM_BIND=127.0.0.1", "") else {
        return;
    };
    world.succeeds(&["start", "--no-block", SECOND]);
    let urgent = ["-p", "crit", "-o", "cat", "-u", SECOND];
    eventually("the lonely leader's complaint is critical", SOON, || {
        world
            .systemd
            .journalctl(&urgent)
            .contains("CRITICAL:pipeliner:You have no server running")
            .then_some(())
    });
    assert!(
        !world.systemd.journalctl(&urgent).contains("INFO:"),
        "information is not critical"
    );
    world.logs(SECOND, "INFO:pipeliner:***** List of servers *****");
    let json = world.systemd.journalctl(&["-o", "json", "-u", SECOND]);
    let info: Vec<_> = json
        .lines()
        .filter(|line| line.contains(r#""MESSAGE":"INFO:"#))
        .collect();
    assert!(!info.is_empty(), "no line keeps its <6>");
    assert!(
        info.iter().all(|line| line.contains(r#""PRIORITY":"6""#)),
        "{info:#?}"
    );
}

#[test]
fn a_killed_server_is_restarted() {
    let Some(world) = World::started() else {
        return;
    };
    let (pid, old) = (world.pid(SECOND), world.configured(SECOND));
    world.signal("-KILL", pid);
    let new = world.back(SECOND, pid);
    assert_eq!(world.systemd.property(SECOND, "NRestarts"), "1");
    assert_ne!(new.field("uuid"), old.field("uuid"), "it is another server");
    eventually("the dead one is out", SOON, || {
        world.record(pid).is_none().then_some(())
    });
    assert_eq!(world.systemd.property(FIRST, "NRestarts"), "0");
}

#[test]
fn a_hung_server_is_restarted_by_the_watchdog() {
    let Some(world) = World::new("", "[Service]\nWatchdogSec=2\n") else {
        return;
    };
    world.start_both();
    let pid = world.pid(SECOND);
    world.signal("-STOP", pid);
    world.back(SECOND, pid);
    world.logs(SECOND, "Failed with result 'watchdog'");
    assert_eq!(world.systemd.property(SECOND, "NRestarts"), "1");
    assert_eq!(world.systemd.property(FIRST, "NRestarts"), "0");
}

#[test]
fn a_stopped_server_leaves_gracefully() {
    let Some(world) = World::started() else {
        return;
    };
    let pid = world.pid(SECOND);
    let uuid = world.configured(SECOND).field("uuid").to_owned();
    world.succeeds(&["stop", SECOND]);
    assert_eq!(world.state(SECOND), "inactive");
    assert_eq!(world.systemd.property(SECOND, "Result"), "success");
    assert!(
        world.record(pid).is_none(),
        "its record goes before it does"
    );
    let departed = world
        .etcd
        .etcdctl(&["get", "--print-value-only", &format!("/departed/{uuid}")]);
    assert_eq!(Record::new(&departed).field("why"), "itself");
    world.logs(
        FIRST,
        &format!("INFO:registry:Deleted server {uuid} because it killed itself"),
    );
}

#[test]
fn an_evicted_server_stays_out() {
    let Some(world) = World::started() else {
        return;
    };
    let uuid = world.configured(SECOND).field("uuid").to_owned();
    world.etcd.etcdctl(&["del", &format!("/servers/{uuid}")]);
    eventually("systemd gives it up", SOON, || {
        (world.state(SECOND) == "failed").then_some(())
    });
    assert_eq!(world.systemd.property(SECOND, "ExecMainStatus"), "77");
    assert_eq!(world.systemd.property(SECOND, "NRestarts"), "0");
}
