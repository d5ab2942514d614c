//! The instances that a client can reach, kept so that a call costs the same with one instance
//! and with thousands.

use super::routing::{SUBSET, rendezvous};
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

/// The instances of a function that a client prefers: at most [`SUBSET`], those with the
/// highest weight first.
#[derive(Debug, Default)]
struct Preferred {
    weighed: Vec<(u64, Arc<Instance>)>,
    able: Able,
    /// How many instances have the function.
    count: usize,
}

impl Directory {
    /// Returns the empty directory of `client`.
    #[must_use]
    pub fn new(client: Uuid) -> Self {
        Self {
            client,
            servers: BTreeMap::new(),
            by_uuid: HashMap::new(),
            version: 0,
        }
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
            server
                .functions
                .entry(function.clone())
                .or_default()
                .add(self.client, &instance);
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
            preferred.remove(self.client, &instance, function, server.instances.values());
            if preferred.count == 0 {
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
                return Ok(all_of(heaviest(client, None, server.instances.values())));
            }
            let first = server.instances.values().next();
            return Err(no_such_function(
                name,
                function,
                first.map_or(&[][..], |instance| &instance.functions),
            ));
        };
        if client == self.client || preferred.count <= SUBSET {
            return Ok(Arc::clone(&preferred.able));
        }
        Ok(all_of(heaviest(
            client,
            Some(function),
            server.instances.values(),
        )))
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
    fn add(&mut self, client: Uuid, instance: &Arc<Instance>) {
        self.count += 1;
        let weight = rendezvous(client, instance.uuid);
        let place = self.weighed.partition_point(|(other, _)| *other > weight);
        if place < SUBSET {
            self.weighed.insert(place, (weight, Arc::clone(instance)));
            self.weighed.truncate(SUBSET);
            self.rebuild();
        }
    }

    /// Removes an instance; `rest` are the remaining ones of the name.
    fn remove<'a>(
        &mut self,
        client: Uuid,
        instance: &Instance,
        function: &str,
        rest: impl Iterator<Item = &'a Arc<Instance>>,
    ) {
        self.count -= 1;
        let before = self.weighed.len();
        self.weighed
            .retain(|(_, preferred)| preferred.uuid != instance.uuid);
        if self.weighed.len() == before {
            return;
        }
        if self.weighed.len() < self.count {
            self.weighed = heaviest(client, Some(function), rest);
        }
        self.rebuild();
    }

    fn rebuild(&mut self) {
        self.able = self
            .weighed
            .iter()
            .map(|(_, instance)| Arc::clone(instance))
            .collect();
    }
}

fn all_of(weighed: Vec<(u64, Arc<Instance>)>) -> Able {
    weighed.into_iter().map(|(_, instance)| instance).collect()
}

/// Returns the instances that a client prefers among those that have the function;
/// `None`: among all.
fn heaviest<'a>(
    client: Uuid,
    function: Option<&str>,
    instances: impl Iterator<Item = &'a Arc<Instance>>,
) -> Vec<(u64, Arc<Instance>)> {
    let has = |instance: &Instance| {
        function.is_none_or(|function| instance.functions.iter().any(|f| f == function))
    };
    let able = instances.filter(|instance| has(instance));
    let mut weighed: Vec<_> = able
        .map(|instance| (rendezvous(client, instance.uuid), Arc::clone(instance)))
        .collect();
    weighed.sort_by_key(|(weight, _)| Reverse(*weight));
    weighed.truncate(SUBSET);
    weighed
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
