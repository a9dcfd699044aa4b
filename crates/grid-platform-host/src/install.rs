//! Whose state this is: the install id, and that one living adapter uses it on one host.

use std::{
    fs::{self, DirBuilder, File},
    io::{Seek, SeekFrom, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::Path,
    time::{Duration, Instant},
};

use grid_platform_api::{DigestKey, Error, ErrorKind, OwnerId, Result, checked};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Context, error, refused},
    files, users,
};

const FILE: &str = "install.json";
/// A file of this name beside it says that the copy shall be the one from now on.
const ACCEPT: &str = "accept-copy";
const VERSION: u32 = 1;
/// How long a lock that is held is asked for again: a child that somebody else in this process forks holds
/// copies of all descriptors until it executes.
const LOCK_PATIENCE: Duration = Duration::from_millis(400);
/// And when this very process holds it: an adapter of its own that was dropped, while others of it start nodes on a slow
/// machine.
const OWN_LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// What `install.json` says.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    owner: OwnerId,
    /// Of the digests' secrets, hexadecimal.
    key: String,
    /// The number of this file's inode: a copy has another one.
    inode: u64,
    /// Of the host: a copy of the disk has the inode.
    machine_id: String,
}

/// The state directory, locked.
pub struct Install {
    /// Who owns what this adapter makes.
    pub owner: OwnerId,
    /// For the secrets in digests.
    pub key: DigestKey,
    /// The state directory.
    pub dir: OwnedFd,
    /// Held as long as the adapter lives.
    _lock: File,
}

impl Install {
    /// Opens the state directory, making it if it is not there.
    ///
    /// # Errors
    /// `StateLocked` while another adapter lives; `OwnedByOther` for a copy; `Corrupt`; `PermissionDenied`.
    pub fn open(path: &Path) -> Result<Self> {
        let dir = make_dir(path)?;
        let lock = lock(&dir, path)?;
        let stored = match files::read_at(&dir, FILE, 64 * 1024) {
            Ok(bytes) => read(&dir, &bytes, path)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(&dir, path)?,
            Err(error) => return Err(refused(format!("read `{}/{FILE}`", path.display()), error)),
        };
        Ok(Self {
            key: DigestKey::from_bytes(unhex(&stored.key).ok_or_else(|| corrupt(path))?),
            owner: stored.owner,
            dir,
            _lock: lock,
        })
    }
}

/// Says that a state directory that was moved or restored is the only one of its install id.
///
/// A state directory knows the file it was made as and its host. After it was copied (restored from a backup, moved to
/// another disk or host), opening it fails with [`OwnedByOther`](ErrorKind::OwnedByOther): two agents with one install id
/// would take each other's nodes for their own. When the former directory is not used any more, this makes the copy the one;
/// so does a file named `accept-copy` in it, at the next opening.
///
/// # Errors
/// `StateLocked` while an adapter uses the directory; `Corrupt` when it is none; the system's refusals.
pub fn accept_copied_state(state_dir: &Path) -> Result<()> {
    let dir = files::open_dir(state_dir).cannot(format!("open `{}`", state_dir.display()))?;
    let _lock = lock(&dir, state_dir)?;
    let bytes = files::read_at(&dir, FILE, 64 * 1024)
        .cannot(format!("read `{}/{FILE}`", state_dir.display()))?;
    let stored = parse(&bytes, state_dir)?;
    write(&dir, stored, state_dir).map(drop)
}

/// Makes the directory, which the users of nodes may pass through and not look into.
fn make_dir(path: &Path) -> Result<OwnedFd> {
    let shown = path.display();
    if !path.exists() {
        // Whatever the umask: the users of nodes pass through it.
        DirBuilder::new()
            .recursive(true)
            .create(path)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o711)))
            .cannot(format!("make the state directory `{shown}`"))?;
    }
    let dir = files::open_dir(path).cannot(format!("open the state directory `{shown}`"))?;
    let stat = rustix::fs::fstat(&dir).cannot(format!("look at `{shown}`"))?;
    let foreign = stat.st_uid != users::own_uid();
    if foreign || stat.st_mode & 0o022 != 0 {
        let why = if foreign {
            "belongs to another user"
        } else {
            "can be written by other users"
        };
        return Err(error(
            ErrorKind::PermissionDenied,
            format!("the state directory `{shown}` {why}"),
        )
        .with_hint(
            "Use a directory of the agent's own user that nobody else can write to (`chmod 711`).",
        ));
    }
    Ok(dir)
}

fn lock(dir: &OwnedFd, path: &Path) -> Result<File> {
    let mut file = files::create_at(dir, "lock", 0o600)
        .cannot(format!("write in the state directory `{}`", path.display()))?;
    let begin = Instant::now();
    while !files::try_lock(&file).cannot("lock the state")? {
        let holder = fs::read_to_string(path.join("lock")).unwrap_or_default();
        let patience = match holder.trim().parse() == Ok(std::process::id()) {
            true => OWN_LOCK_PATIENCE,
            false => LOCK_PATIENCE,
        };
        if begin.elapsed() >= patience {
            return Err(error(
                ErrorKind::StateLocked,
                format!(
                    "the state directory `{}` is in use by process {}",
                    path.display(),
                    holder.trim()
                ),
            )
            .with_hint("Stop that agent, or give this one another `state_dir`."));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    file.set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| writeln!(file, "{}", std::process::id()))
        .cannot("write the state's lock")?;
    Ok(file)
}

fn create(dir: &OwnedFd, path: &Path) -> Result<Stored> {
    let nodes = files::open_dir_at(dir, "nodes").and_then(files::names);
    if nodes.is_ok_and(|it| !it.is_empty()) {
        return Err(error(
            ErrorKind::Corrupt,
            format!("`{}/{FILE}` is gone and nodes are there", path.display()),
        )
        .with_hint("Put the file back from a backup: it says whose these nodes are."));
    }
    let stored = Stored {
        version: VERSION,
        owner: OwnerId::from_bytes(random()?),
        key: hex(&random::<32>()?),
        inode: 0,
        machine_id: String::new(),
    };
    write(dir, stored, path)
}

/// Writes the file with the number of its own inode in it.
fn write(dir: &OwnedFd, mut stored: Stored, path: &Path) -> Result<Stored> {
    let context = format!("write `{}/{FILE}`", path.display());
    let temporary = "install.json.tmp";
    let mut file =
        files::write_new(dir, temporary, b"", 0o600, files::Durable::No).cannot(&context)?;
    stored.inode = file.metadata().cannot(&context)?.ino();
    stored.machine_id = machine_id();
    serde_json::to_vec_pretty(&stored)
        .map_err(std::io::Error::from)
        .and_then(|text| file.write_all(&checked::seal(text)))
        .and_then(|()| file.sync_all())
        .cannot(&context)?;
    rustix::fs::renameat(dir, temporary, dir, FILE).cannot(&context)?;
    files::sync(dir).cannot(&context)?;
    Ok(stored)
}

fn read(dir: &OwnedFd, bytes: &[u8], path: &Path) -> Result<Stored> {
    let stored = parse(bytes, path)?;
    let inode = files::open_at(dir, FILE)
        .and_then(|it| it.metadata())
        .cannot(format!("look at `{}/{FILE}`", path.display()))?
        .ino();
    if inode != stored.inode || machine_id() != stored.machine_id {
        if files::open_at(dir, ACCEPT).is_ok() {
            let stored = write(dir, stored, path)?;
            files::remove_at(dir, ACCEPT)
                .cannot(format!("delete `{}/{ACCEPT}`", path.display()))?;
            return Ok(stored);
        }
        return Err(error(
            ErrorKind::OwnedByOther,
            format!(
                "the state directory `{}` is a copy of another one",
                path.display()
            ),
        )
        .with_hint(format!(
            "If the other one is not used any more, run `touch {}/{ACCEPT}` and start again; if it is, delete this copy.",
            path.display()
        )));
    }
    Ok(stored)
}

fn parse(bytes: &[u8], path: &Path) -> Result<Stored> {
    let text = checked::open(bytes).map_err(|e| corrupt(path).with_source(e))?;
    let stored: Stored = serde_json::from_slice(text).map_err(|e| corrupt(path).with_source(e))?;
    if stored.version != VERSION {
        return Err(corrupt(path));
    }
    Ok(stored)
}

fn corrupt(path: &Path) -> Error {
    error(
        ErrorKind::Corrupt,
        format!("`{}/{FILE}` cannot be understood", path.display()),
    )
    .with_hint("Put the file back from a backup: it says whose the nodes in this state are.")
}

fn machine_id() -> String {
    fs::read_to_string("/etc/machine-id")
        .map(|it| it.trim().to_owned())
        .unwrap_or_default()
}

/// Bytes from the system's random source.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| {
        error(
            ErrorKind::Internal,
            "cannot read the system's random source",
        )
        .with_source(std::io::Error::other(e.to_string()))
    })?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|it| format!("{it:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(path: &Path) -> ErrorKind {
        Install::open(path).err().unwrap().kind()
    }

    #[test]
    fn one_install_id_for_good_and_one_adapter_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/state");
        let first = Install::open(&state).unwrap();
        let busy = Install::open(&state).err().unwrap();
        assert_eq!(busy.kind(), ErrorKind::StateLocked);
        assert!(busy.to_string().contains(&std::process::id().to_string()));
        let owner = first.owner.clone();
        drop(first);
        assert_eq!(Install::open(&state).unwrap().owner, owner);
    }

    #[test]
    fn a_copy_is_refused_until_it_is_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let (first, copy) = (dir.path().join("first"), dir.path().join("copy"));
        let owner = Install::open(&first).unwrap().owner;
        fs::create_dir(&copy).unwrap();
        fs::copy(first.join(FILE), copy.join(FILE)).unwrap();
        assert_eq!(kind(&copy), ErrorKind::OwnedByOther);
        accept_copied_state(&copy).unwrap();
        assert_eq!(Install::open(&copy).unwrap().owner, owner);

        fs::copy(first.join(FILE), copy.join(FILE)).unwrap();
        assert_eq!(kind(&copy), ErrorKind::OwnedByOther);
        fs::write(copy.join(ACCEPT), "").unwrap();
        assert_eq!(Install::open(&copy).unwrap().owner, owner);
        assert!(!copy.join(ACCEPT).exists());
        drop(Install::open(&copy).unwrap());
    }

    #[test]
    fn damage_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        drop(Install::open(&state).unwrap());
        let text = fs::read_to_string(state.join(FILE)).unwrap();
        fs::write(state.join(FILE), &text[..text.len() / 2]).unwrap();
        assert_eq!(kind(&state), ErrorKind::Corrupt);
        fs::remove_file(state.join(FILE)).unwrap();
        fs::create_dir_all(state.join("nodes/sutra-grid-a")).unwrap();
        assert_eq!(kind(&state), ErrorKind::Corrupt);
    }
}
