//! Known pitfalls of the zeromq crate that calls could run into: a hostile or broken peer neither
//! makes a process spin nor ends it.
//!
//! Not here: a frame that announces 40 GB, which would abort the process. The ingress rejects it,
//! and has a test for that.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::in_process::{InProcess, SOON, Stranger, call, client, echo, sees, settings};
use bytes::Bytes;
use futures::executor::block_on;
use palm_peer::{CallErrorKind, Client, Server};
use palm_tests::{Etcd, Process, eventually, example, free_port, processor_time};
use serde_json::json;
use zeromq::{
    DealerSocket, Socket, SocketOptions, SocketRecv, SocketSend, ZmqMessage, util::PeerIdentity,
};

const GREETING: [u8; 64] = {
    let mut greeting = [0; 64];
    greeting[0] = 0xff;
    greeting[9] = 0x7f;
    greeting[10] = 3;
    (greeting[12], greeting[13], greeting[14], greeting[15]) = (b'N', b'U', b'L', b'L');
    greeting
};
const READY: &[u8] = b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06ROUTER";
const READY_DEALER: &[u8] = b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER";
/// No flags that exist, then whatever.
const GARBAGE: &[u8] = &[0xfa; 4096];

/// What a fake server does with a connection.
type Manners = fn(&mut TcpStream);

/// A listener that is no PALM server; it ends with the test's process.
fn fake(manners: Manners) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let visits = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&visits);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            counter.fetch_add(1, Ordering::SeqCst);
            thread::spawn(move || manners(&mut stream));
        }
    });
    (address, visits)
}

fn read_on(stream: &mut TcpStream) {
    while stream.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {}
}

fn hangs_up(stream: &mut TcpStream) {
    let _ = stream.shutdown(Shutdown::Both);
}

fn is_silent(stream: &mut TcpStream) {
    read_on(stream);
}

fn speaks_http(stream: &mut TcpStream) {
    let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    read_on(stream);
}

fn raves_after_the_handshake(stream: &mut TcpStream) {
    let _ = stream.write_all(&[&GREETING, READY, GARBAGE].concat());
    read_on(stream);
}

fn hangs_up_in_the_handshake(stream: &mut TcpStream) {
    let _ = stream.write_all(&GREETING);
    hangs_up(stream);
}

/// A frame that is no answer, again and again.
fn answers_nonsense(stream: &mut TcpStream) {
    let _ = stream.write_all(&[&GREETING, READY].concat());
    for _ in 0..1000 {
        let _ = stream.write_all(b"\0\x05Hello");
    }
    read_on(stream);
}

const UUID: &str = "e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4";

/// Greets as a server does; then what is left to do.
fn greet(stream: &mut TcpStream, then: &[u8]) {
    let header = json!({"palm": 1, "server": UUID}).to_string();
    let length = u8::try_from(header.len()).unwrap();
    let answer = [&[1, length], header.as_bytes(), &[0, 0]].concat();
    // Both greetings of the client are answered.
    let _ = stream.write_all(&[&GREETING, READY, &answer, &answer].concat());
    // The handshake and the two greetings of the client are some 300 bytes; what comes
    // then is its request.
    let mut heard = 0;
    while heard < 350 {
        match stream.read(&mut [0; 4096]) {
            Ok(n) if n > 0 => heard += n,
            _ => return,
        }
    }
    let _ = stream.write_all(then);
}

fn raves_after_the_greeting(stream: &mut TcpStream) {
    greet(stream, GARBAGE);
    read_on(stream);
}

fn hangs_up_after_the_greeting(stream: &mut TcpStream) {
    greet(stream, &[]);
    hangs_up(stream);
}

fn publish(etcd: &Etcd, server: &str, address: SocketAddr) {
    let endpoint = format!("tcp://{address}");
    let instance =
        json!({"server": server, "uuid": UUID, "endpoint": endpoint, "functions": ["haunt"]})
            .to_string();
    etcd.etcdctl(&["put", &format!("/pipelines/{server}/{UUID}"), &instance]);
}

/// A loop that spins uses all of a second; a busy machine only makes that less.
fn is_calm(pid: u32, who: &str) {
    let before = processor_time(pid);
    thread::sleep(Duration::from_secs(1));
    let spent = processor_time(pid).saturating_sub(before);
    assert!(
        spent < Duration::from_millis(400),
        "{who} used {spent:?} of a processor in a second"
    );
}

/// Calls the ghost; why that failed.
fn haunted(client: &Client) -> String {
    let start = Instant::now();
    let error = block_on(async {
        client
            .call("ghost.haunt", "boo")
            .timeout(Duration::from_secs(8))
            .await
    });
    let error = error.expect_err("a ghost");
    assert_eq!(error.kind(), CallErrorKind::Unreachable, "{error}");
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{error}, after {:?}",
        start.elapsed()
    );
    error.message().to_owned()
}

/// One test for all, since a processor's time is the whole process's.
#[test]
fn a_hostile_server_neither_busies_nor_ends_its_caller() {
    let _quiet = crate::alone();
    let etcd = Etcd::start();
    let good = InProcess::start(Server::new("zoo").function("echo", echo), settings(&etcd));
    let ghosts: [(Manners, &str); 8] = [
        (hangs_up, ""),
        (is_silent, "no answer within 2s"),
        (speaks_http, ""),
        (hangs_up_in_the_handshake, ""),
        (raves_after_the_handshake, "invalid flags"),
        (answers_nonsense, "not a PALM server"),
        (raves_after_the_greeting, "broke before the answer"),
        (hangs_up_after_the_greeting, "broke before the answer"),
    ];
    let client = client(settings(&etcd), "zoo", 1);
    for (place, (manners, words)) in ghosts.into_iter().enumerate() {
        let (address, visits) = fake(manners);
        publish(&etcd, "ghost", address);
        let complaint = eventually("the client calls the ghost", SOON, || {
            sees(&client, "ghost", 1);
            // Until the client has heard of it, it calls the one before.
            let complaint = haunted(&client);
            (visits.load(Ordering::SeqCst) > 0).then_some(complaint)
        });
        assert!(
            complaint.contains(words),
            "ghost {place}, {words:?}: {complaint}"
        );
        assert_eq!(
            call(&client, "zoo.echo", "well").expect("a good call"),
            "well",
            "after ghost {place}"
        );
    }
    is_calm(std::process::id(), "a client of ghosts");
    drop(good);
}

#[test]
fn a_server_silent_for_a_while_is_called_once_it_answers() {
    let _quiet = crate::alone();
    let etcd = Etcd::start();
    let server = printf(&etcd);
    let client = client(settings(&etcd), "printf", 1);
    server.freeze();
    let calling = thread::spawn(move || call(&client, "printf.printf", "late"));
    // Longer than a connection waits for its handshake, and much less than a lease lives: time
    // itself is tested here.
    thread::sleep(Duration::from_secs(3));
    assert!(!calling.is_finished(), "silence proves nothing");
    server.thaw();
    assert_eq!(
        calling.join().expect("no panic").expect("a good call"),
        "late"
    );
}

#[test]
fn a_hostile_client_neither_busies_nor_ends_a_server() {
    let _quiet = crate::alone();
    let etcd = Etcd::start();
    let server = printf(&etcd);
    let client = client(settings(&etcd), "printf", 1);
    let address = client_address(&etcd);
    // Behind a handshake, HTTP would announce a frame of 5 EB.
    let alone: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &GREETING[..20],
        b"\xff\0\0\0\0\0\0\0\x01\x7f\x01",
        &[0; 100],
    ];
    let behind: [&[u8]; 5] = [
        b"",
        GARBAGE,
        &GREETING,
        &[0xfd; 4096],
        b"\x01\0\x01\0\x01\0",
    ];
    let handshake = [&GREETING, READY_DEALER].concat();
    let behind = behind.iter().map(|bytes| [&handshake, *bytes].concat());
    let mut open = Vec::new();
    for bytes in alone.into_iter().map(<[u8]>::to_vec).chain(behind) {
        let mut stream = TcpStream::connect(address).unwrap();
        let _ = stream.write_all(&bytes);
        open.push(stream);
        assert_eq!(
            call(&client, "printf.printf", "well").expect("a good call"),
            "well"
        );
    }
    is_calm(server.pid(), "a server of hostile clients");
    drop(open);
    assert_eq!(
        call(&client, "printf.printf", "well").expect("a good call"),
        "well"
    );
    is_calm(server.pid(), "a server that they have left");
}

#[test]
fn a_hostile_record_neither_busies_nor_ends_the_leader() {
    let _quiet = crate::alone();
    let etcd = Etcd::start();
    let leader = printf(&etcd);
    let client = client(settings(&etcd), "printf", 1);
    let manners: [Manners; 5] = [
        hangs_up,
        speaks_http,
        raves_after_the_handshake,
        answers_nonsense,
        raves_after_the_greeting,
    ];
    for (i, manners) in manners.into_iter().enumerate() {
        let (address, _) = fake(manners);
        let uuid = if i == 4 {
            UUID.to_owned()
        } else {
            format!("00000000-0000-4000-8000-00000000000{i}")
        };
        let record = json!({
            "host": "127.0.0.1", "pid": 1, "when": "2016-02-16T11:28:59", "leader": null, "server": "ghost",
            "ports": [address.port()], "kind": "registered", "functions": ["haunt"], "uuid": uuid, "configured": false
        });
        etcd.etcdctl(&["put", &format!("/servers/{uuid}"), &record.to_string()]);
        let words = format!("WARNING:registry:Server {uuid} stays unconfigured: ");
        leader.wait_for_line(|line| line.starts_with(&words), SOON);
    }
    is_calm(leader.pid(), "a leader among ghosts");
    assert_eq!(
        call(&client, "printf.printf", "well").expect("a good call"),
        "well"
    );
}

fn printf(etcd: &Etcd) -> Process {
    let args = [
        "run",
        "--etcd",
        &etcd.endpoint(),
        "--probe-period",
        "2",
        "--probe-timeout",
        "0.5",
    ];
    let server = Process::start(example("printf"), args);
    server.wait_for_line(|line| line.ends_with(" configured"), SOON);
    server
}

/// Where the one server of this mesh listens.
fn client_address(etcd: &Etcd) -> SocketAddr {
    let record = etcd.etcdctl(&["get", "--prefix", "--print-value-only", "/servers/"]);
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    (
        Ipv4Addr::LOCALHOST,
        u16::try_from(record["ports"][0].as_u64().unwrap()).unwrap(),
    )
        .into()
}

/// A REQ of the crate is broken for good once its server has returned, and no socket of it
/// ever reconnects.
#[test]
fn a_client_reconnects_to_a_server_restarted_at_its_port() {
    let _quiet = crate::alone();
    let etcd = Etcd::start();
    let fixed = settings(&etcd).port(free_port());
    let client = client(settings(&etcd), "keeper", 0);
    let keeper = InProcess::start(
        Server::new("keeper").function("echo", echo),
        settings(&etcd),
    );
    for round in 0..3 {
        // The socket closes in the background.
        eventually("the port is free", SOON, || {
            TcpListener::bind((Ipv4Addr::LOCALHOST, fixed.port)).ok()
        });
        let server = InProcess::start(Server::new("zoo").function("echo", echo), fixed.clone());
        sees(&client, "zoo", 1);
        assert_eq!(
            call(&client, "zoo.echo", "back").expect("a good call"),
            "back",
            "round {round}"
        );
        drop(server);
        sees(&client, "zoo", 0);
    }
    drop(keeper);
}

/// Of two connections with one identity the newer takes over, and the older one's end ends the
/// newer's as well: it must not reach any third, and not the server.
#[test]
fn clients_sharing_an_identity_affect_only_themselves() {
    let _quiet = crate::alone();
    let etcd = Etcd::start();
    let server = InProcess::start(Server::new("zoo").function("echo", echo), settings(&etcd));
    let client = client(settings(&etcd), "zoo", 1);
    let twin = || {
        let mut options = SocketOptions::default();
        options.peer_identity(PeerIdentity::try_from(Bytes::from_static(b"twin")).unwrap());
        let mut socket = DealerSocket::with_options(options);
        block_on(socket.connect(server.peer.endpoint())).unwrap();
        socket
    };
    let request = || {
        ZmqMessage::try_from(vec![Bytes::from(r#"{"palm":1,"pipeline":["zoo.echo"]}"#)]).unwrap()
    };
    for round in 0..10 {
        let (mut older, mut newer) = (twin(), twin());
        block_on(older.send(request())).unwrap();
        block_on(newer.send(request())).unwrap();
        if round % 2 == 0 {
            drop(older);
        } else {
            drop(newer);
        }
        assert_eq!(
            call(&client, "zoo.echo", "well").expect("a good call"),
            "well",
            "round {round}"
        );
        let (answer, _) =
            Stranger::at(server.peer.endpoint()).ask([r#"{"palm":1,"pipeline":["zoo._ping"]}"#]);
        assert!(answer["error"].is_null(), "{answer}");
    }
    // Once they are gone, the identity is as good as any other.
    let mut last = twin();
    block_on(last.send(request())).unwrap();
    let answer = block_on(async_std::future::timeout(SOON, last.recv()));
    answer
        .expect("an answer in time")
        .expect("the connection stands");
}
