//! Fuzzes values in etcd.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| palm_fuzz::record(bytes));
