//! Starting a node's shim.

use std::{
    ffi::{CStr, CString, OsStr},
    fs,
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use grid_platform_api::{ErrorKind, Failure, FailureReason, Program, Result, SpawnConfig, fault};
use rustix::{
    fs::{MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags},
    pipe::PipeFlags,
};

use crate::{
    config::{Allow, ProcessConfig},
    data::{Found, Marker},
    error::{Context, error},
    intent::Intent,
    node::Node,
    platform::Inner,
    supervise::{self, Watched},
    sys::{
        exec::{self, Child, Descriptors},
        files::{self, Durable},
        users::{self, Account},
    },
    translate::{self, Ground},
};

/// The shim, as the build script made it.
static SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sutra-grid-shim"));

/// How long a shim that somebody has open for writing is tried again.
const BUSY_PATIENCE: Duration = Duration::from_secs(10);

/// The shim where it can be executed.
pub(crate) struct ShimFile {
    path: CString,
    /// Where the state directory may not hold programs, the shim is a file in memory.
    _memory: Option<OwnedFd>,
    null: OwnedFd,
}

impl ShimFile {
    /// Puts the shim under the state directory, by a name of its content, and takes others away: running ones keep theirs.
    pub(crate) fn install(state: &OwnedFd, path: &Path) -> Result<Self> {
        let what = format!("put the shim into `{}/bin`", path.display());
        files::make_dir_at(state, "bin", 0o711).cannot(&what)?;
        let bin = files::open_dir_at(state, "bin").cannot(&what)?;
        let name = format!("shim-{:016x}", files::content_hash(SHIM));
        for other in files::names(&bin).cannot(&what)? {
            if other != *name {
                files::remove_at(&bin, other).cannot(&what)?;
            }
        }
        let there = files::read_at(&bin, &name, SHIM.len()).is_ok_and(|it| it == SHIM);
        if !there {
            files::replace_at(&bin, &name, SHIM, 0o755, Durable::Yes).cannot(&what)?;
        }
        let mount = rustix::fs::fstatvfs(&bin).cannot(&what)?;
        let noexec = mount.f_flag.contains(StatVfsMountFlags::NOEXEC);
        let (path, memory) = if noexec {
            let memory = in_memory().cannot("put the shim into memory")?;
            (
                format!("/proc/self/fd/{}", memory.as_raw_fd()).into(),
                Some(memory),
            )
        } else {
            (path.join("bin").join(name), None)
        };
        let path = CString::new(path.as_os_str().as_bytes())
            .map_err(io::Error::other)
            .cannot(&what)?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .cannot("open `/dev/null`")?;
        Ok(Self {
            path,
            _memory: memory,
            null,
        })
    }
}

fn in_memory() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = fs::File::from(rustix::fs::memfd_create("sutra-grid-shim", flags)?);
    file.write_all(SHIM)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o500))?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// Makes everything that the node's start needs, and starts its shim. The intent is durable already, and nothing of an
/// earlier start is left.
/// Blocks on the disk; runs to its end once begun.
pub(crate) fn start(
    inner: &Arc<Inner>,
    node: &Arc<Node>,
    intent: Intent,
    trial: Option<Duration>,
) -> Result<()> {
    let id = node.id.clone();
    fault::point("spawn-after-intent").cannot(format!("start the node `{id}`"))?;
    let dir = inner.node_dir(&id)?;
    let lock = OwnedFd::from(dir.lock(&id)?);
    let account = account(&inner.config, &intent)?;
    let site = inner.data.site(&intent.data_path)?;
    let marker = Marker {
        owner: intent.owner.clone(),
        node_id: id.clone(),
        uid: intent.uid.clone(),
    };
    site.ensure(
        &marker,
        account.as_ref().map(|it| (it.uid, it.gid)),
        intent.data_marked,
    )?;
    let cgroup_procs = inner
        .cgroups
        .create(&intent.uid, &intent.config)
        .cannot(format!("make the cgroups of the node `{id}`"))?;
    let program = resolve(&inner.config, &intent.config.program)
        .ok_or_else(|| error(ErrorKind::Internal, "the program went away meanwhile"))?;
    let has_secrets = !intent.config.secrets.is_empty();
    let ground = Ground {
        program,
        secrets_dir: has_secrets.then(|| inner.registry.directory(&id).join("secrets")),
        account,
        search_path: search_path(&inner.config),
        cgroup_procs,
        log_max_bytes: fault::figure("log-max-bytes").unwrap_or(inner.config.log_max_bytes),
        trial,
    };
    let context = format!("start the node `{id}`");
    let launch = translate::launch(&intent, ground)
        .encode()
        .map_err(io::Error::other)
        .cannot(&context)?;
    dir.write_launch(&launch).cannot(&context)?;
    let (report, their_report) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).cannot(&context)?;
    let name = CString::new(id.native_name())
        .map_err(io::Error::other)
        .cannot(&context)?;
    let descriptors = Descriptors {
        null: &inner.shim.null,
        lock: &lock,
        report: &their_report,
        dir: dir.fd(),
    };
    #[cfg(not(feature = "fault-points"))]
    let args = [c"sutra-grid-shim", name.as_c_str()];
    // A shim has no other way to be told where its fault points are armed.
    #[cfg(feature = "fault-points")]
    let faults = CString::new(fault::dir().map_or(&[][..], |it| it.as_os_str().as_bytes()))
        .map_err(io::Error::other)
        .cannot(&context)?;
    #[cfg(feature = "fault-points")]
    let args = [c"sutra-grid-shim", name.as_c_str(), faults.as_c_str()];
    let child = spawn_patiently(&inner.shim.path, &args, &descriptors).cannot(&context)?;
    fault::point("spawn-after-fork").cannot(&context)?;
    // The shim has its own copies now.
    drop((lock, their_report));
    let generation = intent.generation;
    inner.registry.update(node, |it| it.begin(intent));
    supervise::monitor(
        inner,
        node,
        Watched {
            generation,
            child: Some(child),
            report: Some(report),
        },
    );
    Ok(())
}

/// Starts a program that this process may have written a moment ago: a child that another thread was just forking holds
/// the descriptor by which it was written until it executes, and so long the system refuses to execute the program.
fn spawn_patiently(
    program: &CStr,
    args: &[&CStr],
    descriptors: &Descriptors<'_>,
) -> io::Result<Child> {
    let until = Instant::now() + BUSY_PATIENCE;
    loop {
        match exec::spawn(program, args, descriptors) {
            Err(e) if e.raw_os_error() == Some(libc::ETXTBSY) && Instant::now() < until => {
                thread::sleep(Duration::from_millis(2));
            }
            other => return other,
        }
    }
}

/// Who the node runs as; `None`: as the adapter does.
///
/// # Errors
/// `SpawnFailed` when there is no such user.
pub(crate) fn account(config: &ProcessConfig, intent: &Intent) -> Result<Option<Account>> {
    let Some(run_as) = &intent.config.run_as else {
        return Ok(None);
    };
    let id = &intent.config.node_id;
    let account = users::find(run_as).cannot(format!("look up the user `{}`", run_as.user))?;
    let Some(account) = account else {
        let message = match &run_as.group {
            None => format!("the user `{}` does not exist", run_as.user),
            Some(group) => format!(
                "the user `{}` or the group `{group}` does not exist",
                run_as.user
            ),
        };
        let failure = Failure::new(FailureReason::UserUnavailable, message);
        return Err(grid_platform_api::Error::spawn_failed(id, failure));
    };
    let own = account.uid == users::own_uid();
    let named = |it: &String| *it == run_as.user || *it == account.uid.to_string();
    if !own && !config.users.iter().any(named) {
        return Err(error(
            ErrorKind::NotAllowed,
            format!(
                "the user `{}` is not one that nodes may run as",
                run_as.user
            ),
        )
        .with_hint("Add the user to `users` in the agent's settings."));
    }
    // Or an allowed user would be a way to any group of the host, that of its disks too.
    if !own && !account.is_member {
        return Err(error(
            ErrorKind::NotAllowed,
            format!(
                "the user `{}` is not in the group `{}`",
                run_as.user,
                run_as.group.as_deref().unwrap_or_default()
            ),
        )
        .with_hint("Add the user to the group on the host, or leave `group` out."));
    }
    Ok(Some(account))
}

/// The program's absolute path, if it is there: a bare name is looked up on the search path.
pub(crate) fn resolve(config: &ProcessConfig, program: &Program) -> Option<PathBuf> {
    let Program::Binary { path, .. } = program else {
        return None;
    };
    locate(config, path)
}

/// What is wrong with a program before it is tried; the rest the system says when it executes it.
pub(crate) fn program_failure(config: &ProcessConfig, request: &SpawnConfig) -> Option<Failure> {
    let Some(path) = resolve(config, &request.program) else {
        let message = format!(
            "the program of the node `{}` is not on the agent's search path",
            request.node_id
        );
        return Some(Failure::new(FailureReason::ProgramNotFound, message));
    };
    // The system would call it a lack of rights.
    path.is_dir().then(|| {
        let message = format!("the program `{}` is a directory", path.display());
        Failure::new(FailureReason::ProgramNotFound, message)
    })
}

/// What is wrong with the data directory of a node that was started before. It was there then, and is not made again:
/// an empty one in its place would hide that the data is elsewhere.
pub(crate) fn data_failure(inner: &Inner, node: &Node, intent: &Intent) -> Result<Option<Failure>> {
    let began = node.now().stored.is_some() || inner.node_dir(&node.id)?.has_launch();
    if !began {
        return Ok(None);
    }
    let site = inner.data.site(&intent.data_path)?;
    let why = match site.check(&intent.owner, &node.id) {
        Ok(Found::Nothing) => "is gone",
        Ok(Found::Unmarked) if intent.data_marked => {
            "is another directory than the one that was made for the node"
        }
        Err(e) if e.kind() == ErrorKind::OwnedByOther => "was made for another node or agent",
        Err(e) => return Err(e),
        Ok(_) => return Ok(None),
    };
    let message = format!("its data directory `{}` {why}", site.path().display());
    Ok(Some(Failure::new(FailureReason::DataUnavailable, message)))
}

fn locate(config: &ProcessConfig, path: &Path) -> Option<PathBuf> {
    if path.is_absolute() {
        // Whether it is there, exec says best.
        return Some(path.to_owned());
    }
    config.search_path.iter().find_map(|dir| {
        let file = dir.join(path);
        let meta = fs::metadata(&file).ok()?;
        (meta.is_file() && meta.permissions().mode() & 0o111 != 0).then_some(file)
    })
}

/// Refuses a program that the settings do not allow.
pub(crate) fn allow(config: &ProcessConfig, program: &Program) -> Result<()> {
    let (Allow::Only(allowed), Program::Binary { path, .. }) = (&config.programs, program) else {
        return Ok(());
    };
    let wanted = locate(config, path);
    let same = |it: &PathBuf| it == path || wanted.is_some() && locate(config, it) == wanted;
    if allowed.iter().any(same) {
        return Ok(());
    }
    Err(error(
        ErrorKind::NotAllowed,
        format!(
            "the program `{}` is not one that may be a node",
            path.display()
        ),
    )
    .with_hint("Add it to `programs` in the agent's settings."))
}

fn search_path(config: &ProcessConfig) -> String {
    let parts: Vec<&OsStr> = config.search_path.iter().map(|it| it.as_os_str()).collect();
    parts.join(OsStr::new(":")).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_open_for_writing_is_tried_again() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("true");
        fs::copy("/bin/true", &file).unwrap();
        let writer = fs::OpenOptions::new().append(true).open(&file).unwrap();
        let dir = files::open_dir(place.path()).unwrap();
        let null = OwnedFd::from(fs::File::open("/dev/null").unwrap());
        let descriptors = Descriptors {
            null: &null,
            lock: &null,
            report: &null,
            dir: &dir,
        };
        let program = CString::new(file.as_os_str().as_bytes()).unwrap();
        let busy = exec::spawn(&program, &[c"true"], &descriptors).unwrap_err();
        assert_eq!(busy.raw_os_error(), Some(libc::ETXTBSY));
        let closing = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            drop(writer);
        });
        spawn_patiently(&program, &[c"true"], &descriptors).unwrap();
        closing.join().unwrap();
    }

    #[test]
    fn programs_are_allowed_by_path_or_name() {
        let check = |allowed: Allow, path: &str, expect: bool| {
            let config = ProcessConfig {
                programs: allowed.clone(),
                ..ProcessConfig::new("/s", "/d")
            };
            let program = Program::binary(path, [""; 0]);
            assert_eq!(
                allow(&config, &program).is_ok(),
                expect,
                "{allowed:?} {path}"
            );
        };
        let only = |paths: &[&str]| Allow::Only(paths.iter().map(PathBuf::from).collect());
        let sh = locate(&ProcessConfig::new("/s", "/d"), Path::new("sh")).unwrap();
        let sh = sh.to_str().unwrap();
        check(Allow::Any, "/anything", true);
        check(Allow::default(), "sh", false);
        check(only(&["sh"]), "sh", true);
        check(only(&["sh"]), sh, true);
        check(only(&[sh]), "sh", true);
        check(only(&["sh"]), "/elsewhere/sh", false);
        check(only(&["no-such-program"]), "neither-this", false);
    }
}
