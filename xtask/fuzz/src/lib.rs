#![doc = include_str!("../README.md")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a target ends where what must hold does not"
)]

mod http;
mod settings;
mod shim;
mod wire;

pub use http::{object_key, range};
pub use settings::settings;
pub use shim::{launch, record, words};
pub use wire::{cursor, wire};

/// A target: its name, and what must hold for any bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target. `cargo xtask fuzz` feeds each with what libFuzzer makes up; the tests with the seeds, and with all that
/// once broke it.
pub const TARGETS: &[Target] = &[
    ("record", record),
    ("launch", launch),
    ("words", words),
    ("object_key", object_key),
    ("range", range),
    ("settings", settings),
    ("cursor", cursor),
    ("wire", wire),
];
