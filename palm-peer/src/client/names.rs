//! How a native link names what its messages have in common: templates and instances, registered
//! with the server when they are first used.

use palm_proto::{
    registrations::{Naming, Registry},
    types::{
        compact::{Compact, MAX_REGISTERED, RequestHeader, Route, Template},
        message::Request,
    },
};
use std::{
    collections::VecDeque,
    hash::{Hash, Hasher},
    sync::Arc,
};
use uuid::Uuid;

/// How many templates of this process's own requests a link remembers.
const MAX_OWN: usize = 64;

/// The longest time that a compact header can hold, in ms; servers shorten it to a day anyway.
const MAX_TIMEOUT_MS: u64 = u32::MAX as u64 - 1;

/// A template, known by its address: what a server forwards has the template that it came with.
#[derive(Debug, Clone)]
struct ByAddress(Arc<Template>);

impl PartialEq for ByAddress {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for ByAddress {}

impl Hash for ByAddress {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// What is registered over a link. Must be locked from naming until what was named is queued:
/// another name may replace it.
#[derive(Debug)]
pub(super) struct Names {
    templates: Registry<ByAddress>,
    instances: Registry<Uuid>,
    /// The templates of requests that come from this process, the latest first.
    own: VecDeque<Arc<Template>>,
    /// The latest header of a request.
    header: Vec<u8>,
}

impl Names {
    pub(super) fn new() -> Self {
        Self {
            templates: Registry::of_templates(),
            instances: Registry::of_instances(),
            own: VecDeque::new(),
            header: Vec::new(),
        }
    }

    /// Returns the template of a request of this process; `job` is the number of its job, 0 for a
    /// call. None for a request with a key, of which there may be one for each request.
    pub(super) fn template(&mut self, job: u32, request: &Request) -> Option<Arc<Template>> {
        if request.cache.is_some() {
            return None;
        }
        let fits = |template: &Arc<Template>| template.job == job && template.fits(request);
        if let Some(pos) = self.own.iter().position(fits) {
            if pos > 0 {
                self.own.swap(0, pos);
            }
        } else {
            self.own.truncate(MAX_OWN - 1);
            self.own.push_front(Arc::new(Template::of(job, request)));
        }
        self.own.front().cloned()
    }

    /// Returns the compact header of a request, after passing the headers to `send` that must go
    /// before it. `None` if it needs JSON.
    pub(super) fn header(
        &mut self,
        template: &Arc<Template>,
        request: &Request,
        mut send: impl FnMut(Vec<u8>),
    ) -> Option<&[u8]> {
        let (stage, idx) = (u8::try_from(request.stage).ok()?, request.idx?);
        let route = if request.pipeline.len() > 1 {
            self.route(&request.route, &mut send)?
        } else {
            // It is the server at the other end of the link.
            Vec::new()
        };
        let naming = self
            .templates
            .name(&ByAddress(Arc::clone(template)), template.json().len());
        let number = match naming {
            Naming::Known(number) => number,
            Naming::TooLong => return None,
            Naming::New { number, unregister } => {
                for number in unregister {
                    send(encoded(&Compact::Unregister { number }));
                }
                let (job, json) = (template.job, template.json());
                send(encoded(&Compact::Register { number, job, json }));
                number
            }
        };
        let timeout_ms = request
            .timeout_ms
            .map(|timeout| u32::try_from(timeout.min(MAX_TIMEOUT_MS)).unwrap_or(u32::MAX - 1));
        let meta = request.meta.to_json();
        let header = RequestHeader {
            template: number,
            stage,
            idx,
            timeout_ms,
            route: Route::of(&route),
            meta: meta.as_deref(),
        };
        self.header.clear();
        header.encode(&mut self.header);
        Some(&self.header)
    }

    fn route(&mut self, route: &[Uuid], send: &mut impl FnMut(Vec<u8>)) -> Option<Vec<[u8; 2]>> {
        // A new name may replace that of another instance of the route, but not if all have been
        // named just before.
        for _ in 0..3 {
            let (mut numbers, mut all_known) = (Vec::with_capacity(route.len()), true);
            for uuid in route {
                let number = match self.instances.name(uuid, 0) {
                    Naming::Known(number) => number,
                    Naming::TooLong => return None,
                    Naming::New { number, .. } => {
                        all_known = false;
                        let uuid = *uuid;
                        send(encoded(&Compact::Instance { number, uuid }));
                        number
                    }
                };
                numbers.push(number.to_be_bytes());
            }
            if all_known {
                return Some(numbers);
            }
        }
        None
    }
}

fn encoded(header: &Compact<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    header.encode(&mut bytes);
    bytes
}

const _: () = assert!(MAX_REGISTERED as usize > palm_proto::types::message::MAX_STAGES);

#[cfg(test)]
mod tests {
    use super::*;
    use palm_proto::registrations::Registered;

    fn receive(registered: &mut Registered, header: &[u8]) -> Option<Request> {
        match Compact::decode(header).expect("a proper header") {
            Compact::Register { number, job, json } => registered.register(number, job, json),
            Compact::Unregister { number } => registered.unregister(number),
            Compact::Instance { number, uuid } => registered.register_instance(number, uuid),
            Compact::Request(header) => {
                return Some(registered.request(&header).expect("a request").0);
            }
            Compact::Result(_) => panic!("a result is not sent"),
        }
        None
    }

    /// Whatever is sent, in whatever order, arrives as it would in JSON.
    #[test]
    fn named_requests_arrive_unchanged_in_any_order() {
        let (mut names, mut registered) = (Names::new(), Registered::default());
        for number in 0..20_000_u64 {
            let mut rng = fastrand::Rng::with_seed(number);
            let mut request = Request::call(format!("a.f{}", rng.u8(..200)));
            request.idx = Some(number);
            request.timeout_ms = Some(rng.u64(..100_000));
            if rng.bool() {
                request.meta.insert("number", number.to_string());
            }
            if rng.bool() {
                request.client = Some(Uuid::from_u128(rng.u128(..3)));
                request.job = Some(Uuid::from_u128(rng.u128(..100)));
                request.pipeline = Arc::new([request.pipeline[0].clone(), "c.d".into()]);
                request.stage = rng.usize(..2);
                // More instances than can be named at once.
                request.route = vec![
                    Uuid::from_u128(rng.u128(..10_000)),
                    Uuid::from_u128(rng.u128(..10_000)),
                ];
            }
            let template = names.template(0, &request).expect("without a key");
            let mut before = Vec::new();
            let header = names.header(&template, &request, |header| before.push(header));
            let header = header.expect("short enough").to_vec();
            for header in before {
                assert_eq!(receive(&mut registered, &header), None);
            }
            let received = receive(&mut registered, &header);
            assert_eq!(received, Some(request));
        }
    }

    #[test]
    fn a_request_with_a_key_or_a_long_header_is_not_named() {
        let mut names = Names::new();
        let mut request = Request::call("a.get");
        request.idx = Some(1);
        request.cache = Some("key".into());
        assert!(names.template(0, &request).is_none());
        request.cache = None;
        request.pipeline = Arc::new(["a".repeat(70_000)]);
        let template = names.template(0, &request).expect("without a key");
        assert_eq!(names.header(&template, &request, |_| panic!("sent")), None);
    }
}
