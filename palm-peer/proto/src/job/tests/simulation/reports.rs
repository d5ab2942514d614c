//! Stages that do not pass messages on as their routes say, and report it.

use super::*;
use crate::types::message::Rerouted;

impl World {
    /// A copy goes to its next stage, or to another instance of it, or nowhere.
    pub(super) fn pass_on(&mut self, mut copy: Copy) {
        let (stage, from) = (copy.stage, copy.route[copy.stage]);
        let lost = self.chance(self.weather.lose_aloud);
        if !lost && self.chance(self.weather.stray) {
            copy.route[stage] = self.pick(stage, Some(Uuid::from_u128(from)));
        }
        let to = Some(copy.route[stage]).filter(|_| !lost);
        if to != Some(from) {
            let rerouted = Rerouted {
                stage,
                from: Uuid::from_u128(from),
                to: to.map(Uuid::from_u128),
            };
            // It may come before or after the news of servers that died.
            let heard = self.delay(50);
            self.news.push((
                heard,
                Event::Rerouted {
                    idx: copy.idx,
                    rerouted,
                },
            ));
        }
        if lost {
            self.lose(&copy);
        } else {
            self.copies.push(copy);
        }
    }

    /// As the driver does: the end of a server may be reported before it is known that the
    /// message went there.
    pub(super) fn apply(&mut self, event: Event) {
        let to = match &event {
            Event::Rerouted { rerouted, .. } => rerouted.to,
            _ => None,
        };
        self.send(event);
        if let Some(instance) = to.filter(|to| !self.servers.contains_key(&to.as_u128())) {
            self.send(Event::Gone {
                instance,
                stages: Vec::new(),
            });
        }
    }
}

/// Law: where servers die and leave, and stages choose others and lose messages but report it, no
/// message waits for patience, and each has its result.
#[test]
fn no_message_hangs_that_a_stage_rerouted_or_lost() {
    let mut repeated = 0;
    for seed in 0..3_000 {
        let mut random = Rng::with_seed(seed);
        let hour = Duration::from_secs(3600);
        let limits = Limits {
            messages: 20,
            deadline: hour * 100,
            attempt_timeout: hour,
            attempts: 1000,
            ..LIMITS
        };
        let weather = Weather {
            die: random.u32(0..100),
            leave: random.u32(0..50),
            stray: random.u32(0..300),
            lose_aloud: random.u32(0..100),
            ..Weather::default()
        };
        let stages = random.usize(2..5);
        let world = World::new(seed, limits, stages, weather);
        let start = world.now;
        let world = world.run_job(seed, 40);
        assert!(
            world.now < start + hour,
            "seed {seed}: a message waited in vain"
        );
        assert_eq!(world.errors().count(), 0, "seed {seed}");
        repeated += world.job.counts().retried;
    }
    assert!(repeated > 1000, "too calm to show anything: {repeated}");
}

/// Law: a message that takes down each server that runs it ends alone, whatever instance the
/// stages chose for it.
#[test]
fn a_poison_message_fails_alone_despite_rerouting() {
    for seed in 0..1_000 {
        let mut random = Rng::with_seed(seed);
        let limits = Limits {
            messages: random.usize(1..100),
            ordered: random.bool(),
            ..LIMITS
        };
        let poison = random.u64(0..100);
        let weather = Weather {
            poison: Some(poison),
            stray: random.u32(0..500),
            ..Weather::default()
        };
        let stages = random.usize(2..4);
        let world = World::new(seed, limits, stages, weather).run_job(seed, 100);
        let failed: Vec<_> = world.errors().collect();
        assert_eq!(
            failed,
            [(poison, CallErrorKind::Unreachable)],
            "seed {seed}"
        );
        assert!(
            world.killed_by_poison <= limits.attempts,
            "seed {seed}: {}",
            world.killed_by_poison
        );
    }
}
