use super::*;
use crate::{
    client::test_server::{SOON, TestServer},
    ingress::Connection,
    server::parcel::ReplyTo,
};
use bytes::Bytes;
use futures::executor::block_on;
use palm_proto::types::message::Request;
use palm_tests::eventually;
use std::time::Instant;

fn parcel() -> Parcel {
    Parcel {
        to: ReplyTo::new(Connection::Inner(Bytes::new()), false),
        request: Request::call("b.f"),
        payload: Bytes::from_static(b"payload"),
        deadline: Instant::now() + SOON,
    }
}

/// Sends a message over a link, as a relay does.
fn post(unconfirmed: &UnconfirmedLinks, link: &Arc<Link>, to: Uuid) {
    let parcel = parcel();
    let number = link.post(&parcel.request, parcel.payload.clone());
    unconfirmed.posted(link, to, number.expect("it is open"), parcel);
}

#[test]
fn links_that_have_ended_leave_no_state() {
    let server = TestServer::start();
    let (dialer, endpoint, to) = (
        server.dialer(),
        &server.instance.endpoint,
        server.instance.uuid,
    );
    let unconfirmed = UnconfirmedLinks::new();
    let mut losses = unconfirmed.losses();
    let size = || lock(&unconfirmed.of).len();
    for _ in 0..100 {
        let link = block_on(dialer.open(endpoint, to, SOON)).expect("it is there");
        post(&unconfirmed, &link, to);
        post(&unconfirmed, &link, to);
        assert_eq!(size(), 1, "the latest link to the server counts");
    }
    eventually("nothing is remembered", SOON, || {
        (size() == 0).then_some(())
    });
    while losses.try_recv().is_ok() {}
    let link = block_on(dialer.open(endpoint, to, SOON)).expect("it is there");
    link.end();
    unconfirmed.posted(&link, to, 1, parcel());
    eventually("it is reported, and not remembered", SOON, || {
        (size() == 0 && losses.try_recv().is_ok()).then_some(())
    });
}

#[test]
fn confirmed_messages_are_forgotten_while_the_link_stands() {
    let server = TestServer::start();
    let to = server.instance.uuid;
    let link = block_on(server.dialer().open(&server.instance.endpoint, to, SOON));
    let link = link.expect("it is there");
    let unconfirmed = UnconfirmedLinks::new();
    for _ in 0..1_000 {
        post(&unconfirmed, &link, to);
    }
    let is_empty = |unconfirmed: &UnconfirmedLinks| {
        let links = lock(&unconfirmed.of);
        let sent = lock(&links[&to].sent);
        sent.as_ref().is_some_and(Unconfirmed::is_empty)
    };
    eventually("all have arrived", SOON, || {
        is_empty(&unconfirmed).then_some(())
    });
}
