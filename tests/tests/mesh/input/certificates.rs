//! Certificates and keys as openssl and editors make them: they are used, or what is wrong is
//! said in plain words.

use super::SOON;
use palm_tests::{Etcd, Process, binary, example};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

const P256: &str = "ec -pkeyopt ec_paramgen_curve:P-256";
const EXTENSIONS: &str = "basicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\n\
                          subjectAltName=IP:127.0.0.1\n";
/// What some editors put before a text.
const MARK: &[u8] = b"\xef\xbb\xbf";
const SUPPORTED: &str = "not supported: P-256, P-384, RSA of 2048 to 4096 bits, and Ed25519 are";

/// An authority of openssl's, and a folder for what it signs.
struct Authority {
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let authority = Self {
            folder: TempDir::new().expect("a temporary folder"),
        };
        authority.openssl(&format!(
            "req -x509 -newkey {P256} -nodes -days 10 -keyout ca.key -out ca.pem -subj /CN=ca \
             -addext keyUsage=critical,keyCertSign,cRLSign"
        ));
        authority
    }

    #[track_caller]
    fn openssl(&self, line: &str) {
        let run = Command::new("openssl")
            .args(line.split_whitespace())
            .current_dir(self.folder.path())
            .output();
        let run = run.expect("openssl");
        assert!(
            run.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&run.stderr)
        );
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes it a certificate of version 1, which openssl 3.5 no longer makes by itself.
    fn set_version_1(&self, name: &str) {
        self.openssl(&format!("x509 -in {name}.pem -outform der -out {name}.der"));
        let mut der = self.text(&format!("{name}.der"));
        // The field is left out in one that is of version 1 already.
        if let Some(at) = der.windows(5).position(|bytes| bytes == [0xa0, 3, 2, 1, 2]) {
            der[at + 4] = 0;
        }
        self.write(&format!("{name}.der"), &[&der]);
        self.openssl(&format!("base64 -in {name}.der -out {name}.base64"));
        let body = self.text(&format!("{name}.base64"));
        self.write(
            &format!("{name}.pem"),
            &[
                b"-----BEGIN CERTIFICATE-----\n",
                &body,
                b"-----END CERTIFICATE-----\n",
            ],
        );
    }

    fn text(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("a file")
    }

    fn write(&self, name: &str, parts: &[&[u8]]) -> PathBuf {
        fs::write(self.path(name), parts.concat()).expect("a file");
        self.path(name)
    }

    /// A certificate, `NAME.pem` with `NAME.key`, signed by `issuer`.
    fn sign(&self, name: &str, key: &str, issuer: &str, extensions: &str) {
        self.openssl(&format!(
            "req -new -newkey {key} -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        let mut line = format!(
            "x509 -req -in {name}.csr -CA {issuer}.pem -CAkey {issuer}.key -CAcreateserial -days 9 -out {name}.pem"
        );
        if !extensions.is_empty() {
            self.write(&format!("{name}.ext"), &[extensions.as_bytes()]);
            line = format!("{line} -extfile {name}.ext");
        }
        self.openssl(&line);
    }

    fn flags(&self, ca: &Path, cert: &Path, key: &Path) -> Vec<String> {
        [("--cacert", ca), ("--cert", cert), ("--key", key)]
            .map(|(flag, path)| {
                [
                    flag.to_owned(),
                    self.path(&path.display().to_string()).display().to_string(),
                ]
            })
            .concat()
    }

    /// These files cannot be used: by a server for the mesh, nor by palm-cli for etcd.
    #[track_caller]
    fn refused(&self, [ca, cert, key]: [&str; 3], words: &str) {
        let files = self.flags(ca.as_ref(), cert.as_ref(), key.as_ref());
        // Nothing listens there: the files are checked first.
        for (program, line, code) in [
            (example("printf"), "run --etcd http://127.0.0.1:1", 1),
            (binary("palm-cli"), "status --etcd https://127.0.0.1:1", 2),
        ] {
            let args = line
                .split_whitespace()
                .map(str::to_owned)
                .chain(files.clone());
            let process = Process::start(program, args.collect::<Vec<_>>());
            let status = process.wait(SOON);
            let said = process.lines().join("\n");
            assert!(
                status.code() == Some(code) && said.contains(words),
                "{words}: {status} {said}"
            );
        }
    }

    /// A server serves with these files, and palm-cli calls it.
    #[track_caller]
    fn used(&self, etcd: &Etcd, [ca, cert, key]: [&str; 3]) {
        let files = self.flags(ca.as_ref(), cert.as_ref(), key.as_ref());
        let args = |line: String| {
            line.split_whitespace()
                .map(str::to_owned)
                .chain(files.clone())
                .collect::<Vec<_>>()
        };
        let common = format!("--etcd {} --prefix /{cert}-{key}", etcd.endpoint());
        let server = Process::start(example("text"), args(format!("run {common}")));
        server.wait_for_line(|line| line.ends_with(" configured"), SOON);
        let call = Process::start(
            binary("palm-cli"),
            args(format!("call text.shout hello {common}")),
        );
        assert!(
            call.wait(SOON).success(),
            "{cert} {key}: {:?}",
            call.lines()
        );
    }
}

#[test]
fn unsupported_certificates_are_explained() {
    let made = Authority::new();
    made.sign("v1", P256, "ca", "");
    made.set_version_1("v1");
    made.refused(["ca.pem", "v1.pem", "v1.key"], "it is X.509 version 1");
    made.refused(["ca.pem", "v1.pem", "v1.key"], "make it with -extfile");
    for (name, key) in [
        ("p521", "ec -pkeyopt ec_paramgen_curve:P-521"),
        ("rsa1024", "rsa:1024"),
        ("rsa8192", "rsa:8192"),
    ] {
        made.sign(name, key, "ca", EXTENSIONS);
        let [cert, key] = [format!("{name}.pem"), format!("{name}.key")];
        made.refused(
            ["ca.pem", &cert, &key],
            &format!("{key} holds a key that is {SUPPORTED}"),
        );
    }
    made.openssl("ec -in ca.key -aes256 -passout pass:x -out locked.key");
    made.refused(
        ["ca.pem", "ca.pem", "locked.key"],
        "holds no private key in PEM (one without a password)",
    );
}

#[test]
fn an_unusable_certificate_is_named_by_its_place_in_the_file() {
    let made = Authority::new();
    made.sign("good", P256, "ca", EXTENSIONS);
    let (ca, good) = (made.text("ca.pem"), made.text("good.pem"));
    let damaged = b"-----BEGIN CERTIFICATE-----\nMIIB!!!!\n-----END CERTIFICATE-----\n";
    let odd = b"-----BEGIN CERTIFICATE-----\nMIIBAAAA\n-----END CERTIFICATE-----\n";
    made.write("damaged.pem", &[&ca, &ca, damaged]);
    made.write("odd.pem", &[&ca, odd, &ca]);
    made.write("chain.pem", &[&good, odd]);
    made.write("utf16.pem", &[b"\xff\xfe-\0-\0"]);
    made.openssl("x509 -in ca.pem -outform der -out ca.der");
    let with_ca = |ca, words: &str| made.refused([ca, "good.pem", "good.key"], words);
    with_ca(
        "damaged.pem",
        "damaged.pem is not a complete PEM file: certificate 3 in it cannot be decoded",
    );
    with_ca(
        "odd.pem",
        "odd.pem cannot be used: certificate 2 in it: it is not a certificate",
    );
    with_ca(
        "utf16.pem",
        "utf16.pem holds no certificate in PEM: it is text in UTF-16",
    );
    with_ca(
        "ca.der",
        "ca.der holds no certificate in PEM: it is DER or PKCS#12",
    );
    made.refused(
        ["ca.pem", "chain.pem", "good.key"],
        "chain.pem cannot be used: certificate 2 in it",
    );
}

#[test]
fn a_chain_in_the_wrong_order_is_reported() {
    let made = Authority::new();
    made.sign(
        "between",
        P256,
        "ca",
        "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n",
    );
    made.sign("leaf", P256, "between", EXTENSIONS);
    let (leaf, between) = (made.text("leaf.pem"), made.text("between.pem"));
    made.write("right.pem", &[&leaf, &between]);
    made.write("wrong.pem", &[&between, &leaf]);
    let words = "has its certificates in the wrong order: the one of the key is number 2, and must be the first";
    made.refused(["ca.pem", "wrong.pem", "leaf.key"], words);
    made.used(&Etcd::start(), ["ca.pem", "right.pem", "leaf.key"]);
}

#[test]
fn files_from_editors_and_openssl_are_accepted() {
    let made = Authority::new();
    let etcd = Etcd::start();
    for (name, key) in [
        ("p384", "ec -pkeyopt ec_paramgen_curve:P-384"),
        ("rsa2048", "rsa:2048"),
        ("rsa4096", "rsa:4096"),
        ("ed25519", "ed25519"),
    ] {
        made.sign(name, key, "ca", EXTENSIONS);
        made.used(
            &etcd,
            ["ca.pem", &format!("{name}.pem"), &format!("{name}.key")],
        );
    }
    // A byte order mark before each part, as joined files have.
    let (ca, cert, key) = (
        made.text("ca.pem"),
        made.text("p384.pem"),
        made.text("p384.key"),
    );
    made.write(
        "marked-ca.pem",
        &[MARK, &made.text("ed25519.pem"), MARK, &ca],
    );
    made.write("marked.pem", &[MARK, &cert]);
    made.write("marked.key", &[MARK, &key]);
    made.used(&etcd, ["marked-ca.pem", "marked.pem", "marked.key"]);
    // Files without a last line break, one after the other.
    made.write(
        "joined.pem",
        &[made.text("ed25519.pem").trim_ascii_end(), &ca],
    );
    made.used(&etcd, ["joined.pem", "p384.pem", "p384.key"]);
}

/// An authority with an unsupported key: no certificate could be verified, and the
/// error names the key.
#[test]
fn an_unsupported_signing_key_causes_a_warning() {
    let made = Authority::new();
    made.openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-521 -nodes -days 10 -keyout big.key -out big.pem -subj /CN=big",
    );
    made.sign("leaf", P256, "big", EXTENSIONS);
    let etcd = Etcd::start();
    let files = made.flags("big.pem".as_ref(), "leaf.pem".as_ref(), "leaf.key".as_ref());
    let args = [
        vec!["run".to_owned(), "--etcd".to_owned(), etcd.endpoint()],
        files,
    ]
    .concat();
    let server = Process::start(example("printf"), args);
    let words = format!("has a key or a signature that is {SUPPORTED}");
    server.wait_for_line(
        |line| line.contains("may be refused by others") && line.contains(&words),
        SOON,
    );
}
