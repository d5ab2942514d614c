//! The definition of a server by its program.

use super::message::Function;
use crate::error::{Error, ErrorKind};
use palm_proto::types::{
    names::MAX_TAGS,
    record::{LONGEST, Record},
};
use std::collections::BTreeMap;

/// What a server's program says of it in its record.
pub(crate) struct Profile {
    pub name: String,
    pub kind: String,
    pub version: Option<String>,
    pub tags: Vec<String>,
    /// Whether it may be called once it has joined.
    pub ready: bool,
    /// The names of its functions, in the order of the record.
    pub names: Vec<String>,
}

/// The definition of a server.
pub(crate) struct Definition {
    pub profile: Profile,
    pub functions: BTreeMap<String, Function>,
    /// Whether `ZeroMQ` itself listens, without the ingress.
    #[cfg(feature = "bench")]
    pub without_ingress: bool,
}

/// Fails for a record that is too long, which no leader would accept, or has too many tags.
pub(crate) fn check_record(record: &Record) -> Result<(), Error> {
    let tags = record.extra.get("tags").and_then(|tags| tags.as_array());
    let tags = tags.map_or(0, Vec::len);
    if tags > MAX_TAGS {
        let text = format!("server {}: {tags} tags, {MAX_TAGS} at most", record.server);
        return Err(Error::new(ErrorKind::InvalidConfig, text));
    }
    let length = record.full_length();
    if length <= LONGEST {
        return Ok(());
    }
    let text = format!(
        "server {}: its record in etcd would have {length} bytes, {} at most; {} functions are named in it: give it fewer, \
         or shorter names",
        record.server,
        LONGEST,
        record.functions.len()
    );
    Err(Error::new(ErrorKind::InvalidConfig, text))
}
