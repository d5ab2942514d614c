//! What is wrong with TLS towards etcd is said in words of TLS, by servers and by palm-cli.

use super::SOON;
use palm_tests::{Authority, Certificate, Etcd, Process, binary, eventually, example};
use std::{fs, path::Path};

/// What is the matter at `url` with these flags: palm-cli ends with status 3, and a server waits,
/// both with these words.
#[track_caller]
fn unreachable(url: &str, flags: &[String], wanted: &str) {
    let common = [&["--etcd".to_owned(), url.to_owned()], flags].concat();
    let status = Process::start(
        binary("palm-cli"),
        [&["status".to_owned()][..], &common].concat(),
    );
    assert_eq!(
        status.wait(SOON).code(),
        Some(3),
        "{wanted}: {:?}",
        status.lines()
    );
    let said = status.lines().join("\n");
    assert!(said.contains(wanted), "{wanted}: {said}");
    assert!(
        said.contains("check cacert, cert and key") && !said.contains("check that etcd runs"),
        "{said}"
    );
    let server = Process::start(
        example("printf"),
        [&words("run --tls off")[..], &common].concat(),
    );
    let (line, _) = server.wait_for_line(|line| line.contains("joining waits for etcd"), SOON);
    assert!(line.contains(wanted), "{wanted}: {line}");
}

/// Files that make no TLS: palm-cli ends with status 2, and a server with 1, before etcd is asked.
#[track_caller]
fn useless(flags: &[String], wanted: &str) {
    // Nothing listens there.
    let common = [
        &["--etcd".to_owned(), "https://127.0.0.1:1".to_owned()],
        flags,
    ]
    .concat();
    for (program, start, code) in [
        (binary("palm-cli"), "status", 2),
        (example("printf"), "run", 1),
    ] {
        let process = Process::start(
            program,
            [&words(&format!("{start} --tls off"))[..], &common].concat(),
        );
        assert_eq!(
            process.wait(SOON).code(),
            Some(code),
            "{wanted}: {:?}",
            process.lines()
        );
        let said = process.lines().join("\n");
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn cacert(path: &Path) -> Vec<String> {
    vec!["--cacert".to_owned(), path.display().to_string()]
}

#[test]
fn tls_errors_towards_etcd_are_reported_as_such() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let etcd = Etcd::certified_by(&ours);
    let (url, plain) = (etcd.endpoint(), Etcd::start());
    let good = ours.issue("us", &["127.0.0.1"]);
    let stranger = Certificate {
        ca: ours.ca(),
        ..others.issue("stranger", &["127.0.0.1"])
    };
    let server_only = ours
        .certificate("server-only")
        .host("127.0.0.1")
        .server_only()
        .issue();

    unreachable(
        &url,
        &cacert(&ours.ca()),
        "it requires a client certificate, and got none: pass --cert and --key",
    );
    unreachable(
        &url,
        &cacert(&others.ca()),
        "it is not signed by the authority in cacert",
    );
    unreachable(
        &url,
        &stranger.flags(),
        "it does not accept our certificate in cert",
    );
    unreachable(
        &url,
        &server_only.flags(),
        "it does not accept our certificate in cert",
    );
    unreachable(
        &url.replace("127.0.0.1", "localhost"),
        &good.flags(),
        "it is for 127.0.0.1, not for localhost",
    );
    unreachable(
        &url.replace("https:", "http:"),
        &[],
        "it uses TLS: write https:// in its URL",
    );
    unreachable(
        &plain.endpoint().replace("http:", "https:"),
        &good.flags(),
        "it does not use TLS: write http://",
    );
}

#[test]
fn an_expired_certificate_of_etcd_is_reported() {
    let authority = Authority::new("old");
    let good = authority.issue("us", &["127.0.0.1"]);
    let etcd = Etcd::certified_by(&authority);
    // etcd reads the file for each connection.
    let _ = authority
        .certificate("etcd")
        .host("127.0.0.1")
        .expired()
        .issue();
    unreachable(
        &etcd.endpoint(),
        &good.flags(),
        "its certificate is not accepted: it expired at 2021-01-01T00:00:00Z",
    );
}

#[test]
fn tls_errors_are_the_same_with_credentials() {
    let authority = Authority::new("users");
    let etcd = Etcd::certified_by(&authority);
    let flags = [
        cacert(&authority.ca()),
        vec!["--user".to_owned(), "root:secret".to_owned()],
    ]
    .concat();
    unreachable(
        &etcd.endpoint(),
        &flags,
        "it requires a client certificate, and got none",
    );
}

#[test]
fn files_for_etcd_are_checked_before_connecting() {
    let authority = Authority::new("ours");
    let good = authority.issue("us", &["127.0.0.1"]);
    let other = authority.issue("other", &["127.0.0.1"]);
    let expired = authority
        .certificate("expired")
        .host("127.0.0.1")
        .expired()
        .issue();
    let empty = authority.folder().join("empty.pem");
    fs::write(&empty, "").expect("a file");
    useless(
        &cacert(&empty),
        "empty.pem holds no certificate in PEM: it is empty",
    );
    useless(&cacert(&good.key), "us.key.pem holds no certificate in PEM");
    useless(
        &cacert(Path::new("/nowhere/ca.pem")),
        "cacert: /nowhere/ca.pem cannot be read: No such file",
    );
    let mixed = Certificate {
        key: other.key.clone(),
        ..good.clone()
    };
    useless(
        &mixed.flags(),
        "other.key.pem is not the key of the certificate in cert",
    );
    useless(
        &expired.flags(),
        "expired.cert.pem cannot be used: it expired at 2021-01-01T00:00:00Z",
    );
}

#[test]
fn an_endpoint_without_tls_does_not_hide_one_that_works() {
    let authority = Authority::new("ours");
    let good = authority.issue("us", &["127.0.0.1", "::1"]);
    let etcd = Etcd::certified_by(&authority);
    let plain = Etcd::start().endpoint().replace("http:", "https:");
    let both = format!("{plain},{}", etcd.endpoint());
    let args = [
        vec!["--etcd".to_owned(), both, "status".to_owned()],
        good.flags().to_vec(),
    ]
    .concat();
    for _ in 0..4 {
        let status = Process::start(binary("palm-cli"), &args);
        assert!(status.wait(SOON).success(), "{:?}", status.lines());
    }
}

#[test]
fn an_etcd_at_an_ipv6_address_is_reached_over_tls() {
    let authority = Authority::new("ours");
    let both = authority.issue("both", &["::1"]);
    let etcd = Etcd::builder()
        .certified(&both)
        .at(std::net::Ipv6Addr::LOCALHOST)
        .start();
    let args = [
        vec!["--etcd".to_owned(), etcd.endpoint(), "status".to_owned()],
        both.flags().to_vec(),
    ]
    .concat();
    let status = Process::start(binary("palm-cli"), args);
    assert!(status.wait(SOON).success(), "{:?}", status.lines());
}

/// `--key <(…)`: what is read is read once, for etcd and for the mesh, and new connections
/// need it no more.
#[test]
fn files_may_be_pipes() {
    let authority = Authority::new("ours");
    let files = authority.issue("both", &["127.0.0.1"]);
    let etcd = Etcd::certified_by(&authority);
    let of_pipes = |program: &Path, rest: &str| {
        let [ca, cert, key] =
            [&files.ca, &files.cert, &files.key].map(|path| path.display().to_string());
        let line = format!(
            "exec {} {rest} --etcd {} --cacert <(cat {ca}) --cert <(cat {cert}) --key <(cat {key})",
            program.display(),
            etcd.endpoint(),
        );
        Process::start("bash", ["-c", &line])
    };
    let server = of_pipes(&example("printf"), "run");
    server.wait_for_line(|line| line.ends_with(" configured"), SOON);
    let status = of_pipes(&binary("palm-cli"), "status");
    assert!(status.wait(SOON).success(), "{:?}", status.lines());
    // All connections to etcd are opened again.
    etcd.stop();
    server.wait_for_line(|line| line.contains("etcd"), SOON);
    etcd.launch();
    eventually("the server is in the mesh again", SOON, || {
        let status = of_pipes(&binary("palm-cli"), "status");
        (status.wait(SOON).success()
            && status
                .lines()
                .iter()
                .any(|line| line.contains("1 configured")))
        .then_some(())
    });
}
