//! Bounds on what remote peers can consume: connections, bytes, requests, log lines.

pub mod byte_semaphore;
pub mod connection_limiter;
pub mod fair_queue;
pub mod flow_control;
pub mod log_throttle;
pub mod rate_limiter;
pub mod run_queue;
pub mod slow_client;
pub mod turn_queue;
