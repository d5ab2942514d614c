//! Watches while nothing goes wrong, and their end.

use futures::executor::block_on;
use palm_tests::eventually;

use super::{super::*, *};

#[test]
fn a_watch_yields_existing_keys_then_changes() {
    let server = palm_tests::Etcd::start();
    let etcd = handle([server.endpoint()]);
    block_on(put(&etcd, "/w/a", "1")).expect("a write");
    block_on(put(&etcd, "/other", "1")).expect("a write");
    let mut watch = etcd.watch(Target::Prefix("/w/".into()));
    assert_eq!(told(&etcd, &mut watch, "listed"), ["+/w/a=1", "listed"]);
    server.etcdctl(&["put", "/w/a", "2"]);
    server.etcdctl(&["put", "/w/b", "1"]);
    server.etcdctl(&["put", "/other", "2"]);
    server.etcdctl(&["del", "/w/a"]);
    assert_eq!(
        told(&etcd, &mut watch, "-/w/a"),
        ["+/w/a=2", "+/w/b=1", "-/w/a"]
    );
    assert_eq!(watch.items().keys().collect::<Vec<_>>(), ["/w/b"]);
}

#[test]
fn a_watch_of_one_key_yields_no_other() {
    let server = palm_tests::Etcd::start();
    let etcd = handle([server.endpoint()]);
    let mut watch = etcd.watch(Target::Key("/k".into()));
    assert_eq!(told(&etcd, &mut watch, "listed"), ["listed"]);
    server.etcdctl(&["put", "/k2", "x"]);
    server.etcdctl(&["put", "/k", "x"]);
    assert_eq!(told(&etcd, &mut watch, "+/k=x"), ["+/k=x"]);
}

#[test]
fn a_change_is_not_lost_when_its_future_is_dropped() {
    let server = palm_tests::Etcd::start();
    let etcd = handle([server.endpoint()]);
    let mut watch = etcd.watch(Target::Prefix("/w/".into()));
    told(&etcd, &mut watch, "listed");
    for n in 0..20 {
        // Polled once and dropped, again and again.
        let _ = futures::FutureExt::now_or_never(watch.next()).map(|change| panic!("{change:?}"));
        block_on(put(&etcd, "/w/n", &n.to_string())).expect("a write");
        assert_eq!(short(&wait(&etcd, watch.next())), format!("+/w/n={n}"));
    }
}

#[test]
fn a_dropped_watch_ends_at_etcd() {
    let server = palm_tests::Etcd::start();
    let etcd = handle([server.endpoint()]);
    let at_etcd = || server.metric("etcd_debugging_mvcc_watcher_total");
    let before = at_etcd();
    let mut watches: Vec<_> = (0..10)
        .map(|_| etcd.watch(Target::Prefix("/w/".into())))
        .collect();
    for watch in &mut watches {
        told(&etcd, watch, "listed");
    }
    eventually("ten watches", PATIENCE, || {
        (at_etcd() >= before + 10.0).then_some(())
    });
    drop(watches);
    eventually("no watch is left", PATIENCE, || {
        (at_etcd() <= before).then_some(())
    });
}

#[test]
fn a_slow_reader_gets_the_difference_and_blocks_nothing() {
    let server = palm_tests::Etcd::start();
    let etcd = handle([server.endpoint()]);
    let mut watch = etcd.watch(Target::Prefix("/w/".into()));
    told(&etcd, &mut watch, "listed");
    let lease = block_on(etcd.grant_lease(Duration::from_secs(10)))
        .expect("a lease")
        .id;
    let mut renewals = block_on(etcd.keep_alive(lease)).expect("a stream");
    for n in 0..1500 {
        block_on(put(&etcd, &format!("/w/{}", n % 7), &n.to_string())).expect("a write");
    }
    block_on(renewals.renew()).expect("a renewal beside the backlog");
    block_on(put(&etcd, "/w/last", "x")).expect("a write");
    let changes = told(&etcd, &mut watch, "+/w/last=x");
    assert!(changes.contains(&"interrupted".to_owned()));
    told(&etcd, &mut watch, "listed");
    let listed = block_on(etcd.list("/w/")).expect("a list").items;
    assert_eq!(watch.items().values().cloned().collect::<Vec<_>>(), listed);
}

/// etcd closes the connection of a client that pings too often.
#[test]
fn an_idle_watch_is_not_reopened() {
    let server = palm_tests::Etcd::start();
    let etcd = handle([server.endpoint()]);
    let mut watch = etcd.watch(Target::Prefix("/w/".into()));
    told(&etcd, &mut watch, "listed");
    let idle = block_on(async {
        let timer = etcd.timer(Duration::from_secs(26));
        let change = watch.next();
        futures::pin_mut!(timer, change);
        matches!(
            futures::future::select(change, timer).await,
            futures::future::Either::Right(_)
        )
    });
    assert!(idle, "the watch was interrupted although nothing happened");
    block_on(put(&etcd, "/w/a", "1")).expect("a write");
    assert_eq!(told(&etcd, &mut watch, "+/w/a=1"), ["+/w/a=1"]);
}
