use super::*;
use crate::io::{
    etcd::tests::{leases_at, with_lossy_proxy},
    wall_clock::timestamp,
};
use futures::executor::block_on;

const ME: Uuid = Uuid::from_u128(1);
const LEADER: Uuid = Uuid::from_u128(2);
const TTL: Duration = Duration::from_secs(60);

/// Stands for election, and returns its candidacy.
fn stand(etcd: &Etcd, keys: &Keys, uuid: Uuid, lease: LeaseId) -> Candidate {
    let candidates = block_on(put_candidate(etcd, keys, uuid, lease));
    let own = candidates.into_iter().find(|found| found.lease == lease);
    own.expect("its own candidacy")
}

#[test]
fn a_candidate_whose_response_was_lost_finds_its_own_key() {
    let (server, between, etcd) = with_lossy_proxy();
    let keys = Keys::default();
    let lease = block_on(etcd.grant_lease(TTL)).expect("a lease").id;
    // The response to its first look passes; that to the transaction which puts the key is lost.
    between.lose_response(1);
    let found = block_on(try_to_stand(&etcd, &keys, ME, lease)).expect("etcd answers again");
    assert!(between.has_lost());
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].lease, found[0].uuid), (lease, Some(ME)));
    let key = block_on(etcd.get(&keys.candidate(lease))).expect("etcd answers");
    let key = key.expect("its key");
    assert_eq!(key.created, found[0].created);
    assert_eq!(key.modified, key.created, "it is put once");
    assert_eq!(
        server
            .etcdctl(&["get", "--keys-only", "--prefix", "/election/"])
            .split_whitespace()
            .count(),
        1
    );
}

#[test]
fn a_candidate_whose_response_was_lost_knows_that_it_removed_the_leader() {
    let (server, between, etcd) = with_lossy_proxy();
    let keys = Keys::default();
    let lease = block_on(etcd.grant_lease(TTL)).expect("a lease").id;
    let leader = stand(&etcd, &keys, LEADER, lease);
    let record = Record::new(LEADER, "zoo", timestamp());
    let put = Operation::put(&keys.server(LEADER), record.to_json(), Lease::Attach(lease));
    block_on(etcd.transact(Transaction::new().then(put))).expect("etcd answers");
    let kv = block_on(etcd.get(&keys.server(LEADER)))
        .expect("etcd answers")
        .expect("a record");
    // The response to the grant of the tombstone's lease passes; that to the transaction is lost.
    between.lose_response(1);
    let removed = block_on(remove_dead_leader(
        etcd.clone(),
        keys.clone(),
        leader,
        record,
        kv,
    ));
    assert!(removed, "the tombstone is its own");
    assert!(between.has_lost());
    let tombstone = block_on(etcd.get(&keys.departed(LEADER))).expect("etcd answers");
    let kept = tombstone.expect("a tombstone").lease.expect("on a lease");
    assert_eq!(
        leases_at(&server),
        [kept],
        "the lease of the dead leader is revoked"
    );
}
