//! The conformance suite of the Docker platform, on Podman.

#![allow(
    dead_code,
    reason = "the suite's own program, of which all but `main` is used"
)]

#[path = "../../../crates/grid-platform-docker/tests/conformance.rs"]
mod containers;

use std::process::ExitCode;

use grid_testbed::Kind;

fn main() -> ExitCode {
    containers::suite(Kind::Podman)
}
