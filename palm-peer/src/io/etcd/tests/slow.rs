//! An etcd that is slow, but lives.

use std::time::Instant;

use futures::executor::block_on;
use palm_tests::SlowAnswers;

use super::{super::*, *};

const TTL: Duration = Duration::from_secs(10);

/// How many streams were ever opened at this etcd.
fn streams(server: &palm_tests::Etcd) -> f64 {
    let started = |method: &str| {
        server.metric_where(
            "grpc_server_started_total",
            &format!("grpc_method=\"{method}\""),
        )
    };
    started("Watch") + started("LeaseKeepAlive")
}

/// A watch that has listed, and whose stream is open.
fn open_watch(etcd: &Etcd) -> Watch {
    let mut watch = etcd.watch(Target::Prefix("/w/".into()));
    told(etcd, &mut watch, "listed");
    block_on(put(etcd, "/w/open", "")).expect("a write");
    told(etcd, &mut watch, "+/w/open=");
    watch
}

/// Pauses for a while.
fn pause(etcd: &Etcd, time: Duration) {
    block_on(etcd.timer(time));
}

#[test]
fn slow_answers_end_no_stream_and_no_connection() {
    let server = palm_tests::Etcd::start();
    let between = SlowAnswers::start(server.address());
    let etcd = handle([between.endpoint()]);
    let mut watch = open_watch(&etcd);
    let lease = block_on(etcd.grant_lease(TTL)).expect("a lease").id;
    let mut renewals = block_on(etcd.keep_alive(lease)).expect("a stream");
    let (before, connections) = (streams(&server), between.connections());
    between.delay(Duration::from_secs(5));
    let asking = {
        let etcd = etcd.clone();
        std::thread::spawn(move || {
            for _ in 0..3 {
                // A caller that gives up after 2 s never gets an answer.
                palm_tests::eventually("an answer, after 5 s", 2 * PATIENCE, || {
                    block_on(etcd.get("/a")).ok()
                });
            }
        })
    };
    let began = Instant::now();
    let mut n = 0;
    while !asking.is_finished() {
        assert!(
            began.elapsed() < 6 * PATIENCE,
            "requests are bounded in time"
        );
        n += 1;
        server.etcdctl(&["put", "/w/n", &n.to_string()]);
        let seen = format!("+/w/n={n}");
        assert_eq!(
            told(&etcd, &mut watch, &seen),
            [seen],
            "the watch goes on, and nothing interrupts it"
        );
        assert_eq!(block_on(renewals.renew()).expect("a renewal"), Some(TTL));
        pause(&etcd, Duration::from_millis(300));
    }
    asking.join().expect("answers");
    assert!(streams(&server) <= before, "no stream was opened anew");
    assert_eq!(between.connections(), connections);
}

#[test]
fn repeated_pauses_of_etcd_end_no_stream() {
    let server = palm_tests::Etcd::start();
    let etcd = handle([server.endpoint()]);
    let mut watch = open_watch(&etcd);
    let lease = block_on(etcd.grant_lease(TTL)).expect("a lease").id;
    let mut renewals = block_on(etcd.keep_alive(lease)).expect("a stream");
    let before = streams(&server);
    for n in 0..3 {
        server.freeze();
        let asking = {
            let etcd = etcd.clone();
            std::thread::spawn(move || drop(block_on(etcd.get("/a"))))
        };
        let renewing = std::thread::spawn(move || {
            let answer = block_on(renewals.renew());
            (renewals, answer)
        });
        pause(
            &etcd,
            EtcdSettings::REQUEST_TIMEOUT + Duration::from_millis(300),
        );
        server.thaw();
        let (stream, answer) = renewing.join().expect("no panic");
        renewals = stream;
        assert_eq!(answer.expect("a renewal, though late"), Some(TTL));
        asking.join().expect("no panic");
        block_on(put(&etcd, "/w/n", &n.to_string())).expect("a write");
        let seen = format!("+/w/n={n}");
        assert_eq!(told(&etcd, &mut watch, &seen), [seen]);
    }
    assert!(streams(&server) <= before, "no stream was opened anew");
}
