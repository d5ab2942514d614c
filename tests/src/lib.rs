//! A harness for tests of the mesh as a whole: real etcd processes, real server processes, and a
//! network that the test can cut.
//!
//! Everything here is synchronous, uses only free ports and temporary directories, is bounded in
//! time, and is removed on drop. Several tests may run in parallel. Etcd's log and programs' output
//! are printed when the test panics.
//!
//! ```
//! use palm_tests::{Etcd, Proxy};
//!
//! let etcd = Etcd::start();
//! etcd.etcdctl(&["put", "key", "value"]);
//! let between = Proxy::start(etcd.address());
//! between.stall(); // clients of between.endpoint() get no answers now
//! etcd.restart();
//! assert_eq!(etcd.etcdctl(&["get", "--print-value-only", "key"]), "value\n");
//! ```

// The harness panics: that is how a test fails.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    clippy::must_use_candidate
)]

mod artifacts;
mod bench_words;
mod certificates;
mod child;
mod cluster;
mod etcd;
mod free_port;
mod gate;
mod memory;
mod metrics;
mod network;
mod process;
mod processor_time;
mod proxy;
mod resource_usage;
mod slow_answers;
pub mod systemd;
mod terminal;
mod timing;
pub mod wire;

pub use artifacts::{binary, example, in_repository, made_python, python};
pub use bench_words::bench_words;
pub use certificates::{Authority, Certificate};
pub use cluster::EtcdCluster;
pub use etcd::{Etcd, EtcdBuilder};
pub use free_port::free_port;
pub use gate::heavy;
pub use memory::resident;
pub use metrics::Metrics;
pub use network::{Flow, Host, Network};
pub use process::{Mark, Process, ProcessBuilder};
pub use processor_time::{processor_time, running_time};
pub use proxy::Proxy;
pub use resource_usage::ResourceUsage;
pub use slow_answers::SlowAnswers;
pub use terminal::Terminal;
pub use timing::{Stats, eventually, median, stats};
