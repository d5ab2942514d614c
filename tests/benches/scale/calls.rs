//! Section 6: what a call costs the client, by the number of instances.

use crate::{
    table::{Row, short},
    world::{NAMES, SOON, World, role},
};

pub fn measure(world: &World) -> Row {
    let cost = |name: &str, in_flight: &str| {
        let process = role(&["load", &world.etcd.endpoint(), &format!("{name}.echo"), in_flight]);
        let (line, _) = process.wait_for_line(|line| line.starts_with("cost "), SOON);
        line["cost ".len()..].parse::<f64>().expect("a number")
    };
    let instances = NAMES.map(|name| {
        let all = world.client.reachable();
        all.iter().find(|server| server.server == name).map_or(0, |server| server.instances)
    });
    let costs = |in_flight: &str| NAMES.map(|name| short(cost(name, in_flight))).join(" / ");
    Row::new("6. Client CPU per call", world.plan.n)
        .cell("instances", instances.map(|count| count.to_string()).join(" / "))
        .cell("us, 1 in flight", costs("1"))
        .cell("us, 16 in flight", costs("16"))
}
