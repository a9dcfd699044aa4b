//! Which owner of things on an engine is a test, and of which process: so that a run finds what one before it, which was
//! killed, has left there, and touches nothing of anybody else's.

use std::fs;
use std::path::PathBuf;

use crate::engine::{is_own_dir, private_dir};
use crate::{Api, proc, sweep};

fn place() -> PathBuf {
    let user = rustix::process::getuid().as_raw();
    PathBuf::from(format!("/tmp/sutra-grid-test-owners-{user}"))
}

/// Writes down that this owner on this engine is a test of this process.
///
/// # Errors
/// When it cannot be written.
pub fn claim(api: &Api, owner: &str) -> Result<(), String> {
    let place = place();
    private_dir(&place)?;
    let own = proc::identity(std::process::id()).ok_or("there is no `/proc`")?;
    let file = place.join(owner);
    fs::write(&file, format!("{own}\n{}\n", api.host()))
        .map_err(|error| format!("cannot write `{}`: {error}", file.display()))
}

/// Takes that back: nothing of the owner's is left.
pub fn release(owner: &str) {
    let _ = fs::remove_file(place().join(owner));
}

/// Deletes what tests of processes that have ended left on this engine, and says what it was.
///
/// # Errors
/// When the engine cannot be asked, or keeps something.
pub fn sweep_dead(api: &Api) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let place = place();
    if !is_own_dir(&place) {
        return Ok(found);
    }
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let mut lines = text.lines();
        let (Some(of), Some(host)) = (lines.next(), lines.next()) else {
            continue;
        };
        let pid = of
            .split(' ')
            .next()
            .and_then(|it| it.parse().ok())
            .unwrap_or(0);
        if host != api.host() || proc::identity(pid).as_deref() == Some(of) {
            continue;
        }
        let owner = entry.file_name().to_string_lossy().into_owned();
        found.extend(sweep(api, &owner)?);
        release(&owner);
    }
    Ok(found)
}
