//! The instances that a client can reach, kept so that a call costs the same with one instance
//! and with thousands.

use super::routing::{SUBSET, is_in, rendezvous};
use crate::types::{
    instance::Instance,
    message::{CallErrorKind, CallFailure},
    names,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};
use uuid::Uuid;

/// The instances that can answer one target.
pub type Able = Arc<[Arc<Instance>]>;

/// A change of the reachable instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// The instance is reachable, as described here.
    Put(Instance),
    /// The instance of this name and uuid is no longer reachable.
    Removed(String, Uuid),
}

/// All reachable instances, from the view of one client.
#[derive(Debug)]
pub struct Directory {
    client: Uuid,
    /// The zone whose instances the client prefers.
    zone: Option<String>,
    servers: BTreeMap<String, Server>,
    by_uuid: HashMap<Uuid, Arc<Instance>>,
    version: u64,
}

/// The instances of one name.
#[derive(Debug, Default)]
struct Server {
    instances: BTreeMap<Uuid, Arc<Instance>>,
    /// For each function, the instances that have it and that the client prefers.
    functions: HashMap<String, Preferred>,
}

/// The instances of a function that a client prefers: those of its zone, if it prefers one, then
/// the others.
#[derive(Debug, Default)]
struct Preferred {
    all: Heaviest,
    /// Those of the preferred zone alone.
    near: Heaviest,
    able: Able,
}

/// The instances with the highest weight among some: at most [`SUBSET`], the highest first.
#[derive(Debug, Default)]
struct Heaviest {
    weighed: Vec<(u64, Arc<Instance>)>,
    /// How many there are to choose from.
    count: usize,
}

impl Directory {
    /// Returns the empty directory of `client`.
    #[must_use]
    pub fn new(client: Uuid) -> Self {
        Self {
            client,
            zone: None,
            servers: BTreeMap::new(),
            by_uuid: HashMap::new(),
            version: 0,
        }
    }

    /// Sets the zone whose instances the client prefers: [`Directory::resolve`] returns them first.
    /// Of a name with many instances it returns more of this zone. To be called before the
    /// first update.
    #[must_use]
    pub fn preferring(mut self, zone: Option<String>) -> Self {
        self.zone = zone;
        self
    }

    /// Returns the zone whose instances the client prefers.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// Returns the number of changes so far.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Applies a change. The cost does not depend on the number of instances, unless it removes one
    /// that the client prefers.
    pub fn update(&mut self, update: Update) {
        match update {
            Update::Put(instance) => self.put(Arc::new(instance)),
            Update::Removed(server, uuid) => self.remove(&server, uuid),
        }
        self.version += 1;
    }

    fn put(&mut self, instance: Arc<Instance>) {
        self.remove(&instance.server, instance.uuid);
        let server = self.servers.entry(instance.server.clone()).or_default();
        for function in &instance.functions {
            server.functions.entry(function.clone()).or_default().add(
                self.client,
                self.zone.as_deref(),
                &instance,
            );
        }
        server
            .instances
            .insert(instance.uuid, Arc::clone(&instance));
        self.by_uuid.insert(instance.uuid, instance);
    }

    fn remove(&mut self, name: &str, uuid: Uuid) {
        let Some(server) = self.servers.get_mut(name) else {
            return;
        };
        let Some(instance) = server.instances.remove(&uuid) else {
            return;
        };
        for function in &instance.functions {
            let Some(preferred) = server.functions.get_mut(function) else {
                continue;
            };
            let choice = Choice {
                client: self.client,
                zone: self.zone.as_deref(),
                function: Some(function),
            };
            preferred.remove(&choice, &instance, &server.instances);
            if preferred.all.count == 0 {
                server.functions.remove(function);
            }
        }
        if server.instances.is_empty() {
            self.servers.remove(name);
        }
        if self
            .by_uuid
            .get(&uuid)
            .is_some_and(|known| known.server == name)
        {
            self.by_uuid.remove(&uuid);
        }
    }

    /// Returns the names and uuids of all reachable instances.
    #[must_use]
    pub fn keys(&self) -> HashSet<(String, Uuid)> {
        let of_server = |(name, server): (&String, &Server)| -> Vec<_> {
            server
                .instances
                .keys()
                .map(|uuid| (name.clone(), *uuid))
                .collect()
        };
        self.servers.iter().flat_map(of_server).collect()
    }

    /// Returns whether an instance is reachable.
    #[must_use]
    pub fn contains(&self, uuid: Uuid) -> bool {
        self.by_uuid.contains_key(&uuid)
    }

    /// Returns the number of reachable instances of a name.
    #[must_use]
    pub fn count(&self, server: &str) -> usize {
        self.servers
            .get(server)
            .map_or(0, |server| server.instances.len())
    }

    /// Returns each server's name, the functions of its instances, in the order in which the first
    /// of them names each, and the number of instances.
    pub fn summary(&self) -> impl Iterator<Item = (String, Vec<String>, usize)> {
        self.servers.iter().map(|(name, server)| {
            let mut functions: Vec<String> = Vec::new();
            for function in server
                .instances
                .values()
                .flat_map(|instance| &instance.functions)
            {
                if !functions.contains(function) {
                    functions.push(function.clone());
                }
            }
            (name.clone(), functions, server.instances.len())
        })
    }

    /// Returns the instances that can answer `server.function` (or `<uuid>.function`) for this
    /// client, or for another one.
    ///
    /// # Errors
    /// `bad_message` when the target has another form; `no_such_server` and `no_such_function`
    /// name what exists.
    pub fn resolve(&self, target: &str, client: Uuid) -> Result<Able, CallFailure> {
        let (name, function) = names::split_target(target).ok_or_else(|| {
            CallFailure::new(
                CallErrorKind::BadMessage,
                format!("{target:?} is not of the form server.function"),
            )
        })?;
        let Some(server) = self.servers.get(name) else {
            return self.resolve_uuid(name, function);
        };
        let Some(preferred) = server.functions.get(function) else {
            if names::is_reserved(function) {
                return Ok(self.choose(client, None, server));
            }
            let first = server.instances.values().next();
            return Err(no_such_function(
                name,
                function,
                first.map_or(&[][..], |instance| &instance.functions),
            ));
        };
        if client == self.client || preferred.all.count <= SUBSET {
            return Ok(Arc::clone(&preferred.able));
        }
        Ok(self.choose(client, Some(function), server))
    }

    /// Returns the instances that `client` prefers among those that have the function; `None`:
    /// among all. The zone of another client is not known: of its instances, those in the zone
    /// of this one come first.
    fn choose(&self, client: Uuid, function: Option<&str>, server: &Server) -> Able {
        let choice = Choice {
            client,
            zone: self.zone.as_deref(),
            function,
        };
        let all = choice.heaviest(&server.instances, false);
        let near = if client == self.client {
            choice.heaviest(&server.instances, true)
        } else {
            let in_zone = |(_, i): &&(u64, Arc<Instance>)| choice.is_near(i);
            all.iter().filter(in_zone).cloned().collect()
        };
        near_first(&near, &all, self.zone.as_deref())
    }

    /// Returns the instance of this uuid, if it is reachable and the target means it: also one that
    /// is not among those which [`Directory::resolve`] returns.
    #[must_use]
    pub fn meant(&self, target: &str, uuid: Uuid) -> Option<Arc<Instance>> {
        let (name, function) = names::split_target(target)?;
        let instance = match self.servers.get(name) {
            Some(server) => server.instances.get(&uuid)?,
            None if name.parse() == Ok(uuid) => self.by_uuid.get(&uuid)?,
            None => return None,
        };
        let has = names::is_reserved(function) || instance.functions.iter().any(|f| f == function);
        has.then(|| Arc::clone(instance))
    }

    fn resolve_uuid(&self, name: &str, function: &str) -> Result<Able, CallFailure> {
        if let Some(instance) = name
            .parse::<Uuid>()
            .ok()
            .and_then(|uuid| self.by_uuid.get(&uuid))
        {
            return if names::is_reserved(function)
                || instance.functions.iter().any(|known| known == function)
            {
                Ok(Arc::from([Arc::clone(instance)]))
            } else {
                Err(no_such_function(name, function, &instance.functions))
            };
        }
        let known: Vec<_> = self.servers.keys().map(String::as_str).collect();
        let known = match known[..] {
            [] => "no server is published".to_owned(),
            _ => format!("the published ones are {}", known.join(", ")),
        };
        Err(CallFailure::new(
            CallErrorKind::NoSuchServer,
            format!("no server {name} can be reached: {known}"),
        ))
    }
}

impl Preferred {
    fn add(&mut self, client: Uuid, zone: Option<&str>, instance: &Arc<Instance>) {
        let is_near = zone.is_some_and(|zone| is_in(instance, zone));
        let near = is_near && self.near.add(client, instance);
        if self.all.add(client, instance) || near {
            self.rebuild(zone);
        }
    }

    /// Removes an instance; `rest` are the remaining ones of the name.
    fn remove(
        &mut self,
        choice: &Choice<'_>,
        instance: &Instance,
        rest: &BTreeMap<Uuid, Arc<Instance>>,
    ) {
        let near =
            choice.is_near(instance) && self.near.remove(instance, || choice.heaviest(rest, true));
        if self.all.remove(instance, || choice.heaviest(rest, false)) || near {
            self.rebuild(choice.zone);
        }
    }

    fn rebuild(&mut self, zone: Option<&str>) {
        self.able = near_first(&self.near.weighed, &self.all.weighed, zone);
    }
}

impl Heaviest {
    /// Returns whether the instance is one of those with the highest weight.
    fn add(&mut self, client: Uuid, instance: &Arc<Instance>) -> bool {
        self.count += 1;
        let weight = rendezvous(client, instance.uuid);
        let place = self.weighed.partition_point(|(other, _)| *other > weight);
        if place < SUBSET {
            self.weighed.insert(place, (weight, Arc::clone(instance)));
            self.weighed.truncate(SUBSET);
        }
        place < SUBSET
    }

    /// Returns whether the instance was one of those with the highest weight. `again` finds
    /// these among the remaining ones.
    fn remove(
        &mut self,
        instance: &Instance,
        again: impl FnOnce() -> Vec<(u64, Arc<Instance>)>,
    ) -> bool {
        self.count -= 1;
        let before = self.weighed.len();
        self.weighed.retain(|(_, kept)| kept.uuid != instance.uuid);
        if self.weighed.len() == before {
            return false;
        }
        if self.weighed.len() < self.count {
            self.weighed = again();
        }
        true
    }
}

/// What instances are chosen by.
struct Choice<'a> {
    client: Uuid,
    zone: Option<&'a str>,
    /// A function that they must have.
    function: Option<&'a str>,
}

impl Choice<'_> {
    fn is_near(&self, instance: &Instance) -> bool {
        self.zone.is_some_and(|zone| is_in(instance, zone))
    }

    /// Returns those with the highest weight, in the zone `alone` or wherever they are.
    fn heaviest(
        &self,
        instances: &BTreeMap<Uuid, Arc<Instance>>,
        alone: bool,
    ) -> Vec<(u64, Arc<Instance>)> {
        let has = |instance: &Instance| {
            self.function
                .is_none_or(|function| instance.functions.iter().any(|f| f == function))
        };
        let mut weighed: Vec<_> = instances
            .values()
            .filter(|instance| has(instance) && (!alone || self.is_near(instance)))
            .map(|instance| (rendezvous(self.client, instance.uuid), Arc::clone(instance)))
            .collect();
        weighed.sort_by_key(|(weight, _)| Reverse(*weight));
        weighed.truncate(SUBSET);
        weighed
    }
}

/// Returns the instances of the zone, which are in `near`, then those in other zones.
fn near_first(
    near: &[(u64, Arc<Instance>)],
    all: &[(u64, Arc<Instance>)],
    zone: Option<&str>,
) -> Able {
    let far = all
        .iter()
        .filter(|(_, instance)| !zone.is_some_and(|zone| is_in(instance, zone)));
    near.iter()
        .chain(far)
        .map(|(_, instance)| Arc::clone(instance))
        .collect()
}

fn no_such_function(name: &str, function: &str, known: &[String]) -> CallFailure {
    let text = format!(
        "{name} has no function {function}, only {}",
        known.join(", ")
    );
    CallFailure::new(CallErrorKind::NoSuchFunction, text)
}

#[cfg(test)]
mod tests;
