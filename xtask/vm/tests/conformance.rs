//! The conformance suite of the process platform, in the machine; in the clothes of every wrapper too when the long
//! tests are asked for.

#![allow(
    dead_code,
    clippy::print_stdout,
    reason = "the suite's own program, of which all but `main` is used; it says what it leaves out"
)]

#[path = "../../../crates/grid-platform-process/tests/conformance.rs"]
mod process;

use std::{process::ExitCode, sync::Arc};

fn main() -> ExitCode {
    grid_vm::run_inside(|arguments| {
        if arguments.include_ignored || arguments.ignored {
            return process::main();
        }
        println!("not around the wrappers: `cargo xtask test --full` runs them in the machine too");
        grid_platform_testing::run(vec![Arc::new(process::Processes)])
    })
}
