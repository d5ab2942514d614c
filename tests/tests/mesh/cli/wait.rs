//! `palm-cli wait`.

use super::world::{SOON, World};
use palm_tests::{Process, binary};

#[test]
fn a_wait_ends_once_all_instances_can_be_called() {
    let world = World::new();
    let _first = world.server();
    let wait = Process::builder(binary("palm-cli"))
        .args(["--etcd", &world.etcd.endpoint()])
        .args(["wait", "printf=2", "text", "--timeout", "20s"])
        .start();
    let _second = world.server();
    assert!(wait.is_running(), "{:?}", wait.lines());
    let _text = world.server_of("text", "");
    assert_eq!(wait.wait(SOON).code(), Some(0));
    assert_eq!(wait.lines(), ["printf=2", "text=1"]);
    assert_eq!(world.cli(&["call", "text.shout", "x"]).done(), "X");
}

#[test]
fn a_wait_that_is_too_long_says_what_is_missing() {
    let world = World::new();
    let _server = world.server_of("text", "");
    let words = world
        .cli(&["wait", "text=2", "txet", "--timeout", "50ms"])
        .failed(1);
    assert!(
        words.contains(
            "after 50ms, text has 1 of 2 instances, txet (did you mean text?) has 0 of 1 instance"
        ),
        "{words}"
    );
    for args in [&["wait"][..], &["wait", "text=0"], &["wait", "text=two"]] {
        world.cli(args).failed(2);
    }
}
