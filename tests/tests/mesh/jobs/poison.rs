//! A message that takes down every server that runs it.

use super::{client, collect, in_process::SOON};
use palm_peer::CallErrorKind;
use palm_tests::{Etcd, Process, eventually, example};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// How long the job takes at most, with all restarts of its servers, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn start(etcd: &Etcd) -> Process {
    let server = Process::builder(example("stage")).arg("run");
    let server = server
        .env("PALM_ETCD", etcd.endpoint())
        .env("PALM_TEST_STAGE", "frail")
        .start();
    server.wait_for_line(|line| line.contains(" joined as "), SOON);
    server
}

/// It ends after as many servers as it has attempts, and no other message fails with it.
#[test]
fn a_poison_message_crashes_at_most_three_servers() {
    let etcd = Etcd::start();
    let mut servers = [(); 2].map(|()| start(&etcd));
    let client = client(&etcd);
    let input = (0..2000).map(|number| {
        if number == 700 {
            "crash".to_owned()
        } else {
            number.to_string()
        }
    });
    let results = client
        .job(["frail.crash"])
        .window(256, 1 << 20)
        .timeout(3 * PATIENCE)
        .run_iter(input)
        .expect("there");
    let (over, died) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let consumer = {
        let over = Arc::clone(&over);
        thread::spawn(move || {
            let results = collect(results);
            over.store(true, Ordering::Relaxed);
            results
        })
    };
    // As a supervisor would.
    eventually("the job is over", PATIENCE, || {
        for server in servers.iter_mut().filter(|server| !server.is_running()) {
            died.fetch_add(1, Ordering::Relaxed);
            *server = start(&etcd);
        }
        over.load(Ordering::Relaxed).then_some(())
    });
    let results = consumer.join().expect("the job ends");
    let failed: Vec<_> = results
        .iter()
        .filter_map(|(idx, result)| Some((idx, result.as_ref().err()?)))
        .collect();
    assert!(results.len() == 2000 && failed.len() == 1, "{failed:?}");
    let (idx, error) = failed[0];
    assert_eq!(
        (*idx, error.kind(), error.stage()),
        (700, CallErrorKind::Unreachable, 0),
        "{error}"
    );
    assert_eq!(
        died.load(Ordering::Relaxed) + servers.iter().filter(|server| !server.is_running()).count(),
        3
    );
}
