//! The Kubernetes cluster of the tests' own: got where that can be done unasked, raised and taken away.

use std::path::{Path, PathBuf};

use grid_testbed::kubernetes::{Cluster, NEEDS, VARIABLE};

use crate::fail::{Fail, Result};
use crate::needs;

/// Whether tests have a cluster, and of which version; the reason why not.
pub(crate) fn look() -> std::result::Result<String, String> {
    let view = grid_testbed::kubernetes::find()?;
    Ok(format!(
        "{} by `{}`",
        view.version()?,
        view.kubeconfig().display()
    ))
}

/// Raises the host's own cluster; the reason why not, as where another one is named, which is not to be broken.
pub(crate) fn up_own() -> std::result::Result<(), String> {
    up()?;
    grid_testbed::kubernetes::find()?.own().map(drop)
}

/// Raises the host's cluster, unless there is one to be used; the reason why not.
pub(crate) fn up() -> std::result::Result<(), String> {
    if is_named() || look().is_ok() {
        // A named one is somebody else's to raise.
        return look().map(drop);
    }
    needs::ensure_packages(NEEDS)?;
    let programs = needs::kubernetes::ensure()?;
    Cluster::of_host().up(&programs).map(drop)
}

/// Whether the environment names a cluster.
fn is_named() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|it| !it.is_empty())
}

/// Raises it, and says where it is.
pub(crate) fn raise() -> Result<()> {
    up().map_err(|why| {
        Fail::new(format!("cannot raise a Kubernetes cluster: {why}")).hint(format!(
            "Be root on Debian 12, or name a cluster that is there with `{VARIABLE}`."
        ))
    })?;
    status()
}

/// Says whether there is one; the exit code says so too.
pub(crate) fn status() -> Result<()> {
    match look() {
        Ok(version) => {
            println!("kubernetes: {version}");
            Ok(())
        }
        Err(why) => {
            println!("kubernetes: {why}");
            Err(Fail::default().hint("Run `cargo xtask testbed up kubernetes`."))
        }
    }
}

/// Takes the host's cluster away, with all that is on it.
pub(crate) fn down() -> Result<()> {
    Cluster::of_host().down().map_err(Fail::new)
}

/// As [`down`], at the end of a run that has its result, if that used this cluster.
pub(crate) fn down_again() {
    if is_named() {
        return;
    }
    if let Err(fail) = down() {
        eprint!("{fail}");
    }
}

/// A cluster to be used, which is taken away again if it was not there before.
#[derive(Debug)]
pub(crate) struct Raised {
    kubeconfig: PathBuf,
    was_there: bool,
}

impl Raised {
    /// Raises one unless there is one; the reason why not.
    pub(crate) fn up() -> std::result::Result<Self, String> {
        let was_there = look().is_ok();
        up()?;
        let view = grid_testbed::kubernetes::find()?;
        Ok(Self {
            kubeconfig: view.kubeconfig().to_owned(),
            was_there,
        })
    }

    /// By which it is reached.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        if !self.was_there {
            down_again();
        }
    }
}
