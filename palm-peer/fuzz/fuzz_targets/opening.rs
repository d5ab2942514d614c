//! Fuzzes the handshake of a connection.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| palm_fuzz::opening(bytes));
