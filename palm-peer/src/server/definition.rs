//! The definition of a server by its program.

use super::{message::Function, spawner::Spawner};
use crate::error::{Error, ErrorKind};
use palm_proto::types::{
    names::MAX_TAGS,
    record::{LONGEST, Record},
};
use std::{collections::BTreeMap, time::Duration};

/// A function of the program, and how it runs.
pub(crate) struct FunctionSpec {
    pub call: Function,
    pub options: FunctionOptions,
}

/// How a function runs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FunctionOptions {
    /// Whether it blocks a thread, and cannot be stopped.
    pub blocking: bool,
    /// Whether its future does nothing but wait, as that of a blocking function.
    pub only_waits: bool,
    /// How many calls of it run at once.
    pub limit: Option<usize>,
    /// How long it may run.
    pub timeout: Option<Duration>,
}

/// The functions of a server by name, and where those run that wait.
pub(crate) struct Functions {
    pub by_name: BTreeMap<String, FunctionSpec>,
    pub spawner: Spawner,
}

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
    pub functions: Functions,
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
