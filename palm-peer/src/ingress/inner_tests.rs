//! The inner socket alone.

use super::*;
use crate::io::{
    timer,
    zmq::{self, RouterEvent},
};
use futures::{executor::block_on, future::join};
use std::{os::unix::fs::PermissionsExt as _, time::Duration};

const SOON: Duration = Duration::from_secs(20);

fn connection(number: u64) -> Connection {
    Connection::copy_from_slice(&number.to_be_bytes())
}

#[test]
fn the_socket_directory_is_empty_and_may_be_removed() {
    block_on(async {
        let root = tempfile::tempdir().expect("a directory");
        let (attacher, sender, mut receiver) = zmq::attachable();
        let inner = Inner::open_in(attacher, vec![root.path().to_owned()]).expect("a socket");
        assert!(
            matches!(inner.location, SocketLocation::Descriptor(_)),
            "{:?}",
            inner.location
        );
        assert_eq!(fs::read_dir(root.path()).expect("a directory").count(), 0);
        root.close().expect("nobody needs it");
        for number in 0..3 {
            let connection = connection(number);
            let mut stream = timer::timeout(SOON, inner.connect(&connection))
                .await
                .expect("in time")
                .expect("connected");
            stream.write_all(b"\0\x02hi").await.expect("written");
            let event = timer::timeout(SOON, receiver.recv())
                .await
                .expect("in time");
            let RouterEvent::Message(from, frames) = event else {
                panic!("a message, not {event:?}")
            };
            assert_eq!(
                (&from, &frames[..]),
                (&connection, &[bytes::Bytes::from_static(b"hi")][..])
            );
            assert!(sender.send(&from, frames).is_none(), "sent at once");
            let mut echo = [0; 4];
            stream.read_exact(&mut echo).await.expect("an echo");
            assert_eq!(&echo, b"\0\x02hi");
            drop(stream);
            let event = timer::timeout(SOON, receiver.recv())
                .await
                .expect("in time");
            assert!(
                matches!(&event, RouterEvent::Disconnected(ended) if *ended == connection),
                "{event:?}"
            );
        }
    });
}

#[test]
fn leftovers_of_abandoned_connects_are_not_mistaken() {
    block_on(async {
        let (attacher, _sender, mut receiver) = zmq::attachable();
        let inner = Inner::open(attacher).expect("a socket");
        let endpoint = format!("ipc://{}", inner.location.path());
        // One connection that has ended, and one that is open.
        drop(StdStream::connect(inner.location.path()).expect("connects"));
        let first = connection(1);
        let other = inner.attacher.attach(&endpoint, &first);
        let (other, mine) = join(
            timer::timeout(SOON, other),
            timer::timeout(SOON, async {
                executor::yield_now().await;
                inner.connect(&connection(2)).await
            }),
        )
        .await;
        let mut mine = mine.expect("in time").expect("connected");
        assert!(other.expect("in time").is_err(), "it was taken for another");
        mine.write_all(b"\0\x02hi").await.expect("written");
        let event = async {
            loop {
                if let RouterEvent::Message(from, _) = receiver.recv().await {
                    return from;
                }
            }
        };
        assert_eq!(
            timer::timeout(SOON, event).await.expect("in time"),
            connection(2)
        );
    });
}

#[test]
fn without_proc_the_directory_is_private_to_the_user() {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("private");
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&path)
        .expect("made");
    assert_eq!(
        fs::metadata(&path).expect("there").permissions().mode() & 0o777,
        0o700
    );
    let directory = Directory(path.clone());
    let location = SocketLocation::Directory(directory);
    assert_eq!(location.path(), path.join(SOCKET).display().to_string());
    drop(location);
    assert!(!path.exists());
}

#[test]
fn the_error_names_each_unusable_directory() {
    let root = tempfile::tempdir().expect("a directory");
    let (absent, long) = (
        root.path().join("absent"),
        root.path().join("x".repeat(120)),
    );
    let (attacher, ..) = zmq::attachable();
    let error = Inner::open_in(attacher, vec![absent.clone(), long.clone()])
        .expect_err("no place")
        .to_string();
    for message in [
        &absent.display().to_string(),
        &long.display().to_string(),
        "too long",
        "No such file",
        "TMPDIR",
    ] {
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_removed_socket_is_created_again() {
    block_on(async {
        let root = tempfile::tempdir().expect("a directory");
        let (attacher, _sender, _receiver) = zmq::attachable();
        let mut inner = Inner::open_in(attacher, vec![root.path().to_owned()]).expect("a socket");
        rustix::net::shutdown(&inner.listener, rustix::net::Shutdown::Both).expect("shut down");
        // ZeroMQ keeps trying to connect to an endpoint without a listener.
        let connected = timer::timeout(Duration::from_secs(1), inner.connect(&connection(1))).await;
        assert!(!matches!(connected, Ok(Ok(_))), "nobody listens there");
        inner.reopen().expect("a new socket");
        timer::timeout(SOON, inner.connect(&connection(2)))
            .await
            .expect("in time")
            .expect("connected");
        // If no new one can be created, the old one stays.
        root.close().expect("removed");
        assert!(
            inner
                .reopen()
                .expect_err("no place")
                .to_string()
                .contains("TMPDIR")
        );
        timer::timeout(SOON, inner.connect(&connection(3)))
            .await
            .expect("in time")
            .expect("connected");
    });
}
