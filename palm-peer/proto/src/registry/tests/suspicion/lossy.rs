//! A server on a host that loses 30 % of all packets, both ways.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// An exchange of two packets succeeds with 0.7 × 0.7.
const EXCHANGE: f64 = 0.49;

/// How long exchanges take over a path with loss: each lost packet is sent again after TCP's
/// timeout, which doubles. A new connection begins with a timeout of 1 s; a second one is opened
/// beside it after 250 ms.
fn delay(random: &mut fastrand::Rng, exchanges: u32, fresh: bool) -> Duration {
    let mut exchange = |mut timeout: Duration| {
        let mut took = Duration::ZERO;
        while random.f64() > EXCHANGE {
            took += timeout;
            timeout *= 2;
        }
        took
    };
    let opening = if fresh {
        exchange(SECOND).min(SECOND / 4 + exchange(SECOND))
    } else {
        Duration::ZERO
    };
    opening
        + (0..exchanges)
            .map(|_| exchange(SECOND / 5))
            .sum::<Duration>()
}

/// When a witness has found out whether it reaches the server, within this time: it opens up to
/// four connections, 250 ms apart.
fn testimony(random: &mut fastrand::Rng, time: Duration) -> (Duration, Testimony) {
    let limit = time.mul_f64(0.75 * 0.9);
    let attempts = (0..4).map(|n| SECOND / 4 * n + delay(random, 4, true));
    match attempts.min().filter(|took| *took < limit) {
        Some(took) => (took, Testimony::Reached),
        None => (limit, Testimony::NotReached),
    }
}

/// Runs the leader of five servers with the settings of `make chaos` for a minute. Returns whether
/// the server is removed.
fn is_removed(seed: u64) -> bool {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut desk = mesh(5);
    desk.registry.period = SECOND * 2;
    desk.registry.timeout = SECOND;
    let end = desk.now + SECOND * 60;
    let mut coming: Vec<(Instant, Event)> = Vec::new();
    let mut todo = Vec::new();
    while desk.now < end {
        for action in std::mem::take(&mut todo) {
            match action {
                Action::Probe {
                    uuid: about,
                    token,
                    fresh,
                    ..
                } => {
                    let is_lossy = about == uuid(1);
                    let exchanges = if fresh { 5 } else { 1 };
                    let took = if is_lossy {
                        delay(&mut random, exchanges, fresh)
                    } else {
                        Duration::ZERO
                    };
                    let digest = String::new();
                    let event = Event::ProbeOk {
                        uuid: about,
                        token,
                        digest,
                    };
                    coming.push((desk.now + took, event));
                }
                Action::Ask {
                    uuid,
                    token,
                    witnesses,
                    time,
                } => {
                    for (witness, _) in witnesses {
                        let (took, testimony) = testimony(&mut random, time);
                        let event = Event::Testified {
                            uuid,
                            token,
                            witness,
                            testimony,
                        };
                        coming.push((desk.now + took, event));
                    }
                }
                Action::Remove(Removal { uuid: removed, .. }) => {
                    assert_eq!(removed, uuid(1));
                    return true;
                }
                _ => {}
            }
        }
        let next = coming.iter().map(|(at, _)| *at).min();
        desk.now = desk
            .now
            .max(next.unwrap_or(end).min(desk.registry.deadline()));
        let now = desk.now;
        let due: Vec<_> = coming.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, event) in due {
            todo.extend(desk.event(event));
        }
        todo.extend(desk.registry.tick(desk.now));
    }
    false
}

/// Removed in one minute of a hundred at most.
#[test]
fn a_lossy_host_is_hardly_ever_removed() {
    const MINUTES: u64 = 1_000;
    let removed = (0..MINUTES).filter(|seed| is_removed(*seed)).count();
    println!("removed in {removed} of {MINUTES} minutes");
    assert!(removed <= 10, "removed in {removed} of {MINUTES} minutes");
}
