//! Fuzzes the header of a message.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| palm_fuzz::header(bytes));
