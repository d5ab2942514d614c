//! The mesh works over TLS as it does without, also with an etcd that requires certificates.

use super::{World, address, config, connect, dial, ping, try_call};
use crate::common::{QUICK, SOON, calls::Calls};
use futures::{StreamExt as _, executor::block_on};
use palm_tests::{Process, binary, eventually, example};
use rustls::version::TLS13;
use std::time::{Duration, Instant};

#[test]
fn calls_and_palm_cli_work_over_tls() {
    let world = World::new();
    let mesh = world.mesh();
    let servers = mesh.start_in_line("text", 2);
    let client = connect(mesh.options());
    for server in &servers {
        assert_eq!(
            try_call(&client, &format!("{}.shout", server.uuid)).expect("an answer"),
            "HELLO"
        );
    }
    let long = "x".repeat(3_000_000);
    let answer =
        block_on(client.call("text.shout", long.clone()).into_future()).expect("an answer");
    assert_eq!(answer, long.to_uppercase());
    let cli = |args: &[&str]| {
        let endpoint = world.etcd.endpoint();
        let flags = world.files.flags();
        let where_to = [
            "--etcd", &endpoint, "--prefix", "/mesh", "--tls", "required",
        ];
        let process = Process::builder(binary("palm-cli"))
            .args(args)
            .args(where_to)
            .args(flags)
            .start();
        let status = process.wait(SOON);
        (status.success(), process.lines().join("\n"))
    };
    let (done, said) = cli(&["status"]);
    assert!(
        done && servers.iter().all(|server| said.contains(&server.uuid)),
        "{said}"
    );
    assert_eq!(
        cli(&["call", "text.shout", "hello"]),
        (true, "HELLO".into())
    );
}

#[test]
fn jobs_flow_from_server_to_server() {
    let world = World::new();
    let mesh = world.mesh();
    let flags = world.files.flags();
    let etcd = world.etcd.endpoint();
    let stage = |name: &str| {
        let args = [
            "run", "--etcd", &etcd, "--prefix", "/mesh", "--tls", "required",
        ];
        Process::builder(example("stage"))
            .args(args)
            .args(&flags)
            .env("PALM_TEST_STAGE", name)
            .start()
    };
    let _stages = ["a", "b", "c"].map(|name| [stage(name), stage(name)]);
    let client = connect(mesh.options());
    eventually("all stages can be reached", SOON, || {
        let instances: usize = client
            .reachable()
            .iter()
            .map(|server| server.instances)
            .sum();
        (instances == 6).then_some(())
    });
    let messages = (0..2000).map(|n| format!("{n}:"));
    let results = client
        .job(["a.add", "b.add", "c.add"])
        .run_iter(messages)
        .expect("all are there");
    let results: Vec<_> = block_on(results.collect());
    assert_eq!(results.len(), 2000);
    for (idx, result) in results {
        assert_eq!(result.expect("a result"), format!("{idx}:abc"));
    }
}

#[test]
fn a_killed_leader_is_replaced_in_time_over_tls() {
    let world = World::new();
    let flags = [&["--tls", "required"], &QUICK[..]].concat();
    let mesh = world.mesh_with("/mesh", &world.files, &flags);
    let servers = mesh.start_in_line("printf", 3);
    let calls = Calls::start(mesh.options());
    servers[0].kill();
    let killed = Instant::now();
    mesh.await_lead(&servers[1].uuid, SOON);
    mesh.await_published(&[&servers[1].uuid, &servers[2].uuid]);
    // The design's bound is 1 s; the lease's TTL, without which silence would have to do, is 3 s.
    assert!(
        killed.elapsed() < Duration::from_secs(4),
        "after {:?}",
        killed.elapsed()
    );
    assert!(!mesh.is_registered(&servers[0].uuid));
    drop(calls);
}

#[test]
fn a_leaving_server_sends_goodbye_over_tls() {
    let world = World::new();
    let mesh = world.mesh();
    let server = mesh.start("text");
    mesh.await_published(&[&server.uuid]);
    let client = connect(mesh.options());
    let connections = ping(&client, &server.uuid)["connections"]
        .as_u64()
        .expect("a number");
    let config = config(&world.authority.ca(), Some(&world.files), &TLS13);
    let mut wires: Vec<_> = (0..20)
        .map(|_| dial(address(&server.endpoint), config.clone()).expect("in"))
        .collect();
    eventually("all are in", SOON, || {
        (ping(&client, &server.uuid)["connections"].as_u64() == Some(connections + 20))
            .then_some(())
    });
    server.terminate();
    for wire in &mut wires {
        // An end without close_notify is an error to rustls: an attacker might have
        // cut the connection.
        wire.until_end().expect("an orderly end");
    }
    assert!(server.wait(SOON).success());
}

#[test]
fn certificates_and_etcd_users_work_together() {
    let world = World::new();
    let etcd = &world.etcd;
    for line in [
        "role add palm-server",
        "role grant-permission palm-server --prefix=true readwrite /",
        "role add palm-client",
        "role grant-permission palm-client --prefix=true read /pipelines/",
        "user add root:root-secret",
        "user add server:server-secret",
        "user add client:client-secret",
        "user grant-role root root",
        "user grant-role server palm-server",
        "user grant-role client palm-client",
        "auth enable",
    ] {
        etcd.etcdctl(&line.split_whitespace().collect::<Vec<_>>());
    }
    // The common names are no users of etcd's: the passwords count.
    let client = world.authority.issue("client", &["127.0.0.1"]);
    let endpoint = etcd.endpoint();
    let where_to = ["--tls", "required", "--etcd", &endpoint];
    let server = |name: &str| {
        let process = Process::builder(example(name))
            .arg("run")
            .args(where_to)
            .args(world.files.flags());
        process.env("PALM_USER", "server:server-secret").start()
    };
    let servers = [server("text"), server("text")];
    let call = || {
        let process = Process::builder(binary("palm-cli"))
            .args(["call", "text.shout", "hello"])
            .args(where_to);
        let process = process
            .args(client.flags())
            .env("PALM_USER", "client:client-secret")
            .start();
        let status = process.wait(SOON);
        (status.success(), process.lines().join("\n"))
    };
    // etcd checks a password for each connection, which takes a busy machine seconds.
    eventually("the call is answered", 3 * SOON, || {
        (call() == (true, "HELLO".into())).then_some(())
    });
    let leader = servers.iter().position(|server| {
        server
            .lines()
            .iter()
            .any(|line| line.contains("leading the mesh"))
    });
    servers[leader.expect("one leads")].kill();
    servers[1 - leader.expect("one leads")]
        .wait_for_line(|line| line.contains("leading the mesh"), SOON);
    eventually("the call is answered by the other", SOON, || {
        (call() == (true, "HELLO".into())).then_some(())
    });
    let refused = Process::builder(example("text"))
        .arg("run")
        .args(where_to)
        .args(client.flags());
    let refused = refused.env("PALM_USER", "client:client-secret").start();
    assert_eq!(refused.wait(SOON).code(), Some(1));
    let said = refused.lines().join("\n");
    assert!(said.contains("permission denied"), "{said}");
}
