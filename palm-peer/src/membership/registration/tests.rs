use super::*;
use crate::io::etcd::tests::with_lossy_proxy;
use futures::executor::block_on;
use std::time::Duration;
use uuid::Uuid;

const SERVER: Uuid = Uuid::from_u128(7);

fn registrar(etcd: &Etcd) -> Registrar {
    let record = Record::new(SERVER, "zoo", wall_clock::timestamp());
    Registrar::new(etcd.clone(), &ValidConfig::default(), record)
}

fn lease(etcd: &Etcd) -> LeaseId {
    let granted = block_on(etcd.grant_lease(Duration::from_secs(60)));
    granted.expect("a lease").id
}

#[test]
fn a_registration_whose_response_was_lost_is_recognised() {
    let (_server, between, etcd) = with_lossy_proxy();
    let registrar = registrar(&etcd);
    let lease = lease(&etcd);
    let reason = "it does not answer";
    let departed = registrar.keys.departed(SERVER);
    let note = block_on(put_tombstone(&etcd, &departed, RemovedBy::Registry, reason));
    let (tombstone, _) = note.expect("etcd answers");
    block_on(etcd.transact(Transaction::new().then(tombstone))).expect("etcd answers");
    // The response to its look at the tombstone passes; that to the transaction, which deletes the
    // tombstone, is lost.
    between.lose_response(1);
    let written = block_on(registrar.register(lease, None)).expect("etcd answers again");
    assert!(between.has_lost());
    let record = block_on(etcd.get(&registrar.keys.server(SERVER))).expect("etcd answers");
    let record = record.expect("a record");
    assert_eq!(record.modified, written.revision);
    assert_eq!(record.created, record.modified, "it is put once");
}

#[test]
fn a_tombstone_of_a_deletion_by_hand_whose_response_was_lost_counts() {
    let (server, between, etcd) = with_lossy_proxy();
    let registrar = registrar(&etcd);
    let lease = lease(&etcd);
    let candidacy = Operation::put(&registrar.keys.candidate(lease), "me", Lease::Attach(lease));
    block_on(etcd.transact(Transaction::new().then(candidacy))).expect("etcd answers");
    let written = block_on(registrar.register(lease, None)).expect("etcd answers");
    let key = registrar.keys.server(SERVER);
    let deletion = Transaction::new().then(Operation::delete(&key));
    let deleted = block_on(etcd.transact(deletion))
        .expect("etcd answers")
        .revision;
    // Its looks at the tombstone and the lease, and the grant, are answered; the response to the
    // transaction is lost.
    between.lose_response(3);
    let verdict = block_on(registrar.verdict(written, Some(deleted), lease));
    assert_eq!(verdict.expect("etcd answers again"), RemovalCause::Evicted);
    assert!(between.has_lost());
    let tombstone = server.etcdctl(&["get", &registrar.keys.departed(SERVER)]);
    assert!(tombstone.contains(REMOVED_BY_ADMIN), "{tombstone}");
}
