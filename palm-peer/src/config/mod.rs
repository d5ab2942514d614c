//! What is made of the settings.

pub mod etcd;
pub mod tls;
