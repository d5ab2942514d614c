//! The messages between servers and clients: a JSON header and a payload. `docs/protocol.md`
//! is the reference.

#[cfg(test)]
mod tests;

use super::meta::Meta;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{fmt, sync::Arc, time::Duration};
use uuid::Uuid;

/// The version of the protocol, in every header.
pub(crate) const VERSION: u32 = 1;

/// The longest header, in bytes.
pub const MAX_HEADER_BYTES: usize = 64 * 1024;

/// The longest message of an error, in bytes: in JSON each byte may take six, and the
/// header must hold them.
const MAX_MESSAGE_BYTES: usize = 4 * 1024;

/// The longest code of an application error, in bytes.
const MAX_CODE_BYTES: usize = 128;

/// The longest data of an application error, in bytes of JSON.
const MAX_DATA_BYTES: usize = 16 * 1024;

/// How deeply the data of an application error may be nested: readers of JSON have a limit, too.
const MAX_DATA_DEPTH: usize = 32;

/// The longest timeout of a call or a message of a job, a year; a longer one is reduced to it. Not
/// every [`Duration`] can be added to an `Instant`.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);
/// The longest pipeline, in stages. A header must hold the names and the route.
pub const MAX_STAGES: usize = 64;

/// What went wrong with a message. The names are part of the protocol; docs/protocol.md says what a
/// client should do.
///
/// Whether the function may have run decides whether it is safe to try again what is not
/// idempotent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CallErrorKind {
    /// The message is not one of this protocol, or its payload is not what the function takes. The
    /// function did not run, or refused the payload.
    BadMessage,
    /// The message was meant for another server than the one that got it. The function did not run.
    WrongServer,
    /// No reachable server has this name or uuid. The function did not run.
    NoSuchServer,
    /// The server has no such function. Nothing ran.
    NoSuchFunction,
    /// The payload is over the limit, and the function did not run; or the function's answer is.
    TooLarge,
    /// The server's queue is full; the function did not run.
    Busy,
    /// The server is about to leave; the function did not run.
    Leaving,
    /// The function ran and returned an error.
    Failed,
    /// The function panicked: it ran in part.
    Panicked,
    /// The deadline passed. The function may have run, and may still run.
    TimedOut,
    /// The server cannot be reached, the connection to it broke, or the server stopped before the
    /// function ended. The function may have run, except in the first case.
    Unreachable,
    /// The server's store has no room for the value, and is unchanged.
    Full,
    /// The server's store has no such key.
    NoSuchKey,
    /// The function ran; its answer is not what the caller expects, such as JSON of another form.
    BadAnswer,
    /// A kind from a newer version of the protocol.
    #[serde(other)]
    Unknown,
}

impl CallErrorKind {
    /// All of them, in order.
    pub const ALL: [Self; 15] = [
        Self::BadMessage,
        Self::WrongServer,
        Self::NoSuchServer,
        Self::NoSuchFunction,
        Self::TooLarge,
        Self::Busy,
        Self::Leaving,
        Self::Failed,
        Self::Panicked,
        Self::TimedOut,
        Self::Unreachable,
        Self::Full,
        Self::NoSuchKey,
        Self::BadAnswer,
        Self::Unknown,
    ];
}

impl fmt::Display for CallErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// An error in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallFailure {
    /// What kind of error it is.
    pub kind: CallErrorKind,
    /// What went wrong, for people.
    pub message: String,
    /// The code of an application error, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What an application error has to say besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<Value>>,
}

impl CallFailure {
    /// Creates an error of this kind. A message that would not fit into a header is cut.
    pub fn new(kind: CallErrorKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if cut(&mut message, MAX_MESSAGE_BYTES) {
            message.push('…');
        }
        Self {
            kind,
            message,
            code: None,
            data: None,
        }
    }

    /// Adds the code and the data of an application error. A code that is too long is cut. Data that
    /// is too long, or nested too deeply, is left out, and the message says so.
    #[must_use]
    pub fn with_details(mut self, code: impl Into<String>, data: Option<Value>) -> Self {
        let mut code = code.into();
        cut(&mut code, MAX_CODE_BYTES);
        self.code = Some(code);
        let Some(data) = data else {
            return self;
        };
        let length = super::to_bytes(&data).len();
        let problem = if length > MAX_DATA_BYTES {
            format!(" (without its data of {length} bytes, {MAX_DATA_BYTES} at most)")
        } else if is_deeper(&data, MAX_DATA_DEPTH) {
            format!(" (without its data, which is nested more than {MAX_DATA_DEPTH} deep)")
        } else {
            self.data = Some(Box::new(data));
            return self;
        };
        self.message.push_str(&problem);
        self
    }

    /// Returns its kind, with the code of an application error in parentheses, for people.
    #[must_use]
    pub fn title(&self) -> String {
        match &self.code {
            Some(code) => format!("{} ({code})", self.kind),
            None => self.kind.to_string(),
        }
    }
}

/// Cuts a text that is longer than this many bytes, between two characters. Returns whether it was.
fn cut(text: &mut String, max: usize) -> bool {
    let too_long = text.len() > max;
    if too_long {
        let boundary = |pos: &usize| text.is_char_boundary(*pos);
        let end = (0..=max).rev().find(boundary).unwrap_or(0);
        text.truncate(end);
    }
    too_long
}

/// Returns whether lists and objects are nested more than this deep.
fn is_deeper(value: &Value, max: usize) -> bool {
    let Some(left) = max.checked_sub(1) else {
        return value.is_array() || value.is_object();
    };
    match value {
        Value::Array(items) => items.iter().any(|item| is_deeper(item, left)),
        Value::Object(fields) => fields.values().any(|field| is_deeper(field, left)),
        _ => false,
    }
}

/// A call, or one message of a job, on its way to a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    palm: u32,
    /// `server.function`, stage by stage.
    #[serde(with = "super::pipeline")]
    pub pipeline: Arc<[String]>,
    /// The index of the stage that the message is for now.
    #[serde(default)]
    pub stage: usize,
    /// The instance for each stage; empty means the server that receives the message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub route: Vec<Uuid>,
    /// The client that gets the answer; absent means the sender of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Uuid>,
    /// The job that the message belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Uuid>,
    /// The index assigned by the caller; the answer contains it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idx: Option<u64>,
    /// The time left for the answer, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// The key in the server's store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
    /// Whether the client wants a report when a stage reroutes the message, or may have lost
    /// it: [`Rerouted`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub report: bool,
    /// Instances that the client does not reach, so that they could not answer it. A stage that
    /// must choose another instance than the route says does not choose these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub avoid: Vec<Uuid>,
    /// What travels beside the payload; stages pass it on.
    #[serde(default, skip_serializing_if = "Meta::is_empty")]
    pub meta: Meta,
}

impl Request {
    /// Creates a request for one function, on any instance.
    #[must_use]
    pub fn call(target: impl Into<String>) -> Self {
        Self {
            palm: VERSION,
            pipeline: Arc::new([target.into()]),
            stage: 0,
            route: Vec::new(),
            client: None,
            job: None,
            idx: None,
            timeout_ms: None,
            cache: None,
            report: false,
            avoid: Vec::new(),
            meta: Meta::new(),
        }
    }

    /// Returns the bytes of the header.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        super::to_bytes(self)
    }

    /// Sets the time left for the answer: deadlines travel with the message.
    pub fn give_time(&mut self, left: Duration) {
        self.timeout_ms = u64::try_from(left.as_millis()).ok();
    }

    /// Returns whether another stage follows this one.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.stage + 1 < self.pipeline.len()
    }
}

/// A message to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// The greeting that opens a link.
    Hello {
        /// The client's uuid.
        client: Uuid,
        /// Whether the client wants a goodbye.
        bye: bool,
        /// Whether it only asks for the server's uuid, so that no answers for the client may be
        /// sent over this connection yet.
        identify: bool,
    },
    /// The answer to a goodbye: nothing more comes over this connection.
    GoodbyeAck,
    /// A message for a function.
    Request(Request),
}

// The field names are those of the protocol.
#[allow(clippy::struct_field_names)]
#[derive(Serialize, Deserialize)]
struct Hello {
    palm: u32,
    hello: Uuid,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    bye: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    identify: bool,
}

/// Returns the bytes of the greeting that opens a link.
#[must_use]
pub fn encode_hello(client: Uuid) -> Vec<u8> {
    super::to_bytes(&Hello {
        palm: VERSION,
        hello: client,
        bye: true,
        identify: false,
    })
}

/// Returns the bytes of the request for the server's uuid, which is sent before the greeting. With
/// the greeting alone, a server with another uuid would send the client's answers over a connection
/// that the client is about to close.
#[must_use]
pub fn encode_identify(client: Uuid) -> Vec<u8> {
    super::to_bytes(&Hello {
        palm: VERSION,
        hello: client,
        bye: true,
        identify: true,
    })
}

#[derive(Serialize, Deserialize)]
struct GoodbyeAck {
    palm: u32,
    bye: Uuid,
}

/// Returns the bytes of the answer to a goodbye: nothing more comes from this client.
#[must_use]
pub fn encode_goodbye_ack(client: Uuid) -> Vec<u8> {
    super::to_bytes(&GoodbyeAck {
        palm: VERSION,
        bye: client,
    })
}

/// An invalid header, with the fields that could be read, so that the sender can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadHeader {
    /// What is wrong with it.
    pub message: String,
    /// The job, if it could be read.
    pub job: Option<Uuid>,
    /// The index, if it could be read.
    pub idx: Option<u64>,
    /// The stage, if it could be read.
    pub stage: Option<usize>,
}

/// Reads the header of a message to a server.
///
/// # Errors
/// When it is too long, is not JSON of this protocol, or contradicts itself.
pub fn decode(header: &[u8]) -> Result<Incoming, BadHeader> {
    decode_with(header, check)
}

fn decode_with(
    header: &[u8],
    check: impl FnOnce(Request) -> Result<Request, BadHeader>,
) -> Result<Incoming, BadHeader> {
    if header.len() > MAX_HEADER_BYTES {
        let message = format!(
            "header of {} bytes, {MAX_HEADER_BYTES} at most",
            header.len()
        );
        return Err(BadHeader {
            message,
            job: None,
            idx: None,
            stage: None,
        });
    }
    // serde would accept an array of the fields' values as well.
    if !header.trim_ascii_start().starts_with(b"{") {
        let message = "not a header of this protocol: it is not a JSON object".to_owned();
        return Err(BadHeader {
            message,
            job: None,
            idx: None,
            stage: None,
        });
    }
    match serde_json::from_slice::<Request>(header) {
        Ok(request) => check(request).map(Incoming::Request),
        Err(error) => greeting(header).ok_or_else(|| describe(header, &error)),
    }
}

fn greeting(header: &[u8]) -> Option<Incoming> {
    if let Ok(Hello {
        palm,
        hello,
        bye,
        identify,
    }) = serde_json::from_slice(header)
    {
        return (palm == VERSION).then_some(Incoming::Hello {
            client: hello,
            bye,
            identify,
        });
    }
    let ack = serde_json::from_slice(header);
    ack.is_ok_and(|GoodbyeAck { palm, .. }| palm == VERSION)
        .then_some(Incoming::GoodbyeAck)
}

/// Reads the fields that many messages have in common: those of a header without `stage`, `route`,
/// `idx`, `timeout_ms` and `meta`, which are ignored.
pub(super) fn decode_common(json: &[u8]) -> Result<Request, BadHeader> {
    let Incoming::Request(mut request) = decode_with(json, |mut request| {
        request.stage = 0;
        request.route = vec![Uuid::nil(); request.pipeline.len()];
        request.meta = Meta::new();
        check(request)
    })?
    else {
        return Err(BadHeader {
            message: "a greeting is no template".to_owned(),
            job: None,
            idx: None,
            stage: None,
        });
    };
    request.route = Vec::new();
    Ok(request)
}

pub(super) fn check(request: Request) -> Result<Request, BadHeader> {
    let stages = request.pipeline.len();
    let message = if request.palm != VERSION {
        not_spoken(request.palm.into())
    } else if stages == 0 || stages > MAX_STAGES {
        format!("a pipeline has 1 to {MAX_STAGES} stages, not {stages}")
    } else if request.stage >= stages {
        format!("stage {} of a pipeline of {stages}", request.stage)
    } else if !request.route.is_empty() && request.route.len() != stages {
        format!(
            "a route of {} for a pipeline of {stages}",
            request.route.len()
        )
    } else if request.route.is_empty() && stages > 1 {
        "a pipeline of several stages needs a route".to_owned()
    } else if request.client.is_none() && stages > 1 {
        "a pipeline of several stages needs a client, which has greeted its servers".to_owned()
    } else if let Some(problem) = request.meta.problem() {
        problem
    } else {
        return Ok(request);
    };
    Err(BadHeader {
        message,
        job: request.job,
        idx: request.idx,
        stage: Some(request.stage),
    })
}

fn describe(header: &[u8], error: &serde_json::Error) -> BadHeader {
    let value: Value = serde_json::from_slice(header).unwrap_or_default();
    let message = match value["palm"].as_u64() {
        // The other fields of another version's header are unknown to this one.
        Some(other) if other != u64::from(VERSION) => not_spoken(other),
        _ => format!(
            "not a header of this protocol: {}",
            in_greeting(header, &value).unwrap_or_else(|| error.to_string())
        ),
    };
    BadHeader {
        message,
        job: value["job"].as_str().and_then(|job| job.parse().ok()),
        idx: value["idx"].as_u64(),
        stage: value["stage"]
            .as_u64()
            .and_then(|stage| usize::try_from(stage).ok()),
    }
}

/// Returns what is wrong with a header that is meant as a greeting or as the answer to a goodbye.
fn in_greeting(header: &[u8], value: &Value) -> Option<String> {
    let has = |field: &str| value.get(field).is_some();
    let error = match (has("pipeline"), has("hello"), has("bye")) {
        (false, true, _) => serde_json::from_slice::<Hello>(header).err(),
        (false, false, true) => serde_json::from_slice::<GoodbyeAck>(header).err(),
        _ => None,
    };
    error.map(|error| error.to_string())
}

fn not_spoken(version: u64) -> String {
    format!("protocol {version} is not supported, only {VERSION}")
}

/// The header of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    palm: u32,
    /// The job of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Uuid>,
    /// The index of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idx: Option<u64>,
    /// The stage that answers; absent in the answer to a greeting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<usize>,
    /// The server that answers.
    pub server: Uuid,
    /// The error, instead of a result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<CallFailure>,
    /// Present in a report, which is not the answer: the message was rerouted, or is
    /// to be sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerouted: Option<Rerouted>,
    /// The goodbye of a leaving server to the clients that greeted it: all requests that it
    /// accepted are answered or forwarded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bye: bool,
    /// What travels beside a result.
    #[serde(default, skip_serializing_if = "Meta::is_empty")]
    pub meta: Meta,
}

/// The report of a stage on a message that it did not forward as its route says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rerouted {
    /// The stage that another instance was chosen for.
    pub stage: usize,
    /// The instance that was in the route.
    pub from: Uuid,
    /// The instance that it was sent to instead; absent when the message may be lost, and the stage
    /// does not send it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Uuid>,
}

impl Answer {
    /// Creates the answer to a greeting.
    #[must_use]
    pub fn greeting(server: Uuid) -> Self {
        Self {
            palm: VERSION,
            job: None,
            idx: None,
            stage: None,
            server,
            error: None,
            rerouted: None,
            bye: false,
            meta: Meta::new(),
        }
    }

    /// Creates the goodbye of a leaving server.
    #[must_use]
    pub fn goodbye(server: Uuid) -> Self {
        Self {
            bye: true,
            ..Self::greeting(server)
        }
    }

    /// Returns the bytes of the header.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        super::to_bytes(self)
    }

    /// Reads the header of an answer; `None` when it is not one of this protocol.
    #[must_use]
    pub fn decode(header: &[u8]) -> Option<Self> {
        if header.len() > MAX_HEADER_BYTES {
            return None;
        }
        serde_json::from_slice(header)
            .ok()
            .filter(|answer: &Self| answer.palm == VERSION && answer.meta.problem().is_none())
    }
}
