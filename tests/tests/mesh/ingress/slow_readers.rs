//! Backpressure: the server does not read from a client that does not read its answers.

use super::Server;
use palm_tests::{eventually, wire::Wire};
use std::{
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

const MEGABYTE: usize = 1024 * 1024;

/// Asks for a megabyte, in memory of its own.
const GET: &[&[u8]] = &[br#"{"palm":1,"pipeline":["plenty.bytes"]}"#, b"1048576"];

/// Asks for as much as it is listened to, for a while, and reads nothing; says how many MB the
/// server held for it at most.
fn greed(server: &Server) -> (Wire, u64) {
    let before = server.memory();
    let mut greedy = Wire::dealer(server.address).expect("a connection");
    greedy.stream().set_nonblocking(true).expect("a socket");
    let start = Instant::now();
    let (mut asked, mut most) = (0, 0);
    while start.elapsed() < Duration::from_secs(3) {
        asked += (0..1000)
            .take_while(|_| greedy.message(GET).is_ok())
            .count();
        most = most.max(server.memory());
        server.good_call();
        most = most.max(server.memory());
        thread::sleep(Duration::from_millis(20));
    }
    let held = most.saturating_sub(before) / 1024;
    println!("asked for {asked} MB, the server holds {held} MB for it at most");
    (greedy, held)
}

#[test]
fn a_client_that_never_reads_is_disconnected() {
    let server = Server::named("plenty", &[]);
    // What the allocator keeps for later comes to an end after a few; an answer that is kept would
    // add a megabyte each time.
    let mut memory = Vec::new();
    while memory.len() < 2 || memory[memory.len() - 1] > memory[memory.len() - 2] + 512 {
        assert!(memory.len() < 10, "kB held after each: {memory:?}");
        let (greedy, held) = greed(&server);
        assert!(
            held < 200,
            "the server holds {held} MB for a client that reads nothing"
        );
        drop(greedy);
        server.calm_down();
        memory.push(server.memory());
    }
    let (_greedy, _) = greed(&server);
    eventually("it is cut off", Duration::from_secs(60), || {
        (server.refused("stalled") > 0).then_some(())
    });
    server.good_call();
    server.calm_down();
}

#[test]
fn a_client_that_reads_late_gets_every_answer() {
    let server = Server::named("plenty", &[]);
    let wire = Wire::dealer(server.address).expect("a connection");
    let stream = wire.stream().try_clone().expect("a second handle");
    let asked = 500;
    let asking = thread::spawn(move || {
        let one = [
            palm_tests::wire::frame(1, GET[0]),
            palm_tests::wire::frame(0, GET[1]),
        ]
        .concat();
        (&stream).write_all(&one.repeat(asked))
    });
    thread::sleep(Duration::from_millis(500));
    let mut wire = wire;
    for _ in 0..asked {
        assert_eq!(wire.answer().expect("an answer")[1].len(), MEGABYTE);
    }
    asking.join().expect("no panic").expect("all sent");
}

#[test]
fn a_client_over_its_backlog_is_disconnected_at_once() {
    let limit = (8 * MEGABYTE).to_string();
    let server = Server::named(
        "plenty",
        &[("PALM_MAX_UNREAD", &limit), ("PALM_MAX_PAYLOAD", "4000000")],
    );
    let mut greedy = Wire::dealer(server.address).expect("a connection");
    for _ in 0..60 {
        let _ = greedy.message(GET);
    }
    eventually("it is cut off", Duration::from_secs(10), || {
        (server.refused("unread") > 0).then_some(())
    });
    server.good_call();
}

#[test]
fn an_unfinished_message_times_out() {
    let server = Server::named("plenty", &[]);
    let mut wire = Wire::dealer(server.address).expect("a connection");
    wire.send(&[1, 5, b'h']).expect("sent");
    eventually("it is cut off", Duration::from_secs(60), || {
        (server.refused("stalled") > 0).then_some(())
    });
    wire.until_end().expect("the connection is ended");
    server.good_call();
}

#[test]
fn a_leaving_server_sends_its_last_answers_completely() {
    let server = Server::named("plenty", &[]);
    let mut wire = Wire::dealer(server.address).expect("a connection");
    let asked = 60;
    for _ in 0..asked {
        wire.message(GET).expect("sent");
    }
    // The first answer says that all were taken in, or nearly.
    assert_eq!(wire.answer().expect("an answer")[1].len(), MEGABYTE);
    server.process.terminate();
    thread::sleep(Duration::from_secs(1));
    let answers = 1
        + (1..asked)
            .take_while(|_| wire.answer().is_ok_and(|frames| frames.len() == 2))
            .count();
    assert_eq!(answers, asked, "answers that arrived");
    assert!(server.process.wait(Duration::from_secs(20)).success());
}
