//! Programs of npm, put into the user's cache.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::install;
use crate::sh;

/// The program's place; the reason why there is none, as part of a sentence.
pub(super) fn find(program: &str, version: &str) -> Result<PathBuf, String> {
    let place = dir(program, version)?
        .join("node_modules/.bin")
        .join(program);
    if place.is_file() {
        Ok(place)
    } else {
        Err(format!("`{}` is not there", place.display()))
    }
}

/// Gets the package of that name. It comes into its place whole, at the end.
pub(super) fn make(program: &str, version: &str) -> Result<(), String> {
    // Debian's npm needs its nodejs.
    if sh::which("npm").is_none() {
        install(&["npm"])?;
    }
    let dir = dir(program, version)?;
    let parent = dir.parent().unwrap_or(&dir);
    let broken = |error: std::io::Error| format!("cannot write `{}`: {error}", parent.display());
    fs::create_dir_all(parent).map_err(broken)?;
    let unfinished = tempfile::tempdir_in(parent).map_err(broken)?;
    eprintln!(
        "installing {program} {version} (npm) into {} ...",
        dir.display()
    );
    let mut npm = Command::new("npm");
    npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund"])
        .arg("--prefix")
        .arg(unfinished.path())
        .arg(format!("{program}@{version}"))
        .stdin(Stdio::null());
    sh::output(&mut npm).map_err(crate::fail::Fail::into_message)?;
    match fs::rename(unfinished.path(), &dir) {
        // Another run was faster.
        Err(_) if find(program, version).is_ok() => Ok(()),
        renamed => renamed.map_err(broken),
    }
}

fn dir(program: &str, version: &str) -> Result<PathBuf, String> {
    Ok(sh::cache_dir()?
        .join("npm")
        .join(format!("{program}-{version}")))
}
