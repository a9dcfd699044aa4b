//! Programs from outside that tests start.

mod crates;
pub(crate) mod kubernetes;
mod npm;
mod pypi;

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sh;

/// A program that tests need, and where it comes from.
#[derive(Debug)]
pub(crate) struct Need {
    /// What people call it: its name in `cargo xtask testbed`.
    pub(crate) name: &'static str,
    /// The program that is looked for on `PATH`.
    pub(crate) program: &'static str,
    /// Where it comes from when it is not there.
    source: Source,
    /// Tests that need the program have this in their names; where it is missing they are left out by it.
    pub(crate) in_test_names: &'static str,
}

/// Where a program comes from.
#[derive(Debug)]
enum Source {
    /// Debian's package.
    Debian(&'static str),
    /// A program of crates.io at this version, built into the user's cache.
    Crates(&'static str),
    /// A program of npm at this version, put into the user's cache.
    Npm(&'static str),
    /// Packages of PyPI, in an environment of their own in the user's cache.
    PyPi(pypi::Environment),
}

/// Every program that the tests need.
pub(crate) const NEEDS: &[Need] = &[
    Need {
        name: "redis",
        program: "redis-server",
        source: Source::Debian("redis-server"),
        in_test_names: "redis",
    },
    Need {
        name: "supervisord",
        program: "supervisord",
        source: Source::Debian("supervisor"),
        in_test_names: "supervisord",
    },
    Need {
        name: "promtool",
        program: "promtool",
        source: Source::Debian("prometheus"),
        in_test_names: "promtool",
    },
    Need {
        name: "faketime",
        program: "faketime",
        source: Source::Debian("faketime"),
        in_test_names: "faketime",
    },
    Need {
        name: "docker-registry",
        program: "docker-registry",
        source: Source::Debian("docker-registry"),
        in_test_names: "docker_registry",
    },
    Need {
        name: "schemathesis",
        program: "schemathesis",
        source: Source::PyPi(pypi::Environment {
            name: "schemathesis",
            requirements: include_str!("schemathesis.txt"),
        }),
        in_test_names: "schemathesis",
    },
];

/// What `cargo xtask bench` measures ours beside, besides the programs above. No test needs these.
pub(crate) const PEERS: &[Need] = &[
    Need {
        name: "pm2",
        program: "pm2",
        source: Source::Npm("7.0.4"),
        in_test_names: "pm2",
    },
    Need {
        name: "docker",
        program: "docker",
        source: Source::Debian("docker.io"),
        in_test_names: "",
    },
    Need {
        name: "kubectl",
        program: "kubectl",
        source: Source::Debian("kubernetes-client"),
        in_test_names: "",
    },
    Need {
        name: "docker-compose",
        program: "docker-compose",
        source: Source::Debian("docker-compose"),
        in_test_names: "",
    },
];

/// What `cargo xtask fuzz` runs.
pub(crate) const CARGO_FUZZ: Need = Need {
    name: "cargo-fuzz",
    program: "cargo-fuzz",
    source: Source::Crates("0.13.2"),
    in_test_names: "",
};

/// What libFuzzer is compiled by.
pub(crate) const CXX: Need = Need {
    name: "g++",
    program: "c++",
    source: Source::Debian("g++"),
    in_test_names: "",
};

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
        if let Some(place) = sh::which(self.program) {
            return Met::Found(place);
        }
        let not_on_path = format!("`{}` is not on PATH", self.program);
        match &self.source {
            Source::Debian(_) => Met::Missing(not_on_path),
            Source::Crates(version) => match crates::find(self.program, version) {
                Ok(place) => Met::Found(place),
                Err(why) => Met::Missing(format!("{not_on_path}, and {why}")),
            },
            Source::Npm(version) => match npm::find(self.program, version) {
                Ok(place) => Met::Found(place),
                Err(why) => Met::Missing(format!("{not_on_path}, and {why}")),
            },
            Source::PyPi(environment) => match environment.find(self.program) {
                Ok(place) => Met::Found(place),
                Err(why) => Met::Missing(format!("{not_on_path}, and {why}")),
            },
        }
    }

    /// What a person does where the program is not there.
    pub(crate) fn mend(&self) -> String {
        match &self.source {
            Source::Debian(_) => {
                let name = self.program;
                format!("Install `{name}` with your system's package manager.")
            }
            Source::Crates(_) => format!("Run `cargo install {}`.", self.name),
            Source::Npm(_) => format!("Run `npm install --global {}`.", self.name),
            Source::PyPi(_) => format!("Run `cargo xtask testbed up {}`.", self.name),
        }
    }

    /// Looks for the program and gets it where that can be done unasked: Debian's packages by root on Debian, PyPI's
    /// by who has Python.
    pub(crate) fn ensure(&self) -> Met {
        if let found @ Met::Found(_) = self.look() {
            return found;
        }
        let got = match &self.source {
            Source::Debian(package) => install(&[package]),
            Source::Crates(version) => crates::make(self.program, version),
            Source::Npm(version) => npm::make(self.program, version),
            Source::PyPi(environment) => environment.make(),
        };
        match got {
            Ok(()) => match self.look() {
                Met::Found(place) => Met::Installed(place),
                missing => missing,
            },
            Err(why) => Met::Missing(format!("`{}` is not on PATH, and {why}", self.program)),
        }
    }
}

/// Installs packages of Debian's; the reason why not, as part of a sentence.
pub(crate) fn install(packages: &[&str]) -> Result<(), String> {
    can_install()?;
    eprintln!("installing {} (apt-get) ...", packages.join(", "));
    let install: Vec<&str> = std::iter::once("install")
        .chain(packages.iter().copied())
        .collect();
    if apt(&install).is_ok() {
        return Ok(());
    }
    // A new machine has no package lists, or old ones.
    apt(&["update"])?;
    apt(&install)
}

/// Installs the packages of those programs that are not there; the reason why not, as part of a sentence.
pub(crate) fn ensure_packages(needs: &[(&str, &'static str)]) -> Result<(), String> {
    let missing: Vec<&str> = needs
        .iter()
        .filter(|(program, _)| !is_here(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing).map_err(|why| format!("{} is missing, and {why}", missing.join(", ")))
}

/// Whether a program is there, also where only root's `PATH` leads.
fn is_here(program: &str) -> bool {
    let of_root = ["/usr/sbin", "/sbin"].map(|dir| Path::new(dir).join(program));
    sh::which(program).is_some() || of_root.iter().any(|it| it.is_file())
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
        Err(fail) => Err(fail.into_message()),
    }
}
