//! Settings that are refused at start, and the messages.

use super::World;
use crate::common::SOON;
use palm_tests::{Certificate, Process, binary, example};

/// Starts a program that cannot go on; gives its status and what it said.
fn ended(program: &std::path::Path, args: &[String]) -> (Option<i32>, String) {
    let process = Process::start(program, args);
    let status = process.wait(SOON);
    (status.code(), process.lines().join("\n"))
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn required_tls_prevents_a_start_without_it() {
    let world = World::new();
    let files = world.files.flags();
    let etcd = world.etcd.endpoint();
    let plain = etcd.replace("https:", "http:");
    let (server, cli) = (example("text"), binary("palm-cli"));
    for (program, start) in [
        (&server, "run"),
        (&cli, "status"),
        (&cli, "call text.shout"),
    ] {
        for (line, files, wanted) in [
            (
                format!("{start} --tls required --etcd {etcd}"),
                &[][..],
                "all three of cacert, cert and key",
            ),
            (
                format!("{start} --tls required --etcd {etcd}"),
                &files[..2],
                "all three of cacert, cert and key",
            ),
            (
                format!("{start} --tls required --etcd {plain}"),
                &files,
                "which is plain: write https://",
            ),
            (
                format!("{start} --tls perhaps --etcd {etcd}"),
                &files,
                "not auto, off or required",
            ),
            (
                format!("{start} --etcd {etcd}"),
                &files[..4],
                "set both cert and key",
            ),
            (
                format!("{start} --etcd {etcd}"),
                &files[2..],
                "set cacert as well",
            ),
        ] {
            let (code, said) = ended(program, &[words(&line), files.to_vec()].concat());
            assert!(
                code == Some(2) && said.contains(wanted),
                "{line}: {code:?} {said}"
            );
        }
    }
}

#[test]
fn unusable_files_end_a_server_with_name_and_reason() {
    let world = World::new();
    let etcd = world.etcd.endpoint();
    let elsewhere = world.authority.issue("elsewhere", &["10.0.0.1"]);
    let expired = world
        .authority
        .certificate("expired")
        .host("127.0.0.1")
        .expired()
        .issue();
    let missing = Certificate {
        key: "/nowhere/key.pem".into(),
        ..world.files.clone()
    };
    let mixed = Certificate {
        key: elsewhere.key.clone(),
        ..world.files.clone()
    };
    let swapped = Certificate {
        cert: world.files.key.clone(),
        ..world.files.clone()
    };
    for (files, wanted) in [
        (
            &missing,
            "key: /nowhere/key.pem cannot be read: No such file or directory",
        ),
        (
            &mixed,
            "elsewhere.key.pem is not the key of the certificate in cert",
        ),
        (&swapped, "server.key.pem holds no certificate in PEM"),
        (
            &expired,
            "expired.cert.pem cannot be used: it expired at 2021-01-01T00:00:00Z",
        ),
        (
            &elsewhere,
            "elsewhere.cert.pem cannot be used: it is for 10.0.0.1, not for 127.0.0.1",
        ),
    ] {
        let args = [words(&format!("run --etcd {etcd}")), files.flags().to_vec()].concat();
        let (code, said) = ended(&example("text"), &args);
        assert!(code == Some(1) && said.contains(wanted), "{code:?} {said}");
    }
}

#[test]
fn a_public_address_without_tls_causes_a_warning() {
    let world = World::new();
    let etcd = world.etcd.endpoint();
    // An address that no machine has, kept for documents: the server ends, having said what
    // there is to say.
    let address = "192.0.2.1";
    let files = world.authority.issue("documented", &[address]).flags();
    let args = |more: &str| {
        [
            words(&format!("run --etcd {etcd} --ip {address} {more}")),
            files.to_vec(),
        ]
        .concat()
    };
    let warning =
        "anyone who can reach 192.0.2.1 can call this server and read its traffic: set --cacert";
    for (more, warned) in [
        ("--tls off", true),
        ("--tls auto", false),
        ("--tls required", false),
    ] {
        let (code, said) = ended(&example("text"), &args(more));
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("cannot listen on 192.0.2.1"), "{said}");
        assert_eq!(said.contains(warning), warned, "{more}: {said}");
    }
}
