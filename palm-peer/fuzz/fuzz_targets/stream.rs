//! Fuzzes a stream of frames.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| palm_fuzz::stream(bytes));
