//! Leases and their renewals.

use std::time::Instant;

use futures::executor::block_on;
use palm_tests::{EtcdCluster, Proxy};

use super::{super::*, *};

const TTL: Duration = Duration::from_secs(10);

#[test]
fn a_lease_is_granted_renewed_and_revoked_with_its_keys() {
    let server = palm_tests::Etcd::start();
    let etcd = handle([server.endpoint()]);
    block_on(async {
        let granted = etcd
            .grant_lease(Duration::from_millis(9500))
            .await
            .expect("a lease");
        assert_eq!(granted.ttl, TTL, "rounded up");
        let put = |lease| Transaction::new().then(Operation::put("/k", "x", lease));
        etcd.transact(put(Lease::Attach(granted.id)))
            .await
            .expect("a write");
        etcd.transact(put(Lease::Keep))
            .await
            .expect("a write that keeps the lease");
        assert_eq!(
            etcd.get("/k")
                .await
                .expect("a read")
                .expect("the key")
                .lease,
            Some(granted.id)
        );
        let mut renewals = etcd.keep_alive(granted.id).await.expect("a stream");
        for _ in 0..5 {
            assert_eq!(renewals.renew().await.expect("a renewal"), Some(TTL));
        }
        assert!(
            etcd.lease_ttl(granted.id)
                .await
                .expect("an answer")
                .is_some()
        );
        etcd.revoke_lease(granted.id).await.expect("revoked");
        assert_eq!(etcd.get("/k").await.expect("a read"), None);
        assert_eq!(
            renewals.renew().await.expect("an answer"),
            None,
            "etcd says that it is gone"
        );
        etcd.revoke_lease(granted.id)
            .await
            .expect("gone is no error");
        assert_eq!(etcd.lease_ttl(granted.id).await.expect("an answer"), None);
        let error = etcd
            .keep_alive(granted.id)
            .await
            .err()
            .expect("no such lease");
        assert_eq!(error.kind(), EtcdErrorKind::LeaseGone);
    });
}

#[test]
fn renewals_over_a_broken_stream_fail_and_a_new_stream_works() {
    let server = palm_tests::Etcd::start();
    let between = Proxy::start(server.address());
    let etcd = handle([between.endpoint()]);
    block_on(async {
        let lease = etcd.grant_lease(TTL).await.expect("a lease").id;
        let mut renewals = etcd.keep_alive(lease).await.expect("a stream");
        between.cut();
        between.pass();
        let error = renewals.renew().await.expect_err("the stream broke");
        assert_eq!(error.kind(), EtcdErrorKind::Unreachable, "{error}");
        renewals.renew().await.expect_err("it stays broken");
        let mut renewals = etcd.keep_alive(lease).await.expect("a new stream");
        assert_eq!(renewals.renew().await.expect("a renewal"), Some(TTL));
    });
}

#[test]
fn a_frozen_member_costs_one_renewal_timeout() {
    let cluster = EtcdCluster::start();
    let leader = cluster.leader();
    let between = Proxy::start(cluster.member((leader + 1) % 3).address());
    let etcd = handle([between.endpoint(), cluster.member(leader).endpoint()]);
    block_on(async {
        let lease = etcd.grant_lease(TTL).await.expect("a lease").id;
        let mut renewals = loop {
            etcd.pool().begin_at(0);
            let renewals = etcd.keep_alive(lease).await.expect("a stream");
            if etcd.pool().begins_at() == 0 {
                break renewals;
            }
        };
        between.stall();
        let began = Instant::now();
        renewals.renew().await.expect_err("silence");
        assert!(began.elapsed() < Duration::from_millis(2500));
        let began = Instant::now();
        let mut renewals = etcd.keep_alive(lease).await.expect("a stream elsewhere");
        assert_eq!(renewals.renew().await.expect("a renewal"), Some(TTL));
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
    });
}

#[test]
fn an_answer_to_an_abandoned_renewal_is_not_taken_for_the_next() {
    let server = palm_tests::Etcd::start();
    let between = Proxy::start(server.address());
    let etcd = handle([between.endpoint()]);
    block_on(async {
        let lease = etcd.grant_lease(TTL).await.expect("a lease").id;
        let mut renewals = etcd.keep_alive(lease).await.expect("a stream");
        between.stall();
        {
            let abandoned = renewals.renew();
            let timer = etcd.timer(Duration::from_millis(100));
            futures::pin_mut!(abandoned, timer);
            let first = futures::future::select(abandoned, timer).await;
            assert!(matches!(first, futures::future::Either::Right(_)));
        }
        between.pass();
        assert_eq!(renewals.renew().await.expect("its own answer"), Some(TTL));
        etcd.revoke_lease(lease).await.expect("revoked");
        assert_eq!(renewals.renew().await.expect("its own answer"), None);
    });
}

#[test]
fn a_grant_whose_answer_was_lost_makes_no_second_lease() {
    let server = palm_tests::Etcd::start();
    let between = Proxy::start(server.address());
    let etcd = handle([between.endpoint()]);
    block_on(etcd.get("/a")).expect("connected");
    between.swallow();
    let began = Instant::now();
    let asking = {
        let etcd = etcd.clone();
        std::thread::spawn(move || {
            let mut request = LeaseRequest::new(TTL);
            palm_tests::eventually("a grant", PATIENCE, || {
                block_on(etcd.grant(&mut request)).ok()
            })
        })
    };
    palm_tests::eventually("etcd grants it", PATIENCE, || {
        (leases_at(&server).len() == 1).then_some(())
    });
    between.cut();
    between.pass();
    let granted = asking.join().expect("no panic");
    assert_eq!(leases_at(&server), [granted.id]);
    assert_eq!(granted.ttl, TTL);
    assert!(granted.asked >= began && granted.asked <= Instant::now());
}

#[test]
fn a_grant_that_failed_is_asked_for_again_under_the_same_id() {
    let server = palm_tests::Etcd::start();
    let between = Proxy::start(server.address());
    let etcd = handle([between.endpoint()]);
    let mut request = LeaseRequest::new(TTL);
    assert_eq!(request.maybe_granted(), None);
    let first = Instant::now();
    between.swallow();
    for _ in 0..2 {
        let error = block_on(etcd.grant(&mut request)).expect_err("no answer");
        assert_eq!(error.kind(), EtcdErrorKind::Unreachable);
    }
    between.cut();
    between.pass();
    let granted = block_on(etcd.grant(&mut request)).expect("a lease");
    assert_eq!(leases_at(&server), [granted.id]);
    assert_eq!(request.maybe_granted(), Some(granted.id));
    assert!(
        granted.asked - first < EtcdSettings::REQUEST_TIMEOUT,
        "it counts from the attempt that made it"
    );
}

#[test]
fn a_foreign_lease_is_never_taken_for_our_own() {
    let server = palm_tests::Etcd::start();
    let etcd = handle([server.endpoint()]);
    let others = block_on(etcd.grant_lease(TTL)).expect("a lease");
    let granted =
        block_on(etcd.grant(&mut LeaseRequest::with_id(others.id, TTL))).expect("a lease");
    assert_ne!(granted.id, others.id);
    assert_eq!(leases_at(&server).len(), 2);
}
