//! The dealer against routers of the zeromq crate, and against hostile ones.

use super::*;
use crate::io::{
    executor::{self, TcpListener, TcpStream},
    tasks::Name,
    zmq::{self, RouterEvent},
};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, executor::block_on, future::join};

const LIMITS: Limits = Limits {
    bytes: 2_000_000,
    frames: 8,
};
const SOON: Duration = Duration::from_secs(20);

async fn connect(address: &str) -> Result<(Sender, Receiver), HandshakeError> {
    let tcp = TcpStream::connect(address).await?;
    let (sender, receiver, writer) = open(Box::new(tcp.clone()), Box::new(tcp), LIMITS).await?;
    executor::spawn(Name::Test, writer.run());
    Ok((sender, receiver))
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    (listener, address)
}

/// A peer that completes the handshake of a ROUTER, and then does what the test wants.
async fn router(listener: &TcpListener) -> TcpStream {
    let (tcp, _) = listener.accept().await.expect("a connection");
    shake_hands(&tcp, &tcp, "ROUTER", &["DEALER"])
        .await
        .expect("a handshake");
    tcp
}

#[test]
fn a_dealer_talks_to_the_crates_router() {
    block_on(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (answers, mut router) = zmq::listen(listener).await.expect("a router");
        let (sender, mut receiver) = connect(&address).await.expect("a connection");
        for (turn, length) in [0, 1, 255, 256, 40_000, 1_000_000].into_iter().enumerate() {
            let frames = vec![Bytes::from_static(b"header"), vec![7; length].into()];
            sender.send(&frames, turn % 2 == 0).expect("sent");
            let heard = timer::timeout(SOON, router.recv()).await.expect("in time");
            let RouterEvent::Message(connection, heard) = heard else {
                panic!("a message, not {heard:?}")
            };
            assert!(answers.send(&connection, heard).is_none(), "echoed at once");
            let echo = timer::timeout(SOON, receiver.receive())
                .await
                .expect("in time")
                .expect("an echo");
            assert_eq!(echo, frames);
        }
    });
}

#[test]
fn an_announced_giant_frame_ends_only_the_connection() {
    block_on(async {
        let (listener, address) = listen().await;
        let (connected, mut tcp) = join(connect(&address), router(&listener)).await;
        let (sender, mut receiver) = connected.expect("a connection");
        tcp.write_all(&[2, 0, 0, 0, 9, 0x50, 0x2f, 0x90, 0, 0])
            .await
            .expect("written");
        let end = timer::timeout(SOON, receiver.receive())
            .await
            .expect("in time");
        assert!(
            matches!(end, Err(ConnectionEnd::Refused(RejectReason::TooLong))),
            "{end:?}"
        );
        drop(receiver);
        assert_eq!(sender.send(&[Bytes::new()], true), Err(SendError::Ended));
    });
}

#[test]
fn another_dealer_is_refused() {
    block_on(async {
        let (listener, address) = listen().await;
        let other = async {
            let (tcp, _) = listener.accept().await.expect("a connection");
            let _ = shake_hands(&tcp, &tcp, "DEALER", &["DEALER"]).await;
        };
        let (connected, ()) = join(connect(&address), other).await;
        assert!(
            matches!(
                connected,
                Err(HandshakeError::Refused(RejectReason::SocketType))
            ),
            "it was let through"
        );
    });
}

#[test]
fn flushed_waits_for_a_slow_reader_but_not_a_dead_one() {
    block_on(async {
        let (listener, address) = listen().await;
        let (connected, mut tcp) = join(connect(&address), router(&listener)).await;
        let (sender, receiver) = connected.expect("a connection");
        sender.flushed().await;
        // More than the socket buffers take.
        let payload = Bytes::from(vec![1; 32 * 1024 * 1024]);
        let length = payload.len() + 9;
        sender.send(&[payload], true).expect("queued");
        assert!(sender.flushed().now_or_never().is_none(), "nobody has read");
        let mut all = vec![0; length];
        let (flushed, read) = join(
            timer::timeout(SOON, sender.flushed()),
            timer::timeout(SOON, tcp.read_exact(&mut all)),
        )
        .await;
        assert!(flushed.is_ok() && matches!(read, Ok(Ok(()))));

        sender
            .send(&[Bytes::from(vec![1; 32 * 1024 * 1024])], true)
            .expect("queued");
        drop((tcp, receiver));
        timer::timeout(SOON, sender.flushed())
            .await
            .expect("the connection is gone");
    });
}

#[test]
fn sent_messages_arrive_though_both_handles_are_dropped() {
    block_on(async {
        let (listener, address) = listen().await;
        let (connected, mut tcp) = join(connect(&address), router(&listener)).await;
        let (sender, receiver) = connected.expect("a connection");
        for _ in 0..1000 {
            sender
                .send(&[Bytes::from(vec![1; 1000])], false)
                .expect("queued");
        }
        drop((sender, receiver));
        let mut all = Vec::new();
        timer::timeout(SOON, tcp.read_to_end(&mut all))
            .await
            .expect("in time")
            .expect("read");
        assert_eq!(all.len(), 1000 * 1009);
    });
}
