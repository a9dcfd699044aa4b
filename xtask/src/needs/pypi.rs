//! Programs of PyPI: each in a virtual environment of its own, in the user's cache.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::install;
use crate::sh;

/// A virtual environment with these packages.
#[derive(Debug)]
pub(super) struct Environment {
    /// Its directory's name.
    pub(super) name: &'static str,
    /// Every package with its version, as pip reads them.
    pub(super) requirements: &'static str,
}

impl Environment {
    /// The program's place in the finished environment; the reason why there is none, as part of a sentence.
    pub(super) fn find(&self, program: &str) -> Result<PathBuf, String> {
        self.find_in(&self.dir()?, program)
    }

    fn find_in(&self, dir: &Path, program: &str) -> Result<PathBuf, String> {
        let place = dir.join("bin").join(program);
        // Written last, and with what it was made from: half an environment, or one of other versions, is none.
        let made_from = fs::read_to_string(dir.join(MADE_FROM)).unwrap_or_default();
        if made_from == self.requirements && place.is_file() {
            Ok(place)
        } else {
            Err(format!("`{}` has no finished environment", dir.display()))
        }
    }

    /// Makes the environment.
    pub(super) fn make(&self) -> Result<(), String> {
        let dir = self.dir()?;
        let broken = |what: &str, place: &Path, error: std::io::Error| {
            format!("cannot {what} `{}`: {error}", place.display())
        };
        let parent = dir.parent().unwrap_or(&dir);
        fs::create_dir_all(parent).map_err(|error| broken("make", parent, error))?;
        // Two runs that start at once do not pip into one directory.
        let lock = dir.with_extension("lock");
        let held = File::create(&lock).map_err(|error| broken("make", &lock, error))?;
        held.lock().map_err(|error| broken("lock", &lock, error))?;
        if fs::read_to_string(dir.join(MADE_FROM)).is_ok_and(|text| text == self.requirements) {
            return Ok(());
        }
        eprintln!("installing {} (pip) into {} ...", self.name, dir.display());
        if venv(&dir).is_err() {
            // Debian's Python comes without what makes environments.
            install(&["python3-venv"])?;
            venv(&dir)?;
        }
        let list = dir.join("requirements.txt");
        fs::write(&list, self.requirements).map_err(|error| broken("write", &list, error))?;
        let mut pip = Command::new(dir.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--requirement"]);
        pip.arg(&list)
            .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
            .env("PIP_ROOT_USER_ACTION", "ignore");
        quiet(&mut pip)?;
        let mark = dir.join(MADE_FROM);
        fs::write(&mark, self.requirements).map_err(|error| broken("write", &mark, error))
    }

    fn dir(&self) -> Result<PathBuf, String> {
        Ok(sh::cache_dir()?.join("python").join(self.name))
    }
}

/// The file of an environment that says what it was made from.
const MADE_FROM: &str = "made-from.txt";

/// An empty environment in the place of what was there.
fn venv(dir: &Path) -> Result<(), String> {
    quiet(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(dir),
    )
}

fn quiet(command: &mut Command) -> Result<(), String> {
    match sh::output(command.stdin(Stdio::null())) {
        Ok(_) => Ok(()),
        Err(fail) => Err(fail.into_message()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_environment_and_one_of_other_versions_are_none() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let environment = Environment {
            name: "a",
            requirements: "a==2\n",
        };
        let found = || environment.find_in(dir.path(), "a").is_ok();
        let write = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).expect("a file");
        };
        fs::create_dir(dir.path().join("bin")).expect("a directory");
        assert!(!found());
        write("bin/a", "");
        assert!(!found(), "it was not finished");
        write(MADE_FROM, "a==1\n");
        assert!(!found(), "it is of another version");
        write(MADE_FROM, "a==2\n");
        assert!(found());
        fs::remove_file(dir.path().join("bin/a")).expect("a file");
        assert!(!found(), "the program is gone");
    }
}
