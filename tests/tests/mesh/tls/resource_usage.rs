//! The resources that a server uses for clients over TLS: bounded, and released when
//! they disconnect.

use super::{Secure, World, address, config, connect, dial, good_call, ping};
use crate::common::{Mesh, SOON, Server};
use palm_peer::Client;
use palm_tests::{ResourceUsage, eventually, wire::Wire};
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName, version::TLS13};
use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

const MEGABYTE: usize = 1024 * 1024;

/// Asks for a megabyte, in memory of its own.
const GET: &[&[u8]] = &[br#"{"palm":1,"pipeline":["plenty.bytes"]}"#, b"1048576"];

/// A server, a client, and the TLS configuration of a raw client.
struct Scene<'a> {
    server: Server,
    client: Client,
    at: SocketAddr,
    config: Arc<ClientConfig>,
    _mesh: Mesh<'a>,
}

impl<'a> Scene<'a> {
    fn new(world: &'a World, program: &str) -> Self {
        let mesh = world.mesh();
        let server = mesh.start(program);
        mesh.await_published(&[&server.uuid]);
        let (at, client) = (address(&server.endpoint), connect(mesh.options()));
        let config = config(&world.authority.ca(), Some(&world.files), &TLS13);
        let scene = Self {
            server,
            client,
            at,
            config,
            _mesh: mesh,
        };
        ping(&scene.client, &scene.server.uuid);
        scene
    }

    fn dial(&self) -> Secure {
        dial(self.at, Arc::clone(&self.config)).expect("let in")
    }

    fn resource_usage(&self) -> ResourceUsage {
        ResourceUsage::of(self.server.pid())
    }

    /// The memory that it holds, in kB.
    fn memory(&self) -> u64 {
        self.resource_usage().memory / 1024
    }

    fn number(&self, name: &str) -> u64 {
        ping(&self.client, &self.server.uuid)[name]
            .as_u64()
            .expect("a number")
    }

    /// Waits until every connection but those of the mesh itself has ended.
    fn calm_down(&self) {
        // The client's, and that of the leader, which is the server itself.
        eventually(
            "only the connections of the mesh are left",
            2 * SOON,
            || (self.number("connections") <= 2).then_some(()),
        );
    }

    fn refused(&self, kind: &str) -> u64 {
        ping(&self.client, &self.server.uuid)["refused"][kind]
            .as_u64()
            .unwrap_or(0)
    }
}

/// Where a handshake is aborted.
#[derive(Clone, Copy)]
enum Abort {
    /// Half of the `ClientHello` is sent.
    InHello,
    /// The server has answered the `ClientHello`. Nothing of that is read, so the system
    /// resets the connection.
    AfterServerHello,
    /// What follows the `ClientHello` is not TLS.
    WithGarbage,
}

fn abort(at: SocketAddr, config: &Arc<ClientConfig>, abort: Abort) {
    let mut tcp = TcpStream::connect(at).expect("a connection");
    tcp.set_read_timeout(Some(SOON)).expect("a timeout");
    let name = ServerName::from(at.ip());
    let mut session = ClientConnection::new(Arc::clone(config), name).expect("a session");
    let mut hello = Vec::new();
    session.write_tls(&mut hello).expect("a hello");
    let sent = match abort {
        Abort::InHello => &hello[..hello.len() / 2],
        Abort::AfterServerHello | Abort::WithGarbage => &hello,
    };
    tcp.write_all(sent).expect("sent");
    if let Abort::AfterServerHello | Abort::WithGarbage = abort {
        assert!(tcp.peek(&mut [0]).expect("an answer") > 0, "it is answered");
    }
    if let Abort::WithGarbage = abort {
        tcp.write_all(&[0xff; 64]).expect("sent");
    }
}

#[test]
fn thousands_of_connections_leave_nothing_behind() {
    crate::heavy();
    let world = World::new();
    let scene = Scene::new(&world, "text");
    let nobody = config(&world.authority.ca(), None, &TLS13);
    let come_and_go = |n: usize| match n % 8 {
        0 => drop(Wire::connect(scene.at).expect("a connection")),
        1 => {
            let mut plain = Wire::connect(scene.at).expect("a connection");
            plain.send(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
        }
        2 => drop(dial(scene.at, Arc::clone(&nobody))),
        3 => abort(scene.at, &scene.config, Abort::InHello),
        4 => abort(scene.at, &scene.config, Abort::AfterServerHello),
        5 => abort(scene.at, &scene.config, Abort::WithGarbage),
        _ => {
            let mut wire = scene.dial();
            wire.message(&[br#"{"palm":1,"pipeline":["text.shout"]}"#, b"hi"])
                .expect("sent");
            assert_eq!(wire.answer().expect("an answer")[1], b"HI");
        }
    };
    let round = |count: usize| {
        thread::scope(|scope| {
            for part in 0..4 {
                scope.spawn(move || (0..count / 4).for_each(|n| come_and_go(part + n)));
            }
        });
        scene.calm_down();
    };
    round(1000);
    let before = scene.resource_usage();
    round(4000);
    scene.resource_usage().assert_at_most(&before, 0);
    good_call(&scene.client);
}

#[test]
fn late_readers_get_every_answer_and_non_readers_are_cut_off() {
    let world = World::new();
    let scene = Scene::new(&world, "plenty");
    let asked = 200;
    let ask = || {
        let mut wire = scene.dial();
        (0..asked).for_each(|_| wire.message(GET).expect("sent"));
        wire
    };
    let before = scene.memory();
    let mut late = ask();
    let start = Instant::now();
    let mut most = 0;
    while start.elapsed() < Duration::from_secs(2) {
        most = most.max(scene.memory());
        thread::sleep(Duration::from_millis(20));
    }
    let held = most.saturating_sub(before) / 1024;
    assert!(
        (1..150).contains(&held),
        "{held} MB are held for a client that asked for {asked} and reads nothing"
    );
    for _ in 0..asked {
        assert_eq!(late.answer().expect("an answer")[1].len(), MEGABYTE);
    }
    let _never = ask();
    // The system may take a little more now and then, as it asks whether there is room: each time,
    // the 30 s begin again.
    eventually("it is cut off", Duration::from_secs(150), || {
        (scene.refused("stalled") > 0).then_some(())
    });
    drop(late);
    scene.calm_down();
}

#[test]
fn a_leaving_server_sends_its_last_answers_then_goodbye() {
    let world = World::new();
    let scene = Scene::new(&world, "plenty");
    let mut wire = scene.dial();
    let asked = 40;
    (0..asked).for_each(|_| wire.message(GET).expect("sent"));
    // The first answer says that all were taken in, or nearly.
    assert_eq!(wire.answer().expect("an answer")[1].len(), MEGABYTE);
    scene.server.terminate();
    thread::sleep(Duration::from_secs(1));
    let answers = 1
        + (1..asked)
            .take_while(|_| wire.answer().is_ok_and(|frames| frames.len() == 2))
            .count();
    assert_eq!(answers, asked, "answers that arrived");
    wire.until_end().expect("an orderly end");
    assert!(scene.server.wait(SOON).success());
}
