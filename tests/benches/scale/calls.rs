//! Section 6: what a call costs the client, by the number of instances.

use crate::{
    table::{Row, short},
    world::{NAMES, SOON, World, role},
};

pub(crate) fn measure(world: &World) -> Row {
    let cost = |name: &str, in_flight: &str| {
        if world.instances(name) == 0 {
            return "-".to_owned();
        }
        let process = role(&[
            "load",
            &world.etcd.endpoint(),
            &format!("{name}.echo"),
            in_flight,
        ]);
        let (line, _) = process.wait_for_line(|line| line.starts_with("cost "), SOON);
        short(line["cost ".len()..].parse().expect("a number"))
    };
    let instances = NAMES.map(|name| world.instances(name).to_string());
    let costs = |in_flight: &str| NAMES.map(|name| cost(name, in_flight)).join(" / ");
    Row::new("6. Client CPU per call", world.plan.n)
        .cell("instances", instances.join(" / "))
        .cell("us, 1 in flight", costs("1"))
        .cell("us, 16 in flight", costs("16"))
}
