//! A server that cannot be registered says so itself.

use super::SOON;
use palm_tests::{Etcd, Process, example};

fn wordy(etcd: &Etcd, functions: u32) -> Process {
    Process::builder(example("wordy"))
        .args(["run", "--etcd", &etcd.endpoint()])
        .env("WORDY_FUNCTIONS", functions.to_string())
        .start()
}

#[test]
fn a_record_that_is_too_long_is_refused_by_the_server_itself() {
    let etcd = Etcd::start();
    // 132 bytes for each name: just within 256 KiB, and just over.
    let fits = wordy(&etcd, 1980);
    fits.wait_for_line(
        |line| line.starts_with("INFO:registry:Server ") && line.ends_with(" configured"),
        SOON,
    );
    let over = wordy(&etcd, 1990);
    assert_eq!(over.wait(SOON).code(), Some(2), "{:?}", over.lines());
    let said = over.lines().join("\n");
    assert!(
        said.contains("server wordy: its record in etcd would have 26")
            && said.contains(" bytes, 262144 at most"),
        "{said}"
    );
    assert!(
        said.contains("1996 functions") && said.contains("fewer"),
        "{said}"
    );
    assert_eq!(
        etcd.etcdctl(&["get", "--prefix", "--keys-only", "/servers/"])
            .matches("/servers/")
            .count(),
        1
    );
}
