//! The conformance suite where the engine does not see the file system that the adapter sees: data and secrets are in volumes
//! of the engine. Only the cases that are about them; the others are the same as anywhere.
//!
//! The program runs itself again where its temporary files are in a mount of its own, which the engine does not have.

#![allow(
    dead_code,
    reason = "the suite's own program, of which all but `main` is used"
)]

#[path = "conformance.rs"]
mod containers;

use std::{
    env,
    process::{Command, ExitCode},
    sync::Arc,
};

use grid_platform_testing::{Case, Suite, Wrapped};
use grid_testbed::Kind;

/// Set in the environment of the program that runs apart.
const SIGN: &str = "SUTRA_GRID_TEST_APART";

/// Mounts over a directory, and becomes the program.
const APART: &str = "mount -t tmpfs -o mode=1777 tmpfs \"$0\" && exec \"$@\"";

fn is_about_files(case: &Case) -> bool {
    [
        "data",
        "secret",
        "purge",
        "kept",
        "leftover",
        "user",
        "left_alone",
        "reopen",
    ]
    .iter()
    .any(|it| case.name.contains(it))
}

fn main() -> ExitCode {
    if env::var_os(SIGN).is_some() {
        let harness = Arc::new(containers::Containers(Kind::Docker));
        let harness = Wrapped::new("docker-volumes", harness, |it| it);
        return Suite::new(Vec::new())
            .some(Arc::new(harness), is_about_files)
            .run();
    }
    match apart() {
        Ok(code) => code,
        Err(error) => panic!("cannot run apart: {error}"),
    }
}

fn apart() -> std::io::Result<ExitCode> {
    let dir = tempfile::tempdir()?;
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", APART])
        .arg(dir.path())
        .arg(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env("TMPDIR", dir.path())
        .env(SIGN, "yes")
        .status()?;
    let code = status.code().and_then(|it| u8::try_from(it).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}
