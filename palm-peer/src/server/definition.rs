//! The definition of a server by its program.

use super::message::Function;
use crate::error::{Error, ErrorKind};
use palm_proto::types::record::{LONGEST, Record};
use std::collections::BTreeMap;

/// The definition of a server.
pub(crate) struct Definition {
    pub name: String,
    pub kind: String,
    /// The names of its functions, in the order of the record.
    pub names: Vec<String>,
    pub functions: BTreeMap<String, Function>,
    /// Whether `ZeroMQ` itself listens, without the ingress.
    #[cfg(feature = "bench")]
    pub without_ingress: bool,
}

/// Fails for a record that is too long: no leader would accept it.
pub(crate) fn check_length(record: &Record) -> Result<(), Error> {
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
