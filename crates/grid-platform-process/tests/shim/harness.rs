//! Plays the adapter: makes a node's directory, takes the lock, starts a shim, and looks at what it left.

use super::shared::launch::Launch;
use super::shared::policy::{Policy, Restart};
use super::shared::record::{self, Record, State, Stored};
use super::shared::words::{Answer, Report, Request};
use std::fs::{self, File, TryLockError};
use std::io::{self, BufRead, BufReader, PipeReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const SHIM: &str = env!("SUTRA_GRID_SHIM");

/// Polls a condition for which there is no event.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(it) = probe() {
            return it;
        }
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says that a test did not run, past libtest's capture: it never passes by silence.
pub(crate) fn not_run(test: &str, needs: &str) {
    let _ = writeln!(io::stderr(), "not run: {test}: needs {needs}");
}

/// The same for what CI has to provide.
#[track_caller]
pub(crate) fn skip(test: &str, needs: &str) {
    not_run(test, needs);
    let ci = std::env::var("CI").is_ok_and(|it| it == "true" || it == "1");
    assert!(!ci, "{test} needs {needs}");
}

/// Gone, or a zombie that its parent has not buried yet.
pub(crate) fn is_gone(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    stat.rsplit(')')
        .next()
        .is_some_and(|it| it.trim_start().starts_with('Z'))
}

#[track_caller]
pub(crate) fn wait_gone(pid: u32) {
    until(&format!("process {pid} is gone"), || {
        is_gone(pid).then_some(())
    });
}

pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// A node's directory and data path, both gone afterwards.
pub(crate) struct Node {
    _tmp: tempfile::TempDir,
    pub(crate) dir: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) launch: Launch,
}

/// A running shim; killed with its node when the test ends early.
pub(crate) struct Shim {
    pub(crate) child: Child,
    pub(crate) report: Option<Report>,
    dir: PathBuf,
}

impl Node {
    /// A node that runs a shell script, once.
    pub(crate) fn script(script: &str) -> Node {
        Node::program("/bin/sh", &["-c", script])
    }

    pub(crate) fn program(program: &str, args: &[&str]) -> Node {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("node");
        let data = tmp.path().join("data");
        for it in [&dir, &data, &dir.join("secrets")] {
            fs::create_dir(it).unwrap();
        }
        let bytes = |it: &Path| it.as_os_str().as_encoded_bytes().to_vec();
        let launch = Launch {
            uid: "uid-of-the-node".to_owned(),
            generation: 7,
            restarts: 0,
            program: program.as_bytes().to_vec(),
            args: args.iter().map(|it| it.as_bytes().to_vec()).collect(),
            env: vec![b"PATH=/usr/bin:/bin".to_vec()],
            env_secrets: vec![],
            dir: bytes(&data),
            user: None,
            nofile: None,
            cgroup_procs: vec![],
            stop_signal: 15,
            grace_ms: 60_000,
            policy: Policy {
                restart: Restart::Never,
                backoff_initial_ms: 1,
                backoff_max_ms: 50,
                reset_after_ms: 60_000,
                max_restarts: None,
            },
            log_max_bytes: None,
            trial_ms: None,
        };
        Node {
            _tmp: tmp,
            dir,
            data,
            launch,
        }
    }

    pub(crate) fn restarting(mut self, restart: Restart, max_restarts: Option<u64>) -> Node {
        (self.launch.policy.restart, self.launch.policy.max_restarts) = (restart, max_restarts);
        self
    }

    /// Writes `launch` and starts a shim; returns when it has reported.
    pub(crate) fn start(&self) -> Shim {
        fs::write(self.dir.join("launch"), self.launch.encode().unwrap()).unwrap();
        self.start_shim(Path::new(SHIM))
    }

    /// Starts this shim with what is there; returns when it has reported.
    pub(crate) fn start_shim(&self, shim: &Path) -> Shim {
        let (mut started, report) = self.spawn(shim);
        let mut line = String::new();
        BufReader::new(report).read_to_string(&mut line).unwrap();
        started.report = Report::decode(line.trim_end());
        started
    }

    /// Starts this shim with what is there, and gives the reading end of its report away.
    pub(crate) fn spawn(&self, shim: &Path) -> (Shim, PipeReader) {
        let lock = File::create(self.dir.join("lock")).unwrap();
        lock.try_lock().unwrap();
        let (report, to_report) = io::pipe().unwrap();
        // The shell puts the descriptors where the shim wants them and becomes the shim.
        let script = "exec \"$0\" node 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null";
        let child = Command::new("/bin/sh")
            .args(["-c", script])
            .arg(shim)
            .current_dir(&self.dir)
            .env_clear()
            .process_group(0)
            .stdin(Stdio::from(lock))
            .stdout(Stdio::from(to_report))
            .spawn()
            .unwrap();
        (
            Shim {
                child,
                report: None,
                dir: self.dir.clone(),
            },
            report,
        )
    }

    /// Starts a shim and expects the program to run.
    #[track_caller]
    pub(crate) fn run(&self) -> (Shim, u32) {
        let shim = self.start();
        match shim.report {
            Some(Report::Executed { pid, .. }) => (shim, pid),
            other => panic!("not executed: {other:?}"),
        }
    }

    pub(crate) fn stored(&self) -> Option<Stored> {
        record::read(&fs::read(self.dir.join("record")).ok()?)
    }

    #[track_caller]
    pub(crate) fn record(&self) -> Record {
        self.stored().expect("a valid record").record
    }

    /// The record, once it says `state`.
    #[track_caller]
    pub(crate) fn record_in(&self, state: State) -> Record {
        until(state.as_str(), || {
            self.stored()
                .map(|it| it.record)
                .filter(|it| it.state == state)
        })
    }

    pub(crate) fn lock_is_free(&self) -> bool {
        match File::open(self.dir.join("lock")).unwrap().try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(error)) => panic!("{error}"),
        }
    }

    pub(crate) fn log(&self) -> Vec<u8> {
        fs::read(self.dir.join("log")).unwrap_or_default()
    }

    /// A file of the node's data, once it holds a whole line.
    #[track_caller]
    pub(crate) fn data(&self, name: &str) -> String {
        let path = self.data.join(name);
        until(name, || {
            fs::read_to_string(&path)
                .ok()
                .filter(|it| it.ends_with('\n'))
        })
    }

    #[track_caller]
    pub(crate) fn pid_in(&self, name: &str) -> u32 {
        self.data(name).trim().parse().unwrap()
    }
}

impl Shim {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The shim's end, which must be near.
    #[track_caller]
    pub(crate) fn wait(&mut self) {
        until("the shim ends", || self.child.try_wait().unwrap());
    }

    #[track_caller]
    pub(crate) fn connect(&self) -> Client {
        let path = self.dir.join("sock");
        let stream = until("the socket", || UnixStream::connect(&path).ok());
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut client = Client(BufReader::new(stream));
        assert_eq!(client.answer(), Some(Answer::Greeting));
        client
    }

    /// Asks for a stop and waits for the answer and the shim's end.
    #[track_caller]
    pub(crate) fn stop(&mut self, grace_ms: Option<u64>) {
        let mut client = self.connect();
        client.ask(Request::Stop { grace_ms });
        assert_eq!(client.answer(), Some(Answer::Stopped));
        assert_eq!(client.answer(), None);
        self.wait();
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|it| it.is_none()) {
            if let Ok(mut stream) = UnixStream::connect(self.dir.join("sock")) {
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                let _ = stream.write_all(b"kill\n");
                let _ = stream.read_to_end(&mut Vec::new());
            }
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// One connection to a shim.
pub(crate) struct Client(pub(crate) BufReader<UnixStream>);

impl Client {
    pub(crate) fn ask(&mut self, request: Request) {
        self.0
            .get_mut()
            .write_all(request.encode().as_bytes())
            .unwrap();
    }

    /// The next line; `None` at the end.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(
                Answer::decode(line.trim_end()).unwrap_or_else(|| panic!("no answer: {line:?}")),
            ),
            // Data of ours that was never read makes the end a reset.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }
}
