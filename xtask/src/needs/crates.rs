//! Programs of crates.io, built into the user's cache.

use std::path::PathBuf;

use crate::sh;

/// The program's place; the reason why there is none, as part of a sentence.
pub(super) fn find(program: &str, version: &str) -> Result<PathBuf, String> {
    let place = dir(program, version)?.join("bin").join(program);
    // cargo puts it there whole, at the end.
    if place.is_file() {
        Ok(place)
    } else {
        Err(format!("`{}` is not there", place.display()))
    }
}

/// Builds the program. Two that do so at once wait for each other.
pub(super) fn make(program: &str, version: &str) -> Result<(), String> {
    let dir = dir(program, version)?;
    eprintln!(
        "installing {program} {version} (cargo) into {} ...",
        dir.display()
    );
    let mut cargo = sh::cargo();
    cargo.args(["install", "--quiet", "--locked", "--version", version]);
    cargo.arg("--root").arg(dir).arg(program);
    sh::run(&mut cargo).map_err(crate::fail::Fail::into_message)
}

fn dir(program: &str, version: &str) -> Result<PathBuf, String> {
    Ok(sh::cache_dir()?
        .join("cargo")
        .join(format!("{program}-{version}")))
}
