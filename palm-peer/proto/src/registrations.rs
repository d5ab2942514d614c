//! What is registered on a native link, so that compact headers can name it by a number:
//! templates and instances.
//!
//! [`Registered`] is the receiving side, [`Registry`] the sending one. Both are bounded by
//! [`MAX_REGISTERED`] and [`MAX_TEMPLATE_BYTES`]. A number that is registered again stands for the
//! new thing from then on, so the sending side replaces the oldest entry when there is no room, and
//! never runs out of numbers.

#[cfg(test)]
mod tests;

use crate::types::{
    compact::{MAX_REGISTERED, MAX_TEMPLATE_BYTES, RequestHeader, Template},
    message::{BadHeader, Request},
};
use foldhash::{HashMap, HashMapExt as _};
use std::{collections::VecDeque, hash::Hash, sync::Arc};
use uuid::Uuid;

/// What the other side of a connection has registered.
#[derive(Debug, Default)]
pub struct Registered {
    /// The templates, and how many bytes of JSON each has, by number.
    templates: Vec<Option<(Arc<Template>, usize)>>,
    bytes: usize,
    instances: Vec<Option<Uuid>>,
}

impl Registered {
    /// Registers a template in the place of the one that has this number. One that is invalid
    /// or too much leaves the number free: a request with it is answered then, because
    /// nothing else is.
    pub fn register(&mut self, number: u16, job: u32, json: &[u8]) {
        self.unregister(number);
        if self.bytes + json.len() > MAX_TEMPLATE_BYTES {
            return;
        }
        if let Ok(template) = Template::parse(job, json)
            && let Some(slot) = slot(&mut self.templates, number)
        {
            *slot = Some((Arc::new(template), json.len()));
            self.bytes += json.len();
        }
    }

    /// Forgets a template.
    pub fn unregister(&mut self, number: u16) {
        let slot = self.templates.get_mut(usize::from(number));
        if let Some((_, bytes)) = slot.and_then(Option::take) {
            self.bytes -= bytes;
        }
    }

    /// Registers an instance in the place of the one that has this number.
    pub fn register_instance(&mut self, number: u16, uuid: Uuid) {
        if let Some(slot) = slot(&mut self.instances, number) {
            *slot = Some(uuid);
        }
    }

    /// Returns the template with this number.
    #[must_use]
    pub fn template(&self, number: u16) -> Option<&Arc<Template>> {
        let slot = self.templates.get(usize::from(number))?;
        slot.as_ref().map(|(template, _)| template)
    }

    /// Returns the instance with this number.
    #[must_use]
    pub fn instance(&self, number: u16) -> Option<Uuid> {
        self.instances.get(usize::from(number)).copied().flatten()
    }

    /// Returns the request that a header stands for, and its template.
    ///
    /// # Errors
    /// When it names something that is not registered, or does not fit its template.
    pub fn request(
        &self,
        header: &RequestHeader<'_>,
    ) -> Result<(Request, &Arc<Template>), BadHeader> {
        let template = self.template(header.template).ok_or_else(|| BadHeader {
            message: format!("no template is registered as {}", header.template),
            job: None,
            idx: Some(header.idx),
            stage: Some(header.stage.into()),
        })?;
        let request = template.expand(header, |number| self.instance(number))?;
        Ok((request, template))
    }
}

/// The slot of a number, if that is one.
fn slot<T>(slots: &mut Vec<Option<T>>, number: u16) -> Option<&mut Option<T>> {
    if number >= MAX_REGISTERED {
        return None;
    }
    let number = usize::from(number);
    if slots.len() <= number {
        slots.resize_with(number + 1, || None);
    }
    slots.get_mut(number)
}

/// How a thing can be named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Naming {
    /// By this number, under which it is registered.
    Known(u16),
    /// By this number, after it was registered under it, and these were unregistered.
    New {
        /// The number.
        number: u16,
        /// The numbers of what had to make room, other than this one.
        unregister: Vec<u16>,
    },
    /// Not by a number: it is too long.
    TooLong,
}

/// What this side has registered on a connection, by what it stands for (`K`).
#[derive(Debug)]
pub struct Registry<K> {
    max_bytes: usize,
    numbers: HashMap<K, u16>,
    /// The entries, the oldest first: each with its number and size.
    entries: VecDeque<(K, u16, usize)>,
    free: Vec<u16>,
    /// The numbers below this were used.
    used: u16,
    bytes: usize,
}

impl<K: Clone + Eq + Hash> Registry<K> {
    /// Nothing is registered; for templates.
    #[must_use]
    pub fn of_templates() -> Self {
        Self::new(MAX_TEMPLATE_BYTES)
    }

    /// Nothing is registered; for instances, which have no size.
    #[must_use]
    pub fn of_instances() -> Self {
        Self::new(0)
    }

    fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            numbers: HashMap::new(),
            entries: VecDeque::new(),
            free: Vec::new(),
            used: 0,
            bytes: 0,
        }
    }

    /// Returns the number of `key`, which has `bytes`, and what has to be sent
    /// before it can be used.
    pub fn name(&mut self, key: &K, bytes: usize) -> Naming {
        if let Some(number) = self.numbers.get(key) {
            return Naming::Known(*number);
        }
        if bytes > self.max_bytes {
            return Naming::TooLong;
        }
        let mut unregister = Vec::new();
        while self.bytes + bytes > self.max_bytes || self.entries.len() >= MAX_REGISTERED.into() {
            let Some((oldest, number, freed)) = self.entries.pop_front() else {
                return Naming::TooLong;
            };
            self.numbers.remove(&oldest);
            self.bytes -= freed;
            unregister.push(number);
        }
        // What is registered under the number of another replaces it.
        let number = unregister.pop().or_else(|| self.free.pop());
        let number = number.unwrap_or_else(|| {
            self.used += 1;
            self.used - 1
        });
        self.free.extend(&unregister);
        self.bytes += bytes;
        self.numbers.insert(key.clone(), number);
        self.entries.push_back((key.clone(), number, bytes));
        Naming::New { number, unregister }
    }

    /// Forgets `key`. Returns the number that is to be unregistered, if it was registered.
    pub fn remove(&mut self, key: &K) -> Option<u16> {
        let number = self.numbers.remove(key)?;
        if let Some(pos) = self
            .entries
            .iter()
            .position(|(_, other, _)| *other == number)
            && let Some((_, _, bytes)) = self.entries.remove(pos)
        {
            self.bytes -= bytes;
        }
        self.free.push(number);
        Some(number)
    }
}
