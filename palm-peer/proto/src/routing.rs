//! Load balancing: the instance that a call goes to.

use crate::types::instance::Instance;
use std::{borrow::Cow, sync::Arc};
use uuid::Uuid;

/// Above this number of instances of a name, a client keeps links to a subset of this size only.
pub(crate) const SUBSET: usize = 32;

/// Returns the weight of an instance for a client (rendezvous hashing: Thaler and Ravishankar, 1998):
/// each client prefers other instances, and one that leaves moves only its own clients. Stages in
/// any language must select the same instances as their client, so `docs/protocol.md` specifies the
/// hash (FNV-1a, then the finalizer of `MurmurHash3`).
pub(crate) fn rendezvous(client: Uuid, instance: Uuid) -> u64 {
    let bytes = client.as_bytes().iter().chain(instance.as_bytes());
    let weight = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |weight, byte| {
        (weight ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let weight = [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53]
        .iter()
        .fold(weight, |weight, multiplier| {
            (weight ^ weight >> 33).wrapping_mul(*multiplier)
        });
    weight ^ weight >> 33
}

/// Chooses among `count` by the power of two choices (Mitzenmacher, 2001): of two picked at random,
/// the one with the lower `load` (calls in flight); `load` is called for these two only. `random`
/// returns a number below its argument. Returns `None` when `count` is 0.
pub fn power_of_two_choices(
    count: usize,
    load: impl Fn(usize) -> usize,
    mut random: impl FnMut(usize) -> usize,
) -> Option<usize> {
    let (one, other) = pick_two(count, &mut random)?;
    Some(if other != one && load(other) < load(one) {
        other
    } else {
        one
    })
}

/// Picks two of `count` at random; the same one twice when there is only one.
fn pick_two(count: usize, random: &mut impl FnMut(usize) -> usize) -> Option<(usize, usize)> {
    match count {
        0 => None,
        1 => Some((0, 0)),
        count => {
            let one = random(count);
            Some((one, (one + 1 + random(count - 1)) % count))
        }
    }
}

/// Chooses among `count` instances by the power of two choices. One that is `failing` (its
/// connection broke, could not be opened, or answers no PING) is chosen only when there is
/// no other. While the two picked are healthy, no other is examined, so the cost does not
/// depend on `count`.
pub fn choose_instance(
    count: usize,
    failing: impl Fn(usize) -> bool,
    load: impl Fn(usize) -> usize,
    mut random: impl FnMut(usize) -> usize,
) -> Option<usize> {
    if count == 1 {
        return Some(0);
    }
    let (one, other) = pick_two(count, &mut random)?;
    if !failing(one) && (other == one || !failing(other)) {
        return Some(if other != one && load(other) < load(one) {
            other
        } else {
            one
        });
    }
    // Picks two again among the healthy ones: over both rounds, each pair of them has
    // the same chance.
    let sound: Vec<usize> = (0..count).filter(|i| !failing(*i)).collect();
    if sound.is_empty() {
        return power_of_two_choices(count, load, random);
    }
    power_of_two_choices(sound.len(), |i| load(sound[i]), random).map(|choice| sound[choice])
}

/// Returns how many of these instances are in the zone of their client; they come first.
pub fn near(able: &[Arc<Instance>], zone: Option<&str>) -> usize {
    zone.map_or(0, |zone| able.partition_point(|i| is_in(i, zone)))
}

/// Returns whether an instance is in this zone.
pub(crate) fn is_in(instance: &Instance, zone: &str) -> bool {
    instance.zone.as_deref() == Some(zone)
}

/// As [`choose_instance`], but among the first `near` alone, unless all of these are failing.
pub fn choose_near(
    near: usize,
    count: usize,
    failing: impl Fn(usize) -> bool,
    load: impl Fn(usize) -> usize,
    mut random: impl FnMut(usize) -> usize,
) -> Option<usize> {
    if near > 0
        && near < count
        && let Some(choice) = choose_instance(near, &failing, &load, &mut random)
        && !failing(choice)
    {
        return Some(choice);
    }
    choose_instance(count, failing, load, random)
}

/// Returns the instances that are not `avoided`.
pub fn not_avoided<'a>(able: &'a [Arc<Instance>], avoided: &[Uuid]) -> Cow<'a, [Arc<Instance>]> {
    if avoided.is_empty() {
        return Cow::Borrowed(able);
    }
    able.iter()
        .filter(|instance| !avoided.contains(&instance.uuid))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_is_that_of_the_protocol() {
        let client = "0b7c4f5e-7f64-4d0c-9c3b-5d6f1f0e8a11"
            .parse()
            .expect("a uuid");
        let instance = "e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4"
            .parse()
            .expect("a uuid");
        assert_eq!(rendezvous(client, instance), 0x219c_d5d6_0dea_ec57);
    }

    /// Law: of several the busiest is never chosen.
    #[test]
    fn power_of_two_never_picks_the_busiest() {
        for seed in 0..500 {
            let mut random = fastrand::Rng::with_seed(seed);
            let loads: Vec<usize> = (0..random.usize(1..60)).map(|i| i + 1).collect();
            let choice =
                power_of_two_choices(loads.len(), |i| loads[i], |below| random.usize(..below));
            assert!(
                choice.is_some_and(|choice| loads.len() == 1 || choice + 1 < loads.len()),
                "seed {seed}"
            );
        }
    }

    /// Laws: a failing instance is chosen only when all are; among the others it is two
    /// choices by load.
    #[test]
    fn a_failing_instance_is_picked_only_when_all_fail() {
        for seed in 0..2000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let count = random.usize(0..8);
            let failing: Vec<bool> = (0..count).map(|_| random.u8(0..3) == 0).collect();
            let loads: Vec<usize> = (0..count).map(|_| random.usize(0..5)).collect();
            let mut asked = Vec::new();
            let choice = choose_instance(
                count,
                |i| failing[i],
                |i| loads[i],
                |below| {
                    asked.push(below);
                    random.usize(..below)
                },
            );
            let sound = failing.iter().filter(|failing| !**failing).count();
            let choices = if sound > 0 { sound } else { count };
            let Some(choice) = choice else {
                assert_eq!(count, 0, "seed {seed}");
                continue;
            };
            assert_eq!(failing[choice], sound == 0, "seed {seed}");
            let two = |among: usize| {
                if among > 1 {
                    vec![among, among - 1]
                } else {
                    vec![]
                }
            };
            let again = asked.len() > two(count).len();
            assert!(
                !again || sound < count,
                "seed {seed}: nothing was wrong with the two that were picked first"
            );
            let wanted = if again {
                [two(count), two(choices)].concat()
            } else {
                two(count)
            };
            assert_eq!(
                asked, wanted,
                "seed {seed}: two are picked among those that count"
            );
            let of_those = (0..count).filter(|i| failing[*i] == failing[choice]);
            let busiest = of_those.clone().map(|i| loads[i]).max();
            let busy = of_those.filter(|i| Some(loads[*i]) == busiest).count();
            assert!(
                choices == 1 || busy > 1 || Some(loads[choice]) < busiest,
                "seed {seed}: the busiest one"
            );
        }
    }

    /// Law: all sound instances have the same chance, whatever the others do.
    #[test]
    fn healthy_instances_share_the_load_evenly() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut chosen = [0_u32; 8];
        for _ in 0..40_000 {
            let choice = choose_instance(8, |i| i % 4 == 0, |_| 1, |below| random.usize(..below));
            chosen[choice.expect("one of eight")] += 1;
        }
        let share = |i: usize| {
            if i.is_multiple_of(4) {
                chosen[i] == 0
            } else {
                chosen[i].abs_diff(40_000 / 6) < 400
            }
        };
        assert!((0..8).all(share), "{chosen:?}");
    }

    /// Laws: another zone is chosen only when the own one has no healthy instance; within the
    /// zone, the busiest is not chosen.
    #[test]
    fn another_zone_is_chosen_only_when_the_own_one_is_down() {
        for seed in 0..5000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let count = random.usize(0..8);
            let near = random.usize(0..=count);
            let failing: Vec<bool> = (0..count).map(|_| random.u8(0..3) == 0).collect();
            let loads: Vec<usize> = (0..count).map(|_| random.usize(0..50)).collect();
            let choice = choose_near(
                near,
                count,
                |i| failing[i],
                |i| loads[i],
                |below| random.usize(..below),
            );
            let Some(choice) = choice else {
                assert_eq!(count, 0, "seed {seed}");
                continue;
            };
            let healthy = |range: std::ops::Range<usize>| -> Vec<usize> {
                range.filter(|i| !failing[*i]).collect()
            };
            let own = healthy(0..near);
            let among = match (own.is_empty(), healthy(0..count)) {
                (false, _) => own,
                (true, all) if all.is_empty() => (0..count).collect(),
                (true, all) => all,
            };
            assert!(
                among.contains(&choice),
                "seed {seed}: {choice} of {among:?}"
            );
            let busiest = among.iter().map(|i| loads[*i]).max();
            let busy = among.iter().filter(|i| Some(loads[**i]) == busiest).count();
            assert!(
                among.len() == 1 || busy > 1 || Some(loads[choice]) < busiest,
                "seed {seed}: the busiest one"
            );
        }
    }

    #[test]
    fn near_counts_the_instances_of_the_zone() {
        let instance = |zone: Option<&str>| {
            Arc::new(Instance {
                server: "a".into(),
                uuid: Uuid::nil(),
                endpoint: String::new(),
                functions: Vec::new(),
                zone: zone.map(str::to_owned),
            })
        };
        let able = [Some("x"), Some("x"), Some("y"), None].map(instance);
        assert_eq!(near(&able, Some("x")), 2);
        assert_eq!(near(&able, Some("z")), 0);
        assert_eq!(near(&able, None), 0);
        assert_eq!(near(&[], Some("x")), 0);
    }

    /// What a choice costs must not grow with the number of instances.
    #[test]
    fn only_two_instances_are_examined_while_healthy() {
        let mut random = fastrand::Rng::with_seed(8);
        let looked = std::cell::Cell::new(0);
        let failing = |_| {
            looked.set(looked.get() + 1);
            false
        };
        assert!(choose_instance(32, failing, |_| 0, |below| random.usize(..below)).is_some());
        assert_eq!(looked.get(), 2);
    }

    #[test]
    fn power_of_two_picks_the_less_loaded() {
        let table: [(&[usize], [usize; 2], Option<usize>); 5] = [
            (&[], [0, 0], None),
            (&[7], [0, 0], Some(0)),
            (&[7, 3], [0, 0], Some(1)),
            (&[3, 7], [0, 0], Some(0)),
            (&[5, 9, 1], [1, 0], Some(2)),
        ];
        for (loads, numbers, choice) in table {
            let mut numbers = numbers.into_iter();
            assert_eq!(
                power_of_two_choices(loads.len(), |i| loads[i], |_| numbers.next().unwrap_or(0)),
                choice,
                "{loads:?}"
            );
        }
    }
}
