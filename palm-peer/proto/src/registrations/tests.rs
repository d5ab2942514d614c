use super::*;
use crate::types::compact::{Compact, Route};
use fastrand::Rng;

fn json(number: u32, length: usize) -> Vec<u8> {
    let mut request = Request::call(format!("a.f{number}"));
    request.cache = Some("x".repeat(length));
    request.encode()
}

fn header(template: u16) -> RequestHeader<'static> {
    RequestHeader {
        template,
        stage: 0,
        idx: 1,
        timeout_ms: None,
        route: Route::default(),
        meta: None,
    }
}

#[test]
fn a_number_stands_for_what_was_registered_last() {
    let mut registered = Registered::default();
    registered.register(3, 7, &json(1, 0));
    registered.register(3, 8, &json(2, 0));
    let (request, template) = registered.request(&header(3)).expect("a request");
    assert_eq!(
        (request.pipeline, template.job),
        (Arc::from(["a.f2".to_owned()]), 8)
    );
    registered.register(3, 8, b"{");
    let bad = registered.request(&header(3)).expect_err("none is left");
    assert!(bad.message.contains("registered as 3"), "{bad:?}");
    assert_eq!((bad.idx, bad.stage), (Some(1), Some(0)));
    registered.register_instance(4, Uuid::from_u128(1));
    registered.register_instance(4, Uuid::from_u128(2));
    assert_eq!(registered.instance(4), Some(Uuid::from_u128(2)));
    assert_eq!(
        (registered.instance(3), registered.instance(5)),
        (None, None)
    );
}

#[test]
fn what_is_registered_is_bounded_whatever_is_sent() {
    let mut registered = Registered::default();
    for number in 0..u16::MAX {
        registered.register(number, 0, &json(number.into(), 100));
        registered.register_instance(number, Uuid::nil());
    }
    let held = registered
        .templates
        .iter()
        .flatten()
        .map(|(_, bytes)| bytes);
    assert_eq!(held.sum::<usize>(), registered.bytes);
    assert!(registered.bytes <= MAX_TEMPLATE_BYTES && registered.bytes > MAX_TEMPLATE_BYTES / 2);
    assert!(registered.templates.len() <= MAX_REGISTERED.into());
    assert_eq!(registered.instances.len(), usize::from(MAX_REGISTERED));
    (0..u16::MAX).for_each(|number| registered.unregister(number));
    assert_eq!(registered.bytes, 0);
    registered.register(0, 0, &json(0, MAX_TEMPLATE_BYTES));
    assert!(registered.template(0).is_none(), "longer than all together");
}

/// Sends what `naming` asks for.
fn send(naming: &Naming, json: &[u8], out: &mut Vec<Vec<u8>>) -> Option<u16> {
    let mut say = |header: Compact<'_>| {
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        out.push(bytes);
    };
    match naming {
        Naming::Known(number) => Some(*number),
        Naming::TooLong => None,
        Naming::New { number, unregister } => {
            for number in unregister {
                say(Compact::Unregister { number: *number });
            }
            say(Compact::Register {
                number: *number,
                job: 0,
                json,
            });
            Some(*number)
        }
    }
}

fn receive(registered: &mut Registered, headers: &[Vec<u8>]) {
    for header in headers {
        match Compact::decode(header).expect("a proper header") {
            Compact::Register { number, job, json } => registered.register(number, job, json),
            Compact::Unregister { number } => registered.unregister(number),
            other => panic!("{other:?} was not sent"),
        }
    }
}

/// Whatever is used, in whatever order, both sides agree on what a number stands for, and nothing
/// exceeds the bounds.
#[test]
fn both_sides_agree_in_a_thousand_histories() {
    for seed in 0..1_000 {
        let mut rng = Rng::with_seed(seed);
        let (mut registry, mut registered) = (Registry::of_templates(), Registered::default());
        let keys = 1 << rng.u32(1..10);
        let length = 1 << rng.u32(0..15);
        for _ in 0..rng.usize(..300) {
            let key = rng.u32(..keys);
            // The same key always has the same length.
            let json = json(key, usize::try_from(key).expect("small") * 7919 % length);
            let mut sent = Vec::new();
            if rng.u8(..8) == 0 {
                if let Some(number) = registry.remove(&key) {
                    registered.unregister(number);
                    assert!(registered.template(number).is_none(), "seed {seed}");
                }
                continue;
            }
            let naming = registry.name(&key, json.len());
            let number = send(&naming, &json, &mut sent).expect("short enough");
            receive(&mut registered, &sent);
            let (request, _) = registered.request(&header(number)).expect("a request");
            assert_eq!(*request.pipeline, [format!("a.f{key}")], "seed {seed}");
            assert_eq!(registry.bytes, registered.bytes, "seed {seed}");
            assert_eq!(registry.numbers.len(), registry.entries.len());
        }
    }
}

#[test]
fn a_million_instances_leave_no_state() {
    let mut registry = Registry::of_instances();
    for instance in 0..1_000_000 {
        let naming = registry.name(&instance, 0);
        let Naming::New { number, unregister } = naming else {
            panic!("{naming:?}");
        };
        assert!(number < MAX_REGISTERED && unregister.is_empty());
        assert_eq!(registry.name(&instance, 0), Naming::Known(number));
    }
    assert_eq!(registry.numbers.len(), usize::from(MAX_REGISTERED));
    assert_eq!(
        (registry.entries.len(), registry.free.len()),
        (registry.numbers.len(), 0)
    );
    assert_eq!(
        Registry::of_templates().name(&1, MAX_TEMPLATE_BYTES + 1),
        Naming::TooLong
    );
}
