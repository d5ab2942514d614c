//! The ingress: whatever reaches a server's port, it keeps answering.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad_input;
mod combined_limits;
mod descriptors;
mod exhaustion;
mod failures;
mod greetings;
mod inner_socket;
mod libzmq;
mod log_lines;
mod lost_hosts;
mod slow_readers;

use palm_tests::{Etcd, Process, ResourceUsage, eventually, example, free_port, wire::Wire};
use std::{io, net::SocketAddr, time::Duration};

const SOON: Duration = Duration::from_secs(20);

/// A server in a process of its own.
struct Server {
    name: &'static str,
    process: Process,
    address: SocketAddr,
    etcd: Etcd,
}

impl Server {
    /// Starts one with these variables in its environment.
    fn start(env: &[(&str, &str)]) -> Self {
        Self::named("text", env)
    }

    /// Starts that of this name.
    fn named(name: &'static str, env: &[(&str, &str)]) -> Self {
        let port = free_port().to_string();
        let etcd = Etcd::start();
        let endpoint = etcd.endpoint();
        let args = ["run", "--port", &port, "--etcd", &endpoint];
        let builder = Process::builder(example(name)).args(args);
        let builder = env
            .iter()
            .fold(builder, |builder, (name, value)| builder.env(name, value));
        Self::of(name, builder.start(), etcd, &port)
    }

    /// Starts one that may open so many files.
    fn with_descriptors(count: u32) -> Self {
        Self::with_descriptors_and(count, &[])
    }

    /// Starts one that may open so many files, with these variables in its environment.
    fn with_descriptors_and(count: u32, env: &[(&str, &str)]) -> Self {
        let port = free_port().to_string();
        let etcd = Etcd::start();
        let program = example("text");
        let line = format!(
            "ulimit -n {count} && exec {} run --port {port} --etcd {}",
            program.display(),
            etcd.endpoint()
        );
        let builder = Process::builder("/bin/sh").args(["-c", &line]);
        let builder = env
            .iter()
            .fold(builder, |builder, (name, value)| builder.env(name, value));
        Self::of("text", builder.start(), etcd, &port)
    }

    fn of(name: &'static str, process: Process, etcd: Etcd, port: &str) -> Self {
        let address = format!("127.0.0.1:{port}").parse().expect("an address");
        process.wait_for_line(|line| line.contains("configured"), SOON);
        let server = Self {
            name,
            process,
            address,
            etcd,
        };
        server.good_call();
        server
    }

    /// Where its etcd is.
    fn etcd(&self) -> String {
        self.etcd.endpoint()
    }

    /// A call that must succeed.
    #[track_caller]
    fn good_call(&self) {
        if self.name == "text" {
            let called = call(self.address);
            assert!(
                matches!(&called, Ok(answer) if answer == b"HELLO"),
                "after this, a call gave {called:?}"
            );
        } else {
            assert!(
                self.ping().contains("uptime"),
                "after this, a call gave no answer"
            );
        }
    }

    /// What `_ping` says.
    fn ping(&self) -> String {
        // There may be no room for one more connection yet.
        let asked = || {
            let mut wire = Wire::dealer(self.address).ok()?;
            let header = format!(r#"{{"palm":1,"pipeline":["{}._ping"]}}"#, self.name);
            wire.message(&[header.as_bytes()]).ok()?;
            Some(wire.answer().ok()?.remove(1))
        };
        String::from_utf8(eventually("a ping is answered", SOON, asked)).expect("JSON")
    }

    /// How often connections were refused for this.
    fn refused(&self, kind: &str) -> u64 {
        number(&self.ping(), kind)
    }

    fn connections(&self) -> u64 {
        number(&self.ping(), "connections")
    }

    fn resource_usage(&self) -> ResourceUsage {
        ResourceUsage::of(self.process.pid())
    }

    /// The memory that it holds, in kB.
    fn memory(&self) -> u64 {
        self.resource_usage().memory / 1024
    }

    /// Waits until every connection but those of the mesh itself has ended.
    fn calm_down(&self) {
        eventually(
            "only the connections of the mesh are left",
            2 * SOON,
            || {
                // This one asks, and the leader, which is the server itself, may hold another.
                (self.connections() <= 2).then_some(())
            },
        );
    }
}

/// The number behind `"name":` in flat JSON; 0 when there is none.
fn number(json: &str, name: &str) -> u64 {
    let digits = json
        .split_once(&format!("\"{name}\":"))
        .map_or("", |(_, rest)| rest);
    digits
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

fn call(address: SocketAddr) -> io::Result<Vec<u8>> {
    let mut wire = Wire::dealer(address)?;
    shout(&mut wire)
}

fn shout(wire: &mut Wire) -> io::Result<Vec<u8>> {
    wire.message(&[br#"{"palm":1,"pipeline":["text.shout"]}"#, b"hello"])?;
    let mut frames = wire.answer()?;
    frames
        .pop()
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}
