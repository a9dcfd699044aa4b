//! From fork to exec: how the program comes to run.

use crate::failure::{Failure, at, malformed};
use crate::shared::launch::Launch;
use crate::shared::words::Stage;
use crate::sys;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const SECRET_MAX: u64 = 64 * 1024;

/// Starts the program and returns its pid once exec has succeeded.
///
/// # Errors
/// The stage that failed; the child is gone then.
pub(crate) fn spawn(launch: &Launch, log: &File) -> Result<u32, Failure> {
    let shim = std::process::id();
    let (mut told, tell) = io::pipe().map_err(at(Stage::Fork))?;
    let Some(pid) = sys::fork_process().map_err(at(Stage::Fork))? else {
        let failure = run(launch, log, shim);
        let mut tell = tell;
        let mut message = failure.errno.to_le_bytes().to_vec();
        message.push(
            Stage::ALL
                .iter()
                .position(|it| *it == failure.stage)
                .and_then(|it| u8::try_from(it).ok())
                .unwrap_or(0),
        );
        // A shim that is gone needs no message.
        let _ = tell.write_all(&message);
        sys::exit_now(127)
    };
    drop(tell);
    // The pipe closes on exec: no byte means success.
    let mut message = Vec::new();
    let read = told.read_to_end(&mut message);
    match message.as_slice() {
        [] if read.is_ok() => Ok(pid),
        [a, b, c, d, stage] => {
            sys::reap(pid);
            let stage = Stage::ALL
                .get(usize::from(*stage))
                .copied()
                .unwrap_or(Stage::Fork);
            Err(Failure {
                stage,
                errno: i32::from_le_bytes([*a, *b, *c, *d]),
            })
        }
        _ => {
            // The child died in mid-sentence.
            i32::try_from(pid)
                .into_iter()
                .for_each(|it| sys::kill(it, sys::SIGKILL));
            sys::reap(pid);
            Err(malformed(Stage::Fork))
        }
    }
}

/// In the child: returns only when the program cannot run.
fn run(launch: &Launch, log: &File, shim: u32) -> Failure {
    match prepare(launch, log, shim) {
        Err(failure) => failure,
        Ok((program, args, env)) => at(Stage::Exec)(sys::exec(&program, &args, &env)),
    }
}

type Image = (CString, Vec<CString>, Vec<CString>);

fn prepare(launch: &Launch, log: &File, shim: u32) -> Result<Image, Failure> {
    sys::new_session().map_err(at(Stage::Session))?;
    for procs in &launch.cgroup_procs {
        join_cgroup(procs).map_err(at(Stage::Cgroup))?;
    }
    // 0 is /dev/null already; everything above 2 closes on exec.
    for fd in [1, 2] {
        sys::dup_to(log, fd).map_err(at(Stage::Session))?;
    }
    if let Some(limit) = launch.nofile {
        sys::set_nofile(limit).map_err(at(Stage::Nofile))?;
    }
    if let Some(user) = &launch.user {
        sys::set_groups(&user.groups).map_err(at(Stage::Groups))?;
        sys::set_gid(user.gid).map_err(at(Stage::Gid))?;
        sys::set_uid(user.uid).map_err(at(Stage::Uid))?;
    }
    // From here on as the node's user: neither a secret nor a directory is reached that the program itself could not reach.
    let mut env = strings(launch.env.iter().cloned(), Stage::Exec)?;
    for (name, file) in &launch.env_secrets {
        let value = read_secret(file).map_err(at(Stage::Secret))?;
        env.extend(strings(
            [[name.as_slice(), b"=", &value].concat()],
            Stage::Secret,
        )?);
    }
    std::env::set_current_dir(OsStr::from_bytes(&launch.dir)).map_err(at(Stage::Dir))?;
    let args = strings(
        [&launch.program].into_iter().chain(&launch.args).cloned(),
        Stage::Exec,
    )?;
    let program = CString::new(launch.program.clone()).map_err(|_| malformed(Stage::Exec))?;
    sys::default_signals().map_err(at(Stage::Signals))?;
    // What a node may do is what its user may: and what runs with more rights than the shim's, the shim could not stop.
    sys::gain_nothing().map_err(at(Stage::Uid))?;
    // Last, because a change of user clears it.
    sys::die_with(shim).map_err(at(Stage::Parent))?;
    Ok((program, args, env))
}

fn strings(
    values: impl IntoIterator<Item = Vec<u8>>,
    stage: Stage,
) -> Result<Vec<CString>, Failure> {
    values
        .into_iter()
        .map(|it| CString::new(it).map_err(|_| malformed(stage)))
        .collect()
}

/// Moves this process, which has one thread, into a cgroup. In version 1 as a thread: a process is moved only after a grace period of
/// RCU (5 to 20 ms, unless another one was moved just before), and a thread that moves itself at once. Being born in one of
/// version 2 (`CLONE_INTO_CGROUP`) is no way: kernels kill who is born where `cgroup.kill` was written earlier.
fn join_cgroup(procs: &[u8]) -> io::Result<()> {
    let procs = Path::new(OsStr::from_bytes(procs));
    let join = |file: &Path| {
        let file = fs::OpenOptions::new().write(true).open(file);
        file?.write_all(b"0")
    };
    match join(&procs.with_file_name("tasks")) {
        // Version 2 has no such file.
        Err(e) if e.kind() == io::ErrorKind::NotFound => join(procs),
        joined => joined,
    }
}

fn read_secret(name: &[u8]) -> io::Result<Vec<u8>> {
    let path = [b"secrets/", name].concat();
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(sys::O_NOFOLLOW | sys::O_NONBLOCK)
        .open(OsStr::from_bytes(&path))?;
    let mut value = Vec::new();
    file.take(SECRET_MAX + 1).read_to_end(&mut value)?;
    if value.len() as u64 > SECRET_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(value)
}
