//! Running other programs.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::fail::{Fail, Result};

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    // Cargo tells where the manifest is now; the compiled-in place serves when the program is started by hand.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .parent()
        .map_or(manifest.clone(), Path::to_path_buf)
}

/// The cargo that started this task, in the repository's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// Builds libraries, programs, examples and tests of these packages in one go, with the features that tests are built
/// with: what tests start as programs is there before the first test, and no test waits for a build or sees half of one.
pub(crate) fn build(scope: &[&str]) -> Result<()> {
    let targets = ["--lib", "--bins", "--examples", "--tests"];
    let mut command = cargo();
    command.arg("build").args(targets).args(scope);
    // Progress is for who watches; in a file or a pipe only warnings and errors are news.
    if !std::io::stderr().is_terminal() {
        command.arg("--quiet");
    }
    run(&mut command)
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let metadata = json(cargo().args(["metadata", "--no-deps", "--format-version=1"]))?;
    metadata["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .ok_or_else(|| Fail::new("`cargo metadata` names no target directory"))
}

/// Runs the command with its output shown; an exit code other than 0 is a failure.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .map_err(|error| Fail::new(format!("cannot run `{}`: {error}", line(command))))?;
    if status.success() {
        return Ok(());
    }
    Err(Fail::new(format!(
        "`{}` ended with {status}",
        line(command)
    )))
}

/// Runs the command, which has nothing to say when all is well: a warning is a failure too.
pub(crate) fn silent(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .map_err(|error| Fail::new(format!("cannot run `{}`: {error}", line(command))))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim_end();
    if output.status.success() && said.is_empty() {
        return Ok(());
    }
    Err(Fail::new(format!(
        "`{}` ended with {} and said:\n{said}",
        line(command),
        output.status
    )))
}

/// Runs the command and returns what it wrote to its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| Fail::new(format!("cannot run `{}`: {error}", line(command))))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Fail::new(format!(
        "`{}` ended with {}: {}",
        line(command),
        output.status,
        said.trim_end()
    )))
}

/// Runs the command and reads its standard output as JSON.
pub(crate) fn json(command: &mut Command) -> Result<serde_json::Value> {
    let text = output(command)?;
    serde_json::from_str(&text)
        .map_err(|error| Fail::new(format!("`{}` wrote no JSON: {error}", line(command))))
}

/// The program's place on `PATH`.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Where what was fetched from elsewhere is kept between runs; the reason why nowhere, as part of a sentence.
pub(crate) fn cache_dir() -> std::result::Result<PathBuf, String> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute());
    base.or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
        .map(|dir| dir.join("sutra-grid-testbed"))
        .ok_or_else(|| "there is no home directory for a cache".to_owned())
}

/// The command as a person would type it, the program by its file name.
fn line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut line = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned();
    for arg in command.get_args().map(OsStr::to_string_lossy) {
        line.push(' ');
        line.push_str(&arg);
    }
    line
}
