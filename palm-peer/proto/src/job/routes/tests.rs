use super::*;
use std::{collections::BTreeSet, time::Duration};

fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn able(numbers: impl IntoIterator<Item = u128>) -> Able {
    let instance = |number| {
        Arc::new(Instance {
            server: "s".into(),
            uuid: uuid(number),
            endpoint: "tcp://127.0.0.1:9".into(),
            functions: vec!["f".into()],
            zone: None,
        })
    };
    numbers.into_iter().map(instance).collect()
}

/// All routes that a hundred messages take, with the same load everywhere.
fn taken(routes: &mut Routes, avoid: Option<u128>, now: Instant) -> BTreeSet<Vec<u128>> {
    let choose = |_| {
        let path = routes.choose(avoid.map(uuid), |_| 0, now);
        let path = path.expect("each stage has instances");
        assert!(
            path.instances
                .iter()
                .map(|i| i.uuid)
                .eq(path.route.iter().copied())
        );
        path.route.iter().map(Uuid::as_u128).collect()
    };
    (0..100).map(choose).collect()
}

fn routes(stages: &[&[u128]]) -> Routes {
    let mut routes = Routes::new(0);
    routes.set_able(stages.iter().map(|stage| able(stage.iter().copied())));
    routes.set_open(|_| true);
    routes
}

#[test]
fn messages_use_all_instances_of_each_stage() {
    let all = taken(&mut routes(&[&[1, 2], &[3, 4]]), None, Instant::now());
    assert_eq!(all, [[1, 3], [1, 4], [2, 3], [2, 4]].map(Vec::from).into());
}

#[test]
fn the_less_loaded_of_two_is_chosen() {
    let mut routes = routes(&[&[1, 2], &[3]]);
    for busy in [1, 2] {
        let load = |instance: Uuid| usize::from(instance == uuid(busy));
        for _ in 0..20 {
            let path = routes.choose(None, load, Instant::now()).expect("a path");
            assert_eq!(*path.route, [uuid(3 - busy), uuid(3)]);
        }
    }
}

#[test]
fn instances_without_a_link_are_avoided_and_reported() {
    let now = Instant::now();
    let mut routes = routes(&[&[1, 2], &[3, 4], &[5]]);
    routes.set_open(|instance| [2, 3].map(uuid).contains(&instance));
    assert_eq!(taken(&mut routes, None, now), [vec![2, 3, 5]].into());
    assert_eq!(
        routes.unreachable(),
        [4, 5].map(uuid),
        "the client sends to 1 itself"
    );
    routes.set_open(|_| true);
    assert_eq!(taken(&mut routes, None, now).len(), 4);
    assert!(routes.unreachable().is_empty());
}

#[test]
fn the_instance_of_a_failure_is_avoided_if_there_is_another() {
    let now = Instant::now();
    let mut routes = routes(&[&[1, 2], &[3]]);
    assert_eq!(taken(&mut routes, Some(1), now), [vec![2, 3]].into());
    assert_eq!(
        taken(&mut routes, Some(3), now).len(),
        2,
        "there is only this one"
    );
}

#[test]
fn a_failing_path_is_avoided_until_it_is_tried_again() {
    let now = Instant::now();
    let mut routes = routes(&[&[1, 2], &[3, 4]]);
    routes.rerouted(uuid(1), uuid(3), now);
    let expected = [[1, 4], [2, 3], [2, 4]].map(Vec::from);
    assert_eq!(taken(&mut routes, None, now), expected.into());
    assert_eq!(
        taken(&mut routes, None, now + Duration::from_secs(1)).len(),
        4
    );
}

#[test]
fn the_preferred_zone_is_left_only_when_it_has_no_open_instance() {
    let now = Instant::now();
    let in_zones = |zones: &[(u128, &str)]| -> Able {
        let instances = zones.iter().map(|(number, zone)| {
            let instance = able([*number])[0].as_ref().clone();
            let zone = Some((*zone).to_owned());
            Arc::new(Instance { zone, ..instance })
        });
        instances.collect()
    };
    let mut routes = Routes::new(0).preferring(Some("z".into()));
    routes.set_able([
        in_zones(&[(1, "z"), (2, "z"), (3, "y")]),
        in_zones(&[(4, "z"), (5, "y")]),
        in_zones(&[(6, "y"), (7, "x")]),
    ]);
    routes.set_open(|_| true);
    let of = |routes: &mut Routes, avoid| taken(routes, avoid, now);
    let expected = [[1, 4, 6], [1, 4, 7], [2, 4, 6], [2, 4, 7]].map(Vec::from);
    assert_eq!(of(&mut routes, None), expected.into());
    // What failed is avoided, first within the zone, and then elsewhere.
    assert!(of(&mut routes, Some(1)).iter().all(|path| path[0] == 2));
    assert!(of(&mut routes, Some(4)).iter().all(|path| path[1] == 5));
    routes.set_open(|instance| ![1, 2].map(uuid).contains(&instance));
    assert!(of(&mut routes, None).iter().all(|path| path[0] == 3));
    // A path that fails is left, too.
    routes.set_open(|_| true);
    for from in [1, 2] {
        routes.rerouted(uuid(from), uuid(4), now);
    }
    assert!(of(&mut routes, None).iter().all(|path| path[1] == 5));
}

#[test]
fn a_stage_without_instances_is_named() {
    let mut routes = routes(&[&[1], &[]]);
    let failed = routes.choose(None, |_| 0, Instant::now());
    assert_eq!(failed.expect_err("nobody is there"), 1);
}

/// Messages along the same instances share one route, and those kept are bounded.
#[test]
fn paths_are_shared_and_bounded() {
    let now = Instant::now();
    let mut routes = routes(&[&[1]]);
    let [one, two] = [(); 2].map(|()| routes.choose(None, |_| 0, now).expect("a path"));
    assert!(Arc::ptr_eq(&one, &two));

    routes.set_able([able(0..32), able(100..132), able(200..232)]);
    for _ in 0..100_000 {
        routes.choose(None, |_| 0, now).expect("a path");
        assert!(routes.paths.len() <= MAX_PATHS);
    }
    routes.set_open(|_| true);
    assert!(
        routes.paths.is_empty(),
        "positions mean other instances now"
    );
}
