//! Reads, writes, transactions, and the thread behind them.

use crate::io::etcd::thread::TaskLost;
use std::{thread, time::Instant};

use futures::executor::block_on;
use palm_tests::eventually;

use super::{super::*, *};

#[test]
fn a_key_is_read_and_a_prefix_listed_under_a_bare_executor() {
    let server = palm_tests::Etcd::start();
    let etcd = handle([server.endpoint()]);
    block_on(async {
        assert_eq!(etcd.get("/a/1").await.expect("a read"), None);
        for key in ["/a/1", "/a/2", "/b"] {
            put(&etcd, key, "x").await.expect("a write");
        }
        let found = etcd.get("/a/1").await.expect("a read").expect("the key");
        assert_eq!(
            (found.value.as_slice(), found.lease, found.created),
            (&b"x"[..], None, found.modified)
        );
        let listing = etcd.list("/a/").await.expect("a list");
        let keys: Vec<_> = listing.items.iter().map(|item| item.key.as_str()).collect();
        assert_eq!(keys, ["/a/1", "/a/2"]);
        assert!(listing.revision > found.modified);
        assert_eq!(etcd.list("").await.expect("a list").items.len(), 3);
    });
}

#[test]
fn a_transaction_compares_and_runs_one_branch() {
    let server = palm_tests::Etcd::start();
    let etcd = handle([server.endpoint()]);
    block_on(async {
        let claim = |value: &str| {
            Transaction::new()
                .absent("/k")
                .then(Operation::put("/k", value, Lease::None))
                .or_else(Operation::get("/k"))
                .or_else(Operation::get_prefix("/none/"))
        };
        let first = etcd.transact(claim("one")).await.expect("a transaction");
        assert!(first.succeeded && first.reads.is_empty());
        let second = etcd.transact(claim("two")).await.expect("a transaction");
        assert!(!second.succeeded);
        assert_eq!(second.reads.len(), 2);
        assert_eq!(
            (second.reads[0][0].value.as_slice(), second.reads[1].len()),
            (&b"one"[..], 0)
        );
        let born = second.reads[0][0].created;
        assert_eq!(born, first.revision);

        let replace = |transaction: Transaction| {
            etcd.transact(transaction.then(Operation::put("/k", "new", Lease::None)))
        };
        assert!(
            replace(Transaction::new().created("/k", born).modified("/k", born))
                .await
                .expect("ok")
                .succeeded
        );
        assert!(
            !replace(Transaction::new().modified("/k", born))
                .await
                .expect("ok")
                .succeeded
        );
        assert!(
            replace(Transaction::new().created("/k", born).present("/k"))
                .await
                .expect("ok")
                .succeeded
        );
        assert!(
            !replace(Transaction::new().present("/absent"))
                .await
                .expect("ok")
                .succeeded
        );

        let again = Transaction::new().then(Operation::delete("/k"));
        assert!(etcd.transact(again).await.expect("ok").succeeded);
        assert!(
            !replace(Transaction::new().created("/k", born))
                .await
                .expect("ok")
                .succeeded
        );
        put(&etcd, "/p/1", "").await.expect("a write");
        etcd.transact(Transaction::new().then(Operation::delete_prefix("/p/")))
            .await
            .expect("ok");
        assert!(etcd.list("/p/").await.expect("a list").items.is_empty());
    });
}

#[test]
fn definite_answers_have_their_kind() {
    let server = palm_tests::Etcd::start();
    let etcd = handle([server.endpoint()]);
    block_on(async {
        let keep = Transaction::new().then(Operation::put("/none", "x", Lease::Keep));
        assert_eq!(
            etcd.transact(keep).await.expect_err("no such key").kind(),
            EtcdErrorKind::Invalid
        );
        let large = Transaction::new().then(Operation::put("/l", vec![0; 3 << 20], Lease::None));
        let error = etcd.transact(large).await.expect_err("too large");
        assert_eq!(error.kind(), EtcdErrorKind::TooLarge, "{error}");
        let many = (0..129).fold(Transaction::new(), |all, n| {
            all.then(Operation::get(&n.to_string()))
        });
        assert_eq!(
            etcd.transact(many).await.expect_err("too many").kind(),
            EtcdErrorKind::TooLarge
        );
        let gone = LeaseId::new(99).expect("not 0");
        let orphan = Transaction::new().then(Operation::put("/o", "x", Lease::Attach(gone)));
        assert_eq!(
            etcd.transact(orphan).await.expect_err("no lease").kind(),
            EtcdErrorKind::LeaseGone
        );
    });
}

#[test]
fn a_listing_may_exceed_the_crates_default_limit() {
    let server = palm_tests::Etcd::start();
    let etcd = handle([server.endpoint()]);
    block_on(async {
        for n in 0..6 {
            let put = Operation::put(&format!("/big/{n}"), vec![n; 1 << 20], Lease::None);
            etcd.transact(Transaction::new().then(put))
                .await
                .expect("a write");
        }
        assert_eq!(etcd.list("/big/").await.expect("a list").items.len(), 6);
    });
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let start = |settings| {
        Etcd::start("refused", settings)
            .err()
            .map(|error| error.to_string())
    };
    assert!(start(EtcdSettings::new(Vec::<String>::new())).is_some());
    let shown = start(EtcdSettings::new(["http://me:secret@host:2379"])).expect("an error");
    assert!(!shown.contains("secret"), "{shown}");
    let mut mixed = EtcdSettings::new(["http://host:2379"]);
    mixed.tls = Some(std::sync::Arc::new(|| {
        Err(std::io::Error::other("never asked"))
    }));
    assert!(start(mixed).is_some());
}

/// Whether this process has a thread of that name.
fn runs(name: &str) -> bool {
    let tasks = std::fs::read_dir("/proc/self/task")
        .expect("Linux")
        .flatten();
    tasks.into_iter().any(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    })
}

#[test]
fn the_thread_ends_with_the_last_handle() {
    let server = palm_tests::Etcd::start();
    let etcd = Etcd::start("palm-last", EtcdSettings::new([server.endpoint()])).expect("a thread");
    let mut watch = etcd.watch(Target::Prefix("/".into()));
    assert_eq!(short(&wait(&etcd, watch.next())), "listed");
    let detached = etcd.spawn(Name::Test, futures::future::pending::<()>());
    drop(detached);
    drop(etcd);
    assert!(runs("palm-last"), "the watch still needs it");
    drop(watch);
    eventually("the thread ends", PATIENCE, || {
        (!runs("palm-last")).then_some(())
    });
}

#[test]
fn the_last_handle_may_be_dropped_on_the_thread_itself() {
    let etcd = Etcd::start("palm-itself", EtcdSettings::new(["127.0.0.1:1"])).expect("a thread");
    let inside = etcd.clone();
    let (sender, receiver) = futures::channel::oneshot::channel::<()>();
    drop(etcd.spawn(Name::Test, async move {
        let _ = receiver.await;
        drop(inside);
    }));
    drop(etcd);
    sender.send(()).expect("the task waits");
    eventually("the thread ends", PATIENCE, || {
        (!runs("palm-itself")).then_some(())
    });
}

#[test]
fn a_task_on_the_thread_can_be_awaited_and_aborted() {
    let etcd = handle(["127.0.0.1:1"]);
    let name = etcd.spawn(Name::Test, async {
        thread::current().name().map(str::to_owned)
    });
    assert_eq!(
        block_on(name).expect("a result").as_deref(),
        Some("palm-etcd")
    );
    let endless = etcd.spawn(Name::Test, futures::future::pending::<()>());
    endless.abort();
    assert_eq!(block_on(endless), Err(TaskLost::Aborted));
    let panicking = etcd.spawn(Name::Test, async { panic!("on purpose") });
    assert_eq!(
        block_on(panicking),
        Err::<(), _>(TaskLost::Panicked("on purpose".into()))
    );
    assert!(block_on(etcd.spawn(Name::Test, async { true })).expect("the thread lives on"));
}

#[test]
fn a_dropped_request_is_cancelled() {
    let server = palm_tests::Etcd::start();
    let etcd = handle([server.endpoint()]);
    block_on(etcd.get("/a")).expect("connected");
    server.freeze();
    let began = Instant::now();
    {
        let request = etcd.get("/a");
        let timer = etcd.timer(Duration::from_millis(50));
        futures::pin_mut!(request, timer);
        assert!(matches!(
            block_on(futures::future::select(request, timer)),
            futures::future::Either::Right(_)
        ));
    }
    server.thaw();
    assert!(began.elapsed() < Duration::from_secs(1));
    block_on(etcd.get("/a")).expect("the next one is answered");
}
