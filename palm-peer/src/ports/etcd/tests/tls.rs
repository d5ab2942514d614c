//! TLS towards etcd, both sides with certificates.

use std::fs;

use futures::executor::block_on;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::{super::*, *};

/// An authority of the test's own.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate for 127.0.0.1, and its key.
    fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
        (params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key.serialize_pem())
    }
}

#[test]
fn both_sides_prove_who_they_are() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key) = authority.issue();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let server = palm_tests::Etcd::builder()
        .https()
        .arg(format!("--cert-file={}", file("cert.pem", &certificate)))
        .arg(format!("--key-file={}", file("key.pem", &key)))
        .arg(format!("--trusted-ca-file={}", file("ca.pem", &authority.pem)))
        .arg("--client-cert-auth")
        .start();
    let connect = |ca: &Authority, identity: Option<(String, String)>| {
        let mut settings = EtcdSettings::new([server.endpoint()]);
        let identity = identity.map(|(certificate, key)| (certificate.into_bytes(), key.into_bytes()));
        settings.tls = Some(EtcdTls { ca: ca.pem.clone().into_bytes(), identity });
        Etcd::start("palm-etcd", settings).expect("a thread")
    };
    let trusted = connect(&authority, Some(authority.issue()));
    let mut watch = trusted.watch(Target::Prefix("/".into()));
    told(&trusted, &mut watch, "listed");
    block_on(put(&trusted, "/a", "1")).expect("a write over TLS");
    told(&trusted, &mut watch, "+/a=1");

    let stranger = connect(&Authority::new(), Some(authority.issue()));
    let shown = block_on(stranger.get("/a")).expect_err("etcd's certificate is not trusted").to_string();
    assert!(shown.to_lowercase().contains("certificate"), "{shown}");
    let anonymous = connect(&authority, None);
    block_on(anonymous.get("/a")).expect_err("etcd wants a certificate");
}
