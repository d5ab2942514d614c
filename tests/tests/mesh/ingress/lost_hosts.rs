//! Hosts that vanish without closing their connections: what they held is released.

use super::{Server, number};
use palm_tests::{Etcd, Network, Process, eventually, example, free_port, wire::Wire};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);
/// Keep-alive and `TCP_USER_TIMEOUT` end a connection 45 s after the last sign of the other host.
const NOTICED: Duration = Duration::from_secs(60);
const CLIENTS: u64 = 50;

/// Opens so many connections, shakes hands over each as a DEALER does, and says nothing more.
const HOLDER: &str = r#"
for _ in $(seq "$3"); do
    exec {fd}<>"/dev/tcp/$1/$2" || exit 1
    printf '\xff\0\0\0\0\0\0\0\1\x7f\3\1NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0' >&$fd
    printf '\4\x1c\5READY\xbSocket-Type\0\0\0\6DEALER' >&$fd
done
echo holding
sleep 600
"#;

#[test]
fn connections_of_a_vanished_host_are_released_in_time() {
    let Some(network) = Network::start(&["clients"]) else {
        return;
    };
    let (clients, here) = (
        network.host("clients"),
        network.here().address().to_string(),
    );
    let etcd = Etcd::start();
    let port = free_port().to_string();
    let program = Process::builder(example("text")).args(["run", "--ip", &here, "--port", &port]);
    let process = program.env("PALM_ETCD", etcd.endpoint()).start();
    process.wait_for_line(|line| line.contains("configured"), SOON);
    let address = format!("{here}:{port}").parse().expect("an address");
    let server = Server {
        name: "text",
        process,
        address,
        etcd,
    };

    let holder = clients
        .builder("bash")
        .args(["-c", HOLDER, "holder", &here, &port, &CLIENTS.to_string()])
        .start();
    holder.wait_for_line(|line| line == "holding", SOON);
    // One connection asks all the time, so that the answers tell of the others alone.
    let mut asking = Wire::dealer(address).expect("a connection");
    let mut count = |name: &str| {
        asking
            .message(&[br#"{"palm":1,"pipeline":["text._ping"]}"#])
            .expect("sent");
        number(
            &String::from_utf8(asking.answer().expect("an answer").remove(1)).expect("JSON"),
            name,
        )
    };
    eventually("all of them are in", SOON, || {
        (count("entered") > CLIENTS).then_some(())
    });
    let held = count("connections");
    assert!(held > CLIENTS, "{held}");

    network.cut_off(clients);
    let cut = Instant::now();
    eventually("all of them are released", NOTICED, || {
        (count("connections") <= held - CLIENTS).then_some(())
    });
    println!(
        "{CLIENTS} connections were released {:.1?} after their host vanished",
        cut.elapsed()
    );
    server.good_call();
}
