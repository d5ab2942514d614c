//! The client's errors about servers that it cannot talk to; the next good call works.

use super::{World, address, connect, good_call, try_call};
use crate::common::Mesh;
use palm_peer::{CallErrorKind, Client, Config};
use palm_tests::{Authority, Certificate, Etcd, eventually};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

const SOON: Duration = crate::common::SOON;

/// Serves one connection after the other, each by `serve`, for as long as the test runs.
fn listen(serve: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("an address");
    thread::spawn(move || listener.incoming().flatten().for_each(serve));
    at
}

/// A server that shows this certificate, takes anyone, and says nothing of ZMTP.
fn shows(own: &Certificate, version: &'static SupportedProtocolVersion) -> SocketAddr {
    let chain = vec![CertificateDer::from_pem_file(&own.cert).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(&own.key).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate and its key");
    let config = Arc::new(config);
    listen(move |tcp| {
        let session = ServerConnection::new(Arc::clone(&config)).expect("a session");
        let mut stream = StreamOwned::new(session, tcp);
        // Whatever goes wrong is the client's to tell.
        let _ = stream.read(&mut [0; 64]);
    })
}

/// Publishes an instance that no leader knows.
fn publish(etcd: &Etcd, prefix: &str, name: &str, uuid: &str, endpoint: &str) {
    let value = format!(
        r#"{{"server":"{name}","uuid":"{uuid}","endpoint":"{endpoint}","functions":["shout"]}}"#
    );
    etcd.etcdctl(&["put", &format!("{prefix}/pipelines/{name}/{uuid}"), &value]);
}

/// What a call of a server that is none says.
fn complaint(client: &Client, name: &str) -> String {
    eventually("the client knows it", SOON, || {
        client
            .reachable()
            .iter()
            .any(|server| server.server == name)
            .then_some(())
    });
    let error = try_call(client, &format!("{name}.shout")).expect_err("no server");
    assert_eq!(error.kind(), CallErrorKind::Unreachable, "{error}");
    error.to_string()
}

const UUID: &str = "00000000-0000-4000-8000-000000000001";

#[test]
fn each_kind_of_bad_server_is_distinguished() {
    let world = World::new();
    let mesh = world.mesh();
    let good = mesh.start("text");
    mesh.await_published(&[&good.uuid]);
    let ours = &world.authority;
    let others = Authority::new("theirs");
    let theirs = others.issue("server", &["127.0.0.1"]);
    let expired = ours
        .certificate("expired")
        .host("127.0.0.1")
        .expired()
        .issue();
    let elsewhere = ours.issue("elsewhere", &["10.0.0.1", "elsewhere.example"]);
    let other_mesh = ours
        .certificate("other")
        .host("127.0.0.1")
        .uri("palm:/other")
        .issue();
    let client = connect(mesh.options());
    let plain = listen(|mut tcp| drop(tcp.write_all(&palm_tests::wire::greeting())));
    let http = listen(|mut tcp| drop(tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")));
    let mute = listen(|mut tcp| drop(std::io::copy(&mut tcp, &mut std::io::sink())));
    let closed = listen(drop);
    for (name, at, words) in [
        (
            "theirs",
            shows(&theirs, &TLS13),
            "its certificate is not accepted: it is not signed by the authority in cacert",
        ),
        (
            "expired",
            shows(&expired, &TLS13),
            "its certificate is not accepted: it expired at 2021-01-01T00:00:00Z",
        ),
        (
            "elsewhere",
            shows(&elsewhere, &TLS13),
            "it is for 10.0.0.1, elsewhere.example, not for 127.0.0.1",
        ),
        (
            "other",
            shows(&other_mesh, &TLS13),
            "it is for the mesh palm:/other, not for palm:/mesh",
        ),
        (
            "old",
            shows(&world.files, &TLS12),
            "it does not support TLS 1.3",
        ),
        ("plain", plain, "it does not use TLS"),
        ("http", http, "it does not use TLS"),
        ("mute", mute, "no answer within"),
        // Closed in order or reset, by the moment at which it was.
        ("closed", closed, "onnection"),
    ] {
        publish(&world.etcd, "/mesh", name, UUID, &format!("tcp://{at}"));
        let complaint = complaint(&client, name);
        assert!(
            complaint.contains(words) && complaint.contains(&at.to_string()),
            "{name}: {complaint}"
        );
        good_call(&client);
    }
    // By a name that its certificate is not for.
    let by_name = good.endpoint.replace("127.0.0.1", "localhost");
    publish(&world.etcd, "/mesh", "named", UUID, &by_name);
    let complaint = complaint(&client, "named");
    assert!(
        complaint.contains("it is for 127.0.0.1, not for localhost"),
        "{complaint}"
    );
    good_call(&client);
}

/// A client of the mesh `/mesh` with other settings.
fn other_client(mesh: &Mesh<'_>, change: impl FnOnce(&mut Config)) -> Client {
    let mut settings = mesh.options().clone();
    change(&mut settings);
    connect(settings)
}

#[test]
fn a_rejected_client_learns_the_reason() {
    let world = World::new();
    let mesh = world.mesh();
    let server = mesh.start("text");
    mesh.await_published(&[&server.uuid]);
    let ours = &world.authority;
    let servers_only = ours
        .certificate("only")
        .host("127.0.0.1")
        .server_only()
        .issue();
    // It has files for etcd, and none for the mesh.
    let plain = other_client(&mesh, |settings| settings.tls = palm_peer::TlsMode::Off);
    let complaint = try_call(&plain, "text.shout")
        .expect_err("not let in")
        .to_string();
    assert!(
        complaint.contains("it uses TLS, which needs cacert, cert and key"),
        "{complaint}"
    );
    let etcd = Etcd::start();
    publish(&etcd, "/mesh", "text", &server.uuid, &server.endpoint);
    let with = |files: &Certificate| {
        other_client(&mesh, |settings| {
            settings.etcd = vec![etcd.endpoint()];
            settings.tls = palm_peer::TlsMode::Auto;
            let Certificate { ca, cert, key } = files.clone();
            settings.cacert = Some(ca);
            settings.cert = Some(cert);
            settings.key = Some(key);
        })
    };
    let theirs = Authority::new("theirs");
    let stranger = Certificate {
        ca: ours.ca(),
        ..theirs.issue("client", &["127.0.0.1"])
    };
    for (files, words) in [
        (
            stranger,
            "it does not accept our certificate: no authority in its cacert has signed it",
        ),
        (
            servers_only,
            "it does not accept our certificate: its extendedKeyUsage",
        ),
    ] {
        let complaint = try_call(&with(&files), "text.shout")
            .expect_err("not let in")
            .to_string();
        assert!(complaint.contains(words), "{complaint}");
        assert!(
            complaint.contains(&address(&server.endpoint).to_string()),
            "{complaint}"
        );
        good_call(&connect(mesh.options()));
    }
}

#[test]
fn certificates_separate_meshes_without_host_names() {
    let world = World::new();
    // No host stands in them: they may be used on any machine of their mesh.
    let of = |name: &str| {
        world
            .authority
            .certificate(name)
            .uri(&format!("palm:/{name}"))
            .issue()
    };
    let (a, b) = (of("a"), of("b"));
    let mesh_a = world.mesh_with("/a", &a, &["--tls", "required"]);
    let mesh_b = world.mesh_with("/b", &b, &["--tls", "required"]);
    let servers_a = mesh_a.start_in_line("text", 2);
    let server_b = mesh_b.start("text");
    mesh_b.await_published(&[&server_b.uuid]);
    for (mesh, server) in [(&mesh_a, &servers_a[0]), (&mesh_b, &server_b)] {
        let target = format!("{}.shout", server.uuid);
        assert_eq!(
            try_call(&connect(mesh.options()), &target).expect("an answer"),
            "HELLO"
        );
    }
    // In /b, a record points at a server of /a.
    publish(
        &world.etcd,
        "/b",
        "lost",
        &servers_a[0].uuid,
        &servers_a[0].endpoint,
    );
    let complaint = complaint(&connect(mesh_b.options()), "lost");
    assert!(
        complaint.contains("it is for the mesh palm:/a, not for palm:/b"),
        "{complaint}"
    );
}
