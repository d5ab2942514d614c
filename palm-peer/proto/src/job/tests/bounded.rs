//! What a job remembers is bounded by its window, however many messages and instances come and go.

use super::*;

const WINDOW: usize = 1_000;

fn limits() -> Limits {
    Limits {
        messages: WINDOW,
        bytes: usize::MAX,
        ..LIMITS
    }
}

/// How many entries there are in all that a job remembers.
fn size(job: &Job) -> usize {
    let Job {
        flights,
        timers,
        quarantine,
        loads,
        finished,
        order,
        actions,
        ..
    } = job;
    let routes: usize = flights
        .values()
        .map(|flight| flight.routes.len() + flight.rerouted_stages.len())
        .sum();
    let all = [
        flights.len(),
        timers.len(),
        quarantine.len(),
        loads.len(),
        finished.len(),
        order.len(),
        actions.len(),
    ];
    all.into_iter().sum::<usize>() + routes
}

/// Drives a job whose every attempt goes through two instances of its own.
struct World {
    job: Job,
    now: Instant,
    instances: u128,
}

impl World {
    fn event(&mut self, event: Event) {
        let mut actions = VecDeque::from(self.job.actions_after(event, self.now));
        while let Some(Action::Send { idx, .. }) = actions.pop_front() {
            self.instances += 2;
            let route = [uuid(self.instances), uuid(self.instances + 1)].into();
            actions.extend(self.job.actions_after(Event::Sent { idx, route }, self.now));
        }
    }

    fn route(&self, idx: u64) -> Route {
        self.job.flights[&idx]
            .routes
            .last()
            .cloned()
            .expect("it is under way")
    }

    /// A message ends, in one of several ways, and its instances go.
    fn end(&mut self, idx: u64) {
        let route = self.route(idx);
        match idx % 5 {
            0 => self.event(Event::Answered {
                idx,
                ending: fault(CallErrorKind::Busy, 1),
            }),
            // It is sent once more, and again through others that go: as often as it may be.
            1 => self.event(Event::Gone {
                instance: route[0],
                stages: vec![0],
            }),
            2 => {
                self.event(Event::Leaving(route[1]));
                self.event(Event::Gone {
                    instance: uuid(self.instances + 1_000_000_000),
                    stages: vec![1],
                });
            }
            3 => {
                let rerouted = Rerouted {
                    stage: 1,
                    from: route[1],
                    to: Some(uuid(u128::from(idx) << 64)),
                };
                self.event(Event::Rerouted { idx, rerouted });
            }
            _ => {}
        }
        if idx.is_multiple_of(7) {
            // No answer comes.
            return;
        }
        self.event(Event::Answered {
            idx,
            ending: Ok("r".into()),
        });
    }
}

#[test]
fn a_hundred_thousand_finished_messages_leave_no_state() {
    for ordered in [true, false] {
        let now = Instant::now();
        let mut world = World {
            job: Job::new(
                Limits {
                    ordered,
                    ..limits()
                },
                0,
            ),
            now,
            instances: 0,
        };
        for _ in 0..50 {
            let first = world.job.counts().pulled;
            while world.job.may_pull() {
                world.event(Event::Pulled("message".into()));
            }
            let max = size(&world.job);
            assert!(max <= 8 * WINDOW, "{max} entries for a window of {WINDOW}");
            (first..world.job.counts().pulled).for_each(|idx| world.end(idx));
            while !world.job.flights.is_empty() {
                world.now = world.job.deadline().expect("a deadline");
                let mut actions = world.job.actions_at(world.now);
                while let Some(Action::Send { idx, .. }) = actions.pop() {
                    world.instances += 1;
                    let route = [uuid(world.instances)].into();
                    actions.extend(
                        world
                            .job
                            .actions_after(Event::Sent { idx, route }, world.now),
                    );
                }
                assert!(size(&world.job) <= 8 * WINDOW);
            }
            while world.job.next_result().is_some() {}
            assert_eq!(
                (size(&world.job), world.job.bytes),
                (0, 0),
                "{:?}",
                world.job
            );
        }
        assert_eq!(world.job.counts().pulled, 50_000);
    }
}

/// An instance may come and go for as long as a message is under way, which may be for a day.
#[test]
fn an_instance_that_leaves_again_and_again_costs_no_memory() {
    let mut world = World {
        job: Job::new(limits(), 0),
        now: Instant::now(),
        instances: 0,
    };
    world.event(Event::Pulled("message".into()));
    let [one, two] = world.route(0)[..] else {
        panic!("two stages")
    };
    for _ in 0..100_000 {
        world.event(Event::Leaving(one));
        world.event(Event::Leaving(two));
    }
    assert_eq!(world.job.flights[&0].rerouted_stages, [0, 1]);
}
