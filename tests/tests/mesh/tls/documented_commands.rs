//! The commands of docs/security.md work when they are pasted.

use crate::common::SOON;
use palm_tests::{Process, binary, eventually, example, free_port, in_repository};
use std::{ffi::OsStr, fs, path::Path};
use tempfile::TempDir;

fn document() -> String {
    fs::read_to_string(in_repository("docs/security.md")).expect("the document")
}

/// A folder in which the commands that make certificates were run.
fn made() -> TempDir {
    let document = document();
    let section = document
        .split("\n## Making certificates\n")
        .nth(1)
        .expect("the section");
    let section = section.split("\n## ").next().expect("its end");
    let scripts: Vec<_> = section
        .split("```sh\n")
        .skip(1)
        .map(|block| block.split("```").next().expect("an end"))
        .collect();
    assert!(scripts.len() >= 6, "{scripts:#?}");
    let folder = tempfile::tempdir().expect("a folder");
    for script in scripts {
        let ran = within(folder.path(), Path::new("sh"), ["-e", "-c", script]);
        assert!(ran.wait(SOON).success(), "{script}\n{:#?}", ran.lines());
    }
    folder
}

/// Starts a program in this folder.
fn within<T: AsRef<OsStr>>(
    folder: &Path,
    program: &Path,
    args: impl IntoIterator<Item = T>,
) -> Process {
    let line = "cd \"$1\" && shift && exec \"$@\"";
    Process::builder("sh")
        .args(["-c", line, "sh"])
        .arg(folder)
        .arg(program)
        .args(args)
        .start()
}

/// The words of the command lines that begin so, with another port for etcd.
fn lines(document: &str, program: &str, port: u16) -> Vec<Vec<String>> {
    let lines = document
        .lines()
        .filter_map(|line| line.strip_prefix(&format!("    {program} ")));
    let words = |line: &str| {
        line.replace("2379", &port.to_string())
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    lines.map(words).collect()
}

#[test]
fn the_commands_make_certificates_that_work() {
    let (document, folder) = (document(), made());
    let start = |program: &Path, args: &[String]| within(folder.path(), program, args);
    let port = free_port();
    let etcd = &lines(&document, "etcd", port)[0];
    let etcd = [
        etcd.clone(),
        vec![format!(
            "--listen-peer-urls=http://127.0.0.1:{}",
            free_port()
        )],
    ]
    .concat();
    let _etcd = start(Path::new("etcd"), &etcd);
    let servers = lines(&document, "text", port);
    assert_eq!(servers.len(), 2);
    let _servers: Vec<_> = servers
        .iter()
        .map(|args| {
            let server = start(&example("text"), args);
            server.wait_for_line(|line| line.contains("configured"), SOON);
            server
        })
        .collect();
    let call = &lines(&document, "palm-cli", port)[0];
    for prefix in [None, Some("/staging")] {
        // In the other mesh, too, a client's certificate without a URI is good.
        let more = prefix
            .map(|prefix| vec!["--prefix".to_owned(), prefix.to_owned()])
            .unwrap_or_default();
        let args = [call.clone(), more].concat();
        let said = eventually("the call is answered", SOON, || {
            let called = start(&binary("palm-cli"), &args);
            called
                .wait(SOON)
                .success()
                .then(|| called.lines().join("\n"))
        });
        assert_eq!(said, "HELLO", "{prefix:?}");
    }
}

#[test]
fn a_documented_client_certificate_cannot_serve() {
    let folder = made();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let etcd = palm_tests::Etcd::start();
    let args = [
        "run",
        "--etcd",
        &etcd.endpoint(),
        "--cacert",
        &file("ca.pem"),
        "--cert",
        &file("client.pem"),
    ];
    let server = Process::start(
        example("text"),
        [&args[..], &["--key", &file("client.key")]].concat(),
    );
    assert_eq!(server.wait(SOON).code(), Some(1));
    let said = server.lines().join("\n");
    assert!(
        said.contains("client.pem cannot be used: it is for no host, not for 127.0.0.1"),
        "{said}"
    );
}
