//! Loops that wait for what happens, ask the decisions, and carry out what they say.

pub mod admin;
pub mod agent;
pub mod certificate_expiry;
pub mod client;
pub mod departures;
pub mod dialer;
pub mod discovery;
pub mod door;
pub mod duties;
pub mod job;
pub mod link;
pub mod lock;
pub mod serving;
pub mod sinks;
pub mod startup_check;
pub mod witnesses;
