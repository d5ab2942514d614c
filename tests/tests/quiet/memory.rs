//! A long job takes no more memory than a short one, at its client and at its servers. The
//! benchmark `long_job` shows it for five million messages.

// Tests fail by panicking.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use futures::{StreamExt as _, executor::block_on};
use palm_peer::{Bytes, Client, Config};
use palm_tests::{Etcd, Process, eventually, example, resident};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
const MESSAGES: u64 = 120_000;
/// From where on memory is compared: all buffers have their sizes by then.
const WARM: u64 = MESSAGES / 4;
/// What a process may grow by in the rest of the job: some 90 bytes for each message. An entry in a
/// map that is forgotten, with its message, takes three times as much.
const GROWTH: u64 = 8 << 20;

#[test]
fn a_long_job_takes_no_more_memory_than_a_short_one() {
    let _quiet = crate::alone();
    let etcd = Etcd::start();
    let servers = ["a", "b"].map(|name| {
        let server = Process::builder(example("stage")).arg("run");
        server
            .env("PALM_ETCD", etcd.endpoint())
            .env("PALM_TEST_STAGE", name)
            .start()
    });
    let options = Config::default().etcd(vec![etcd.endpoint()]);
    let client = block_on(Client::connect(options)).expect("etcd is there");
    eventually("both can be reached", SOON, || {
        (client.reachable().len() == 2).then_some(())
    });
    let memory = || [std::process::id(), servers[0].pid(), servers[1].pid()].map(resident);
    let input = (0..MESSAGES).map(|_| Bytes::from_static(&[7; 100]));
    let mut results = client
        .job(["a.add", "b.add"])
        .window(512, 1 << 20)
        .run_iter(input)
        .expect("there");
    let (mut done, mut warm) = (0, [0; 3]);
    while let Some((_, result)) = block_on(results.next()) {
        assert_eq!(result.expect("no error").len(), 102);
        done += 1;
        if done == WARM {
            warm = memory();
        }
    }
    let end = memory();
    println!("client and servers had {warm:?} bytes after {WARM} messages, {end:?} after {done}");
    assert_eq!(done, MESSAGES);
    for (before, after) in warm.into_iter().zip(end) {
        assert!(
            before > 0 && after < before + GROWTH,
            "{before} bytes, and then {after}"
        );
    }
}
