//! libFuzzer's entry to [`grid_fuzz::wire`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| grid_fuzz::wire(bytes));
