//! What is made of the settings.

pub(crate) mod etcd;
pub(crate) mod tls;
