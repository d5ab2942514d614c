//! What to do, and when: no waiting, no clock, no outside. `now` and events come in, actions come out, so that
//! thousands of histories can be played through in a second.

pub mod admission;
pub mod allowance;
pub mod backoff;
pub mod certificate_expiry;
pub mod client_table;
pub mod directory;
pub mod election;
pub mod etcd_history;
pub mod fair_queue;
pub mod happy_eyeballs;
pub mod identity;
pub mod job;
pub mod lease;
pub mod liveness;
pub mod log_throttle;
pub mod logbook;
pub mod mirror;
pub mod pipeliner;
pub mod registry;
pub mod removal;
pub mod roster;
pub mod routing;
pub mod shutdown;
pub mod store;
pub mod supervision;
pub mod turns;
pub mod unconfirmed;
pub mod zmtp;
