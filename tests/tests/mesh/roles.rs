//! A mesh in an etcd with authentication, whose users have only the permissions of
//! docs/security.md.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::{Mesh, QUICK, SOON, Server};
use futures::{StreamExt as _, executor::block_on};
use palm_peer::{Bytes, Client, Config, ErrorKind};
use palm_tests::{Etcd, EtcdBuilder, Process, binary, eventually, example, in_repository, python};
use std::{
    fs,
    process::{Command, Output},
    time::{Duration, Instant},
};

const DOCUMENT: &str = include_str!("../../../docs/security.md");
/// Several lives of a token: time itself is tested here.
const TOKENS_LIVE: u64 = 1;

/// The code blocks of this language in the section on roles.
fn blocks(language: &str) -> Vec<&'static str> {
    let section = DOCUMENT
        .split_once("## Roles in etcd\n")
        .expect("the section")
        .1;
    let section = section.split("\n## ").next().expect("its text");
    let open = format!("```{language}\n");
    section
        .split(&open)
        .skip(1)
        .map(|rest| rest.split("```").next().expect("its end"))
        .collect()
}

/// An etcd whose users and roles were made by the commands of the document.
struct Guarded {
    etcd: Etcd,
    prefix: &'static str,
    passwords: tempfile::TempDir,
}

impl Guarded {
    fn start(etcd: EtcdBuilder, prefix: &'static str) -> Self {
        // Programs log in once a second here, far more often than elsewhere: a cheap hash keeps that
        // from slowing the test.
        let guarded = Self {
            etcd: etcd.arg("--bcrypt-cost=4").start(),
            prefix,
            passwords: tempfile::tempdir().expect("a folder"),
        };
        let [roles, users, _] = blocks("sh")[..] else {
            panic!("the document has roles, users, and their use")
        };
        for commands in [roles, users] {
            let done = guarded.shell(commands);
            assert!(
                done.status.success(),
                "{commands}\n{}",
                String::from_utf8_lossy(&done.stderr)
            );
        }
        guarded
    }

    /// With tokens that expire.
    fn briefly(prefix: &'static str) -> Self {
        Self::start(
            Etcd::builder().arg(format!("--auth-token-ttl={TOKENS_LIVE}")),
            prefix,
        )
    }

    /// Runs commands as they stand in the document, where the passwords are.
    fn shell(&self, commands: &str) -> Output {
        let path = std::env::var("PATH").expect("a PATH");
        let cli = binary("palm-cli")
            .parent()
            .expect("its folder")
            .display()
            .to_string();
        Command::new("sh")
            .args(["-euc", commands])
            .current_dir(self.passwords.path())
            .env("PATH", format!("{cli}:{path}"))
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", self.etcd.endpoint())
            .env("PALM_ETCD", self.etcd.endpoint())
            .env("PALM_PREFIX", self.prefix)
            .env("PREFIX", self.prefix)
            .output()
            .expect("a shell")
    }

    /// What `PALM_USER` is for this user.
    fn user(&self, name: &str) -> String {
        let password = fs::read_to_string(self.passwords.path().join(format!("{name}.password")))
            .expect("a password");
        format!("{name}:{}", password.trim())
    }

    fn options(&self, name: &str) -> Config {
        let mut settings = Config::default()
            .etcd(vec![self.etcd.endpoint()])
            .prefix(self.prefix.into());
        settings.set("user", &self.user(name)).expect("a user");
        settings
    }

    /// Runs palm-cli as this user.
    fn cli(&self, name: &str, args: &[&str]) -> (Option<i32>, String) {
        let cli = Process::builder(binary("palm-cli"))
            .args(args)
            .env("PALM_ETCD", self.etcd.endpoint())
            .env("PALM_PREFIX", self.prefix)
            .env("PALM_USER", self.user(name))
            .start();
        (cli.wait(SOON).code(), cli.lines().join("\n"))
    }

    #[track_caller]
    fn does(&self, name: &str, args: &[&str]) -> String {
        let (code, said) = self.cli(name, args);
        assert_eq!(code, Some(0), "{name}: {args:?}: {said}");
        said
    }

    #[track_caller]
    fn is_denied(&self, name: &str, args: &[&str]) {
        let (code, said) = self.cli(name, args);
        let clear = said.contains("permission denied") && said.contains(&format!("as user {name}"));
        assert!(
            code == Some(1) && clear,
            "{name}: {args:?}: {code:?} {said}"
        );
        assert!(
            !said.contains(self.user(name).split_once(':').unwrap().1),
            "a password is shown: {said}"
        );
    }

    /// A server as a process of its own, as this user; it has joined.
    fn server(&self, mesh: &Mesh, program: &str, user: &str) -> Server {
        let endpoint = self.etcd.endpoint();
        let program = Process::builder(example(program))
            .args(["run", "--debug", "--etcd", &endpoint])
            .args(QUICK);
        mesh.start_program(program.env("PALM_USER", self.user(user)))
    }

    /// The mesh, as etcd's root sees it.
    fn mesh(&self) -> Mesh<'_> {
        Mesh::as_user(&self.etcd, self.prefix, &QUICK, &self.user("root"))
    }
}

fn client(options: Config, servers: usize) -> Client {
    let client = block_on(Client::connect(options)).expect("a client");
    eventually("the client sees all servers", SOON, || {
        let seen: usize = client
            .reachable()
            .iter()
            .map(|server| server.instances)
            .sum();
        (seen == servers).then_some(())
    });
    client
}

/// Calls and jobs go well for so long.
fn works_for(client: &Client, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        assert_eq!(
            block_on(
                client
                    .call("text.shout", "hello")
                    .timeout(SOON)
                    .into_future()
            )
            .expect("a call"),
            "HELLO"
        );
        let words = ["one", "two"].into_iter().map(Bytes::from);
        let results = client
            .job(["printf.printf", "text.shout"])
            .run_iter(words)
            .expect("both are there");
        let ended: Vec<_> = block_on(
            results
                .map(|(_, result)| result.expect("a result"))
                .collect(),
        );
        assert_eq!(ended, ["ONE", "TWO"]);
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a mesh does in its life, with each user as little as it needs, over many lives of a token.
fn a_mesh_lives(guarded: &Guarded) {
    let mesh = guarded.mesh();
    let leader = guarded.server(&mesh, "printf", "palm-server");
    mesh.await_published(&[&leader.uuid]);
    let text = guarded.server(&mesh, "text", "palm-server");
    mesh.await_published(&[&text.uuid]);
    let client = client(guarded.options("palm-client"), 2);
    works_for(&client, Duration::from_secs(8));

    // The leader's watch still tells it who comes, and the client's what is published.
    let second = guarded.server(&mesh, "printf", "palm-server");
    mesh.await_published(&[&second.uuid]);
    eventually("the client sees the new one", SOON, || {
        client
            .reachable()
            .iter()
            .any(|server| server.instances == 2)
            .then_some(())
    });
    // Its lease was renewed all the time; killed, it is buried, and another leads.
    leader.kill();
    eventually("another leads", SOON, || {
        mesh.leading().filter(|(_, leads)| *leads != leader.uuid)
    });
    mesh.await_published(&[&text.uuid, &second.uuid]);
    works_for(&client, Duration::from_secs(3));

    for user in ["palm-admin", "palm-viewer"] {
        assert!(
            guarded.does(user, &["status"]).contains(&text.uuid),
            "{user}"
        );
    }
    assert_eq!(
        guarded.does("palm-client", &["call", "text.shout", "hello"]),
        "HELLO"
    );
    guarded.does("palm-admin", &["rm", &second.uuid]);
    assert_eq!(second.wait(SOON).code(), Some(77));
    let cleared = guarded.does("palm-admin", &["reset", "--yes"]);
    assert!(cleared.contains("1 of 1 server came back"), "{cleared}");
    mesh.await_published(&[&text.uuid]);
    text.terminate();
    assert!(text.wait(SOON).success());
    for server in [&leader, &text, &second] {
        assert!(
            server.lines_with("denied").is_empty(),
            "{:?}",
            server.lines_with("denied")
        );
        assert!(
            server.lines_with("in doubt").is_empty(),
            "{:?}",
            server.lines_with("in doubt")
        );
    }
}

#[test]
fn a_mesh_works_with_documented_roles_and_expiring_tokens() {
    a_mesh_lives(&Guarded::briefly("/staging"));
}

#[test]
fn a_mesh_without_a_prefix_works_with_documented_roles() {
    a_mesh_lives(&Guarded::briefly(""));
}

/// Tokens of this kind expire at a fixed time, used or not, and with each change of a user or role.
#[test]
fn a_mesh_works_with_signed_tokens() {
    let keys = tempfile::tempdir().expect("a folder");
    let made = Command::new("sh")
        .args([
            "-ec",
            "openssl genrsa -out key 2048 && openssl rsa -in key -pubout -out pub",
        ])
        .current_dir(keys.path())
        .output()
        .expect("a shell");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let path = keys.path().display();
    let token =
        format!("--auth-token=jwt,pub-key={path}/pub,priv-key={path}/key,sign-method=RS256,ttl=2s");
    let guarded = Guarded::start(Etcd::builder().arg(token), "/jwt");
    a_mesh_lives(&guarded);
}

#[test]
fn each_role_may_do_what_it_needs_and_nothing_else() {
    let guarded = Guarded::start(Etcd::builder(), "/staging");
    let refused: Vec<_> = blocks("refused").into_iter().flat_map(str::lines).collect();
    assert!(refused.len() >= 10);
    for command in refused {
        let done = guarded.shell(command);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(
            !done.status.success() && said.contains("permission denied"),
            "{command}: {said}"
        );
    }
    let use_of_it = blocks("sh")[2];
    let done = guarded.shell(use_of_it);
    assert_eq!(
        String::from_utf8_lossy(&done.stdout),
        "No servers in the mesh\n",
        "{use_of_it}"
    );

    let mesh = guarded.mesh();
    let server = guarded.server(&mesh, "text", "palm-server");
    mesh.await_published(&[&server.uuid]);
    for (user, args) in [
        ("palm-client", &["status"][..]),
        ("palm-client", &["rm", &server.uuid]),
        ("palm-client", &["reset", "--yes"]),
        ("palm-viewer", &["rm", &server.uuid]),
        ("palm-viewer", &["reset", "--yes"]),
        ("palm-viewer", &["call", "text.shout", "x"]),
        ("palm-viewer", &["job", "text.shout"]),
        ("palm-server", &["reset", "--yes"]),
    ] {
        guarded.is_denied(user, args);
    }
    assert!(mesh.is_registered(&server.uuid));

    // Another mesh is another matter.
    let elsewhere = Config::clone(&guarded.options("palm-client"));
    let elsewhere = elsewhere.clone().prefix("/other".into());
    let error = block_on(Client::connect(elsewhere)).expect_err("another mesh");
    assert_eq!(error.kind(), ErrorKind::EtcdRefused, "{error}");

    // A client's password makes no server.
    let began = Instant::now();
    let joining = block_on(palm_peer::Server::new("rogue").join(guarded.options("palm-client")));
    let error = joining.expect_err("a client is no server");
    assert_eq!(error.kind(), ErrorKind::EtcdRefused, "{error}");
    assert!(error.to_string().contains("as user palm-client"), "{error}");
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "it is told at once"
    );
}

/// Programs have a user before authentication is enabled.
#[test]
fn authentication_can_be_enabled_while_a_mesh_runs() {
    let guarded = Guarded::briefly("/later");
    let root = guarded.user("root");
    guarded.etcd.etcdctl(&["--user", &root, "auth", "disable"]);
    let mesh = guarded.mesh();
    let servers = ["printf", "text"].map(|program| {
        let server = guarded.server(&mesh, program, "palm-server");
        mesh.await_published(&[&server.uuid]);
        server
    });
    let client = client(guarded.options("palm-client"), 2);
    guarded.etcd.etcdctl(&["auth", "enable"]);
    works_for(&client, Duration::from_secs(5));
    let third = guarded.server(&mesh, "text", "palm-server");
    eventually("the client sees the new one", SOON, || {
        client
            .reachable()
            .iter()
            .any(|server| server.instances == 2)
            .then_some(())
    });
    for server in servers.iter().chain([&third]) {
        assert!(
            server.is_running() && server.lines_with("in doubt").is_empty(),
            "{:?}",
            server.lines()
        );
    }
    assert!(
        guarded
            .does("palm-viewer", &["status"])
            .contains("3 configured")
    );
}

#[test]
fn a_server_that_is_no_candidate_needs_fewer_rights() {
    let Some(python) = python() else { return };
    let guarded = Guarded::briefly("/py");
    let mesh = guarded.mesh();
    let text = guarded.server(&mesh, "text", "palm-server");
    mesh.await_published(&[&text.uuid]);
    let program = in_repository("examples/python/server.py")
        .display()
        .to_string();
    let args = [
        "-B",
        &program,
        "run",
        "--debug",
        "--ttl",
        "3",
        "--etcd",
        &guarded.etcd.endpoint(),
    ];
    let builder = Process::builder(&python)
        .args(args)
        .env("PALM_USER", guarded.user("palm-stage"));
    let stage = mesh.start_program(builder);
    mesh.await_published(&[&stage.uuid]);
    let client = client(guarded.options("palm-client"), 2);
    let until = Instant::now() + Duration::from_secs(6);
    while Instant::now() < until {
        let results = client
            .job(["pytext.reverse", "text.shout"])
            .run_iter(["abc"].into_iter().map(Bytes::from));
        let ended: Vec<_> = block_on(
            results
                .expect("there")
                .map(|(_, result)| result.expect("a result"))
                .collect(),
        );
        assert_eq!(ended, ["CBA"]);
        std::thread::sleep(Duration::from_millis(100));
    }
    // Its lease is lost, and it comes back as this user.
    let lease = mesh.state()[&format!("/servers/{}", stage.uuid)].lease;
    guarded.etcd.etcdctl(&[
        "--user",
        &guarded.user("root"),
        "lease",
        "revoke",
        &format!("{lease:x}"),
    ]);
    stage.wait_for_line(|line| line.contains("rejoined as"), SOON);
    mesh.await_published(&[&stage.uuid]);
    stage.terminate();
    assert!(stage.wait(SOON).success(), "{:?}", stage.lines());
    assert!(
        stage.lines_with("WARNING:peer:leaving").is_empty(),
        "{:?}",
        stage.lines()
    );
}

#[test]
fn a_role_can_be_corrected_while_the_mesh_runs() {
    let guarded = Guarded::start(Etcd::builder(), "/mend");
    let mesh = guarded.mesh();
    let leader = guarded.server(&mesh, "printf", "palm-server");
    mesh.await_published(&[&leader.uuid]);
    let root = guarded.user("root");
    let change = |args: &[&str]| {
        guarded
            .etcd
            .etcdctl(&[&["--user", root.as_str()][..], args].concat())
    };

    change(&["user", "revoke-role", "palm-server", "palm-server"]);
    let refused = Process::builder(example("text"))
        .args([
            "run",
            "--etcd",
            &guarded.etcd.endpoint(),
            "--prefix",
            "/mend",
        ])
        .env("PALM_USER", guarded.user("palm-server"))
        .start();
    assert!(!refused.wait(SOON).success());
    let told = |line: &str| line.contains("permission denied, as user palm-server");
    assert!(
        refused.lines().iter().any(|line| told(line)),
        "{:?}",
        refused.lines()
    );
    // This one may register, but its leader may not write that it is configured.
    let text = guarded.server(&mesh, "text", "palm-admin");
    leader.wait_for_line(|line| line.contains("WARNING") && told(line), SOON);
    assert!(leader.is_running());

    change(&["user", "grant-role", "palm-server", "palm-server"]);
    mesh.await_published_within(&[&text.uuid, &leader.uuid], 2 * SOON);
}

/// A refusal that lasts is a warning, whatever was refused, for nothing mends it but a person.
#[test]
fn a_missing_permission_is_logged_by_name() {
    let guarded = Guarded::start(Etcd::builder(), "/lacking");
    let root = guarded.user("root");
    let change = |args: &[&str]| {
        guarded
            .etcd
            .etcdctl(&[&["--user", root.as_str()][..], args].concat())
    };
    change(&[
        "role",
        "revoke-permission",
        "--prefix=true",
        "palm-server",
        "/lacking/election/",
    ]);
    change(&[
        "role",
        "grant-permission",
        "--prefix=true",
        "palm-server",
        "read",
        "/lacking/election/",
    ]);
    let mesh = guarded.mesh();
    let server = guarded.server(&mesh, "text", "palm-server");
    let warns = |line: &str, what: &str| {
        line.contains("WARNING") && line.contains(what) && line.contains("palm-server")
    };
    server.wait_for_line(
        |line| warns(line, "campaigning under /lacking/election/"),
        SOON,
    );
    assert!(server.is_running());

    // Without its user, etcd does not renew its lease either.
    let mark = server.mark();
    change(&["user", "delete", "palm-server"]);
    server.wait_for_line_after(
        mark,
        |line| line.contains("WARNING") && line.contains("renewing the lease"),
        SOON,
    );
    assert!(server.is_running());
}
