//! Chooses the instances that the messages of a job go through.

use super::{Detours, Route};
use crate::{
    directory::Able,
    routing::{near, power_of_two_choices},
    types::instance::Instance,
};
use fastrand::Rng;
use foldhash::{HashMap, HashMapExt as _};
use std::{sync::Arc, time::Instant};
use uuid::Uuid;

/// The maximum number of instances that a message tells stages to avoid: the header must hold them.
const MAX_AVOIDED: usize = 16;

/// How many different paths are kept to be shared by messages; beyond, all are built anew.
const MAX_PATHS: usize = 4096;

/// One instance for each stage.
#[derive(Debug)]
pub struct Path {
    /// The instances.
    pub instances: Box<[Arc<Instance>]>,
    /// Their uuids.
    pub route: Route,
}

/// The instances of each stage, and the paths through them that messages took.
#[derive(Debug)]
pub struct Routes {
    stages: Vec<Stage>,
    /// The zone whose instances are preferred.
    zone: Option<String>,
    /// Instances of later stages without an open link.
    unreachable: Vec<Uuid>,
    detours: Detours,
    /// The paths taken so far, by the positions of their instances among the candidates.
    paths: HashMap<Vec<usize>, Arc<Path>>,
    /// The positions being chosen.
    chosen: Vec<usize>,
    random: Rng,
}

#[derive(Debug)]
struct Stage {
    able: Able,
    /// Those of them with an open link.
    ready: Vec<Arc<Instance>>,
    /// How many of the candidates are in the preferred zone; they come first.
    near: usize,
}

impl Stage {
    /// Returns the instances to choose from: a message for one without a link would have to wait;
    /// the link of a new one is ready soon.
    fn candidates(&self) -> &[Arc<Instance>] {
        if self.ready.is_empty() {
            &self.able
        } else {
            &self.ready
        }
    }
}

impl Routes {
    /// For stages without instances. The seed is for the random choices.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            stages: Vec::new(),
            zone: None,
            unreachable: Vec::new(),
            detours: Detours::default(),
            paths: HashMap::new(),
            chosen: Vec::new(),
            random: Rng::with_seed(seed),
        }
    }

    /// Sets the zone whose instances are preferred: those of other zones are chosen only when no
    /// instance of it has an open link.
    #[must_use]
    pub fn preferring(mut self, zone: Option<String>) -> Self {
        self.zone = zone;
        self
    }

    /// Returns each stage's number and one of the instances that can answer it.
    pub fn able(&self) -> impl Iterator<Item = (usize, &Arc<Instance>)> {
        let stages = self.stages.iter().enumerate();
        stages.flat_map(|(number, stage)| stage.able.iter().map(move |able| (number, able)))
    }

    /// Sets the instances that can answer each stage. [`Routes::set_open`] must follow.
    pub fn set_able(&mut self, able: impl IntoIterator<Item = Able>) {
        let stage = |able| Stage {
            able,
            ready: Vec::new(),
            near: 0,
        };
        self.stages = able.into_iter().map(stage).collect();
        self.paths.clear();
    }

    /// Tells which instances have an open link.
    pub fn set_open(&mut self, is_open: impl Fn(Uuid) -> bool) {
        for stage in &mut self.stages {
            let open = stage.able.iter().filter(|able| is_open(able.uuid));
            stage.ready = open.cloned().collect();
            stage.near = near(stage.candidates(), self.zone.as_deref());
        }
        let later = self.able().filter(|(stage, _)| *stage > 0);
        let missing = later
            .map(|(_, able)| able.uuid)
            .filter(|uuid| !is_open(*uuid));
        self.unreachable = missing.take(MAX_AVOIDED).collect();
        self.paths.clear();
    }

    /// Returns instances without a link, which stages should not choose.
    #[must_use]
    pub fn unreachable(&self) -> &[Uuid] {
        &self.unreachable
    }

    /// Records that the server `by` rerouted a message that was meant for `from`: that path is
    /// avoided for a while.
    pub fn rerouted(&mut self, by: Uuid, from: Uuid, now: Instant) {
        self.detours.add(by, from, now);
    }

    /// Picks an instance for each stage: of two at random, the one with the lower `load`. Those
    /// without a link, `avoid` and failing paths are avoided if there is another instance; of the
    /// others, those of the preferred zone come first.
    ///
    /// # Errors
    ///
    /// A stage without instances: its number.
    pub fn choose(
        &mut self,
        avoid: Option<Uuid>,
        load: impl Fn(Uuid) -> usize,
        now: Instant,
    ) -> Result<Arc<Path>, usize> {
        let (detours, random) = (&self.detours, &mut self.random);
        let mut before = None;
        self.chosen.clear();
        for (number, stage) in self.stages.iter().enumerate() {
            let candidates = stage.candidates();
            let position = if avoid.is_none() && !detours.any(now) {
                choose_any(candidates, stage.near, &load, random)
            } else {
                let fails = |to| before.is_some_and(|from| detours.is_known(from, to, now));
                let is_avoided = |uuid| avoid == Some(uuid) || fails(uuid);
                choose_open(candidates, stage.near, is_avoided, &load, random)
            };
            let position = position.ok_or(number)?;
            before = Some(candidates[position].uuid);
            self.chosen.push(position);
        }
        Ok(self.path())
    }

    /// Returns the path through the chosen positions.
    fn path(&mut self) -> Arc<Path> {
        if let Some(path) = self.paths.get(&self.chosen) {
            return Arc::clone(path);
        }
        let chosen = self.stages.iter().zip(&self.chosen);
        let instances: Box<[_]> = chosen
            .map(|(stage, position)| Arc::clone(&stage.candidates()[*position]))
            .collect();
        let route = instances.iter().map(|instance| instance.uuid).collect();
        let path = Arc::new(Path { instances, route });
        if self.paths.len() >= MAX_PATHS {
            self.paths.clear();
        }
        self.paths.insert(self.chosen.clone(), Arc::clone(&path));
        path
    }
}

/// Returns the position of a candidate: one of the first `near`, if there are any.
fn choose_any(
    candidates: &[Arc<Instance>],
    near: usize,
    load: impl Fn(Uuid) -> usize,
    random: &mut Rng,
) -> Option<usize> {
    let load = |i: usize| load(candidates[i].uuid);
    let count = if near > 0 { near } else { candidates.len() };
    power_of_two_choices(count, load, |below| random.usize(..below))
}

/// Returns the position of a candidate that is not avoided. The only one is not avoided: that
/// would mean giving up.
fn choose_open(
    candidates: &[Arc<Instance>],
    near: usize,
    is_avoided: impl Fn(Uuid) -> bool,
    load: impl Fn(Uuid) -> usize,
    random: &mut Rng,
) -> Option<usize> {
    let open = |i: &usize| !is_avoided(candidates[*i].uuid);
    let open: Vec<usize> = (0..candidates.len()).filter(open).collect();
    if open.is_empty() {
        return choose_any(candidates, near, load, random);
    }
    let near = open.partition_point(|position| *position < near);
    let count = if near > 0 { near } else { open.len() };
    let load = |i: usize| load(candidates[open[i]].uuid);
    power_of_two_choices(count, load, |below| random.usize(..below)).map(|i| open[i])
}

#[cfg(test)]
mod tests;
