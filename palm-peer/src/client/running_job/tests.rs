use super::*;
use crate::{
    Client, Config,
    client::discovery::KeepsDirectory as _,
    client::test_server::{SOON, TestServer},
};
use futures::{executor::block_on, stream};
use palm_proto::{directory::Update, types::instance::Instance};
use palm_tests::{Etcd, eventually};
use std::{thread, time::Duration};

const MESSAGES: u64 = 100_000;

/// Those of a job that lasts, with so many messages under way.
fn limits(messages: usize) -> Limits {
    Limits {
        messages,
        bytes: usize::MAX,
        attempts: 2,
        deadline: Duration::from_secs(600),
        attempt_timeout: Duration::from_secs(200),
        ordered: true,
    }
}

/// Each message found no server, which sent the next one: a recursive call for each message.
#[test]
fn a_hundred_thousand_messages_find_a_stage_without_instances() {
    let etcd = Etcd::start();
    let uuid = Uuid::from_u128(7);
    let key = format!("/pipelines/a/{uuid}");
    let published = format!(
        r#"{{"server":"a","uuid":"{uuid}","endpoint":"tcp://127.0.0.1:9","functions":["f"]}}"#
    );
    etcd.etcdctl(&["put", &key, &published]);
    let config = Config::default().etcd(vec![etcd.endpoint()]);
    let mesh = block_on(Client::connect(config)).expect("connects").mesh;
    let mut running = RunningJob::start(
        Arc::clone(&mesh),
        vec!["a.f".into()],
        limits(usize::MAX),
        Meta::new(),
        stream::pending::<Bytes>(),
    )
    .expect("it is there");
    for idx in 0..MESSAGES {
        let now = Instant::now();
        running.job.handle(Event::Pulled(Bytes::new()), now);
        assert!(running.job.next_action().is_some(), "it is to be sent");
        running.job.handle(
            Event::Sent {
                idx,
                route: [uuid].into(),
            },
            now,
        );
    }
    etcd.etcdctl(&["del", &key]);
    eventually("nobody is published", Duration::from_secs(20), || {
        mesh.resolve("a.f").is_err().then_some(())
    });
    running.directory_changed();
    // As deep as the stack of a small thread at most.
    let start = Instant::now();
    let work = thread::Builder::new().stack_size(256 * 1024);
    let work = work.spawn(move || {
        running.event(Event::Gone {
            instance: uuid,
            stages: vec![0],
        });
        running.job.counts()
    });
    let counts = work.expect("a thread").join().expect("no panic");
    assert_eq!(
        (counts.retried, counts.failed),
        (MESSAGES, 0),
        "they wait for one to be published"
    );
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "it took {:?}",
        start.elapsed()
    );
}

/// How many instances there are at a time, of a name.
const WAVE: u128 = 20;

fn instance(id: u128) -> Instance {
    let functions = vec!["f".to_owned()];
    // Nothing listens there.
    Instance {
        server: "a".into(),
        uuid: Uuid::from_u128(id),
        endpoint: "tcp://127.0.0.1:9".into(),
        functions,
        zone: None,
    }
}

/// A mesh with a job that lasts.
fn long_job(etcd: &Etcd) -> (Arc<Mesh>, RunningJob<stream::Pending<Bytes>>) {
    let config = Config::default().etcd(vec![etcd.endpoint()]);
    let mesh = block_on(Client::connect(config)).expect("connects").mesh;
    mesh.update(vec![Update::Put(instance(1))]);
    let running = RunningJob::start(
        Arc::clone(&mesh),
        vec!["a.f".into()],
        limits(10),
        Meta::new(),
        stream::pending(),
    )
    .expect("it is there");
    mesh.update(vec![Update::Removed("a".into(), Uuid::from_u128(1))]);
    (mesh, running)
}

/// Has the job take in what has happened, and look at what it holds.
fn step(running: &mut RunningJob<stream::Pending<Bytes>>) -> usize {
    assert!(
        running
            .poll_next_unpin(&mut Context::from_waker(futures::task::noop_waker_ref()))
            .is_pending()
    );
    running.stages.len() + running.links.size()
}

/// Instances that cannot be reached come and go while a job runs.
#[test]
fn thousands_of_unreached_instances_leave_no_state() {
    let etcd = Etcd::start();
    let (mesh, mut running) = long_job(&etcd);
    let mut max = 0;
    for wave in 1..100 {
        let ids = || (wave * WAVE..(wave + 1) * WAVE).map(|id| 1_000 + id);
        mesh.update(ids().map(|id| Update::Put(instance(id))).collect());
        max = max.max(step(&mut running));
        mesh.update(
            ids()
                .map(|id| Update::Removed("a".into(), Uuid::from_u128(id)))
                .collect(),
        );
        // A message may be for one that is gone by now.
        let late = block_on(mesh.link_to(
            &instance(1_000 + wave * WAVE),
            Instant::now() + Duration::from_secs(5),
        ));
        assert!(late.is_err());
    }
    assert!(max > 0);
    eventually("the job forgets them", Duration::from_secs(60), || {
        (step(&mut running) == 0).then_some(())
    });
    assert_eq!(mesh.size(), 1, "the job listens");
    drop(running);
    drop(mesh.changes());
    drop(mesh.changes());
    assert_eq!(mesh.size(), 1);
}

/// A job whose stream is not polled receives a million changes at once.
#[test]
fn changes_do_not_pile_up_for_a_slow_listener() {
    let etcd = Etcd::start();
    let (mesh, mut running) = long_job(&etcd);
    for _ in 0..200_000 {
        mesh.update(vec![
            Update::Put(instance(1)),
            Update::Removed("a".into(), Uuid::from_u128(1)),
        ]);
    }
    let mut count = 0;
    while running.changes.try_recv().is_ok() {
        count += 1;
    }
    assert!(count <= 2, "{count} are stored up");
    mesh.update(vec![Update::Put(instance(2))]);
    assert!(
        running.changes.try_recv().is_ok(),
        "it still hears of the next"
    );
}

/// A server that is withdrawn and published again, a thousand times: each time it is asked whether
/// it still answers.
#[test]
fn a_liveness_check_leaves_no_state_once_answered() {
    let mut server = TestServer::start();
    let mesh = &server.client.mesh;
    let mut running = RunningJob::start(
        Arc::clone(mesh),
        vec!["b.f".into()],
        limits(10),
        Meta::new(),
        stream::pending(),
    )
    .expect("there");
    let uuid = server.instance.uuid;
    eventually("it has a link", SOON, || {
        step(&mut running);
        running.links.open(uuid).map(drop)
    });
    let before = step(&mut running);
    for _ in 0..1_000 {
        mesh.update(vec![Update::Removed("b".into(), uuid)]);
        step(&mut running);
        mesh.update(vec![Update::Put(Instance::clone(&server.instance))]);
        step(&mut running);
    }
    eventually("nothing more is asked", SOON, || {
        (step(&mut running) == before).then_some(())
    });
    let kept = running.links.open(uuid).expect("it answered");
    // A second link would get the answers to the messages of jobs, and its end would be no
    // news to this one.
    let link = block_on(mesh.link_to(&server.instance, Instant::now() + SOON)).expect("a link");
    assert!(Arc::ptr_eq(kept, &link));
    server.stop();
}
