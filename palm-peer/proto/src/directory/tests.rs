use super::*;
use fastrand::Rng;
use std::collections::BTreeSet;

const ME: Uuid = Uuid::nil();

fn instance(server: &str, id: u128) -> Instance {
    Instance {
        server: server.into(),
        uuid: Uuid::from_u128(id),
        endpoint: String::new(),
        functions: vec!["f".into(), "get".into()],
        zone: None,
    }
}

fn directory(client: Uuid, instances: u128) -> Directory {
    let mut directory = Directory::new(client);
    (1..=instances).for_each(|id| directory.update(Update::Put(instance("a", id))));
    directory
}

fn uuids(able: &Able) -> BTreeSet<Uuid> {
    able.iter().map(|instance| instance.uuid).collect()
}

#[test]
fn unknown_names_are_answered_with_the_known_ones() {
    let directory = directory(ME, 2);
    assert_eq!(directory.resolve("a.f", ME).map(|able| able.len()), Ok(2));
    let one = Uuid::from_u128(2);
    let found = directory.resolve(&format!("{one}.get"), ME).expect("there");
    assert_eq!(found[..], [Arc::new(instance("a", 2))]);
    for (target, kind, text) in [
        ("a", CallErrorKind::BadMessage, "server.function"),
        ("a.g", CallErrorKind::NoSuchFunction, "only f, get"),
        (
            &format!("{one}.g"),
            CallErrorKind::NoSuchFunction,
            "only f, get",
        ),
        (
            "b.f",
            CallErrorKind::NoSuchServer,
            "the published ones are a",
        ),
    ] {
        let failure = directory.resolve(target, ME).expect_err(target);
        assert!(
            failure.kind == kind && failure.message.contains(text),
            "{failure:?}"
        );
    }
    // Built-in functions need not be listed: servers of a later version have more of them.
    assert_eq!(
        directory.resolve("a._later", ME).map(|able| able.len()),
        Ok(2)
    );
    assert_eq!(
        directory
            .resolve(&format!("{one}._later"), ME)
            .map(|able| able.len()),
        Ok(1)
    );
    let failure = Directory::new(ME).resolve("b.f", ME).expect_err("empty");
    assert!(failure.message.contains("no server is published"));
}

#[test]
fn large_meshes_are_split_into_stable_subsets() {
    let large = directory(ME, 1000);
    let subset = |client: u128| {
        uuids(
            &large
                .resolve("a.f", Uuid::from_u128(client))
                .expect("there"),
        )
    };
    assert_eq!(subset(1).len(), SUBSET);
    assert_eq!(subset(1), subset(1));
    assert_ne!(subset(1), subset(2));
    let covered: BTreeSet<_> = (0..400).flat_map(subset).collect();
    assert!(covered.len() > 990, "{}", covered.len());
}

#[test]
fn a_client_finds_its_zone_among_many_instances() {
    let mut large = Directory::new(ME).preferring(Some("z".into()));
    for id in 1..=1000 {
        let zone = (id == 500).then(|| "z".to_owned());
        let instance = instance("a", id);
        large.update(Update::Put(Instance { zone, ..instance }));
    }
    for target in ["a.f", "a._later"] {
        let able = large.resolve(target, ME).expect("there");
        assert_eq!(able[0].uuid, Uuid::from_u128(500), "{target}");
        assert_eq!(able.len(), SUBSET + 1, "{target}");
    }
    // A stage that the route names it for finds it as well.
    let far = Uuid::from_u128(500);
    assert!(large.meant("a.f", far).is_some());
    assert!(large.meant(&format!("{far}.f"), far).is_some());
    for other in ["b.f", "a.g", "a", &format!("{}.f", Uuid::from_u128(1))] {
        assert_eq!(large.meant(other, far), None, "{other}");
    }
}

#[test]
fn choosing_one_of_five_thousand_instances_copies_nothing() {
    let large = directory(ME, 5_000);
    let (one, other) = (large.resolve("a.f", ME), large.resolve("a.f", ME));
    assert!(Arc::ptr_eq(&one.expect("there"), &other.expect("there")));
}

/// Laws, in histories of instances that come, change and go: what is kept prepared is what
/// would be found from all of them anew, for the client itself and for others; nothing is left
/// of what is gone.
#[test]
fn directory_matches_a_rebuild_in_three_hundred_histories() {
    for seed in 0..300 {
        let mut random = Rng::with_seed(seed);
        let client = Uuid::from_u128(random.u128(..));
        let zone = (seed % 2 == 0).then(|| "near".to_owned());
        let mut directory = Directory::new(client).preferring(zone);
        let mut model: BTreeMap<(String, Uuid), Instance> = BTreeMap::new();
        for _ in 0..200 {
            let mut changed = instance(["a", "b"][random.usize(0..2)], random.u128(1..80));
            changed.zone = [None, Some("far"), Some("near")][random.usize(0..3)].map(str::to_owned);
            changed.functions = ["f", "g", "h"]
                .into_iter()
                .filter(|_| random.bool())
                .map(str::to_owned)
                .collect();
            let key = (changed.server.clone(), changed.uuid);
            if random.u8(0..3) > 0 {
                model.insert(key, changed.clone());
                directory.update(Update::Put(changed));
            } else {
                model.remove(&key);
                directory.update(Update::Removed(key.0, key.1));
            }
        }
        check(
            &directory,
            &model,
            client,
            Uuid::from_u128(random.u128(..)),
            seed,
        );
    }
}

fn check(
    directory: &Directory,
    model: &BTreeMap<(String, Uuid), Instance>,
    client: Uuid,
    other: Uuid,
    seed: u64,
) {
    for (server, function) in ["a", "b"]
        .into_iter()
        .flat_map(|server| ["f", "g", "h"].map(|f| (server, f)))
    {
        for client in [client, other] {
            let able = model
                .values()
                .filter(|i| i.server == server && i.functions.iter().any(|f| f == function));
            let mut able: Vec<&Instance> = able.collect();
            able.sort_by_key(|able| Reverse(rendezvous(client, able.uuid)));
            // The client itself has more of its zone.
            let is_near = |i: &&Instance| directory.zone().is_some_and(|zone| is_in(i, zone));
            let near = able.iter().copied().filter(is_near).take(SUBSET);
            let near: Vec<&Instance> = if client == other {
                Vec::new()
            } else {
                near.collect()
            };
            able.truncate(SUBSET);
            let expected = near.iter().chain(&able).map(|able| able.uuid).collect();
            let target = format!("{server}.{function}");
            let found = directory.resolve(&target, client).unwrap_or_default();
            assert_eq!(uuids(&found), expected, "{target}: seed {seed}");
            assert_eq!(found.len(), expected.len(), "no instance is there twice");
            let count = crate::routing::near(&found, directory.zone());
            assert!(found[count..].iter().all(|far| !is_near(&&**far)), "{seed}");
            for able in &*found {
                assert_eq!(directory.meant(&target, able.uuid).as_ref(), Some(able));
            }
        }
    }
    let counted: usize = directory.summary().map(|(_, _, count)| count).sum();
    assert_eq!(counted, model.len(), "seed {seed}");
    assert!(
        directory
            .servers
            .values()
            .all(|server| server.functions.values().all(|f| f.all.count > 0)),
        "seed {seed}"
    );
}

#[test]
fn nothing_is_left_of_a_hundred_thousand_instances() {
    let mut directory = Directory::new(ME);
    // Half of them have a name of their own.
    let name = |id: u128| {
        if id.is_multiple_of(2) {
            "a".to_owned()
        } else {
            format!("b{id}")
        }
    };
    let ids = || 0..100_000;
    ids().for_each(|id| directory.update(Update::Put(instance(&name(id), id))));
    assert_eq!(
        (directory.servers.len(), directory.by_uuid.len()),
        (50_001, 100_000)
    );
    // One of another name and the same uuid is another key of etcd's.
    ids()
        .step_by(1_000)
        .for_each(|id| directory.update(Update::Put(instance("c", id))));
    ids()
        .step_by(1_000)
        .for_each(|id| directory.update(Update::Removed("c".into(), Uuid::from_u128(id))));
    ids().for_each(|id| directory.update(Update::Removed(name(id), Uuid::from_u128(id))));
    assert_eq!((directory.servers.len(), directory.by_uuid.len()), (0, 0));
}
