//! Section 8: detection times, compared with the bounds of docs/reliability.md.

use crate::{
    patience,
    simulated::Mode,
    table::{Row, short},
    world::{LEADS, SOON, TTL, World, wait_for},
};
use std::{
    thread,
    time::{Duration, Instant},
};

/// How often a simulated server is killed.
const RUNS: usize = 3;
/// The bounds.
const KILLED: Duration = Duration::from_secs(1);
const MUTE: Duration = Duration::from_secs(15);
const LEAVES: Duration = Duration::from_millis(100);
const BOTH_KILLED: Duration = Duration::from_secs(2);

/// How long the next candidates have, after a change of leader, to open links to those before them:
/// without a link they cannot prove that a process is gone.
const SETTLE: Duration = Duration::from_secs(2);

/// Fails servers and leaders in turn.
pub(crate) fn measure(world: &mut World) -> Row {
    let worst = |mode: Mode, runs: usize| (0..runs).map(|_| until_out(world, mode)).max().flatten();
    let (killed, mute) = (worst(Mode::Killed, RUNS), worst(Mode::Mute, 1));
    let leaves = until_led(world, &[0], palm_tests::Process::terminate);
    let both = until_led(world, &[0, 1], palm_tests::Process::kill);
    let frozen = until_led(world, &[0], palm_tests::Process::freeze);
    Row::new("8. Bounds", world.plan.n)
        .cell("server killed s", against(killed, KILLED))
        .cell("server mute s", against(mute, MUTE))
        .cell("leader leaves s", against(leaves, LEAVES))
        .cell("leader and next killed s", against(both, BOTH_KILLED))
        .cell(
            "leader frozen s",
            against(frozen, TTL + Duration::from_secs(2)),
        )
}

fn against(took: Option<Duration>, bound: Duration) -> String {
    let took = took.map_or("not".to_owned(), |took| short(took.as_secs_f64()));
    format!("{took} (bound {})", short(bound.as_secs_f64()))
}

/// Returns how long clients see a simulated server that has failed. It is revived afterwards.
fn until_out(world: &World, mode: Mode) -> Option<Duration> {
    let (server, all) = ([*world.simulated.last()?], world.seen());
    let began = Instant::now();
    world.swarm.set(&server, mode);
    let out = wait_for(SOON, || (world.seen() < all).then(|| began.elapsed()));
    world.swarm.set(&server, Mode::Alive);
    wait_for(patience(world.plan.n), || {
        (world.seen() == all).then_some(())
    })?;
    out
}

/// Returns how long it takes until another server leads when the candidates at these positions, the
/// leader first, end in this way.
fn until_led(
    world: &mut World,
    places: &[usize],
    end: impl Fn(&palm_tests::Process),
) -> Option<Duration> {
    thread::sleep(SETTLE);
    let began = Instant::now();
    for place in places {
        end(&world.real[world.leader + place].0);
    }
    let ended = world.leader..world.leader + places.len();
    let led = wait_for(SOON, || {
        let processes = world
            .real
            .iter()
            .enumerate()
            .filter(|(place, _)| !ended.contains(place));
        let mut leading = processes
            .filter(|(_, (process, _))| process.lines().iter().any(|line| line.contains(LEADS)));
        leading.next().map(|(place, _)| place)
    })?;
    let (_, when) = world.real[led]
        .0
        .wait_for_line(|line| line.contains(LEADS), SOON);
    // Frozen processes are killed.
    world.real.drain(ended.clone());
    world.leader = led - ended.len();
    let servers = world.servers();
    wait_for(patience(world.plan.n), || {
        (world.seen() == servers).then_some(())
    })?;
    Some(when - began)
}
