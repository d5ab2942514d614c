use super::*;
use crate::client::test_server::{SOON, TestServer};
use futures::executor::block_on;
use palm_tests::{eventually, free_port};

const TIMEOUT: Duration = Duration::from_secs(10);

#[test]
fn a_refused_connection_proves_an_end_only_where_it_was_reached() {
    let mut server = TestServer::start();
    let (uuid, endpoint) = (server.instance.uuid, server.instance.endpoint.clone());
    let [reached, never_reached] = [(); 2].map(|()| Links::new(server.dialer(), TIMEOUT));
    block_on(reached.probe(uuid, endpoint.clone(), false)).expect("it answers");
    assert!(
        !block_on(reached.prove_gone(uuid, endpoint.clone())),
        "it runs"
    );
    server.stop();
    let elsewhere = format!("tcp://127.0.0.1:{}", free_port());
    assert!(
        !block_on(reached.prove_gone(uuid, elsewhere)),
        "its record may name a wrong address: it was not reached there"
    );
    assert!(
        !block_on(never_reached.prove_gone(uuid, endpoint.clone())),
        "this leader never reached it"
    );
    // On a busy machine, the end of its link may be noticed later.
    eventually("it was there, and is gone", SOON, || {
        block_on(reached.prove_gone(uuid, endpoint.clone())).then_some(())
    });
}

#[test]
fn probes_over_new_connections_keep_one_link_to_a_server() {
    let server = TestServer::start();
    let (uuid, endpoint) = (server.instance.uuid, &server.instance.endpoint);
    let links = Links::new(server.dialer(), TIMEOUT);
    let mut opened = Vec::new();
    for _ in 0..100 {
        block_on(links.probe(uuid, endpoint.clone(), true)).expect("it answers");
        opened.append(&mut links.newly_opened());
    }
    assert_eq!((opened.len(), links.pool.len()), (100, 1));
    eventually("all but the last have ended", SOON, || {
        opened.retain_mut(|(_, broken)| broken.now_or_never().is_none());
        (opened.len() == 1).then_some(())
    });
    assert!(links.pool.connected(uuid, endpoint).is_some());
    links.keep_only(|registered| registered != uuid);
    assert_eq!(links.pool.len(), 0, "it is not registered any more");
    eventually("the last has ended", SOON, || {
        opened.retain_mut(|(_, broken)| broken.now_or_never().is_none());
        opened.is_empty().then_some(())
    });
}

#[test]
fn servers_that_cannot_be_reached_leave_no_links() {
    let server = TestServer::start();
    let links = Links::new(server.dialer(), TIMEOUT);
    let nowhere = format!("tcp://127.0.0.1:{}", free_port());
    for id in 0..500 {
        // The endpoint of another server counts as none.
        for endpoint in [&nowhere, &server.instance.endpoint] {
            let uuid = Uuid::from_u128(id);
            let probed = block_on(links.probe(uuid, endpoint.clone(), id % 2 == 0));
            probed.expect_err("another server, or none");
            assert!(!block_on(links.prove_gone(uuid, endpoint.clone())));
        }
    }
    assert_eq!((links.pool.len(), links.newly_opened().len()), (0, 0));
}
