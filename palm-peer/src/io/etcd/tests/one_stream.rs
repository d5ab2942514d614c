//! All watches of a handle share one stream, and do not disturb each other.

use futures::executor::block_on;
use palm_tests::{Proxy, eventually};

use super::{super::*, *};
use palm_proto::types::ids::Revision;

const MANY: usize = 20;

/// How many Watch RPCs were ever started at this etcd.
fn started(server: &palm_tests::Etcd) -> f64 {
    server.metric_where("grpc_server_started_total", "grpc_method=\"Watch\"")
}

fn watchers(server: &palm_tests::Etcd) -> f64 {
    server.metric("etcd_debugging_mvcc_watcher_total")
}

/// Watches of so many keys, each of which has listed.
fn watch_many(etcd: &Etcd) -> Vec<Watch> {
    let mut watches: Vec<_> = (0..MANY)
        .map(|n| etcd.watch(Target::Key(format!("/w/{n}"))))
        .collect();
    for watch in &mut watches {
        told(etcd, watch, "listed");
    }
    watches
}

/// Puts each key, and sees that its watch, and no other, tells of it, and of nothing else.
#[track_caller]
fn each_tells_of_its_own(etcd: &Etcd, watches: &mut [Watch], value: &str) {
    for n in 0..watches.len() {
        block_on(put(etcd, &format!("/w/{n}"), value)).expect("a write");
    }
    for (n, watch) in watches.iter_mut().enumerate() {
        let change = format!("+/w/{n}={value}");
        assert_eq!(told(etcd, watch, &change), [change]);
    }
}

#[test]
fn many_watches_cost_one_stream_and_end_one_by_one() {
    let server = palm_tests::Etcd::start();
    let etcd = handle([server.endpoint()]);
    let (streams, none) = (started(&server), watchers(&server));
    let mut watches = watch_many(&etcd);
    each_tells_of_its_own(&etcd, &mut watches, "1");
    assert!(started(&server) <= streams + 1.0, "one stream");
    assert!(watchers(&server) >= none + 20.0);
    watches.truncate(5);
    eventually("the others are gone at etcd", PATIENCE, || {
        (watchers(&server) <= none + 5.0).then_some(())
    });
    each_tells_of_its_own(&etcd, &mut watches, "2");
    let mut late = etcd.watch(Target::Prefix("/w/".into()));
    told(&etcd, &mut late, "listed");
    assert!(
        started(&server) <= streams + 1.0,
        "a new watch needs no other stream"
    );
    drop((watches, late));
    eventually("no watch is left", PATIENCE, || {
        (watchers(&server) <= none).then_some(())
    });
    let ended = || {
        server.metric_where("grpc_server_handled_total", "grpc_method=\"Watch\"")
            >= started(&server)
    };
    eventually("nor is a stream", PATIENCE, || ended().then_some(()));
    let mut again = watch_many(&etcd);
    each_tells_of_its_own(&etcd, &mut again, "3");
}

#[test]
fn a_cancelled_watch_does_not_affect_others() {
    let server = palm_tests::Etcd::start();
    let etcd = handle([server.endpoint()]);
    let mut watches = watch_many(&etcd);
    each_tells_of_its_own(&etcd, &mut watches, "1");
    let streams = started(&server);
    server.etcdctl(&["compact", "10"]);
    let reason = wait(
        &etcd,
        crate::io::etcd::watch_task::follow_from(&etcd, Target::Prefix("/w/".into()), Revision(2)),
    );
    assert!(reason.contains("compacted"), "{reason}");
    each_tells_of_its_own(&etcd, &mut watches, "2");
    assert!(started(&server) <= streams);
}

#[test]
fn a_slow_reader_does_not_delay_other_watches() {
    let server = palm_tests::Etcd::start();
    let etcd = handle([server.endpoint()]);
    let mut slow = etcd.watch(Target::Prefix("/w/".into()));
    let mut quick = etcd.watch(Target::Prefix("/w/".into()));
    told(&etcd, &mut slow, "listed");
    told(&etcd, &mut quick, "listed");
    block_on(put(&etcd, "/w/open", "")).expect("a write");
    for watch in [&mut slow, &mut quick] {
        told(&etcd, watch, "+/w/open=");
    }
    let streams = started(&server);
    for n in 0..1500 {
        block_on(put(&etcd, "/w/n", &n.to_string())).expect("a write");
        let change = format!("+/w/n={n}");
        assert_eq!(told(&etcd, &mut quick, &change), [change]);
    }
    block_on(put(&etcd, "/w/last", "x")).expect("a write");
    assert!(told(&etcd, &mut slow, "+/w/last=x").contains(&"interrupted".to_owned()));
    assert_eq!(told(&etcd, &mut quick, "+/w/last=x"), ["+/w/last=x"]);
    assert!(started(&server) <= streams);
}

#[test]
fn a_stream_that_breaks_is_resumed_with_all_its_watches() {
    let server = palm_tests::Etcd::start();
    let between = Proxy::start(server.address());
    let etcd = handle([between.endpoint()]);
    let mut watches = watch_many(&etcd);
    each_tells_of_its_own(&etcd, &mut watches, "1");
    let streams = started(&server);
    between.cut();
    for n in 0..MANY {
        server.etcdctl(&["put", &format!("/w/{n}"), "missed"]);
    }
    between.pass();
    for (n, watch) in watches.iter_mut().enumerate() {
        let change = format!("+/w/{n}=missed");
        assert_eq!(
            told(&etcd, watch, &change),
            ["interrupted".to_owned(), change]
        );
        told(&etcd, watch, "listed");
    }
    each_tells_of_its_own(&etcd, &mut watches, "2");
    assert!(
        started(&server) <= streams + 2.0,
        "{} streams before, {} after",
        streams,
        started(&server)
    );
}
