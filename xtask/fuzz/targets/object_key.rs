//! libFuzzer's entry to [`grid_fuzz::object_key`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| grid_fuzz::object_key(bytes));
