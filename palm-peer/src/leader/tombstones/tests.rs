use super::*;
use crate::io::etcd::tests::{leases_at, with_lossy_proxy};
use futures::executor::block_on;

const SERVER: Uuid = Uuid::from_u128(7);

/// The removal of [`SERVER`] by the leader.
fn removal(keys: &Keys) -> Removal {
    let reason = "its process is gone";
    Removal::new(keys, SERVER, Some("zoo"), RemovedBy::Registry, reason)
}

/// Puts the record of [`SERVER`], which need not be valid.
fn register(server: &palm_tests::Etcd, keys: &Keys) {
    server.etcdctl(&["put", &keys.server(SERVER), "record"]);
}

#[test]
fn a_removal_whose_response_was_lost_is_recognised_as_done() {
    let (server, between, etcd) = with_lossy_proxy();
    let keys = Keys::default();
    register(&server, &keys);
    // The response to the grant of the tombstone's lease passes; that to the transaction is lost.
    between.lose_response(1);
    let guard = Transaction::new().present(&keys.server(SERVER));
    let removed = block_on(removal(&keys).carry_out(&etcd, guard)).expect("etcd answers again");
    assert_eq!(removed, Removed::WithTombstone);
    assert!(between.has_lost());
    let departed = block_on(etcd.get(&keys.departed(SERVER))).expect("etcd answers");
    let lease = departed.expect("a tombstone").lease.expect("on a lease");
    assert_eq!(leases_at(&server), [lease], "its lease is kept");
}

#[test]
fn the_tombstone_of_another_is_not_taken_for_its_own() {
    let (server, between, etcd) = with_lossy_proxy();
    let keys = Keys::default();
    let guard = || Transaction::new().present(&keys.server(SERVER));
    register(&server, &keys);
    let first = block_on(removal(&keys).carry_out(&etcd, guard())).expect("etcd answers");
    assert_eq!(first, Removed::WithTombstone);
    let tombstone = server.etcdctl(&["get", &keys.departed(SERVER)]);
    let leases = leases_at(&server);
    between.lose_response(1);
    let second = block_on(removal(&keys).carry_out(&etcd, guard())).expect("etcd answers again");
    assert_eq!(second, Removed::Not, "somebody else removed it");
    assert_eq!(server.etcdctl(&["get", &keys.departed(SERVER)]), tombstone);
    assert_eq!(leases_at(&server), leases, "the unused lease is revoked");
}

#[test]
fn the_unused_lease_of_a_tombstone_is_revoked() {
    let (server, _between, etcd) = with_lossy_proxy();
    let keys = Keys::default();
    let guard = Transaction::new().present(&keys.server(SERVER));
    let removed = block_on(removal(&keys).carry_out(&etcd, guard)).expect("etcd answers");
    assert_eq!(removed, Removed::Not, "there is no record");
    assert_eq!(leases_at(&server), [], "it would stay for an hour");
}
