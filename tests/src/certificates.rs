//! Certificates for tests.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use tempfile::TempDir;

/// An authority, and a directory for the certificates that it signs. Removed on drop.
///
/// ```
/// use palm_tests::Authority;
///
/// let authority = Authority::new("mesh");
/// let good = authority.issue("server", &["127.0.0.1"]);
/// let old = authority.certificate("old").host("127.0.0.1").expired().issue();
/// assert!(good.cert.exists() && old.key.exists() && good.ca == old.ca);
/// ```
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// The paths of a certificate, its key and its authority's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A certificate that is not signed yet; from [`Authority::certificate`].
#[must_use = "nothing is signed until `issue`"]
pub struct Request<'a> {
    authority: &'a Authority,
    name: String,
    params: CertificateParams,
}

impl Authority {
    /// An authority of this name.
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).expect("a certificate").pem();
        let folder = tempfile::Builder::new()
            .prefix("palm-ca-")
            .tempdir()
            .expect("a temporary folder");
        fs::write(folder.path().join("ca.pem"), pem).expect("a file");
        Self {
            folder,
            issuer: Issuer::new(params, key),
        }
    }

    /// Returns the path of its own certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Returns the directory of the certificates that it signs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Begins a certificate with this file name, without hosts yet.
    pub fn certificate(&self, name: &str) -> Request<'_> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        Request {
            authority: self,
            name: name.to_owned(),
            params,
        }
    }

    /// Signs a certificate for these hosts, names or addresses, good for servers and clients.
    pub fn issue(&self, name: &str, hosts: &[&str]) -> Certificate {
        hosts
            .iter()
            .fold(self.certificate(name), |request, host| request.host(host))
            .issue()
    }
}

impl Request<'_> {
    /// For this host, a name or an address.
    pub fn host(mut self, host: &str) -> Self {
        let of_host = CertificateParams::new([host.to_owned()]).expect("a name or an address");
        self.params
            .subject_alt_names
            .extend(of_host.subject_alt_names);
        self
    }

    /// With this URI, such as `palm:/staging`.
    pub fn uri(mut self, uri: &str) -> Self {
        self.params
            .subject_alt_names
            .push(SanType::URI(uri.try_into().expect("a URI is ASCII")));
        self
    }

    /// Good for servers alone.
    pub fn server_only(mut self) -> Self {
        self.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self
    }

    /// Makes it expired.
    pub fn expired(mut self) -> Self {
        self.params.not_before = date_time_ymd(2020, 1, 1);
        self.params.not_after = date_time_ymd(2021, 1, 1);
        self
    }

    /// Makes it valid only after this time.
    pub fn valid_in(mut self, time: Duration) -> Self {
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a time after 1970");
        self.params.not_before = date_time_ymd(1970, 1, 1) + since_1970 + time;
        self
    }

    /// Makes it expire after this time.
    pub fn expires_in(mut self, time: Duration) -> Self {
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a time after 1970");
        self.params.not_after = date_time_ymd(1970, 1, 1) + since_1970 + time;
        self
    }

    /// Signs it, and writes it and its key, replacing files of the same name.
    #[must_use]
    pub fn issue(self) -> Certificate {
        let key = KeyPair::generate().expect("a key");
        let pem = self
            .params
            .signed_by(&key, &self.authority.issuer)
            .expect("a certificate")
            .pem();
        let path = |kind: &str| {
            self.authority
                .folder()
                .join(format!("{}.{kind}.pem", self.name))
        };
        let files = Certificate {
            ca: self.authority.ca(),
            cert: path("cert"),
            key: path("key"),
        };
        fs::write(&files.cert, pem).expect("a file");
        fs::write(&files.key, key.serialize_pem()).expect("a file");
        files
    }
}

impl Certificate {
    /// The flags that name it, for servers and for `palm-cli`.
    #[must_use]
    pub fn flags(&self) -> [String; 6] {
        let flags = [
            ("--cacert", &self.ca),
            ("--cert", &self.cert),
            ("--key", &self.key),
        ];
        flags
            .map(|(flag, path)| [flag.to_owned(), path.display().to_string()])
            .concat()
            .try_into()
            .expect("six")
    }

    /// Returns etcd's flags to use it, and to require certificates of its authority from clients.
    #[must_use]
    pub fn etcd_flags(&self) -> [String; 4] {
        let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
        [
            file("cert-file", &self.cert),
            file("key-file", &self.key),
            file("trusted-ca-file", &self.ca),
            "--client-cert-auth".to_owned(),
        ]
    }

    /// The flags that have etcdctl show it.
    #[must_use]
    pub fn etcdctl_flags(&self) -> [String; 3] {
        let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
        [
            file("cacert", &self.ca),
            file("cert", &self.cert),
            file("key", &self.key),
        ]
    }
}
