//! The machine of the tests' own: `xtask/vm/vm.sh` starts and ends it.

use std::path::PathBuf;
use std::process::Command;

use crate::fail::{Fail, Result};
use crate::sh;

fn place() -> PathBuf {
    sh::root().join("xtask/vm/vm.sh")
}

fn script(action: &str) -> Command {
    let mut command = Command::new("bash");
    command.arg(place()).arg(action);
    command
}

/// Whether the workspace has the machine's tests.
pub(crate) fn is_here() -> bool {
    place().exists()
}

/// Whether it is up; the reason why not.
pub(crate) fn look() -> std::result::Result<(), String> {
    said(&mut script("status"))
}

/// Makes it, where that was not done yet, and boots it; the reason why not.
pub(crate) fn up() -> std::result::Result<(), String> {
    said(&mut script("check"))?;
    let words = |fail: Fail| fail.into_message();
    let target = sh::target_dir().map_err(words)?;
    std::fs::create_dir_all(&target)
        .map_err(|error| format!("cannot make `{}`: {error}", target.display()))?;
    sh::run(script("up").arg(target)).map_err(words)
}

/// Says whether it is up; the exit code says so too.
pub(crate) fn status() -> Result<()> {
    match look() {
        Ok(()) => sh::run(&mut script("status")),
        Err(why) => {
            println!("vm: {why}");
            Err(Fail::default().hint("Run `cargo xtask testbed up vm`."))
        }
    }
}

/// Ends it and deletes its disk; what it is made from stays in the cache.
pub(crate) fn down() -> Result<()> {
    sh::run(&mut script("down"))
}

/// As [`down`], at the end of a run that has its result.
pub(crate) fn down_again() {
    if let Err(fail) = down() {
        eprint!("{fail}");
    }
}

/// Runs a command that says on its standard output why not.
fn said(command: &mut Command) -> std::result::Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("cannot run `bash`: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
