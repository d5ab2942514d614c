//! The table of all settings.

/// Hands the table of all settings to the macro `$declare`. For each setting: its description in
/// Markdown; its [scope](crate::config::SettingScope), name, type and default; the default as text;
/// how it is read from text; what stands for its value in `--help`, and the line there.
///
/// From this come [`Config`](crate::config::Config), [`Setting`](crate::config::Setting), the flags
/// of servers and of palm-cli, and the tables in docs/operations.md and docs/cli.md
/// (`UPDATE_DOCS=1 cargo test -p palm-tests --test mesh documented_settings`).
#[doc(hidden)]
#[macro_export]
macro_rules! settings_table {
    ($declare:ident) => {
        $declare! {
            /// etcd's client URLs, separated by commas; name all members. Scheme, host and port:
            /// no user, no path. Without a scheme: `https` if `cacert` is given, else `http`.
            Mesh etcd: Vec<String> = vec!["http://127.0.0.1:2379".into()], "http://127.0.0.1:2379", read::etcd_urls,
                "urls", "etcd's URLs, separated by commas";
            /// User and password for etcd, as `name:password`. Prefer the variable: other users of
            /// the machine can see flags. Taken as it is, spaces included; without line breaks.
            Mesh user: Option<(String, String)> = None, "none", read::user,
                "name:password", "user for etcd; better in the environment, as PALM_USER";
            /// PEM file of the authority that signed the certificates of etcd and of the mesh.
            Mesh cacert: Option<PathBuf> = None, "none", read::path,
                "file", "PEM file of the authority that signed the certificates of etcd and of the mesh";
            /// PEM file of the certificate to show to etcd, servers and clients.
            Mesh cert: Option<PathBuf> = None, "none", read::path,
                "file", "PEM file of the certificate to show to etcd, servers and clients";
            /// PEM file of that certificate's key.
            Mesh key: Option<PathBuf> = None, "none", read::path,
                "file", "PEM file of that certificate's key";
            /// TLS in the mesh: `auto` (when `cacert`, `cert` and `key` are all given), `off`, or
            /// `required` (with etcd too).
            Mesh tls: TlsMode = TlsMode::Auto, "auto", read::tls,
                "when", "TLS in the mesh: auto (when --cacert, --cert and --key are given), off, or required (with etcd too)";
            /// Prefix of the mesh's keys in etcd, such as `/staging`; different prefixes are
            /// different meshes.
            Mesh prefix: String = String::new(), "none", read::text,
                "prefix", "prefix of the mesh's keys in etcd, such as /staging";
            /// The zone that this process runs in, such as a data centre or a rack: 1 to 64 visible
            /// ASCII characters, without commas. A server's zone is in its record.
            Client zone: String = String::new(), "none", read::text,
                "zone", "zone that this process runs in, such as a data centre";
            /// Whether to prefer servers of the own `zone`: `yes` or `no`. Those of other zones are
            /// called only when no instance of the own one can be.
            Client prefer_zone: bool = false, "no", read::yes_or_no,
                "yes|no", "prefer servers of the own zone";
            /// Tags for the server's record, separated by commas: 32 at most, each as a zone. They
            /// follow those that the program sets.
            Server tags: Vec<String> = Vec::new(), "none", read::tags,
                "tags", "tags for the server's record, separated by commas";
            /// The advertised host, at which others reach this server: a name or an
            /// address, without a port.
            Server ip: String = "127.0.0.1".into(), "127.0.0.1", read::host,
                "host", "host that others reach this server at";
            /// The address to listen on, if it differs from `ip`, which must otherwise be an
            /// address of this machine.
            Server bind: Option<IpAddr> = None, "that of --ip", read::address,
                "address", "address to listen on";
            /// The port to listen on; 0 lets the system choose a free one.
            Server port: u16 = 0, "0", read::port,
                "port", "port to listen on; 0 is a free one";
            /// The lease's time to live: how long etcd keeps a server that it does not hear from, 2
            /// s to 24 h. Shorter finds a frozen server sooner, and costs more keep-alives (one
            /// each third of it).
            Server ttl: Duration = Duration::from_secs(10), "10", read::seconds,
                "seconds", "how long etcd keeps a server it does not hear from";
            /// How long joining and connecting wait for etcd before they fail.
            Client join_timeout: Duration = Duration::from_secs(10), "10", read::seconds,
                "seconds", "how long joining waits for etcd";
            /// Time between two probes (health checks) of a server by the leader.
            Server probe_period: Duration = Duration::from_secs(10), "10", read::seconds,
                "seconds", "time between two probes of a server by the leader";
            /// How long a server may take to answer a probe, at most `probe_period`.
            Server probe_timeout: Duration = Duration::from_secs(2), "2", read::seconds,
                "seconds", "how long a server may take to answer a probe";
            /// Missed probes in a row after which a server counts as dead, 1 to 100; these
            /// probes are 1 s apart.
            Server probe_misses: u32 = 3, "3", read::whole_number,
                "count", "missed probes in a row that make a server dead";
            /// How long a leaving server may take to finish running requests.
            Server drain: Duration = Duration::from_secs(10), "10", read::seconds,
                "seconds", "how long a leaving server may take to finish running requests";
            /// How long a call may take, if the caller sets no deadline.
            Client timeout: Duration = Duration::from_secs(30), "30", read::seconds,
                "seconds", "how long a call may take, if the caller sets no deadline";
            /// Maximum of functions that run at once, at most 50,000.
            Server max_in_flight: usize = 1024, "1024", read::whole_number,
                "count", "maximum of functions that run at once";
            /// Maximum of queued requests, and as many again of messages that wait for a connection
            /// to their next stage; beyond it, the answer is `busy`.
            Server max_queued: usize = 4096, "4096", read::whole_number,
                "count", "maximum of queued requests";
            /// Maximum of bytes in the payloads of queued requests; beyond it, the answer is
            /// `busy`. At least `max_payload`.
            Server max_queued_bytes: usize = 256 * 1024 * 1024, "268435456", read::bytes,
                "bytes", "maximum of bytes in queued requests";
            /// Maximum length of the payload of a request or an answer.
            Client max_payload: usize = 64 * 1024 * 1024, "67108864", read::bytes,
                "bytes", "maximum length of a payload";
            /// Maximum of bytes in a server's own store (`set`, `append`).
            Server max_store: usize = 256 * 1024 * 1024, "268435456", read::bytes,
                "bytes", "maximum of bytes in the server's own store";
            /// Maximum of connections to a server at once; each takes one or three
            /// file descriptors.
            Server max_connections: usize = 10_000, "10000", read::whole_number,
                "count", "maximum of connections at once";
            /// Maximum of these from one address.
            Server max_per_address: usize = 4096, "4096", read::whole_number,
                "count", "maximum of connections from one address";
            /// Bytes of responses that may wait for one connection; beyond it, the connection is
            /// closed. At least `max_payload`.
            Server max_unread: usize = 1024 * 1024 * 1024, "1073741824", read::bytes,
                "bytes", "maximum of unread bytes of responses on one connection";
            /// Bytes that all clients together can make a server hold in each of three places:
            /// messages on their way in, functions that run, and responses that are not read yet.
            /// Beyond, long messages wait to come in, requests wait to run, and the client with the
            /// most unread responses is disconnected. At least `max_payload`.
            Server max_held: usize = 1024 * 1024 * 1024, "1073741824", read::bytes,
                "bytes", "maximum of bytes held for all clients together";
            /// Where to serve the metrics over HTTP, such as `127.0.0.1:9464`, at `/metrics`; port 0
            /// lets the system choose. A loopback address, unless `metrics_public` is `yes`.
            Server metrics: Option<SocketAddr> = None, "none", read::socket_address,
                "address", "address and port to serve the metrics at, over HTTP";
            /// Whether `metrics` may be an address that other machines reach (`yes` or `no`): what is
            /// served there is neither encrypted nor authenticated.
            Server metrics_public: bool = false, "no", read::yes_or_no,
                "yes", "whether other machines may reach the metrics: yes or no";
        }
    };
}
