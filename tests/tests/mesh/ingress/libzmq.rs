//! libzmq, through pyzmq.

use super::Server;
use crate::in_process::{InProcess, settings};
use palm_peer::{FunctionError, Message, Server as Definition};
use palm_tests::{Etcd, Process, python};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn run(script: &str, server: &Server) {
    let Some(python) = python() else { return };
    let endpoint = format!("tcp://{}", server.address);
    let program = Process::start(python, ["-c", script, &endpoint]);
    let status = program.wait(SOON);
    assert!(status.success(), "{status}: {:#?}", program.lines());
}

#[test]
fn heartbeats_of_libzmq_are_answered() {
    let server = Server::start(&[]);
    // Without an answer to its PINGs, libzmq breaks the connection within 300 ms, and says so
    // over the monitor.
    let script = r#"
import sys, time, zmq
from zmq.utils.monitor import recv_monitor_message
context = zmq.Context()
socket = context.socket(zmq.DEALER)
socket.setsockopt(zmq.HEARTBEAT_IVL, 100)
socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 300)
socket.setsockopt(zmq.HEARTBEAT_TTL, 2000)
socket.setsockopt(zmq.RCVTIMEO, 20000)
monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
socket.connect(sys.argv[1])
header = b'{"palm":1,"pipeline":["text.shout"]}'
end = time.time() + 3
while time.time() < end:
    # PINGs come between the frames of messages, too, long ones among them.
    for size in (3, 300, 1_000_000):
        socket.send_multipart([header, b"a" * size])
        answer = socket.recv_multipart()
        assert answer[1] == b"A" * size, answer[0]
    time.sleep(0.15)
events = []
while monitor.poll(0):
    events.append(recv_monitor_message(monitor)["event"])
assert events == [zmq.EVENT_HANDSHAKE_SUCCEEDED], events
"#;
    run(script, &server);
    assert_eq!(server.refused("command"), 0);
    assert_eq!(server.refused("stalled"), 0);
}

#[test]
fn heartbeats_are_answered_while_a_slow_function_runs() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    let slow = Definition::new("zoo").blocking("slow", |message: Message| {
        std::thread::sleep(Duration::from_secs(4));
        Ok::<_, FunctionError>(message.into_payload())
    });
    let server = InProcess::start(slow, settings(&etcd));
    // Some fifteen times as long as libzmq waits for an answer to its PING.
    let script = r#"
import sys, zmq
from zmq.utils.monitor import recv_monitor_message
socket = zmq.Context().socket(zmq.DEALER)
socket.setsockopt(zmq.HEARTBEAT_IVL, 100)
socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 250)
socket.setsockopt(zmq.HEARTBEAT_TTL, 500)
socket.setsockopt(zmq.RCVTIMEO, 20000)
monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
socket.connect(sys.argv[1])
socket.send_multipart([b'{"palm":1,"pipeline":["zoo.slow"]}', b"hello"])
assert socket.recv_multipart()[1] == b"hello"
assert not monitor.poll(0), recv_monitor_message(monitor)
"#;
    let program = Process::start(python, ["-c", script, server.peer.endpoint()]);
    assert!(program.wait(SOON).success(), "{:#?}", program.lines());
}

#[test]
fn only_permitted_socket_types_are_answered() {
    let server = Server::start(&[]);
    let script = r#"
import sys, zmq
context = zmq.Context()
def ask(kind, identity):
    socket = context.socket(kind)
    socket.setsockopt(zmq.RCVTIMEO, 20000 if kind != zmq.ROUTER else 500)
    socket.setsockopt(zmq.LINGER, 0)
    if identity:
        socket.setsockopt(zmq.IDENTITY, identity)
    socket.connect(sys.argv[1])
    socket.send_multipart([b'{"palm":1,"pipeline":["text.shout"]}', b"hello"])
    answer = socket.recv_multipart()
    assert answer[1] == b"HELLO", answer
for kind in (zmq.DEALER, zmq.REQ):
    for identity in (None, b"me", b"me", b"x" * 255):
        ask(kind, identity)
push = context.socket(zmq.PUSH)
push.setsockopt(zmq.LINGER, 0)
monitor = push.get_monitor_socket(zmq.EVENT_DISCONNECTED)
push.connect(sys.argv[1])
assert monitor.poll(20000), "it is let in"
"#;
    run(script, &server);
    assert!(server.refused("socket_type") > 0);
}

#[test]
fn many_clients_at_once_are_answered() {
    let server = Server::start(&[]);
    let script = r#"
import sys, zmq
context = zmq.Context()
context.set(zmq.MAX_SOCKETS, 2000)
sockets = []
for n in range(300):
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.RCVTIMEO, 20000)
    socket.connect(sys.argv[1])
    sockets.append(socket)
for turn in range(5):
    for n, socket in enumerate(sockets):
        socket.send_multipart([b'{"palm":1,"pipeline":["text.shout"]}', b"hello%d" % n])
    for n, socket in enumerate(sockets):
        assert socket.recv_multipart()[1] == b"HELLO%d" % n
"#;
    run(script, &server);
    server.calm_down();
}
