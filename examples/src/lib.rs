//! The examples are beside this folder; `cargo run --example printf -- run` runs one.
