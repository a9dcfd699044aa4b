//! libFuzzer's entry to [`grid_fuzz::words`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| grid_fuzz::words(bytes));
