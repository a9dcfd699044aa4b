//! The shim as a black box, and the formats it shares with the adapter.

#[path = "../shim/shared/mod.rs"]
mod shared;
