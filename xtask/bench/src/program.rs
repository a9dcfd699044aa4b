//! The program that is started as a node and by the peers (`program/main.rs`), and what it tells.

use std::ffi::CString;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{FileType, Mode};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};

use crate::Result;

/// The program itself.
pub(crate) static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/program"));

/// How long anything that is awaited may take; nothing that is measured comes near.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many bytes a message has.
const MESSAGE: usize = 16;

/// What it tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// It began: its first instruction.
    Began,
    /// It was asked to end, and ends.
    Ends,
}

/// A message of one process.
#[derive(Debug, Clone, Copy)]
struct Message {
    what: What,
    pid: u32,
    at: Duration,
}

/// The program on disk, and the FIFO on which its processes tell when they begin and end.
pub(crate) struct Program {
    path: PathBuf,
    fifo: PathBuf,
    messages: Receiver<Message>,
    /// Keeps the FIFO open, so that no process waits for a reader and the reader for none.
    end: File,
    reader: Option<JoinHandle<()>>,
}

/// The clock that all processes of the host share, and the program reads.
pub(crate) fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    // It counts up from the start of the host.
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

impl Program {
    /// Puts the program into a directory.
    pub(crate) fn install(dir: &Path) -> Result<Self> {
        let path = dir.join("program");
        std::fs::write(&path, PROGRAM)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        let fifo = dir.join("fifo");
        let name = CString::new(fifo.as_os_str().as_bytes())?;
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &name,
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )?;
        let end = OpenOptions::new().read(true).write(true).open(&fifo)?;
        let mut from = end.try_clone()?;
        let (tell, messages) = channel();
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; MESSAGE];
            // What cannot be understood is the word to end.
            while let (Ok(()), Some(message)) = (from.read_exact(&mut bytes), parse(bytes)) {
                if tell.send(message).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            path,
            fifo,
            messages,
            end,
            reader: Some(reader),
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its one argument.
    pub(crate) fn arg(&self) -> &str {
        // A temporary directory's name is text.
        self.fifo.to_str().unwrap_or_default()
    }

    /// When a process began or ended, and which.
    fn next(&self, what: What) -> Result<(u32, Duration)> {
        let message = self.messages.recv_timeout(PATIENCE)?;
        if message.what != what {
            return Err(format!("awaited {what:?}, and {message:?} came").into());
        }
        Ok((message.pid, message.at))
    }

    /// When the one process that was started began.
    pub(crate) fn began(&self) -> Result<Duration> {
        Ok(self.next(What::Began)?.1)
    }

    /// The one process that was started, once it began.
    pub(crate) fn began_as(&self) -> Result<u32> {
        Ok(self.next(What::Began)?.0)
    }

    /// When the one process that was asked to end did.
    pub(crate) fn ended(&self) -> Result<Duration> {
        Ok(self.next(What::Ends)?.1)
    }

    /// The moments at which so many processes began or ended, in the order in which they told.
    pub(crate) fn all(&self, what: What, count: usize) -> Result<Vec<Duration>> {
        (0..count).map(|_| Ok(self.next(what)?.1)).collect()
    }

    /// Starts it as std does (posix_spawn): what a start costs without anything around it.
    pub(crate) fn bare(&self) -> Result<Child> {
        let mut command = Command::new(&self.path);
        command
            .arg(&self.fifo)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(command.spawn()?)
    }

    /// Ends a bare child and waits for it. Gives when it said that it ends.
    pub(crate) fn end_bare(&self, mut child: Child) -> Result<Duration> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.ok_or("a child without a number")?, Signal::TERM)?;
        let status = child.wait()?;
        if !status.success() {
            return Err(format!("the bare child ended with {status}").into());
        }
        self.ended()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let told = self.end.write_all(&[0; MESSAGE]).is_ok();
        if let (true, Some(reader)) = (told, self.reader.take()) {
            // It holds nothing that could be lost.
            let _ = reader.join();
        }
    }
}

fn parse(bytes: [u8; MESSAGE]) -> Option<Message> {
    let [a, b, c, d, e, f, g, h, at @ ..] = bytes;
    let what = match u32::from_ne_bytes([a, b, c, d]) {
        1 => What::Began,
        2 => What::Ends,
        _ => return None,
    };
    Some(Message {
        what,
        pid: u32::from_ne_bytes([e, f, g, h]),
        at: Duration::from_nanos(u64::from_ne_bytes(at)),
    })
}
