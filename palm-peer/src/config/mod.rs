//! What is created from the configuration.

pub(crate) mod etcd;
pub(crate) mod tls;
