//! Programs from outside that tests start as nodes.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sh;

/// A program that tests need, and the Debian package that has it.
#[derive(Debug)]
pub(crate) struct Need {
    /// What people call it: its name in `cargo xtask testbed`.
    pub(crate) name: &'static str,
    /// The program that is looked for on `PATH`.
    pub(crate) program: &'static str,
    /// Debian's package.
    package: &'static str,
    /// Tests that need the program have this in their names; where it is missing they are left out by it.
    pub(crate) in_test_names: &'static str,
}

/// Every program that the tests need.
pub(crate) const NEEDS: &[Need] = &[Need {
    name: "redis",
    program: "redis-server",
    package: "redis-server",
    in_test_names: "redis",
}];

/// Whether a need is met.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// It was there, at this place.
    Found(PathBuf),
    /// It was installed just now, at this place.
    Installed(PathBuf),
    /// It is not there; the reason, as part of a sentence.
    Missing(String),
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found(place) => write!(f, "found at {}", place.display()),
            Self::Installed(place) => write!(f, "installed at {}", place.display()),
            Self::Missing(why) => write!(f, "not found: {why}"),
        }
    }
}

impl Need {
    /// Looks for the program and changes nothing.
    pub(crate) fn look(&self) -> Met {
        match sh::which(self.program) {
            Some(place) => Met::Found(place),
            None => Met::Missing(format!("`{}` is not on PATH", self.program)),
        }
    }

    /// Looks for the program and installs it where that can be done unasked: by root on Debian.
    pub(crate) fn ensure(&self) -> Met {
        if let found @ Met::Found(_) = self.look() {
            return found;
        }
        if let Err(why) = can_install() {
            return Met::Missing(format!("`{}` is not on PATH, and {why}", self.program));
        }
        eprintln!("installing {} (apt-get) ...", self.package);
        match self.install() {
            Ok(()) => match self.look() {
                Met::Found(place) => Met::Installed(place),
                missing => missing,
            },
            Err(why) => Met::Missing(why),
        }
    }

    fn install(&self) -> Result<(), String> {
        if apt(&["install", self.package]).is_ok() {
            return Ok(());
        }
        // A new machine has no package lists, or old ones.
        apt(&["update"])?;
        apt(&["install", self.package])
    }
}

/// Whether packages can be installed with no question asked.
fn can_install() -> Result<(), &'static str> {
    if !Path::new("/etc/debian_version").exists() {
        return Err("this is not Debian");
    }
    if sh::which("apt-get").is_none() {
        return Err("there is no `apt-get`");
    }
    // The owner of /proc/self is this process's effective user.
    match std::fs::metadata("/proc/self") {
        Ok(me) if me.uid() == 0 => Ok(()),
        _ => Err("only root can install it"),
    }
}

fn apt(args: &[&str]) -> Result<(), String> {
    let mut command = Command::new("apt-get");
    command
        .args(["--quiet", "--yes", "--no-install-recommends"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Packages of servers start them at once; in run level 1 they do not. Tests start their own.
        .env("RUNLEVEL", "1")
        .stdin(std::process::Stdio::null());
    match sh::output(&mut command) {
        Ok(_) => Ok(()),
        Err(fail) => Err(fail.to_string().trim_end().to_owned()),
    }
}
