//! Certificates are replaced while everything runs.

use super::{World, address, config, connect, dial, good_call, ping, try_call};
use crate::common::{Mesh, SOON, calls::Calls};
use palm_tests::{Authority, Certificate, Etcd, eventually};
use rustls::version::TLS13;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

#[test]
fn a_new_certificate_is_used_for_the_next_connection() {
    let world = World::new();
    let mesh = world.mesh();
    let server = mesh.start("text");
    mesh.await_published(&[&server.uuid]);
    let client = connect(mesh.options());
    good_call(&client);
    let entered = ping(&client, &server.uuid)["entered"].clone();
    let own = world.authority.issue("stranger", &["127.0.0.1"]);
    let config = config(&world.authority.ca(), Some(&own), &TLS13);
    let shown = || {
        let wire = dial(address(&server.endpoint), config.clone()).expect("let in");
        let certificates = wire
            .stream()
            .conn
            .peer_certificates()
            .expect("a certificate");
        certificates[0].to_vec()
    };
    let first = shown();
    drop(world.authority.issue("server", &["127.0.0.1"]));
    let second = eventually("another certificate is shown", SOON, || {
        Some(shown()).filter(|now| *now != first)
    });
    fs::write(&world.files.key, "half a k").expect("written");
    let refused = |server: &crate::common::Server| {
        server.lines_with("cannot be used; the old ones stay in use")
    };
    eventually("the server says that it is broken", SOON, || {
        assert_eq!(shown(), second);
        (!refused(&server).is_empty()).then_some(())
    });
    // It is looked at again each second, and said once.
    let mut looks = 0;
    eventually("more looks", SOON, || {
        assert_eq!(shown(), second);
        looks += 1;
        (looks > 150).then_some(())
    });
    assert_eq!(refused(&server).len(), 1);
    drop(world.authority.issue("server", &["127.0.0.1"]));
    eventually("the third is shown", SOON, || {
        (shown() != second).then_some(())
    });
    // Who was connected before still is, over the same connection.
    good_call(&client);
    assert!(ping(&client, &server.uuid)["entered"].as_u64() > entered.as_u64());
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_used_once_it_is() {
    let world = World::new();
    let mesh = world.mesh();
    let server = mesh.start("text");
    mesh.await_published(&[&server.uuid]);
    let own = world.authority.issue("stranger", &["127.0.0.1"]);
    let config = config(&world.authority.ca(), Some(&own), &TLS13);
    let shown = || {
        let wire = dial(address(&server.endpoint), config.clone()).expect("let in");
        wire.stream()
            .conn
            .peer_certificates()
            .expect("a certificate")[0]
            .to_vec()
    };
    let first = shown();
    drop(
        world
            .authority
            .certificate("server")
            .host("127.0.0.1")
            .valid_in(Duration::from_secs(15))
            .issue(),
    );
    eventually("the server says that it cannot be used yet", SOON, || {
        drop(shown());
        (!server
            .lines_with("cannot be used; the old ones stay in use")
            .is_empty())
        .then_some(())
    });
    eventually(
        "the new one is shown, without another change of the files",
        SOON,
        || (shown() != first).then_some(()),
    );
}

#[test]
fn a_mesh_can_change_its_authority_without_a_restart() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let etcd = Etcd::start();
    // All share these files.
    let files = old.issue("all", &["127.0.0.1"]);
    let mesh = Mesh::new(
        &etcd,
        "/mesh",
        &files.flags().each_ref().map(String::as_str),
    );
    let first = mesh.start("printf");
    mesh.await_published(&[&first.uuid]);
    let calls = Calls::start(mesh.options());
    // Strangers, to see who is believed.
    let stranger = |of: &Authority| Certificate {
        ca: ca_of(&old),
        ..of.issue("stranger", &["127.0.0.1"])
    };
    fs::copy(old.ca(), ca_of(&old)).expect("copied");
    let (of_old, of_new) = (stranger(&old), stranger(&new));
    let is_in = |own: &Certificate, ca: &Path| {
        dial(address(&first.endpoint), config(ca, Some(own), &TLS13)).is_ok()
    };
    let newcomer = || {
        let server = mesh.start("printf");
        mesh.await_published(&[&first.uuid, &server.uuid]);
        let client = connect(mesh.options());
        for uuid in [&first.uuid, &server.uuid] {
            try_call(&client, &format!("{uuid}.printf")).expect("an answer");
        }
        server
    };
    let mut servers = vec![newcomer()];
    assert!(!is_in(&of_new, &of_old.ca));
    // First, everyone believes in both.
    let both = [fs::read(old.ca()), fs::read(new.ca())]
        .map(|text| text.expect("a file"))
        .concat();
    fs::write(&files.ca, both).expect("written");
    eventually("the new authority is believed", SOON, || {
        is_in(&of_new, &of_old.ca).then_some(())
    });
    servers.push(newcomer());
    // Then, everyone shows a certificate of the new one's.
    let moved = new.issue("all", &["127.0.0.1"]);
    fs::copy(&moved.cert, &files.cert).expect("copied");
    fs::copy(&moved.key, &files.key).expect("copied");
    eventually("the new certificate is shown", SOON, || {
        is_in(&of_new, &new.ca()).then_some(())
    });
    servers.push(newcomer());
    // Then, the old one goes.
    fs::copy(new.ca(), &files.ca).expect("copied");
    eventually("the old authority is not believed", SOON, || {
        (!is_in(&of_old, &new.ca())).then_some(())
    });
    servers.push(newcomer());
    calls.all_went_well(20);
}

/// Where the old authority's certificate is kept.
fn ca_of(old: &Authority) -> PathBuf {
    old.folder().join("kept.pem")
}
