//! Clients without a valid certificate are rejected; the next good call works.

use super::{World, address, config, connect, dial, good_call, ping};
use crate::common::SOON;
use palm_tests::{
    Authority, Certificate, eventually,
    wire::{Wire, greeting},
};
use rustls::version::{TLS12, TLS13};
use std::{io, net::SocketAddr};

/// Says these bytes to a TLS port; the other side may say an alert of TLS, and ends it.
fn plain(address: SocketAddr, bytes: &[u8]) {
    let mut wire = Wire::connect(address).expect("a connection");
    wire.send(bytes).expect("sent");
    assert!(wire.until_end().expect("cut off") < 64, "it was greeted");
}

#[test]
fn no_byte_reaches_zeromq_without_a_valid_certificate() {
    let world = World::new();
    let mesh = world.mesh();
    let server = mesh.start("text");
    mesh.await_published(&[&server.uuid]);
    let client = connect(mesh.options());
    let at = address(&server.endpoint);
    let ours = &world.authority;
    let theirs = Authority::new("theirs");
    let stranger = theirs.issue("stranger", &["127.0.0.1"]);
    let expired = ours
        .certificate("expired")
        .host("127.0.0.1")
        .expired()
        .issue();
    let other_mesh = ours
        .certificate("other")
        .host("127.0.0.1")
        .uri("palm:/other")
        .issue();
    let servers_only = ours
        .certificate("only")
        .host("127.0.0.1")
        .server_only()
        .issue();
    let out = |own: Option<&Certificate>, version| {
        let dialled = dial(at, config(&ours.ca(), own, version));
        let error = dialled.map(drop).expect_err("let in");
        assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "left waiting");
    };
    let hello = [0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
    let torn = [hello.as_slice(), &[0; 4], &[0xff; 190]].concat();
    let cases: [(&str, &str, &dyn Fn()); 12] = [
        ("another authority", "certificate", &|| {
            out(Some(&stranger), &TLS13);
        }),
        ("expired", "certificate", &|| out(Some(&expired), &TLS13)),
        ("another mesh", "certificate", &|| {
            out(Some(&other_mesh), &TLS13);
        }),
        ("for servers alone", "certificate", &|| {
            out(Some(&servers_only), &TLS13);
        }),
        ("none", "certificate", &|| out(None, &TLS13)),
        ("TLS 1.2", "tls_version", &|| {
            out(Some(&world.files), &TLS12);
        }),
        ("who does not trust us", "distrusted", &|| {
            dial(at, config(&theirs.ca(), Some(&world.files), &TLS13))
                .map(drop)
                .expect_err("let in");
        }),
        ("plain ZMTP", "not_tls", &|| plain(at, &greeting())),
        ("HTTP", "not_tls", &|| plain(at, b"GET / HTTP/1.1\r\n\r\n")),
        ("zeros", "not_tls", &|| plain(at, &[0; 64])),
        ("a torn hello", "not_tls", &|| plain(at, &torn)),
        ("a hello and silence", "silent", &|| plain(at, &hello)),
    ];
    good_call(&client);
    let before = ping(&client, &server.uuid);
    for (name, counter, act) in cases {
        let count = || {
            ping(&client, &server.uuid)["refused"][counter]
                .as_u64()
                .unwrap_or(0)
        };
        let counted = count();
        act();
        eventually(&format!("{name} is counted as {counter}"), SOON, || {
            (count() == counted + 1).then_some(())
        });
        good_call(&client);
    }
    let after = ping(&client, &server.uuid);
    assert_eq!(
        after["entered"], before["entered"],
        "connections reached ZeroMQ"
    );
    // Who has what it takes does.
    let mut wire = dial(at, config(&ours.ca(), Some(&world.files), &TLS13)).expect("let in");
    wire.message(&[br#"{"palm":1,"pipeline":["text.shout"]}"#, b"hi"])
        .expect("sent");
    assert_eq!(wire.answer().expect("an answer")[1], b"HI");
    let entered = ping(&client, &server.uuid)["entered"].as_u64();
    assert_eq!(entered, before["entered"].as_u64().map(|before| before + 1));
    // One address is written of once a minute.
    let refusal = server.wait_for_the_one_line_with("refused a connection from 127.0.0.1");
    assert!(
        refusal.contains("it is not signed by the authority in cacert (certificate)"),
        "{refusal}"
    );
}

#[test]
fn tls_at_a_plain_port_is_identified() {
    let world = World::new();
    let mesh = world.mesh_with("/plain", &world.files, &["--tls", "off"]);
    let server = mesh.start("text");
    mesh.await_published(&[&server.uuid]);
    let client = connect(mesh.options());
    for version in [&TLS12, &TLS13] {
        let dialled = dial(
            address(&server.endpoint),
            config(&world.authority.ca(), Some(&world.files), version),
        );
        dialled.map(drop).expect_err("no TLS");
        good_call(&client);
    }
    assert_eq!(ping(&client, &server.uuid)["refused"]["tls"], 2);
    server.wait_for_the_one_line_with(
        "refused a connection from 127.0.0.1: it uses TLS, which needs cacert",
    );
}

#[test]
fn hundreds_of_rejected_clients_cost_one_line() {
    crate::heavy();
    let world = World::new();
    let mesh = world.mesh();
    let server = mesh.start("text");
    mesh.await_published(&[&server.uuid]);
    let client = connect(mesh.options());
    let at = address(&server.endpoint);
    let (ours, theirs) = (&world.authority, Authority::new("theirs"));
    let acts: [(&str, u64, &dyn Fn()); 4] = [
        ("certificate", 300, &|| {
            drop(dial(at, config(&ours.ca(), None, &TLS13)));
        }),
        ("distrusted", 300, &|| {
            drop(dial(at, config(&theirs.ca(), Some(&world.files), &TLS13)));
        }),
        ("not_tls", 2000, &|| plain(at, &greeting())),
        ("closed_early", 2000, &|| {
            Wire::connect(at).expect("a connection").close();
        }),
    ];
    for (counter, count, act) in acts {
        (0..count).for_each(|_| act());
        let counted = || {
            ping(&client, &server.uuid)["refused"][counter]
                .as_u64()
                .unwrap_or(0)
        };
        eventually(&format!("all are counted as {counter}"), 3 * SOON, || {
            (counted() >= count).then_some(())
        });
    }
    // One a minute for the one address, however long this takes.
    let lines = server.lines_with("refused a connection from 127.0.0.1");
    assert!((1..=9).contains(&lines.len()), "{lines:#?}");
    assert!(server.lines_with("rustls").is_empty());
    good_call(&client);
}
