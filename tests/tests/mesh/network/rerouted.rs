//! Jobs while a host of theirs is cut off or rejected: also one that a stage chose for a message,
//! so that the client's route names another.

use super::stages::{HOSTS, Stages, goes_on};
use crate::common::running_job;
use palm_peer::Progress;
use palm_tests::{Etcd, Host, Network};
use std::{thread, time::Duration};

/// As in `make chaos`: a server that no other reaches is removed soon, by which the stage before
/// may have lost sight of it.
const FLAGS: [&str; 6] = ["--ttl", "5", "--probe-period", "1", "--probe-timeout", "1"];

/// What is done to the packets from one host to another; to or from everybody, for `None`.
type Trouble = fn(&Network, Option<&Host>, Option<&Host>);

fn cut(network: &Network, one: Option<&Host>, other: Option<&Host>) {
    network.drop_packets(one, other);
    network.drop_packets(other, one);
}

/// All ways in which a path between two can fail.
const TROUBLES: [(&str, Trouble); 5] = [
    ("cut", cut),
    ("cut from it", |network, one, other| {
        network.drop_packets(one, other);
    }),
    ("cut to it", |network, one, other| {
        network.drop_packets(other, one);
    }),
    ("rejected from it", |network, one, other| {
        network.reject_packets(one, other);
    }),
    ("rejected to it", |network, one, other| {
        network.reject_packets(other, one);
    }),
];

/// Has the first stage send to one host what the client meant for the other; then `trouble`
/// comes over the one.
fn after_it_was_chosen(network: &Network, progress: &Progress, what: &str, trouble: impl FnOnce()) {
    network.cut(network.host("first"), network.host("two"));
    goes_on(
        "the path to the other is cut",
        progress,
        2000,
        Duration::from_secs(6),
    );
    network.heal();
    trouble();
    goes_on(what, progress, 1000, Duration::from_secs(6));
    network.heal();
    goes_on("healed", progress, 1000, Duration::ZERO);
}

/// Its answers do not come to the client, which has not chosen it, while the stage
/// before reaches it.
#[test]
fn a_stages_choice_the_client_cannot_reach_is_replaced_early() {
    let Some(network) = Network::start(&HOSTS) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let stages = Stages::start(&network, &etcd);
    stages.while_a_job_runs(|progress| {
        for (name, trouble) in TROUBLES {
            let what = format!("between the host and the client, {name}");
            after_it_was_chosen(&network, progress, &what, || {
                trouble(&network, Some(network.host("one")), Some(network.here()));
            });
        }
    });
}

/// All lose sight of it, so that it is removed before the stage would have sent again.
#[test]
fn a_stages_choice_that_is_unreachable_is_replaced_early() {
    let Some(network) = Network::start(&HOSTS) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let stages = Stages::start_with(&network, &etcd, &FLAGS);
    stages.while_a_job_runs(|progress| {
        for (name, trouble) in TROUBLES.into_iter().rev() {
            let what = format!("the host, {name}");
            after_it_was_chosen(&network, progress, &what, || {
                trouble(&network, Some(network.host("one")), None);
            });
            stages.mesh.await_published(
                &stages
                    .servers
                    .iter()
                    .map(|server| &*server.uuid)
                    .collect::<Vec<_>>(),
            );
        }
    });
}

/// Three stages on two hosts each; the host of a middle stage, and of the first one,
/// fails in all ways.
#[test]
fn a_job_continues_when_the_host_of_any_stage_fails() {
    let hosts = ["leader", "b1", "b2", "c1", "c2", "a1", "a2"];
    let Some(network) = Network::start(&hosts) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let on: Vec<_> = hosts[1..].iter().map(|host| (*host, &host[..1])).collect();
    let stages = Stages::start_on(&network, &etcd, &FLAGS, &on);
    running_job::while_a_job_runs_through(&stages.client, &["b", "c", "a"], |progress| {
        for (name, trouble) in TROUBLES {
            for host in ["c1", "b2"] {
                trouble(&network, Some(network.host(host)), None);
                goes_on(
                    &format!("{host} {name}"),
                    progress,
                    500,
                    Duration::from_secs(4),
                );
                network.heal();
                goes_on("healed", progress, 500, Duration::ZERO);
            }
        }
    });
}

/// The client's own host loses everybody for a while.
#[test]
fn a_job_continues_when_the_clients_own_host_returns() {
    let Some(network) = Network::start(&HOSTS) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let stages = Stages::start(&network, &etcd);
    stages.while_a_job_runs(|progress| {
        for (name, trouble) in TROUBLES {
            trouble(&network, Some(network.here()), None);
            // Longer than it takes to find out that connections are dead.
            thread::sleep(Duration::from_secs(4));
            network.heal();
            goes_on(
                &format!("the client's host was {name}"),
                progress,
                500,
                Duration::ZERO,
            );
        }
    });
}
