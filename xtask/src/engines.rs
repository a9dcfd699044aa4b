//! Container engines of the tests' own: got where that can be done unasked, raised and taken away.

use grid_testbed::{Engine, Kind, Options};

use crate::fail::{Fail, Result};
use crate::needs;

/// Whether tests have an engine of this kind, and of which version; the reason why not.
pub(crate) fn look(kind: Kind) -> std::result::Result<String, String> {
    let api = grid_testbed::find(kind)?;
    Ok(format!("{} at {}", api.version()?, api.host()))
}

/// Raises the checkout's engine, unless there is one to be used; the reason why not.
pub(crate) fn up(kind: Kind) -> std::result::Result<(), String> {
    if is_named(kind) {
        // That one is somebody else's to raise.
        return look(kind).map(drop);
    }
    get(kind)?;
    Engine::sweep_temporaries(kind);
    Engine::of_checkout(kind).up(Options::default()).map(drop)
}

/// Gets the programs of an engine, so that one can be raised here; the reason why not.
pub(crate) fn get(kind: Kind) -> std::result::Result<(), String> {
    grid_testbed::can_raise(kind)?;
    needs::ensure_packages(kind.needs())
}

/// Whether the environment names an engine.
fn is_named(kind: Kind) -> bool {
    std::env::var_os(kind.variable()).is_some_and(|it| !it.is_empty())
}

/// Raises it, and says where it is.
pub(crate) fn raise(kind: Kind) -> Result<()> {
    up(kind).map_err(|why| {
        Fail::new(format!("cannot raise {}: {why}", kind.name())).hint(format!(
            "Be root on Debian, or name an engine that is there with `{}`.",
            kind.variable()
        ))
    })?;
    status(kind)
}

/// Says whether there is one; the exit code says so too.
pub(crate) fn status(kind: Kind) -> Result<()> {
    match look(kind) {
        Ok(version) => {
            println!("{}: {version}", kind.name());
            Ok(())
        }
        Err(why) => {
            println!("{}: {why}", kind.name());
            let name = kind.name();
            Err(Fail::default().hint(format!("Run `cargo xtask testbed up {name}`.")))
        }
    }
}

/// Takes the checkout's engine away, with all that is on it.
pub(crate) fn down(kind: Kind) -> Result<()> {
    Engine::sweep_temporaries(kind);
    Engine::of_checkout(kind).down().map_err(Fail::new)
}

/// As [`down`], at the end of a run that has its result, if that used this engine.
pub(crate) fn down_again(kind: Kind) {
    if is_named(kind) {
        return;
    }
    if let Err(fail) = down(kind) {
        eprint!("{fail}");
    }
}

/// An engine to be used, which is taken away again if it was not there before.
#[derive(Debug)]
pub(crate) struct Raised {
    kind: Kind,
    host: String,
    was_there: bool,
}

impl Raised {
    /// Raises one unless there is one; the reason why not.
    pub(crate) fn up(kind: Kind) -> std::result::Result<Self, String> {
        let was_there = look(kind).is_ok();
        up(kind)?;
        let host = grid_testbed::find(kind)?.host().to_owned();
        Ok(Self {
            kind,
            host,
            was_there,
        })
    }

    /// Its place, as in `DOCKER_HOST`.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        if !self.was_there {
            down_again(self.kind);
        }
    }
}
