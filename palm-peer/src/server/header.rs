//! Headers of messages to and from clients, in JSON or, over a native connection, in compact form.

use super::parcel::ReplyTo;
use crate::{ingress::Connection, io::zmq::Frames};
use bytes::Bytes;
use palm_proto::types::{
    compact::{self, Compact, ResultHeader, Template},
    message::{self, Answer, BadHeader, Incoming},
};
use std::sync::Arc;

/// What a header says.
pub(super) enum Header {
    /// A message, and the template of a compact one.
    Message(Incoming, Option<Arc<Template>>),
    /// Something was registered, which is not answered.
    Registration,
}

/// Reads a header that came over this connection. Fails when it is invalid.
pub(super) fn read(connection: &Connection, header: &[u8]) -> Result<Header, BadHeader> {
    match connection {
        Connection::Native(native) if compact::is_compact(header) => {
            let mut registered = native.registered();
            match Compact::decode(header)? {
                Compact::Request(header) => {
                    let (request, template) = registered.request(&header)?;
                    let template = Some(Arc::clone(template));
                    return Ok(Header::Message(Incoming::Request(request), template));
                }
                Compact::Register { number, job, json } => registered.register(number, job, json),
                Compact::Unregister { number } => registered.unregister(number),
                Compact::Instance { number, uuid } => registered.register_instance(number, uuid),
                Compact::Result(header) => {
                    return Err(BadHeader {
                        message: "a result is no request".to_owned(),
                        job: None,
                        idx: Some(header.idx),
                        stage: Some(header.stage.into()),
                    });
                }
            }
            Ok(Header::Registration)
        }
        _ => message::decode(header).map(|incoming| Header::Message(incoming, None)),
    }
}

/// Returns the frames of an answer with a JSON header.
pub(super) fn frames(to: &ReplyTo, answer: &Answer, payload: Bytes) -> Frames {
    let mut frames = Vec::with_capacity(3);
    if to.delimiter {
        frames.push(Bytes::new());
    }
    frames.push(answer.encode().into());
    frames.push(payload);
    frames
}

/// Writes the compact header of an answer over a native connection. Returns whether it can have
/// one: it is a result, and the request was compact.
pub(super) fn encode_compact(to: &ReplyTo, answer: &Answer, header: &mut Vec<u8>) -> bool {
    header.clear();
    encode_result(to, answer, header).is_some()
}

fn encode_result(to: &ReplyTo, answer: &Answer, header: &mut Vec<u8>) -> Option<()> {
    if to.delimiter || answer.error.is_some() || answer.rerouted.is_some() {
        return None;
    }
    let meta = answer.meta.to_json();
    let result = ResultHeader {
        stage: answer.stage.and_then(|stage| stage.try_into().ok())?,
        job: to.template.as_ref()?.job,
        idx: answer.idx?,
        meta: meta.as_deref(),
    };
    result.encode(header);
    Some(())
}
