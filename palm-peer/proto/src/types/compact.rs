//! The compact headers of native links: fixed fields in place of a JSON object.
//!
//! What all messages of a call's target or of a job have in common is *registered* once a
//! connection, as a *template*; a message then names it by its number. All integers are big-endian.
//! The first byte is the kind, the second the flags.
//!
//! | kind | bytes after the flags |
//! |---|---|
//! | `01` register a template | `number:u16 job:u32`, then the JSON header that its messages have in common |
//! | `02` request | `stage:u8 template:u16 idx:u64 timeout_ms:u32`; with flag `01` `stages:u8` and an instance's `number:u16` for each; with flag `02` the JSON of its `meta` |
//! | `03` result | `stage:u8 job:u32 idx:u64`; with flag `02` the JSON of its `meta` |
//! | `04` unregister a template | `number:u16` |
//! | `05` register an instance | `number:u16`, the 16 bytes of its uuid |
//!
//! A request without a route is for the server that receives it. `job` is the client's own number
//! of a job; 0 stands for a call, whose `idx` is that of the connection. Errors are JSON headers.
//! Other flags are invalid.

use super::{
    message::{self, BadHeader, MAX_HEADER_BYTES, MAX_STAGES, Request},
    meta::Meta,
};
use std::sync::Arc;
use uuid::Uuid;

/// Numbers of templates and of instances are below this: so many are registered on a
/// connection, at most.
pub const MAX_REGISTERED: u16 = 4096;

/// The longest JSON of all templates that are registered on a connection, in bytes.
pub const MAX_TEMPLATE_BYTES: usize = 64 * 1024;

/// The length of a result's header without `meta`, in bytes.
pub const RESULT_LENGTH: usize = 15;

/// Headers whose first byte is less than this are compact. None of these bytes begins JSON.
const FIRST_OTHER: u8 = 8;

const REGISTER: u8 = 1;
const REQUEST: u8 = 2;
const RESULT: u8 = 3;
const UNREGISTER: u8 = 4;
const INSTANCE: u8 = 5;

/// A route follows.
const WITH_ROUTE: u8 = 1;
/// The JSON of its metadata follows.
const WITH_META: u8 = 2;

/// The timeout that stands for the server's own.
const NO_TIMEOUT: u32 = u32::MAX;

/// A compact header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compact<'a> {
    /// Registers a template, in the place of the one that has this number.
    Register {
        /// Its number on this connection.
        number: u16,
        /// The client's number of the job; 0 for calls.
        job: u32,
        /// The JSON header that its messages have in common; see [`Template::parse`].
        json: &'a [u8],
    },
    /// A request.
    Request(RequestHeader<'a>),
    /// The result of a request.
    Result(ResultHeader<'a>),
    /// Forgets a template.
    Unregister {
        /// Its number.
        number: u16,
    },
    /// Registers an instance, in the place of the one that has this number.
    Instance {
        /// Its number on this connection.
        number: u16,
        /// The instance.
        uuid: Uuid,
    },
}

/// The header of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader<'a> {
    /// The number of its template.
    pub template: u16,
    /// The stage that it is for.
    pub stage: u8,
    /// The index assigned by the caller.
    pub idx: u64,
    /// The time left for the answer, in milliseconds; `None` is the server's own.
    pub timeout_ms: Option<u32>,
    /// The instance for each stage; empty stands for the server that receives the message.
    pub route: Route<'a>,
    /// The JSON of its metadata; see [`Meta::from_json`].
    pub meta: Option<&'a [u8]>,
}

/// The header of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResultHeader<'a> {
    /// The stage that answers.
    pub stage: u8,
    /// The client's number of the job; 0 for a call.
    pub job: u32,
    /// The index of the request.
    pub idx: u64,
    /// The JSON of its metadata; see [`Meta::from_json`].
    pub meta: Option<&'a [u8]>,
}

/// The numbers of a route's instances, one for each stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Route<'a>(&'a [[u8; 2]]);

impl<'a> Route<'a> {
    /// The route with these numbers, each as two bytes, big-endian.
    #[must_use]
    pub fn of(numbers: &'a [[u8; 2]]) -> Self {
        Self(numbers)
    }

    /// Returns whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Returns the numbers.
    pub fn numbers(self) -> impl ExactSizeIterator<Item = u16> + 'a {
        self.0.iter().map(|number| u16::from_be_bytes(*number))
    }
}

/// Returns whether a header is a compact one, and not JSON.
#[must_use]
pub fn is_compact(header: &[u8]) -> bool {
    header.first().is_some_and(|first| *first < FIRST_OTHER)
}

impl<'a> Compact<'a> {
    /// Appends the bytes of the header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Register { number, job, json } => {
                out.extend_from_slice(&[REGISTER, 0]);
                out.extend_from_slice(&number.to_be_bytes());
                out.extend_from_slice(&job.to_be_bytes());
                out.extend_from_slice(json);
            }
            Self::Request(header) => header.encode(out),
            Self::Result(header) => header.encode(out),
            Self::Unregister { number } => {
                out.extend_from_slice(&[UNREGISTER, 0]);
                out.extend_from_slice(&number.to_be_bytes());
            }
            Self::Instance { number, uuid } => {
                out.extend_from_slice(&[INSTANCE, 0]);
                out.extend_from_slice(&number.to_be_bytes());
                out.extend_from_slice(uuid.as_bytes());
            }
        }
    }

    /// Reads a header for which [`is_compact`] holds.
    ///
    /// # Errors
    /// When it is not one of these, with the index and stage as far as they could be read.
    pub fn decode(header: &'a [u8]) -> Result<Self, BadHeader> {
        if header.len() > MAX_HEADER_BYTES {
            let bytes = header.len();
            return Err(bad(format!(
                "header of {bytes} bytes, {MAX_HEADER_BYTES} at most"
            )));
        }
        let [kind, flags, rest @ ..] = header else {
            return Err(cut_off());
        };
        let mut rest = Bytes(rest);
        match *kind {
            REQUEST => RequestHeader::decode(*flags, &mut rest).map(Self::Request),
            RESULT => ResultHeader::decode(*flags, &mut rest).map(Self::Result),
            REGISTER | UNREGISTER | INSTANCE if *flags != 0 => Err(unknown_flags(*flags)),
            REGISTER => {
                let (number, job) = (number(&mut rest)?, u32::from_be_bytes(rest.take()?));
                let json = rest.0;
                Ok(Self::Register { number, job, json })
            }
            UNREGISTER => {
                let number = number(&mut rest)?;
                rest.end().map(|()| Self::Unregister { number })
            }
            INSTANCE => {
                let (number, uuid) = (number(&mut rest)?, Uuid::from_bytes(rest.take()?));
                rest.end().map(|()| Self::Instance { number, uuid })
            }
            _ => Err(bad(format!("{kind} is no kind of a compact header"))),
        }
    }
}

impl<'a> RequestHeader<'a> {
    /// Appends the bytes of the header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let route = if self.route.is_empty() { 0 } else { WITH_ROUTE };
        let mut fixed = [0; 18];
        fixed[..3].copy_from_slice(&[REQUEST, route | meta_flag(self.meta), self.stage]);
        fixed[3..5].copy_from_slice(&self.template.to_be_bytes());
        fixed[5..13].copy_from_slice(&self.idx.to_be_bytes());
        fixed[13..17].copy_from_slice(&self.timeout_ms.unwrap_or(NO_TIMEOUT).to_be_bytes());
        fixed[17] = u8::try_from(self.route.0.len()).unwrap_or(u8::MAX);
        out.extend_from_slice(if route == 0 { &fixed[..17] } else { &fixed });
        out.extend_from_slice(self.route.0.as_flattened());
        out.extend_from_slice(self.meta.unwrap_or_default());
    }

    fn decode(flags: u8, rest: &mut Bytes<'a>) -> Result<Self, BadHeader> {
        let [stage] = rest.take()?;
        let template = u16::from_be_bytes(rest.take()?);
        let idx = u64::from_be_bytes(rest.take()?);
        Self::after_idx(flags, rest, stage, template, idx).map_err(|bad| BadHeader {
            idx: Some(idx),
            stage: Some(stage.into()),
            ..bad
        })
    }

    fn after_idx(
        flags: u8,
        rest: &mut Bytes<'a>,
        stage: u8,
        template: u16,
        idx: u64,
    ) -> Result<Self, BadHeader> {
        if flags & !(WITH_ROUTE | WITH_META) != 0 {
            return Err(unknown_flags(flags));
        }
        let timeout_ms = u32::from_be_bytes(rest.take()?);
        let route = if flags & WITH_ROUTE == 0 {
            Route::default()
        } else {
            let [stages] = rest.take()?;
            rest.route(stages.into())?
        };
        Ok(Self {
            template,
            stage,
            idx,
            timeout_ms: (timeout_ms != NO_TIMEOUT).then_some(timeout_ms),
            route,
            meta: rest.meta(flags)?,
        })
    }
}

impl<'a> ResultHeader<'a> {
    /// Appends the bytes of the header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut fixed = [0; RESULT_LENGTH];
        fixed[..3].copy_from_slice(&[RESULT, meta_flag(self.meta), self.stage]);
        fixed[3..7].copy_from_slice(&self.job.to_be_bytes());
        fixed[7..].copy_from_slice(&self.idx.to_be_bytes());
        out.extend_from_slice(&fixed);
        out.extend_from_slice(self.meta.unwrap_or_default());
    }

    fn decode(flags: u8, rest: &mut Bytes<'a>) -> Result<Self, BadHeader> {
        if flags & !WITH_META != 0 {
            return Err(unknown_flags(flags));
        }
        Ok(Self {
            stage: rest.take().map(|[stage]| stage)?,
            job: u32::from_be_bytes(rest.take()?),
            idx: u64::from_be_bytes(rest.take()?),
            meta: rest.meta(flags)?,
        })
    }
}

/// The bytes that are not read yet.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BadHeader> {
        let (taken, rest) = self.0.split_first_chunk().ok_or_else(cut_off)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn route(&mut self, stages: usize) -> Result<Route<'a>, BadHeader> {
        if stages == 0 || stages > MAX_STAGES {
            return Err(bad(format!(
                "a route has 1 to {MAX_STAGES} stages, not {stages}"
            )));
        }
        let (route, rest) = self.0.split_at_checked(2 * stages).ok_or_else(cut_off)?;
        self.0 = rest;
        Ok(Route(route.as_chunks().0))
    }

    fn meta(&mut self, flags: u8) -> Result<Option<&'a [u8]>, BadHeader> {
        if flags & WITH_META == 0 {
            return self.end().map(|()| None);
        }
        if self.0.first() != Some(&b'{') {
            return Err(bad("the meta of a compact header is no JSON object".into()));
        }
        Ok(Some(std::mem::take(&mut self.0)))
    }

    fn end(&self) -> Result<(), BadHeader> {
        match self.0.len() {
            0 => Ok(()),
            more => Err(bad(format!("a compact header is {more} bytes too long"))),
        }
    }
}

fn number(rest: &mut Bytes<'_>) -> Result<u16, BadHeader> {
    let number = u16::from_be_bytes(rest.take()?);
    if number >= MAX_REGISTERED {
        return Err(bad(format!(
            "registration {number}, of {MAX_REGISTERED} at most"
        )));
    }
    Ok(number)
}

fn meta_flag(meta: Option<&[u8]>) -> u8 {
    meta.map_or(0, |_| WITH_META)
}

fn unknown_flags(flags: u8) -> BadHeader {
    bad(format!("a compact header with the flags {flags:#04x}"))
}

fn cut_off() -> BadHeader {
    bad("a compact header that is too short".into())
}

fn bad(message: String) -> BadHeader {
    BadHeader {
        message,
        job: None,
        idx: None,
        stage: None,
    }
}

/// What all messages of a target or a job have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The client's number of the job; 0 for calls.
    pub job: u32,
    /// The common fields: those of a message without `stage`, `route`, `idx`, `timeout_ms` and
    /// `meta`.
    pub request: Request,
    /// Their JSON.
    json: Vec<u8>,
}

impl Template {
    /// Creates the template of all requests that have the common fields of this one.
    #[must_use]
    pub fn of(job: u32, request: &Request) -> Self {
        let mut request = request.clone();
        request.stage = 0;
        (request.route, request.idx, request.timeout_ms) = (Vec::new(), None, None);
        request.meta = Meta::new();
        let json = request.encode();
        Self { job, request, json }
    }

    /// Returns its JSON.
    #[must_use]
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// Returns whether a request has the common fields of this template.
    #[must_use]
    pub fn fits(&self, request: &Request) -> bool {
        let mine = &self.request;
        mine.job == request.job
            && mine.client == request.client
            && mine.report == request.report
            && (Arc::ptr_eq(&mine.pipeline, &request.pipeline) || mine.pipeline == request.pipeline)
            && mine.cache == request.cache
            && mine.avoid == request.avoid
    }

    /// Reads the JSON of a template: a header without `stage`, `route`, `idx`, `timeout_ms` and
    /// `meta`, which are ignored.
    ///
    /// # Errors
    /// When it is no such header.
    pub fn parse(job: u32, json: &[u8]) -> Result<Self, BadHeader> {
        message::decode_common(json).map(|request| Self::of(job, &request))
    }

    /// Returns the whole request that a header of this template stands for; `instance` knows the
    /// registered instances.
    ///
    /// # Errors
    /// When the header does not fit the template, or names an instance that is not registered.
    pub fn expand(
        &self,
        header: &RequestHeader<'_>,
        instance: impl Fn(u16) -> Option<Uuid>,
    ) -> Result<Request, BadHeader> {
        let known = |number| {
            instance(number).ok_or_else(|| bad(format!("no instance is registered as {number}")))
        };
        let route: Result<Vec<_>, _> = header.route.numbers().map(known).collect();
        let expanded = route.and_then(|route| {
            let mut request = self.request.clone();
            request.stage = header.stage.into();
            request.route = route;
            request.idx = Some(header.idx);
            request.timeout_ms = header.timeout_ms.map(u64::from);
            if let Some(json) = header.meta {
                request.meta = Meta::from_json(json).map_err(bad)?;
            }
            message::check(request)
        });
        expanded.map_err(|bad| BadHeader {
            job: self.request.job,
            idx: Some(header.idx),
            stage: Some(header.stage.into()),
            ..bad
        })
    }
}

#[cfg(test)]
mod tests;
