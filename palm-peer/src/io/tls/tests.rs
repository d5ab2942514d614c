//! TLS with both sides over real sockets.

use super::*;
use crate::io::{
    executor::{TcpListener, TcpStream},
    timer::timeout,
};
use futures::{
    AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, executor::block_on, future::join,
};
use palm_proto::certificate_reload::READ_EVERY;
use palm_tests::{Authority, Certificate, eventually};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(20);

fn read(
    certificate: &Certificate,
    prefix: &str,
    host: Option<&str>,
) -> Result<Credentials, BadCredentials> {
    let Certificate { ca, cert, key } = certificate;
    Credentials::new(PemFiles::read(ca, Some((cert, key)))?, prefix, host)
}

fn credentials(certificate: &Certificate, prefix: &str) -> Credentials {
    read(certificate, prefix, None).expect("files that make TLS")
}

/// Returns the result of both sides of a handshake, after which the client sends a word and the
/// server reads it.
fn meet(
    server: &Credentials,
    client: &Credentials,
    host: &str,
) -> (Result<String, TlsError>, Result<(), TlsError>) {
    block_on(timeout(SOON, async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let serving = async {
            let (tcp, _) = listener.accept().await.expect("a connection");
            let mut stream = server.accept(tcp).await?;
            let mut word = [0; 5];
            stream
                .read_exact(&mut word)
                .await
                .map_err(|error| TlsError::from(&error))?;
            stream.write_all(b"!").await.expect("written");
            stream.close().await.expect("closed");
            Ok(String::from_utf8_lossy(&word).into_owned())
        };
        let asking = async {
            let tcp = TcpStream::connect(address).await.expect("a connection");
            let mut stream = client.connect(tcp, host).await?;
            stream
                .write_all(b"hello")
                .await
                .map_err(|error| TlsError::from(&error))?;
            stream
                .flush()
                .await
                .map_err(|error| TlsError::from(&error))?;
            let mut answer = Vec::new();
            stream
                .read_to_end(&mut answer)
                .await
                .map_err(|error| TlsError::from(&error))?;
            assert_eq!(answer, b"!");
            Ok(())
        };
        join(serving, asking).await
    }))
    .expect("an end")
}

#[track_caller]
fn good(server: &Credentials, client: &Credentials, host: &str) {
    assert_eq!(meet(server, client, host), (Ok("hello".into()), Ok(())));
}

/// A bad server: the client reports why, and the server learns that it was rejected.
#[track_caller]
fn bad_server(server: &Credentials, client: &Credentials, host: &str, message: &str) {
    let (heard, said) = meet(server, client, host);
    let (heard, said) = (heard.expect_err(message), said.expect_err(message));
    assert_eq!(said.kind, TlsErrorKind::Certificate, "{said}");
    assert!(said.to_string().contains(message), "{said}");
    assert_eq!(heard.kind, TlsErrorKind::Distrusted, "{heard}");
}

/// A bad client: the server reports why, and the client learns that it was rejected.
#[track_caller]
fn bad_client(server: &Credentials, client: &Credentials, message: &str, told: &str) {
    let (heard, said) = meet(server, client, "127.0.0.1");
    let (heard, said) = (heard.expect_err(message), said.expect_err(message));
    assert_eq!(heard.kind, TlsErrorKind::Certificate, "{heard}");
    assert!(heard.to_string().contains(message), "{heard}");
    assert_eq!(said.kind, TlsErrorKind::Distrusted, "{said}");
    assert!(said.to_string().contains(told), "{said}");
}

#[test]
fn certificates_of_the_authority_are_accepted_by_name() {
    let ours = Authority::new("ours");
    let by_address = credentials(&ours.issue("server", &["127.0.0.1", "::1"]), "");
    let by_name = credentials(&ours.issue("named", &["localhost", "*.mesh.example"]), "");
    let client = credentials(&ours.issue("client", &["elsewhere.example"]), "");
    good(&by_address, &client, "127.0.0.1");
    good(&by_address, &client, "::1");
    good(&by_name, &client, "localhost");
    good(&by_name, &client, "a.mesh.example");
    bad_server(&by_name, &client, "127.0.0.1", "not for 127.0.0.1");
    bad_server(
        &by_address,
        &client,
        "127.0.0.2",
        "it is for 127.0.0.1, 0::1, not for 127.0.0.2",
    );
    bad_server(
        &by_name,
        &client,
        "a.b.mesh.example",
        "not for a.b.mesh.example",
    );
}

#[test]
fn other_certificates_are_rejected_with_a_reason() {
    let ours = Authority::new("ours");
    let theirs = Authority::new("theirs");
    let server = credentials(&ours.issue("server", &["127.0.0.1"]), "");
    let client = credentials(&ours.issue("client", &["client"]), "");
    // Presents a certificate of another authority, and trusts ours.
    let stranger = credentials(
        &Certificate {
            ca: ours.ca(),
            ..theirs.issue("server", &["127.0.0.1"])
        },
        "",
    );
    bad_client(
        &server,
        &stranger,
        "not signed by the authority in cacert",
        "no authority in its cacert has signed it",
    );
    bad_server(
        &stranger,
        &client,
        "127.0.0.1",
        "not signed by the authority in cacert",
    );
    let servers_only = credentials(
        &ours
            .certificate("only")
            .host("127.0.0.1")
            .server_only()
            .issue(),
        "",
    );
    bad_client(
        &server,
        &servers_only,
        "extendedKeyUsage does not allow client authentication",
        "extendedKeyUsage",
    );
    good(&servers_only, &client, "127.0.0.1");
}

#[test]
fn a_mesh_certificate_is_valid_for_all_hosts_of_that_mesh() {
    let ours = Authority::new("ours");
    let of_mesh = ours.certificate("mesh").uri("palm:/a").issue();
    let (here, there) = (
        credentials(&of_mesh, "/a"),
        ours.issue("any", &["127.0.0.1"]),
    );
    good(&here, &here, "127.0.0.1");
    good(&here, &credentials(&there, "/a"), "anything.example");
    bad_server(
        &here,
        &credentials(&there, "/b"),
        "127.0.0.1",
        "it is for the mesh palm:/a, not for palm:/b",
    );
    bad_client(
        &credentials(&there, "/b"),
        &here,
        "it is for the mesh palm:/a, not for palm:/b",
        "another mesh",
    );
    // A certificate that names no mesh is valid for all.
    good(
        &credentials(&there, "/b"),
        &credentials(&there, ""),
        "127.0.0.1",
    );
}

#[test]
fn unusable_files_are_named_with_the_reason() {
    let ours = Authority::new("ours");
    let good = ours.issue("good", &["127.0.0.1"]);
    let other = ours.issue("other", &["127.0.0.1"]);
    let empty = ours.folder().join("empty.pem");
    fs::write(&empty, "").expect("a file");
    let cut = ours.folder().join("cut.pem");
    let text = fs::read_to_string(&good.cert).expect("a file");
    fs::write(&cut, &text[..text.len() / 2]).expect("a file");
    let expired = ours
        .certificate("expired")
        .host("127.0.0.1")
        .expired()
        .issue();
    let of_mesh = ours.certificate("mesh").uri("palm:/a").issue();
    let with = |ca: &Path, cert: &Path, key: &Path| Certificate {
        ca: ca.into(),
        cert: cert.into(),
        key: key.into(),
    };
    let missing = Path::new("/nowhere/x.pem");
    for (files, message) in [
        (
            with(missing, &good.cert, &good.key),
            "cacert: /nowhere/x.pem cannot be read: No such file",
        ),
        (
            with(&good.ca, missing, &good.key),
            "cert: /nowhere/x.pem cannot be read",
        ),
        (
            with(&good.ca, &good.cert, missing),
            "key: /nowhere/x.pem cannot be read",
        ),
        (
            with(&empty, &good.cert, &good.key),
            "empty.pem holds no certificate",
        ),
        (
            with(&good.ca, &cut, &good.key),
            "cut.pem is not a complete PEM file",
        ),
        (
            with(&good.ca, &good.key, &good.key),
            "good.key.pem holds no certificate",
        ),
        (
            with(&good.ca, &good.cert, &good.cert),
            "good.cert.pem holds no private key",
        ),
        (
            with(&good.ca, &good.cert, &other.key),
            "other.key.pem is not the key of the certificate",
        ),
        (
            with(&good.ca, &expired.cert, &expired.key),
            "it expired at 2021-01-01T00:00:00Z",
        ),
        (
            with(&good.ca, &of_mesh.cert, &of_mesh.key),
            "it is for the mesh palm:/a, not for palm:/b",
        ),
    ] {
        let error = read(&files, "/b", None).expect_err(message).to_string();
        assert!(error.contains(message), "{error}");
    }
    let error = read(&good, "", Some("10.0.0.1"))
        .expect_err("another address")
        .to_string();
    assert!(error.contains("not for 10.0.0.1"), "{error}");
    read(&of_mesh, "/a", Some("10.0.0.1")).expect("any host of its mesh");
}

#[test]
fn new_files_are_loaded_at_run_time_unless_invalid() {
    let ours = Authority::new("ours");
    let shown = ours.issue("server", &["127.0.0.1"]);
    let server = read(&shown, "", Some("127.0.0.1")).expect("files that make TLS");
    let client = credentials(&ours.issue("client", &["client"]), "");
    good(&server, &client, "127.0.0.1");
    // Another certificate with the same names, and one more host.
    drop(ours.issue("server", &["127.0.0.1", "localhost"]));
    eventually("the new certificate is shown", SOON, || {
        meet(&server, &client, "localhost").1.ok()
    });
    good(&server, &client, "127.0.0.1");
    let mut now = Instant::now();
    let mut read_again = || {
        now += READ_EVERY;
        drop(server.current_at(now));
    };
    fs::write(&shown.key, "half").expect("written");
    read_again();
    good(&server, &client, "localhost");
    drop(ours.issue("server", &["127.0.0.1", "third.example"]));
    read_again();
    good(&server, &client, "third.example");
    // An unusable certificate is not used.
    drop(ours.issue("server", &["elsewhere.example"]));
    read_again();
    good(&server, &client, "third.example");
    fs::remove_file(&shown.cert).expect("removed");
    read_again();
    good(&server, &client, "third.example");
}

/// Both ends of a connection.
async fn pair(both: &Credentials) -> (Stream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let accepting = async {
        both.accept(listener.accept().await.expect("one").0)
            .await
            .expect("TLS")
    };
    let connecting = async {
        let tcp = TcpStream::connect(address).await.expect("a connection");
        both.connect(tcp, "127.0.0.1").await.expect("TLS")
    };
    join(accepting, connecting).await
}

#[test]
fn large_transfers_work_in_both_directions_at_once() {
    let ours = Authority::new("ours");
    let both = credentials(&ours.issue("both", &["127.0.0.1"]), "");
    let much: Vec<u8> = (0..3_000_000_u32)
        .map(|n| n.to_le_bytes()[n as usize % 3])
        .collect();
    let carry = |stream: Stream| async {
        let (mut read, mut write) = stream.split();
        let mut got = vec![0; much.len()];
        let sending = async {
            write.write_all(&much).await.expect("written");
            write.flush().await.expect("flushed");
        };
        join(sending, async {
            read.read_exact(&mut got).await.expect("read");
        })
        .await;
        got == much
    };
    let same = block_on(timeout(SOON, async {
        let (one, other) = pair(&both).await;
        join(carry(one), carry(other)).await
    }));
    assert_eq!(same, Ok((true, true)));
}

#[test]
fn a_peer_without_tls_is_identified() {
    let ours = Authority::new("ours");
    let both = credentials(&ours.issue("both", &["127.0.0.1"]), "");
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0],
        &[0x16, 9, 9, 9, 9, 9],
    ] {
        let (accepted, connected) = block_on(timeout(SOON, async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let plain = async {
                let mut tcp = TcpStream::connect(address).await.expect("a connection");
                tcp.write_all(bytes).await.expect("written");
                let mut heard = Vec::new();
                // At most an alert is read.
                let _ = tcp.read_to_end(&mut heard).await;
            };
            let (accepted, ()) = join(
                async { both.accept(listener.accept().await.expect("one").0).await },
                plain,
            )
            .await;
            let plain = async {
                let (mut tcp, _) = listener.accept().await.expect("one");
                tcp.write_all(bytes).await.expect("written");
                tcp
            };
            let asking = async {
                both.connect(
                    TcpStream::connect(address).await.expect("a connection"),
                    "127.0.0.1",
                )
                .await
            };
            let (connected, _tcp) = join(asking, plain).await;
            (accepted, connected)
        }))
        .expect("an end");
        for failure in [
            accepted.expect_err("no TLS"),
            connected.expect_err("no TLS"),
        ] {
            assert_eq!(failure.kind, TlsErrorKind::NotTls, "{failure}");
        }
    }
}

#[test]
fn progress_of_the_peer_is_seen_behind_buffered_bytes() {
    let ours = Authority::new("ours");
    let both = credentials(&ours.issue("both", &["127.0.0.1"]), "");
    let (mut writer, mut reader) = block_on(timeout(SOON, pair(&both))).expect("a connection");
    let much = vec![7; 1 << 20];
    let fill = |writer: &mut Stream| {
        let mut accepted = 0_u64;
        while let Some(Ok(count)) = writer.write(&much).now_or_never() {
            accepted += count as u64;
        }
        accepted
    };
    let accepted = fill(&mut writer);
    let sent = writer.sent();
    assert!(sent > 0 && sent < accepted, "{sent} of {accepted}");
    block_on(timeout(
        SOON,
        reader.read_exact(&mut vec![0; usize::try_from(sent).expect("small") / 2]),
    ))
    .expect("read")
    .expect("all");
    eventually("more is sent", SOON, || {
        let _ = writer.flush().now_or_never();
        (writer.sent() > sent).then_some(())
    });
}
