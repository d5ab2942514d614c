use super::*;
use crate::{Client, Config};
use futures::{executor::block_on, stream};
use palm_tests::{Etcd, eventually};
use std::{thread, time::Duration};

const MESSAGES: u64 = 100_000;

/// Each of them found nobody, which let the next one go: one call within the other, for each message.
#[test]
fn a_hundred_thousand_messages_find_a_stage_without_instances() {
    let etcd = Etcd::start();
    let uuid = Uuid::from_u128(7);
    let key = format!("/pipelines/a/{uuid}");
    let published = format!(r#"{{"server":"a","uuid":"{uuid}","endpoint":"tcp://127.0.0.1:9","functions":["f"]}}"#);
    etcd.etcdctl(&["put", &key, &published]);
    let options = Config { etcd: vec![etcd.endpoint()], ..Config::default() };
    let mesh = block_on(Client::connect(options)).expect("connects").mesh;
    let limits = Limits {
        messages: usize::MAX,
        bytes: usize::MAX,
        attempts: 2,
        deadline: Duration::from_secs(600),
        patience: Duration::from_secs(200),
        ordered: true,
    };
    let mut running =
        Running::start(Arc::clone(&mesh), vec!["a.f".into()], limits, stream::pending::<Bytes>()).expect("it is there");
    for idx in 0..MESSAGES {
        let now = Instant::now();
        running.job.handle(Event::Pulled(Bytes::new()), now);
        running.job.handle(Event::Sent { idx, route: vec![uuid] }, now);
    }
    etcd.etcdctl(&["del", &key]);
    eventually("nobody is published", Duration::from_secs(20), || mesh.resolve("a.f").is_err().then_some(()));
    running.directory_changed();
    // As deep as the stack of a small thread at most.
    let start = Instant::now();
    let work = thread::Builder::new().stack_size(256 * 1024);
    let work = work.spawn(move || {
        running.event(Event::Gone { instance: uuid, stages: vec![0] });
        running.job.counts()
    });
    let counts = work.expect("a thread").join().expect("no panic");
    assert_eq!((counts.retried, counts.failed), (MESSAGES, 0), "they wait for one to be published");
    assert!(start.elapsed() < Duration::from_secs(60), "it took {:?}", start.elapsed());
}
