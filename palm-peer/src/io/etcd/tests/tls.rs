//! TLS towards etcd, both sides with certificates.

use std::{fs, io, sync::Arc};

use futures::executor::block_on;
use palm_tests::{Authority, Certificate, Proxy};

use super::{super::*, *};
use crate::io::tls::{EtcdTls, PemFiles};

/// A handle that shows this certificate and believes in its authority.
fn connect(endpoint: String, files: &Certificate) -> Etcd {
    let mut settings = EtcdSettings::new([endpoint]);
    let files = files.clone();
    settings.tls = Some(Arc::new(move || {
        let read = PemFiles::read(&files.ca, Some((&files.cert, &files.key)));
        read.and_then(|files| EtcdTls::new(&files))
            .map_err(io::Error::other)
    }));
    Etcd::start("palm-etcd", settings).expect("a thread")
}

#[test]
fn both_sides_are_authenticated() {
    let authority = Authority::new("etcd");
    let server = palm_tests::Etcd::certified_by(&authority);
    let trusted = connect(server.endpoint(), &authority.issue("us", &["127.0.0.1"]));
    let mut watch = trusted.watch(Target::Prefix("/".into()));
    told(&trusted, &mut watch, "listed");
    block_on(put(&trusted, "/a", "1")).expect("a write over TLS");
    told(&trusted, &mut watch, "+/a=1");

    let strangers = Authority::new("strangers");
    let stranger = connect(
        server.endpoint(),
        &strangers.issue("stranger", &["127.0.0.1"]),
    );
    let error = block_on(stranger.get("/a")).expect_err("etcd's certificate is not trusted");
    assert_eq!(error.kind(), EtcdErrorKind::Tls, "{error}");
    let message = "its certificate is not accepted: it is not signed by the authority in cacert";
    assert!(error.to_string().contains(message), "{error}");
    let mut settings = EtcdSettings::new([server.endpoint()]);
    let files = PemFiles::read(&authority.ca(), None).expect("a file");
    settings.tls = Some(Arc::new(move || {
        EtcdTls::new(&files).map_err(io::Error::other)
    }));
    let anonymous = Etcd::start("palm-etcd", settings).expect("a thread");
    let error = block_on(anonymous.get("/a")).expect_err("etcd wants a certificate");
    assert_eq!(error.kind(), EtcdErrorKind::Tls, "{error}");
    assert!(
        error
            .to_string()
            .contains("it requires a client certificate, and got none"),
        "{error}"
    );
}

#[test]
fn new_certificates_are_used_for_new_connections() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let server = palm_tests::Etcd::certified_by(&old);
    let files = old.issue("us", &["127.0.0.1"]);
    let between = Proxy::start(server.address());
    let etcd = connect(between.endpoint().replace("http:", "https:"), &files);
    block_on(put(&etcd, "/a", "1")).expect("a write");
    // Everybody moves to another authority: etcd under the same files, and we.
    let moved = new.issue("etcd", &["127.0.0.1"]);
    let ours = new.issue("us", &["127.0.0.1"]);
    let replace = |from: &Certificate, to: &Certificate| {
        for (from, to) in [
            (&from.ca, &to.ca),
            (&from.cert, &to.cert),
            (&from.key, &to.key),
        ] {
            fs::copy(from, to).expect("replaced");
        }
    };
    replace(&ours, &files);
    replace(&moved, &old.issue("etcd", &["127.0.0.1"]));
    fs::copy(new.ca(), old.ca()).expect("replaced");
    between.cut();
    server.stop();
    server.launch();
    between.pass();
    palm_tests::eventually("a write with the new certificates", PATIENCE, || {
        block_on(put(&etcd, "/a", "2")).ok()
    });
    // For a moment a file may be missing.
    fs::remove_file(&files.key).expect("removed");
    between.cut();
    between.pass();
    palm_tests::eventually("a write without the key's file", PATIENCE, || {
        block_on(put(&etcd, "/a", "3")).ok()
    });
}
