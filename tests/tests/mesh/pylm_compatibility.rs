//! pylm's administration guide (docs/pylm-compatibility.md), replayed with real processes: what it
//! shows is stored and logged.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::await_joined;
use crate::in_process::{SOON, call, client, settings};
use palm_peer::flags;
use palm_tests::{Etcd, Mark, Process, eventually, example, free_port};

const FUNCTIONS: [&str; 7] = [
    "printf",
    "_ping",
    "_log_query",
    "get",
    "set",
    "append",
    "delete",
];

/// The `printf` server of pylm's guide, a process of its own.
struct Printf {
    process: Process,
    uuid: String,
    port: u16,
}

impl Printf {
    fn start(etcd: &Etcd) -> Self {
        Self::start_with(etcd, &[])
    }

    fn start_with(etcd: &Etcd, flags: &[&str]) -> Self {
        let port = free_port();
        let process = Process::builder(example("printf"))
            .args([
                "run",
                "--etcd",
                &etcd.endpoint(),
                "--port",
                &port.to_string(),
            ])
            .args(["--probe-period", "1", "--probe-timeout", "0.5"])
            .args(flags)
            .start();
        let [uuid, _] = await_joined(&process);
        Self {
            process,
            uuid,
            port,
        }
    }

    fn says(&self, line: &str) {
        self.process.wait_for_line(|said| said == line, SOON);
    }

    fn says_after(&self, mark: Mark, line: &str) {
        self.process
            .wait_for_line_after(mark, |said| said == line, SOON);
    }

    fn configured(&self, other: &Self) {
        self.says(&format!("INFO:registry:Server {} configured", other.uuid));
    }

    fn deleted(&self, other: &Self, reason: &str) {
        self.says(&format!(
            "INFO:registry:Deleted server {} because {reason}",
            other.uuid
        ));
    }

    /// The lines of registry and pipeliner of the next whole round, with its list of servers.
    fn next_round(&self) -> Vec<String> {
        let mark = self.process.mark();
        let before = self.process.lines().len();
        let starts = |line: &str| {
            is_of_duty(line) && (line.contains(":Found ") || line.contains(":No servers found"))
        };
        self.process.wait_for_line_after(mark, starts, SOON);
        let first = before
            + self.process.lines()[before..]
                .iter()
                .position(|line| starts(line))
                .unwrap();
        eventually("the round and its list are over", SOON, || {
            let lines: Vec<_> = self.process.lines()[first..]
                .iter()
                .filter(|line| is_of_duty(line))
                .cloned()
                .collect();
            let end = lines
                .iter()
                .position(|line| line == "INFO:pipeliner:***************************")?;
            Some(lines[..=end].to_vec())
        })
    }
}

fn is_of_duty(line: &str) -> bool {
    line.split(':')
        .nth(1)
        .is_some_and(|target| target == "registry" || target == "pipeliner")
}

fn listed(server: &Printf) -> String {
    let functions: Vec<_> = FUNCTIONS.iter().map(|name| format!("'{name}'")).collect();
    let functions = functions.join(", ");
    format!(
        "INFO:pipeliner:{}: Server printf of type registered, implements [{functions}]",
        server.uuid
    )
}

/// The letters of a digest that the registry logged of this server.
fn digest<'a>(line: &'a str, server: &Printf) -> Vec<&'a str> {
    let head = format!("INFO:registry:{}/printf/registered : b'", server.uuid);
    let digest = line
        .strip_prefix(&head)
        .and_then(|rest| rest.strip_suffix('\''))
        .expect(line);
    let letters: Vec<_> = digest
        .split(',')
        .filter(|letter| !letter.is_empty())
        .collect();
    assert!(
        letters
            .iter()
            .all(|letter| ["D", "I", "W"].contains(letter)),
        "{line}"
    );
    letters
}

#[test]
fn a_server_is_configured_logged_and_stored_as_in_pylm() {
    let etcd = Etcd::start();
    let server = Printf::start(&etcd);
    server.configured(&server);

    let keys = etcd.etcdctl(&["get", "--prefix", "--keys-only", "/servers/"]);
    assert_eq!(keys.trim(), format!("/servers/{}", server.uuid));
    let record = etcd.etcdctl(&["get", "--print-value-only", keys.trim()]);
    let when = record
        .split(r#""when": ""#)
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let pattern: String = when
        .chars()
        .map(|c| if c.is_ascii_digit() { '9' } else { c })
        .collect();
    assert_eq!(pattern, "9999-99-99T99:99:99.999999");
    let functions = FUNCTIONS.map(|name| format!("\"{name}\"")).join(", ");
    let (pid, port, uuid) = (server.process.pid(), server.port, &server.uuid);
    let guide = format!(
        r#"{{"host": "127.0.0.1", "pid": {pid}, "when": "{when}", "leader": "{uuid}", "server": "printf", "#
    ) + &format!(
        r#""ports": [{port}], "kind": "registered", "functions": [{functions}], "uuid": "{uuid}", "#
    ) + "\"configured\": true}\n";
    assert_eq!(record, guide);

    server.next_round();
    let client = client(settings(&etcd), "printf", 1);
    for words in ["Hello", "again"] {
        assert_eq!(call(&client, "printf.printf", words).unwrap(), words);
        server.says(&format!("INFO:printf:{words}"));
    }
    let round = server.next_round();
    let [found, remaining, answer, dead, left, open, list, close] = &round[..] else {
        panic!("{round:#?}")
    };
    assert_eq!(found, "INFO:registry:Found 1 servers, probing all of them");
    assert_eq!(remaining, "INFO:registry:1 servers remaining");
    assert_eq!(
        digest(answer, &server)
            .iter()
            .filter(|letter| **letter == "I")
            .count(),
        2,
        "{answer}"
    );
    assert_eq!(
        (dead.as_str(), left.as_str()),
        (
            "INFO:registry:0 dead servers",
            "INFO:registry:1 servers remaining"
        )
    );
    assert_eq!(open, "INFO:pipeliner:***** List of servers *****");
    assert_eq!(*list, listed(&server));
    assert_eq!(close, "INFO:pipeliner:***************************");
    assert!(
        digest(&server.next_round()[2], &server).is_empty(),
        "each line is told once"
    );
}

#[test]
fn a_server_that_ends_is_logged_with_pylms_line() {
    let etcd = Etcd::start();
    let leader = Printf::start(&etcd);
    leader.configured(&leader);
    let leaves = Printf::start(&etcd);
    let dies = Printf::start(&etcd);
    leader.configured(&leaves);
    leader.configured(&dies);
    let round = leader.next_round();
    assert_eq!(
        round[0], "INFO:registry:Found 3 servers, probing all of them",
        "{round:#?}"
    );
    for server in [&leader, &leaves, &dies] {
        assert!(round.contains(&listed(server)), "{round:#?}");
        assert!(
            round
                .iter()
                .any(|line| line.contains(&format!("{}/printf/registered : b'", server.uuid)))
        );
    }

    leaves.process.terminate();
    assert!(leaves.process.wait(SOON).success());
    leader.deleted(&leaves, "it killed itself");
    dies.process.kill();
    leader.deleted(&dies, "its process is gone");
    let round = leader.next_round();
    assert_eq!(
        round[0], "INFO:registry:Found 1 servers, probing all of them",
        "{round:#?}"
    );
    assert!(
        !round.contains(&listed(&leaves)) && !round.contains(&listed(&dies)),
        "{round:#?}"
    );

    // The last one, which leads, says it of itself.
    leader.process.terminate();
    assert!(leader.process.wait(SOON).success());
    leader.deleted(&leader, "it killed itself");
    assert_eq!(
        etcd.etcdctl(&["get", "--prefix", "--keys-only", "/servers/"]),
        ""
    );
}

#[test]
fn a_successor_continues_the_leaders_work() {
    let etcd = Etcd::start();
    let first = Printf::start(&etcd);
    first.configured(&first);
    let second = Printf::start(&etcd);
    first.configured(&second);
    let third = Printf::start(&etcd);
    first.configured(&third);
    first.process.terminate();
    assert!(first.process.wait(SOON).success());
    let round = second.next_round();
    assert_eq!(
        round[0], "INFO:registry:Found 2 servers, probing all of them",
        "{round:#?}"
    );
    second.process.kill();
    third.deleted(&second, "its process is gone");
    let round = third.next_round();
    assert_eq!(
        round[0], "INFO:registry:Found 1 servers, probing all of them",
        "{round:#?}"
    );
    let record = etcd.etcdctl(&[
        "get",
        "--print-value-only",
        &format!("/servers/{}", third.uuid),
    ]);
    assert!(
        record.contains(&format!(r#""leader": "{}""#, third.uuid)),
        "{record}"
    );
}

#[test]
fn a_server_cleared_by_hand_stays_out() {
    let etcd = Etcd::start();
    let leader = Printf::start(&etcd);
    leader.configured(&leader);
    let cleared = Printf::start(&etcd);
    leader.configured(&cleared);
    // The leader looks when the lease of the server is gone as well, and must not
    // take it for expired.
    leader.process.freeze();
    etcd.etcdctl(&["del", &format!("/servers/{}", cleared.uuid)]);
    cleared.process.wait_for_line(
        |line| line.ends_with("stays out until it is restarted"),
        SOON,
    );
    leader.process.thaw();
    leader.deleted(&cleared, "an administrator removed it");
    assert_eq!(
        cleared.process.wait(SOON).code(),
        Some(i32::from(flags::EVICTED))
    );
    let words = format!(
        "server {} was removed from the mesh by an administrator",
        cleared.uuid
    );
    cleared.process.wait_for_line(
        |line| line.starts_with("ERROR:") && line.ends_with(&words),
        SOON,
    );
    let mark = leader.process.mark();
    leader.says_after(mark, "INFO:registry:Found 1 servers, probing all of them");

    // pylm's `rm /servers --recursive`: everyone is out, the leader as well.
    let other = Printf::start(&etcd);
    leader.configured(&other);
    etcd.etcdctl(&["del", "--prefix", "/servers/"]);
    for server in [&leader, &other] {
        assert_eq!(
            server.process.wait(SOON).code(),
            Some(i32::from(flags::EVICTED))
        );
    }
    assert_eq!(
        etcd.etcdctl(&["get", "--prefix", "--keys-only", "/servers/"]),
        ""
    );
}

#[test]
fn a_server_not_at_its_endpoint_is_not_published() {
    let etcd = Etcd::start();
    // All of 127.0.0.0/8 leads here, but nothing listens at this address.
    let server = Printf::start_with(&etcd, &["--ip", "127.0.0.9", "--bind", "127.0.0.1"]);
    let (uuid, port) = (&server.uuid, server.port);
    let at = format!("tcp://127.0.0.9:{port}");
    let words = format!("it does not answer at {at}: connection refused");
    server.says(&format!(
        "WARNING:registry:Server {uuid} stays unconfigured: {words}"
    ));
    let round = server.next_round();
    let tail = [
        "CRITICAL:pipeliner:You have no server running",
        "INFO:pipeliner:***** List of servers *****",
        "INFO:pipeliner:***************************",
    ];
    assert!(round.ends_with(&tail.map(ToOwned::to_owned)), "{round:#?}");
    assert_eq!(etcd.etcdctl(&["get", "--prefix", "/pipelines/"]), "");
    server.process.terminate();
    assert!(server.process.wait(SOON).success());
}
