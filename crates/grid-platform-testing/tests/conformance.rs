//! The suite on the in-memory platform and on every wrapper around it.

use std::process::ExitCode;

fn main() -> ExitCode {
    grid_platform_testing::run(Vec::new())
}
