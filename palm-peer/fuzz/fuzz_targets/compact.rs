//! Fuzzes the compact headers of a connection.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| palm_fuzz::compact(bytes));
