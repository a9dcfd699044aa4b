//! Which engine a state belongs to.
//!
//! The state says what is asked of nodes, and holds their secrets and data; the nodes themselves are on one engine. Opened
//! against another one it would find none of them, and whoever keeps them running would make each a second time, on the same
//! data. So the state remembers its engine, and is not used with another until somebody says so.

use std::{fmt, io, os::fd::OwnedFd, path::Path};

use bollard::models::SystemInfo;
use grid_platform_api::{Error, ErrorKind, Result, checked, printable};
use grid_platform_host::{
    error::Context,
    files::{self, Durable},
    work::blocking,
};
use serde::{Deserialize, Serialize};

use crate::{
    engine::{CALL, Engine},
    error::error,
    platform::Inner,
};

const FILE: &str = "engine.json";
/// A file of this name beside it says that the engine that is there now shall be the one.
const ACCEPT: &str = "accept-engine";
const MAX: usize = 64 * 1024;

/// By what an engine is known again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Its own id. Docker 20.10 has it from a key of the host, which two engines of one host share; Podman makes up a new one for
    /// each call, and has none here.
    id: Option<String>,
    /// Where it keeps its data.
    root: String,
    /// The name of its host, where it has no id.
    host: Option<String>,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.id.as_ref().or(self.host.as_ref());
        let name = name.map_or("", String::as_str);
        write!(f, "{} at {}", printable(name), printable(&self.root))
    }
}

impl Identity {
    /// What two answers of one engine have in common.
    fn of(first: &SystemInfo, second: &SystemInfo) -> Self {
        let id = first.id.clone().filter(|it| !it.is_empty());
        let id = id.filter(|it| second.id.as_ref() == Some(it));
        Self {
            host: first.name.clone().filter(|_| id.is_none()),
            root: first.docker_root_dir.clone().unwrap_or_default(),
            id,
        }
    }

    /// Whether this is an answer of the engine.
    fn is(&self, info: &SystemInfo) -> bool {
        let same = |known: &Option<String>, seen: &Option<String>| {
            known.is_none() || known.as_deref() == seen.as_deref()
        };
        same(&self.id, &info.id)
            && same(&self.host, &info.name)
            && self.root == info.docker_root_dir.as_deref().unwrap_or_default()
    }
}

/// Asks the engine what it is.
///
/// # Errors
/// When it does not answer.
pub(crate) async fn info(engine: &Engine) -> Result<SystemInfo> {
    let asked = engine.docker.info();
    engine.call("ask the engine what it is", CALL, asked).await
}

/// The engine of a state that is opened; of a new state, this one from now on.
///
/// # Errors
/// `OwnedByOther` when the state is another engine's; `Corrupt`; the system's refusals; when the engine does not answer.
pub(crate) async fn bind(path: &Path, engine: &Engine, seen: &SystemInfo) -> Result<Identity> {
    let reading = path.to_owned();
    let known = blocking(move || read(&open(&reading)?, &reading)).await?;
    match &known {
        Some((known, false)) if known.is(seen) => return Ok(known.clone()),
        Some((known, false)) => {
            let now = Identity::of(seen, seen);
            return Err(foreign(path, known, &now, engine));
        }
        // Said before it was needed, it does not stay: it would be for any engine that comes.
        _ => {}
    }
    let this = Identity::of(seen, &info(engine).await?);
    let (writing, written) = (path.to_owned(), this.clone());
    blocking(move || write(&open(&writing)?, &writing, &written)).await?;
    Ok(this)
}

fn open(path: &Path) -> Result<OwnedFd> {
    files::open_dir(path).cannot(format!("open the state directory `{}`", path.display()))
}

fn foreign(path: &Path, known: &Identity, now: &Identity, engine: &Engine) -> Error {
    let shown = path.display();
    error(
        ErrorKind::OwnedByOther,
        format!(
            "the state directory `{shown}` belongs to the engine `{known}`, and at `{}` is the engine `{now}`",
            engine.host
        ),
    )
    .with_hint(format!(
        "Name the former engine by `docker.host`, `docker.context` or `DOCKER_HOST`, or give this one another `state_dir`. If the former one is gone with its containers, or was moved, run `touch {shown}/{ACCEPT}` and start again."
    ))
}

/// What is remembered, and whether another engine is accepted.
fn read(dir: &OwnedFd, path: &Path) -> Result<Option<(Identity, bool)>> {
    let shown = format!("{}/{FILE}", path.display());
    let text = match files::read_at(dir, FILE, MAX) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.cannot(format!("read `{shown}`"))?,
    };
    let accepted = files::open_at(dir, ACCEPT).is_ok();
    let corrupt = || {
        error(
            ErrorKind::Corrupt,
            format!("`{shown}` cannot be understood"),
        )
        .with_hint("It says on which engine the nodes are: put it back from a backup, or delete it when the engine is surely the one.")
    };
    let text = checked::open(&text).map_err(|e| corrupt().with_source(e))?;
    let known = serde_json::from_slice(text).map_err(|e| corrupt().with_source(e))?;
    Ok(Some((known, accepted)))
}

fn write(dir: &OwnedFd, path: &Path, this: &Identity) -> Result<()> {
    let what = format!("write `{}/{FILE}`", path.display());
    let text = serde_json::to_vec_pretty(this)
        .map(checked::seal)
        .map_err(io::Error::from)
        .cannot(&what)?;
    files::replace_at(dir, FILE, &text, 0o600, Durable::Yes).cannot(&what)?;
    files::remove_at(dir, ACCEPT).cannot(format!("delete `{}/{ACCEPT}`", path.display()))
}

impl Inner {
    /// Looks whether the engine is still the one that the nodes are on. What another one does not have is not gone.
    ///
    /// # Errors
    /// `Unavailable` while it is another one; when it does not answer.
    pub(crate) async fn same_engine(&self) -> Result<()> {
        let seen = info(&self.engine).await?;
        if self.identity.is(&seen) {
            return Ok(());
        }
        let now = Identity::of(&seen, &seen);
        Err(error(
            ErrorKind::Unavailable,
            format!(
                "at `{}` is now the engine `{now}`, and the nodes are on the engine `{}`",
                self.engine.host, self.identity
            ),
        )
        .with_hint("Start the former engine there again: it is tried again. An agent for the other one needs a `state_dir` of its own."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(id: &str, root: &str, name: &str) -> SystemInfo {
        SystemInfo {
            id: Some(id.into()),
            docker_root_dir: Some(root.into()),
            name: Some(name.into()),
            ..SystemInfo::default()
        }
    }

    #[test]
    fn an_engine_is_known_by_what_it_does_not_change() {
        let seen = info("A", "/r", "h");
        let docker = Identity::of(&seen, &seen);
        assert_eq!(docker.to_string(), "A at /r");
        assert!(docker.is(&info("A", "/r", "renamed")));
        assert!(!docker.is(&info("B", "/r", "h")));
        // Two engines of one host have one key.
        assert!(!docker.is(&info("A", "/other", "h")));

        let podman = Identity::of(&info("1", "/r", "h"), &info("2", "/r", "h"));
        assert_eq!(podman.to_string(), "h at /r");
        assert!(podman.is(&info("3", "/r", "h")));
        assert!(!podman.is(&info("3", "/home/r", "h")));
        assert!(!podman.is(&info("3", "/r", "far")));
    }

    #[test]
    fn what_is_written_is_read_and_damage_is_told() {
        let place = tempfile::tempdir().unwrap();
        let dir = files::open_dir(place.path()).unwrap();
        assert_eq!(read(&dir, place.path()).unwrap(), None);
        let this = Identity::of(&info("A", "/r", "h"), &info("A", "/r", "h"));
        std::fs::write(place.path().join(ACCEPT), "").unwrap();
        write(&dir, place.path(), &this).unwrap();
        assert!(!place.path().join(ACCEPT).exists());
        assert_eq!(
            read(&dir, place.path()).unwrap(),
            Some((this.clone(), false))
        );
        std::fs::write(place.path().join(ACCEPT), "").unwrap();
        assert_eq!(read(&dir, place.path()).unwrap(), Some((this, true)));
        let text = std::fs::read_to_string(place.path().join(FILE)).unwrap();
        std::fs::write(place.path().join(FILE), text.replace("/r", "/s")).unwrap();
        let error = read(&dir, place.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
