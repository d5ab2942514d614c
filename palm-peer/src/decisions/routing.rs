//! Which instance a call goes to.

use crate::facts::{
    message::{Failure, FailureKind},
    names,
    pipeline::{Instance, Pipeline},
};
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;

/// Above this number of instances of a name, a client keeps links to a subset of this size only.
pub const SUBSET: usize = 32;

/// What can be reached, as the leader last published it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directory {
    servers: BTreeMap<String, Vec<Arc<Instance>>>,
}

impl Directory {
    /// Takes in what is published for one server name; `None` when nothing is any more.
    pub fn update(&mut self, server: &str, pipeline: Option<Pipeline>) {
        match pipeline {
            Some(pipeline) => {
                let instances = pipeline.instances.into_iter().map(Arc::new).collect();
                self.servers.insert(server.to_owned(), instances)
            }
            None => self.servers.remove(server),
        };
    }

    /// Adds what another directory has beyond this one.
    pub fn add_all(&mut self, other: &Self) {
        for (server, instances) in &other.servers {
            let here = self.servers.entry(server.clone()).or_default();
            for instance in instances {
                if !here.iter().any(|known| known.uuid == instance.uuid) {
                    here.push(Arc::clone(instance));
                }
            }
        }
    }

    /// All instances of all servers.
    pub fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.servers.values().flatten()
    }

    /// Each server's name, what its instances answer, and how many there are.
    pub fn summary(&self) -> impl Iterator<Item = (String, Vec<String>, usize)> {
        self.servers.iter().map(|(server, instances)| {
            let mut functions: Vec<String> = Vec::new();
            for function in instances.iter().flat_map(|instance| &instance.functions) {
                if !functions.contains(function) {
                    functions.push(function.clone());
                }
            }
            (server.clone(), functions, instances.len())
        })
    }

    /// The instances that `server.function` (or `<uuid>.function`) can mean for this client.
    ///
    /// # Errors
    /// `bad_message` when the target has another form; `no_such_server` and `no_such_function` name what exists.
    pub fn resolve(&self, target: &str, client: Uuid) -> Result<Vec<Arc<Instance>>, Failure> {
        let (server, function) = names::split_target(target).ok_or_else(|| {
            Failure::new(FailureKind::BadMessage, format!("{target:?} is not of the form server.function"))
        })?;
        let of_server = self.instances_of(server)?;
        let mut able: Vec<_> =
            of_server.iter().filter(|i| i.functions.iter().any(|f| f == function)).cloned().collect();
        if able.is_empty() {
            let known = of_server.first().map_or_else(String::new, |i| i.functions.join(", "));
            let words = format!("{server} has no function {function}, only {known}");
            return Err(Failure::new(FailureKind::NoSuchFunction, words));
        }
        if able.len() > SUBSET {
            able.sort_by_cached_key(|instance| std::cmp::Reverse(rendezvous(client, instance.uuid)));
            able.truncate(SUBSET);
        }
        Ok(able)
    }

    fn instances_of(&self, server: &str) -> Result<&[Arc<Instance>], Failure> {
        if let Some(instances) = self.servers.get(server).filter(|instances| !instances.is_empty()) {
            return Ok(instances);
        }
        if let Ok(uuid) = server.parse::<Uuid>()
            && let Some(instance) = self.instances().find(|instance| instance.uuid == uuid)
        {
            return Ok(std::slice::from_ref(instance));
        }
        let known: Vec<_> = self.servers.keys().map(String::as_str).collect();
        let known = if known.is_empty() {
            "no server is published".to_owned()
        } else {
            format!("there is {}", known.join(", "))
        };
        Err(Failure::new(FailureKind::NoSuchServer, format!("no server {server} can be reached: {known}")))
    }
}

/// The weight of an instance for a client (rendezvous hashing: Thaler and Ravishankar, 1998): each client prefers other
/// instances, and one that leaves moves only its own clients. Stages must come to what their client came to, whatever they
/// are written in: so the hash (FNV-1a, then the finalizer of `MurmurHash3`) is in `docs/protocol.md`.
fn rendezvous(client: Uuid, instance: Uuid) -> u64 {
    let bytes = client.as_bytes().iter().chain(instance.as_bytes());
    let weight = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |weight, byte| {
        (weight ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let weight = [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53]
        .iter()
        .fold(weight, |weight, multiplier| (weight ^ weight >> 33).wrapping_mul(*multiplier));
    weight ^ weight >> 33
}

/// Chooses among `count` by the power of two choices (Mitzenmacher, 2001): of two picked at random, the one with the lower
/// `load` (calls in flight); no other's is asked for. `random` gives a number below its argument. `None` when there is
/// nothing to choose from.
pub fn power_of_two_choices(
    count: usize,
    load: impl Fn(usize) -> usize,
    mut random: impl FnMut(usize) -> usize,
) -> Option<usize> {
    match count {
        0 => None,
        1 => Some(0),
        count => {
            let one = random(count);
            let other = (one + 1 + random(count - 1)) % count;
            Some(if load(other) < load(one) { other } else { one })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(id: u128) -> Instance {
        Instance { uuid: Uuid::from_u128(id), endpoint: String::new(), functions: vec!["f".into(), "get".into()] }
    }

    fn directory(instances: u128) -> Directory {
        let mut directory = Directory::default();
        let instances = (1..=instances).map(instance).collect();
        directory.update("a", Some(Pipeline { server: "a".into(), functions: vec![], instances }));
        directory
    }

    #[test]
    fn names_and_uuids_are_found_and_what_is_not_says_what_is() {
        let directory = directory(2);
        let client = Uuid::nil();
        assert_eq!(directory.resolve("a.f", client).map(|i| i.len()), Ok(2));
        let one = Uuid::from_u128(2);
        assert_eq!(directory.resolve(&format!("{one}.get"), client), Ok(vec![Arc::new(instance(2))]));
        for (target, kind, words) in [
            ("a", FailureKind::BadMessage, "server.function"),
            ("a.g", FailureKind::NoSuchFunction, "only f, get"),
            ("b.f", FailureKind::NoSuchServer, "there is a"),
        ] {
            let failure = directory.resolve(target, client).expect_err(target);
            assert!(failure.kind == kind && failure.message.contains(words), "{failure:?}");
        }
        let failure = Directory::default().resolve("b.f", client).expect_err("empty");
        assert!(failure.message.contains("no server is published"));
    }

    #[test]
    fn large_meshes_are_split_into_stable_subsets() {
        let large = directory(1000);
        let subset = |client: u128| {
            let found = large.resolve("a.f", Uuid::from_u128(client)).expect("there");
            found.iter().map(|i| i.uuid).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(subset(1).len(), SUBSET);
        assert_eq!(subset(1), subset(1));
        assert_ne!(subset(1), subset(2));
        let covered: std::collections::BTreeSet<_> = (0..400).flat_map(subset).collect();
        assert!(covered.len() > 990, "{}", covered.len());
    }

    #[test]
    fn the_weight_is_that_of_the_protocol() {
        let client = "0b7c4f5e-7f64-4d0c-9c3b-5d6f1f0e8a11".parse().expect("a uuid");
        let instance = "e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4".parse().expect("a uuid");
        assert_eq!(rendezvous(client, instance), 0x219c_d5d6_0dea_ec57);
    }

    /// Laws: only who has the function is named, no more of them than a subset, and of several never the
    /// busiest is chosen.
    #[test]
    fn who_is_chosen_can_do_it_and_is_not_the_busiest_in_five_hundred_meshes() {
        for seed in 0..500 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut directory = directory(random.u128(0..6));
            let others: Vec<_> = (100..100 + random.u128(1..60))
                .map(|id| Instance { functions: vec![["f", "g"][random.usize(0..2)].into()], ..instance(id) })
                .collect();
            directory.update("b", Some(Pipeline { server: "b".into(), functions: vec![], instances: others.clone() }));
            let able = others.iter().filter(|other| other.functions == ["g"]).count();
            let Ok(found) = directory.resolve("b.g", Uuid::from_u128(seed.into())) else {
                assert_eq!(able, 0, "seed {seed}");
                continue;
            };
            assert_eq!(found.len(), able.min(SUBSET), "seed {seed}");
            assert!(found.iter().all(|instance| instance.functions == ["g"]), "seed {seed}");
            let loads: Vec<usize> = (0..found.len()).map(|i| i + 1).collect();
            let choice = power_of_two_choices(found.len(), |i| loads[i], |below| random.usize(..below));
            assert!(choice.is_some_and(|choice| found.len() == 1 || choice + 1 < found.len()), "seed {seed}");
        }
    }

    #[test]
    fn the_less_loaded_of_two_is_chosen() {
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
