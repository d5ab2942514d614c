//! Shows and clears what a PALM mesh keeps in etcd.

fn main() {}
