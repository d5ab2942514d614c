//! Bounds on what strangers and clients can cost: connections, bytes, requests, log lines.

pub mod byte_semaphore;
pub mod connection_limiter;
pub mod fair_queue;
pub mod log_throttle;
pub mod rate_limiter;
