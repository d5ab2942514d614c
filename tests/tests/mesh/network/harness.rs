//! The network of namespaces does what it says: else the other tests mean nothing.

use palm_tests::{Host, Network, Process};
use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    thread,
    time::Duration,
};

const SOON: Duration = Duration::from_secs(20);

/// Says each 100 ms over one connection whether it was answered.
const CALLER: &str = r#"
exec 3<>"/dev/tcp/$1/$2" || { echo no connection; exit 1; }
while sleep 0.1; do
    echo hello >&3 || break
    if read -r -t 1 -u 3 answer; then echo "heard $answer"; else echo silence; fi
done
exit 1
"#;

/// Answers each line with itself, for as long as the test runs.
fn echo(here: &Host) -> SocketAddr {
    let listener = TcpListener::bind((here.address(), 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                    if writeln!(&stream, "{line}").is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

fn call(host: &Host, name: &str, port: u16) -> Process {
    host.builder("bash")
        .args(["-c", CALLER, "caller", name, &port.to_string()])
        .start()
}

fn says(process: &Process, wanted: &str) {
    process.wait_for_line_after(process.mark(), |line| line == wanted, SOON);
}

#[test]
fn a_black_hole_drops_one_connection_and_no_new_one() {
    let Some(network) = Network::start(&["a", "b"]) else {
        return;
    };
    let (a, b) = (network.host("a"), network.host("b"));
    let address = echo(network.here());
    let [old, other] = [a, b].map(|host| call(host, &address.ip().to_string(), address.port()));
    says(&old, "heard hello");
    network.black_hole(a.flow_to(&format!("tcp://{address}")));
    says(&old, "silence");
    says(&old, "silence");
    let new = call(a, &address.ip().to_string(), address.port());
    says(&new, "heard hello");
    says(&other, "heard hello");
    network.heal();
    says(&old, "heard hello");
}

#[test]
fn hosts_are_isolated_and_rejected_one_by_one() {
    let Some(network) = Network::start(&["a", "b"]) else {
        return;
    };
    let (a, b) = (network.host("a"), network.host("b"));
    let address = echo(network.here());
    a.know(&[("echo.test", network.here().address())]);
    let callers = [
        call(a, "echo.test", address.port()),
        call(b, &address.ip().to_string(), address.port()),
    ];
    for caller in &callers {
        says(caller, "heard hello");
    }
    network.cut_off(a);
    says(&callers[0], "silence");
    says(&callers[0], "silence");
    says(&callers[1], "heard hello");
    network.heal();
    says(&callers[0], "heard hello");
    network.cut(b, network.here());
    says(&callers[1], "silence");
    network.heal();
    says(&callers[1], "heard hello");
    network.reject(b, network.here());
    assert!(!callers[1].wait(SOON).success(), "its connection was reset");
    assert!(
        !call(b, &address.ip().to_string(), address.port())
            .wait(SOON)
            .success(),
        "refused"
    );
    says(&callers[0], "heard hello");
}
