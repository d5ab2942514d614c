//! Faults of the network between hosts, each host in a network namespace of its own.

mod candidate;
mod client;
mod etcd;
mod harness;
mod leader;
mod names;
mod python;
mod rerouted;
mod stages;
mod suspicion;
mod throughput;
